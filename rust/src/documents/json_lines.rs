//! JSON lines: the texts of many lines at a time.

use memchr::{memchr, memchr_iter};

use super::field::Field;
use crate::error::Error;
use crate::util::context::Context;
use crate::util::memory::try_reserve;
use crate::util::parallel::for_each;

/// Stands after each text. No UTF-8 has this byte.
pub const END: u8 = 0xFF;

/// The texts of consecutive lines.
#[derive(Default)]
pub struct Lines {
    /// The texts that are not empty, each followed by [`END`].
    pub data: Vec<u8>,
    /// Where each text begins and ends in `data`.
    pub starts: Vec<i64>,
    /// Where each text ends.
    pub ends: Vec<i64>,
    /// The line of each text, counted from 0 in the lines given.
    pub numbers: Vec<i64>,
    /// What else is not blank, for another parser to judge: number, start and end in the bytes given.
    pub others: Vec<(i64, usize, usize)>,
}

/// Read `lines` in parts of about `part_bytes`, on the threads of `context`; also return how many there are.
///
/// What follows the last line break is a line if it is not empty. A line of `longest` bytes or more, not
/// counting its line break, is left to another parser, as everything is that [`Field::copy_text`] leaves.
///
/// # Errors
/// Fails if there is not enough memory, or if the context is stopped.
pub fn read_lines(
    context: &Context,
    lines: &[u8],
    field: &Field,
    part_bytes: usize,
    longest: usize,
) -> Result<(Vec<Lines>, i64), Error> {
    let parts = cut(lines, part_bytes.max(1));
    let mut read: Vec<_> = parts.iter().map(|_| (Lines::default(), 0)).collect();
    {
        let slots: Vec<_> = read.iter_mut().map(std::sync::Mutex::new).collect();
        let mut threads = vec![(); context.n_threads()];
        for_each(context, &mut threads, parts.len(), |(), i| {
            // Each result has its own lock, which only this thread ever takes.
            let mut slot = slots[i].lock().expect("no thread panics while it reads");
            **slot = read_part(&lines[..parts[i].1], parts[i].0, field, longest)?;
            Ok(())
        })?;
    }
    let mut n_lines = 0;
    for (part, n) in &mut read {
        part.numbers
            .iter_mut()
            .for_each(|number| *number += n_lines);
        part.others.iter_mut().for_each(|other| other.0 += n_lines);
        n_lines += *n;
    }
    Ok((read.into_iter().map(|(part, _)| part).collect(), n_lines))
}

/// Cut after line breaks, into parts of at least `part_bytes` but for the last; return starts and ends.
fn cut(lines: &[u8], part_bytes: usize) -> Vec<(usize, usize)> {
    let (mut parts, mut start) = (Vec::new(), 0);
    while start < lines.len() {
        let least = start.saturating_add(part_bytes - 1);
        let line_break = lines.get(least..).and_then(|rest| memchr(b'\n', rest));
        let end = line_break.map_or(lines.len(), |at| least + at + 1);
        parts.push((start, end));
        start = end;
    }
    parts
}

/// Read the lines from `start` to the end; also return how many there are.
fn read_part(
    lines: &[u8],
    mut start: usize,
    field: &Field,
    longest: usize,
) -> Result<(Lines, i64), Error> {
    let mut read = Lines::default();
    // The text is no longer than the lines, but one of its ends may be.
    try_reserve(&mut read.data, lines.len() - start + 1)?;
    let are_utf8 = std::str::from_utf8(&lines[start..]).is_ok();
    let mut n_lines = 0;
    let line_breaks = memchr_iter(b'\n', &lines[start..]).map({
        let first = start;
        move |at| first + at
    });
    for end in line_breaks.chain([lines.len()]) {
        let line = &lines[start..end];
        let text = if are_utf8 {
            // SAFETY: all lines together are UTF-8, and so is each, since a line break is one byte of ASCII.
            Some(unsafe { std::str::from_utf8_unchecked(line) })
        } else {
            std::str::from_utf8(line).ok()
        };
        let text = text.filter(|_| line.len() < longest);
        let first = read.data.len();
        if text.is_some_and(|text| field.copy_text(text, &mut read.data)) {
            if read.data.len() > first {
                read.starts.push(first as i64);
                read.ends.push(read.data.len() as i64);
                read.numbers.push(n_lines);
                read.data.push(END);
            }
        } else if !line.iter().all(is_space) {
            read.others.push((n_lines, start, end));
        }
        n_lines += i64::from(end < lines.len() || start < end);
        start = end + 1;
    }
    Ok((read, n_lines))
}

/// Whether Python takes a byte for white space.
fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_whatever_the_parts() {
        let lines = b"{\"a\": \"one\"}\n\n {\"a\": \"\"}\r\n{\"a\": 2}\n\x0b \r\n{\"a\": \"\xff\"}\n{\"a\": \"three\"}";
        for n_threads in [1, 3] {
            for part_bytes in 0..=lines.len() + 1 {
                let context = Context::new(n_threads);
                let (parts, n_lines) =
                    read_lines(&context, lines, &Field::new("a"), part_bytes, 99).unwrap();
                assert_eq!(n_lines, 7);
                let mut texts = Vec::new();
                for part in &parts {
                    for (i, &number) in part.numbers.iter().enumerate() {
                        let (start, end) = (part.starts[i] as usize, part.ends[i] as usize);
                        assert_eq!(part.data[end], END);
                        texts.push((number, &part.data[start..end]));
                    }
                }
                assert_eq!(texts, [(0, &b"one"[..]), (6, b"three")]);
                let others: Vec<_> = parts.iter().flat_map(|part| part.others.clone()).collect();
                assert_eq!(others, [(3, 26, 34), (5, 39, 49)]);
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_left() {
        let field = Field::new("a");
        for (longest, n_texts) in [(9, 0), (10, 1)] {
            let (parts, _) =
                read_lines(&Context::default(), b"{\"a\":\"b\"}\n", &field, 99, longest).unwrap();
            assert_eq!(parts[0].numbers.len(), n_texts);
            assert_eq!(parts[0].others.len(), 1 - n_texts);
        }
    }
}
