//! Tools that every room shares: interruption, threads, memory, keys of short pre-tokens and a hash
//! map of them, the CPU.

pub mod context;
pub mod cpu;
pub mod hash_map;
pub mod memory;
pub mod parallel;
pub mod piece_key;
