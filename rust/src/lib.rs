//! Byte-level BPE and the linear layers of models in Rust and, with the feature `python`, the extension
//! module `gptfast._rust`.
//!
//! [`linear`] multiplies matrices of weights by vectors, and [`decode`] takes the steps of a GPT with it.
//! [`documents`] reads the texts of corpora. The rest is BPE:
//!
//! Text is cut into pre-tokens by a [`Pattern`](pretokenize::Pattern). [`train`](train::train) learns
//! merges from their counts, which make a [`Vocab`](vocab::Vocab). A
//! [`Tokenizer`](encode::Tokenizer) encodes text with a vocabulary, and the vocabulary decodes ids.
//! [`naive`] has the readable definition of training and encoding.
//!
//! ```
//! use gptfast_rust::Context;
//! use gptfast_rust::encode::Tokenizer;
//! use gptfast_rust::pretokenize::Pattern;
//! use gptfast_rust::train::{Limits, piece_counts::PieceCounts, train};
//! use gptfast_rust::vocab::Vocab;
//!
//! let context = Context::default();
//! let pattern = Pattern::new("gpt2")?;
//! let mut counts = PieceCounts::default();
//! counts.add_text(&context, &pattern, b"low lower lowest")?;
//!
//! // Merge twice, beginning with the 256 single bytes: l + o, then lo + w.
//! let bytes = std::array::from_fn(|i| i as u8);
//! let limits = Limits {
//!     n_merges: 2,
//!     min_frequency: 1,
//!     forbidden: &[],
//!     max_token_length: None,
//! };
//! let merges = train(&context, counts, &bytes, limits, |_| true)?;
//! assert_eq!(merges, [(108, 111), (256, 119)]);
//!
//! let vocab = Vocab::from_merges(&context, &bytes, &merges, &["<|endoftext|>".into()])?;
//! let tokenizer = Tokenizer::new(vocab, pattern);
//! let ids = tokenizer.encode_ordinary("slow")?;
//! assert_eq!(ids, [115, 257]); // s, low
//!
//! let text = tokenizer.vocab().decode_bytes(&context, ids.into_iter().map(i64::from))?;
//! assert_eq!(text, b"slow");
//! # Ok::<(), gptfast_rust::error::Error>(())
//! ```

#![deny(clippy::undocumented_unsafe_blocks)]

#[cfg(feature = "python")]
mod bindings;
pub mod decode;
pub mod documents;
pub mod encode;
pub mod error;
pub mod linear;
pub mod naive;
pub mod normalize;
pub mod pretokenize;
pub mod train;
mod util;
pub mod vocab;

pub use self::util::context::Context;
pub use self::util::cpu;
pub use self::util::memory::large_vec;

/// The extension module `gptfast._rust`.
#[cfg(feature = "python")]
#[pyo3::pymodule]
mod _rust {
    #[pymodule_export]
    use crate::bindings::bpe::Bpe;
    #[pymodule_export]
    use crate::bindings::cpu::amx_state;
    #[pymodule_export]
    use crate::bindings::decode::{Cache, Decoder};
    #[pymodule_export]
    use crate::bindings::documents::{Names, hash_documents, json_texts, shared_windows};
    #[pymodule_export]
    use crate::bindings::linear::multiply;
    #[pymodule_export]
    use crate::bindings::text::utf8_error;

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::bindings::prepare_numpy(module.py());
        Ok(())
    }
}
