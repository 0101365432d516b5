//! Memory: allocation that can fail, huge pages, prefetching, and the C library's allocator.

use crate::error::Error;

/// Prefetch `values[index]`.
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

/// Allocate room for `n` values, in huge pages where the system has them.
///
/// The ids of a long text go into new memory; getting it in small pages would take a quarter of the
/// time.
///
/// # Errors
/// Fails if there is not enough memory.
pub fn large_vec<T>(n: usize) -> Result<Vec<T>, Error> {
    let mut values = Vec::new();
    values
        .try_reserve_exact(n)
        .map_err(|_| out_of_memory::<T>(n))?;
    #[cfg(target_os = "linux")]
    advise_huge_pages(&mut values);
    Ok(values)
}

/// Make room for `n` more values. A vector that grows by itself aborts the process when there is no
/// memory; this function fails instead.
#[inline]
pub fn try_reserve<T>(values: &mut Vec<T>, n: usize) -> Result<(), Error> {
    values
        .try_reserve(n)
        .map_err(|_| out_of_memory::<T>(values.len().saturating_add(n)))
}

/// Copy `values`. Fails if there is not enough memory.
pub fn try_copy<T: Copy>(values: &[T]) -> Result<Vec<T>, Error> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(values.len())
        .map_err(|_| out_of_memory::<T>(values.len()))?;
    copy.extend_from_slice(values);
    Ok(copy)
}

#[cold]
fn out_of_memory<T>(n: usize) -> Error {
    Error::Memory(format!(
        "no memory for {} bytes: give shorter texts, or less at a time",
        n.saturating_mul(size_of::<T>())
    ))
}

/// Append to a vector made by [`large_vec`]. If it has to grow, the new memory is in huge pages too.
#[cfg(feature = "python")] // only the bindings don't know the final length in advance
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
fn advise_huge_pages<T>(values: &mut Vec<T>) {
    const PAGE: usize = 4096;
    const HUGE_PAGE: usize = 2 << 20;
    let n_bytes = values.capacity() * size_of::<T>();
    let start = values.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(PAGE);
    if n_bytes > HUGE_PAGE {
        let n_bytes = (n_bytes - skipped) / PAGE * PAGE;
        // SAFETY: the range lies within the vector's own allocation of `capacity` values, and the
        // advice changes only the size of the pages behind it. If the system refuses, nothing is
        // lost.
        unsafe { libc::madvise(start.add(skipped).cast(), n_bytes, libc::MADV_HUGEPAGE) };
    }
}

/// Move memory that is read often into huge pages, as far as it fills them and the system has some.
///
/// Contents and addresses stay. Reading is faster, because the processor looks up fewer pages.
///
/// # Safety
/// The range must be allocated.
#[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
pub unsafe fn move_to_huge_pages(address: usize, n_bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        const HUGE_PAGE: usize = 2 << 20;
        let start = address.next_multiple_of(HUGE_PAGE);
        let end = (address + n_bytes) / HUGE_PAGE * HUGE_PAGE;
        if start < end {
            // SAFETY: the pages lie within the range, and only their size changes. If the system refuses,
            // nothing is lost.
            unsafe {
                let (start, n_bytes) = (start as *mut libc::c_void, end - start);
                libc::madvise(start, n_bytes, libc::MADV_HUGEPAGE);
                libc::madvise(start, n_bytes, libc::MADV_COLLAPSE);
            }
        }
    }
}

/// Make the C library return freed blocks of a megabyte or more to the system at once.
///
/// By default it keeps ever larger blocks for each thread, because asking the system for memory takes
/// time. The setting holds for the whole process, other libraries included, until it ends: the C
/// library can't tell the previous values, so they can't be restored.
pub fn limit_malloc() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes no pointers and changes only where later allocations come from.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        // The C library's defaults, which training a model on the CPU changes.
        libc::mallopt(libc::M_MMAP_MAX, 1 << 16);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
    }
}

/// Return freed memory that the C library has kept to the system.
pub fn trim_malloc() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes no pointers and touches only memory that nobody owns.
    unsafe {
        libc::malloc_trim(0);
    }
}
