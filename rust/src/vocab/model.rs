//! How a vocabulary encodes a pre-token: the options of the `model` in a `tokenizer.json`.

/// Two tokens that are merged, by their bytes.
pub type Merge = (Box<[u8]>, Box<[u8]>);

/// How a vocabulary encodes a pre-token.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The pairs of tokens that are merged, those of lowest rank first. None for tiktoken's meaning: any
    /// two tokens whose bytes are a token are merged, those that make the smallest id first; and a whole
    /// pre-token is looked up before.
    pub merges: Option<Vec<Merge>>,
    /// Whether a pre-token that is a token is not merged. Without listed merges, it never is.
    pub ignore_merges: bool,
    /// The id for bytes and characters that the vocabulary lacks. None to leave them out.
    pub unk: Option<u32>,
    /// Whether a run of such bytes or characters has one id.
    pub fuse_unk: bool,
    /// Whether merging begins with characters, and one that the vocabulary lacks becomes its bytes, the
    /// tokens `<0x00>` to `<0xFF>`. Otherwise merging begins with bytes.
    pub byte_fallback: bool,
}
