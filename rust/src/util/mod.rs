//! Tools that every room shares: interruption, threads, memory, keys of short pre-tokens, the CPU.

pub mod context;
pub mod cpu;
pub mod key;
pub mod key_map;
pub mod memory;
pub mod parallel;
