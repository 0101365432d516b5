//! What every room needs: keys of short pre-tokens, memory, threads, interruption, the CPU.

pub mod cpu;
pub mod interrupt;
pub mod key;
pub mod key_map;
pub mod memory;
pub mod parallel;
