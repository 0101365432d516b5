//! Borders between characters that no merge crosses: a pre-token can be cut there.
//!
//! A model that merges characters has no pattern, so a whole text is one pre-token. But a merge across
//! the border between two characters makes a token that contains both, side by side. If no token that
//! merges make contains them so, then merging never crosses that border, and the two sides are encoded
//! as if they were separate pre-tokens. Most borders between words are of this kind.

/// The pairs of adjacent characters that tokens contain.
#[derive(Debug, Clone)]
pub(crate) struct Borders {
    /// By `group(left) * GROUPS + group(right)`.
    frequent: Vec<Border>,
    /// A bit for the hash of each pair with another character. If two pairs share a bit, some borders are
    /// taken for ones that merges may cross, which only makes pieces longer.
    others: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Border {
    /// Some token contains the pair.
    Crossed,
    /// No token does.
    Safe,
    /// See [`Borders::others`].
    Hashed,
}

/// The groups of characters: each ASCII character, [`SPACE`], and all others.
const GROUPS: usize = 130;
const SPACE_GROUP: usize = 128;
const OTHER: usize = 129;

/// What SentencePiece writes for a space: U+2581.
const SPACE: &[u8] = "\u{2581}".as_bytes();

/// The group of the character at `at`.
#[inline(always)]
fn group_at(text: &[u8], at: usize) -> usize {
    match text[at] {
        byte if byte.is_ascii() => usize::from(byte),
        _ if text[at..].starts_with(SPACE) => SPACE_GROUP,
        _ => OTHER,
    }
}

impl Borders {
    /// Collect the pairs of the tokens that merges make.
    pub(super) fn new<'t>(tokens: impl Iterator<Item = &'t str> + Clone) -> Self {
        let n_characters: usize = tokens.clone().map(|token| token.chars().count()).sum();
        let mut borders = Borders {
            frequent: vec![Border::Safe; GROUPS * GROUPS],
            others: vec![0; (n_characters / 8).next_power_of_two()],
        };
        for group in 0..GROUPS {
            borders.frequent[OTHER * GROUPS + group] = Border::Hashed;
            borders.frequent[group * GROUPS + OTHER] = Border::Hashed;
        }
        for token in tokens {
            let begins: Vec<usize> = token.char_indices().map(|(at, _)| at).collect();
            for pair in begins.windows(2) {
                let groups = [pair[0], pair[1]].map(|at| group_at(token.as_bytes(), at));
                let border = &mut borders.frequent[groups[0] * GROUPS + groups[1]];
                if *border == Border::Hashed {
                    let (word, bit) = borders.hashed(token, pair[1]);
                    borders.others[word] |= 1 << bit;
                } else {
                    *border = Border::Crossed;
                }
            }
        }
        borders
    }

    /// Call `visit` with the position of each character of `text` but the first, and with the end, and
    /// whether the text can be cut there.
    #[inline(always)]
    pub(crate) fn visit<E>(
        &self,
        text: &str,
        mut visit: impl FnMut(usize, bool) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(first) = text.chars().next() else {
            return Ok(());
        };
        let mut left = group_at(text.as_bytes(), 0);
        let mut at = first.len_utf8();
        while at < text.len() {
            let right = group_at(text.as_bytes(), at);
            match self.frequent[left * GROUPS + right] {
                Border::Hashed => visit(at, self.is_safe(text, at))?,
                border => visit(at, border == Border::Safe)?,
            }
            at += match right {
                OTHER => text[at..].chars().next().map_or(1, char::len_utf8),
                SPACE_GROUP => SPACE.len(),
                _ => 1,
            };
            left = right;
        }
        visit(text.len(), true)
    }

    fn is_safe(&self, text: &str, at: usize) -> bool {
        let (word, bit) = self.hashed(text, at);
        self.others[word] >> bit & 1 == 0
    }

    /// The bit of the characters before and after `at`: the index of a word of 64 bits, and the bit in it.
    fn hashed(&self, text: &str, at: usize) -> (usize, u32) {
        let (before, after) = text.split_at(at);
        let code = |c: Option<char>| c.map_or(0, u64::from);
        let pair = code(before.chars().next_back()) << 32 | code(after.chars().next());
        let hash = pair.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = (hash ^ hash >> 32).wrapping_mul(0xd1b5_4a32_d192_ed03);
        let word = (hash >> 32) as usize & (self.others.len() - 1);
        (word, (hash >> 26 & 63) as u32)
    }
}
