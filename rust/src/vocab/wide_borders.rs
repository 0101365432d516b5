//! Borders between characters of three bytes that no merge crosses: a pre-token can be cut there.
//!
//! Chinese, Japanese and Thai have no spaces, so their pre-tokens are long, and hardly any is seen twice.
//! But most of their tokens have one or two characters. A pre-token is cut where no token that merges make
//! can lie across the border. Then merging never crosses it: each merge across it would make such a token.
//! And since the merges of one side don't depend on the other side, the ids of the whole are those of the
//! left part, then those of the right part.
//!
//! Merging begins with bytes, so a token may begin or end within a character. Of what a token has on each
//! side of a border, up to three bytes are compared.

use crate::util::piece_key::MAX_SHORT;

/// Which borders tokens cross.
#[derive(Debug, Clone)]
pub(crate) struct WideBorders {
    /// For each character before a border, a bit for each of the [`SHAPES`] in which some token has the
    /// last bytes of that character, or [`NEVER`].
    left: Box<[u16; 1 << 16]>,
    /// The same for the first bytes of a character after a border.
    right: Box<[u16; 1 << 16]>,
    /// A bit for the hash of what each token has on both sides of a border. If two share a bit, some
    /// borders are taken for ones that tokens cross, which only makes parts longer.
    crossed: Vec<u64>,
}

/// How many bytes a token has on the left and on the right of a border. 3 also stands for more.
const SHAPES: [(usize, usize); 9] = [
    (3, 3),
    (3, 2),
    (3, 1),
    (2, 3),
    (2, 2),
    (2, 1),
    (1, 3),
    (1, 2),
    (1, 1),
];

/// Never cut beside this character.
const NEVER: u16 = 1 << 15;

/// The code of the three bytes that begin at `at`, if they are those of a character.
#[inline(always)]
fn code_at(bytes: &[u8], at: usize) -> Option<usize> {
    let &[a, b, c] = bytes.get(at..)?.first_chunk()?;
    let is_wide = a & 0xf0 == 0xe0 && b & 0xc0 == 0x80 && c & 0xc0 == 0x80;
    is_wide.then_some(usize::from(a & 15) << 12 | usize::from(b & 63) << 6 | usize::from(c & 63))
}

/// The last `n` bytes of a character.
#[inline(always)]
fn suffix(code: usize, n: usize) -> usize {
    code & 0xffff >> [16, 10, 4, 0][n]
}

/// The first `n` bytes of a character.
#[inline(always)]
fn prefix(code: usize, n: usize) -> usize {
    code >> [16, 12, 6, 0][n]
}

impl WideBorders {
    /// Collect what tokens have on both sides of borders. `made` are the tokens that merges make. The parts
    /// of a pre-token are never one of `whole`, which only whole pre-tokens become.
    pub(super) fn new<'t>(
        made: impl Iterator<Item = &'t [u8]>,
        whole: impl Iterator<Item = &'t [u8]>,
    ) -> Self {
        let mut crossings = Vec::new();
        // The shapes by the last and by the first 0 to 3 bytes of characters.
        let mut lefts: [Vec<u16>; 4] = [0, 6, 12, 16].map(|bits| vec![0; 1 << bits]);
        let mut rights: [Vec<u16>; 4] = [0, 4, 10, 16].map(|bits| vec![0; 1 << bits]);
        for token in made {
            for at in 1..token.len() {
                if token[at] & 0xf0 != 0xe0 {
                    continue;
                }
                let (n_left, n_right) = (at.min(3), (token.len() - at).min(3));
                // Complete the characters with any bytes.
                let (mut before, mut after) = ([0xe0, 0x80, 0x80], [0xe0, 0x80, 0x80]);
                before[3 - n_left..].copy_from_slice(&token[at - n_left..at]);
                after[..n_right].copy_from_slice(&token[at..at + n_right]);
                let codes = (code_at(&before, 0), code_at(&after, 0));
                if let (Some(left), Some(right)) = codes {
                    let shapes = SHAPES.iter();
                    let shape = shapes.take_while(|&&s| s != (n_left, n_right)).count();
                    lefts[n_left][suffix(left, n_left)] |= 1 << shape;
                    rights[n_right][prefix(right, n_right)] |= 1 << shape;
                    crossings.push((shape, left, right));
                }
            }
        }
        // A part either begins at a border, or it begins the pre-token and ends at a border.
        for token in whole {
            if let Some(code) = code_at(token, 0) {
                rights[3][code] |= NEVER;
            }
            if let Some(code) = token.len().checked_sub(3).and_then(|at| code_at(token, at)) {
                lefts[3][code] |= NEVER;
            }
        }
        let mut borders = WideBorders {
            left: Box::new([0; 1 << 16]),
            right: Box::new([0; 1 << 16]),
            crossed: vec![0; (crossings.len() / 4).max(1).next_power_of_two()],
        };
        for code in 0..1 << 16 {
            for n in 1..=3 {
                borders.left[code] |= lefts[n][suffix(code, n)];
                borders.right[code] |= rights[n][prefix(code, n)];
            }
        }
        for (shape, left, right) in crossings {
            let (word, bit) = borders.hashed(shape, left, right);
            borders.crossed[word] |= 1 << bit;
        }
        borders
    }

    /// Whether [`WideBorders::visit`] is worth while: the pre-token is too long for a key, and ends with a
    /// character of three bytes.
    #[inline(always)]
    pub(crate) fn may_cut(piece: &[u8]) -> bool {
        piece.len() > MAX_SHORT && code_at(piece, piece.len() - 3).is_some()
    }

    /// Call `visit` with each position where `piece` can be cut, and with its end.
    #[inline(always)]
    pub(crate) fn visit<E>(
        &self,
        piece: &[u8],
        mut visit: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut at, mut left) = (0, None);
        while at < piece.len() {
            let right = code_at(piece, at);
            if let (Some(left), Some(right)) = (left, right)
                && self.is_safe(left, right)
            {
                visit(at)?;
            }
            at += if right.is_some() { 3 } else { 1 };
            left = right;
        }
        visit(piece.len())
    }

    /// Whether no token has the end of one character and the start of the next.
    #[inline(always)]
    fn is_safe(&self, left: usize, right: usize) -> bool {
        let (of_left, of_right) = (self.left[left], self.right[right]);
        if (of_left | of_right) & NEVER != 0 {
            return false;
        }
        let mut shapes = of_left & of_right;
        while shapes != 0 {
            let (word, bit) = self.hashed(shapes.trailing_zeros() as usize, left, right);
            if self.crossed[word] >> bit & 1 != 0 {
                return false;
            }
            shapes &= shapes - 1;
        }
        true
    }

    /// The bit of what a token of some shape has beside a border: the index of a word of 64 bits, and the
    /// bit in it.
    #[inline(always)]
    fn hashed(&self, shape: usize, left: usize, right: usize) -> (usize, u32) {
        let (n_left, n_right) = SHAPES[shape];
        let (left, right) = (suffix(left, n_left), prefix(right, n_right));
        let hash = ((shape << 32 | left << 16 | right) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = (hash ^ hash >> 32).wrapping_mul(0xd1b5_4a32_d192_ed03);
        let word = (hash >> 32) as usize & (self.crossed.len() - 1);
        (word, (hash >> 26 & 63) as u32)
    }
}
