//! What Python sees of this library, as the module `gptfast._rust`.

pub mod bpe;
pub mod cpu;
mod lists;
mod text;
mod work;
