//! Which instructions the processor has.

/// A set of instructions that can compute products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What every processor has.
    Portable,
}

impl Level {
    /// The fastest level that this processor has. The standard library caches what the processor has.
    pub fn best() -> Level {
        *Level::available().last().unwrap_or(&Level::Portable)
    }

    /// All levels that this processor has, slowest first.
    pub fn available() -> &'static [Level] {
        &[Level::Portable]
    }
}
