//! The published patterns that have a scanner.

use super::deepseek::{DEEPSEEK_REGEX, DeepSeekRules};
use super::gpt2::{GPT2_REGEX, Gpt2Rules, STARCODER2_REGEX};
use super::scan::Fills;
use super::words::{Contractions, Marks, WordRules, Words};

/// A published pattern and its scanner.
#[derive(Debug)]
pub struct Scanner {
    /// The name by which [`Pattern::new`](super::Pattern::new) knows it.
    pub name: &'static str,
    /// Its meaning, in the syntax of the crate `fancy-regex`.
    pub regex: &'static str,
    /// Its meaning in Oniguruma.
    pub(super) in_oniguruma: &'static str,
    pub(super) fills: Fills,
}

impl Scanner {
    /// One whose expression means the same in both dialects.
    const fn new(name: &'static str, regex: &'static str, fills: Fills) -> Self {
        Scanner {
            name,
            regex,
            in_oniguruma: regex,
            fills,
        }
    }
}

/// All scanners.
pub static SCANNERS: [Scanner; 11] = [
    Scanner::new("gpt2", GPT2_REGEX, Fills::of::<Gpt2Rules<false>>()),
    Scanner::new(
        "starcoder2",
        STARCODER2_REGEX,
        Fills::of::<Gpt2Rules<true>>(),
    ),
    Scanner {
        name: "cl100k",
        regex: CL100K_REGEX,
        in_oniguruma: CL100K_IN_ONIGURUMA,
        fills: Fills::of::<WordRules<Cl100k>>(),
    },
    Scanner::new("llama3", LLAMA3_REGEX, Fills::of::<WordRules<Llama3>>()),
    Scanner::new("qwen2", QWEN2_REGEX, Fills::of::<WordRules<Qwen2>>()),
    Scanner::new("qwen3.5", QWEN35_REGEX, Fills::of::<WordRules<Qwen35>>()),
    Scanner::new(
        "nanochat",
        NANOCHAT_REGEX,
        Fills::of::<WordRules<NanoChat>>(),
    ),
    Scanner::new("o200k", O200K_REGEX, Fills::of::<WordRules<O200k>>()),
    Scanner::new("tekken", TEKKEN_REGEX, Fills::of::<WordRules<Tekken>>()),
    Scanner::new("kimi", KIMI_REGEX, Fills::of::<WordRules<Kimi>>()),
    Scanner::new("deepseek", DEEPSEEK_REGEX, Fills::of::<DeepSeekRules>()),
];

/// The scanner of this name.
pub(super) fn scanner(name: &str) -> Option<&'static Scanner> {
    SCANNERS.iter().find(|scanner| scanner.name == name)
}

/// The split pattern that tiktoken 0.14 publishes for `cl100k_base` (GPT-3.5 and GPT-4).
///
/// Earlier versions had no `\s++$`: they were what is now called `llama3`.
const CL100K_REGEX: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)",
    r"|[^\r\n\p{L}\p{N}]?+\p{L}++",
    r"|\p{N}{1,3}+",
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+",
    r"|\s++$",
    r"|\s*[\r\n]",
    r"|\s+(?!\S)",
    r"|\s",
);

/// In Oniguruma, [`CL100K_REGEX`] would join numbers.
const CL100K_IN_ONIGURUMA: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]|\s+(?!\S)|\s",
);

struct Cl100k;

impl Words for Cl100k {
    const WHOLE_END: bool = true;
}

/// Llama 3, and `cl100k_base` before tiktoken 0.9; also GLM-4, OLMo 2, Phi-4 and SmolLM 3.
const LLAMA3_REGEX: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

struct Llama3;

impl Words for Llama3 {}

/// Qwen, Qwen 2, 2.5 and 3: Llama 3's with numbers one by one.
const QWEN2_REGEX: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

struct Qwen2;

impl Words for Qwen2 {
    const NUMBERS: usize = 1;
}

/// Qwen 3.5: marks are letters.
const QWEN35_REGEX: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

struct Qwen35;

impl Words for Qwen35 {
    const MARKS: Marks = Marks::Letters;
    const NUMBERS: usize = 1;
}

/// nanochat: numbers in twos.
const NANOCHAT_REGEX: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}",
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
);

struct NanoChat;

impl Words for NanoChat {
    const NUMBERS: usize = 2;
}

/// The split pattern that tiktoken 0.14 publishes for `o200k_base` (GPT-4o and later, gpt-oss); also
/// Llama 4.
const O200K_REGEX: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"|\s*[\r\n]+",
    r"|\s+(?!\S)",
    r"|\s+",
);

struct O200k;

impl Words for O200k {
    const CONTRACTIONS: Contractions = Contractions::InWord;
    const MARKS: Marks = Marks::Both;
    const CASES: bool = true;
    const SLASHES: bool = true;
}

/// Mistral's tekken: o200k's without contractions, and with numbers one by one.
const TEKKEN_REGEX: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

struct Tekken;

impl Words for Tekken {
    const CONTRACTIONS: Contractions = Contractions::None;
    const MARKS: Marks = Marks::Both;
    const NUMBERS: usize = 1;
    const CASES: bool = true;
    const SLASHES: bool = true;
}

/// Kimi K2: o200k's with Chinese characters apart.
const KIMI_REGEX: &str = concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

struct Kimi;

impl Words for Kimi {
    const CONTRACTIONS: Contractions = Contractions::InWord;
    const MARKS: Marks = Marks::Both;
    const CASES: bool = true;
    const HAN: bool = true;
}
