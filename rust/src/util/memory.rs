//! Memory, and the time it takes to get at it.

use crate::error::Error;

/// A hint to the processor to have `values[index]` at hand soon.
#[inline(always)]
pub fn prefetch<T>(values: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let address = values.as_ptr().wrapping_add(index);
        // SAFETY: a prefetch reads nothing and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, index);
}

/// Room for `n` values, in large pages where the system has them: what a long text's ids are written to
/// is new memory, and getting it from the system page by page would take a quarter of the time.
///
/// Fails if there is not so much memory.
pub fn large_vec<T>(n: usize) -> Result<Vec<T>, Error> {
    let mut values = Vec::new();
    values.try_reserve_exact(n).map_err(|_| no_room::<T>(n))?;
    #[cfg(target_os = "linux")]
    advise_large_pages(&mut values);
    Ok(values)
}

/// Have room for `n` more values. Without memory for them a vector that grows by itself would end the
/// process.
#[inline]
pub fn reserve<T>(values: &mut Vec<T>, n: usize) -> Result<(), Error> {
    values
        .try_reserve(n)
        .map_err(|_| no_room::<T>(values.len().saturating_add(n)))
}

/// A copy, if there is memory for it.
pub fn copied<T: Copy>(values: &[T]) -> Result<Vec<T>, Error> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(values.len())
        .map_err(|_| no_room::<T>(values.len()))?;
    copy.extend_from_slice(values);
    Ok(copy)
}

#[cold]
fn no_room<T>(n: usize) -> Error {
    Error::Memory(format!(
        "no memory for {} bytes: give shorter texts, or less at a time",
        n.saturating_mul(size_of::<T>())
    ))
}

/// Append to what [`large_vec`] made. Should the room not do, the new room is in large pages, too.
#[cfg(feature = "python")] // which alone doesn't know how many there will be
pub fn extend_large<T: Copy>(values: &mut Vec<T>, more: &[T]) -> Result<(), Error> {
    let n = values.len() + more.len();
    if n > values.capacity() {
        let mut larger = large_vec(n.max(2 * values.capacity()))?;
        larger.extend_from_slice(values);
        *values = larger;
    }
    values.extend_from_slice(more);
    Ok(())
}

#[cfg(target_os = "linux")]
fn advise_large_pages<T>(values: &mut Vec<T>) {
    const PAGE: usize = 4096;
    const LARGE_PAGE: usize = 2 << 20;
    let n_bytes = values.capacity() * size_of::<T>();
    let start = values.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(PAGE);
    if n_bytes > LARGE_PAGE {
        let n_bytes = (n_bytes - skipped) / PAGE * PAGE;
        // SAFETY: the pages are the vector's own, as it owns `capacity` values from `start` on, and
        // the advice changes only in what units the system provides them. Should it refuse, nothing
        // is lost.
        unsafe { libc::madvise(start.add(skipped).cast(), n_bytes, libc::MADV_HUGEPAGE) };
    }
}

/// From now on, have the C library hand back memory of a megabyte or more as soon as it is freed.
///
/// By itself it keeps ever larger pieces, for each thread, because asking the system again takes time.
///
/// It holds for the whole process, other libraries' memory included, until the process ends: the C
/// library can't tell what was set before, so that it can't be undone.
pub fn keep_little() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no pointers, and changes only where memory allocated later comes from.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        // These are the C library's own, which training a model on the CPU has changed.
        libc::mallopt(libc::M_MMAP_MAX, 1 << 16);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
    }
}

/// Hand memory that was freed back to the system, where the C library would keep it for itself.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no pointers and only touches memory that nobody owns.
    unsafe {
        libc::malloc_trim(0);
    }
}
