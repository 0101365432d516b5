//! Documents in files: their texts in lines of JSON, their hashes, and what they share.

pub mod field;
pub mod hashes;
pub mod json_lines;
pub mod windows;

#[cfg(test)]
mod tests;
