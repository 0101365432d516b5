//! What merging begins with: the bytes of a pre-token, or its characters.

use rustc_hash::FxHashMap;

use crate::encode::merge_table::NONE;
use crate::error::Error;
use crate::util::context::Context;
use crate::util::memory::try_reserve;

/// The first symbols of a pre-token, by its bytes or characters.
#[derive(Debug, Clone)]
pub(crate) enum FirstSymbols {
    /// Every byte has a symbol.
    Bytes(Box<[u32; 256]>),
    /// Some bytes have none, and are unknown.
    SomeBytes(Box<[u32; 256]>, Unknown),
    /// Characters have symbols. Another one becomes those of its bytes; if one of these is missing,
    /// it is unknown.
    Characters {
        ascii: Box<[u32; 128]>,
        others: FxHashMap<char, u32>,
        bytes: Box<[u32; 256]>,
        unknown: Unknown,
    },
}

/// What becomes of unknown bytes and characters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unknown {
    /// Their symbol; [`NONE`] to leave them out.
    pub(crate) symbol: u32,
    /// Whether a run of them is one symbol.
    pub(crate) fuse: bool,
}

impl FirstSymbols {
    /// Write the first symbols of `piece` into `symbols`. Invalid UTF-8 has no characters, but bytes.
    ///
    /// As in `tokenizers`, the symbol of something unknown comes before that of the next known byte or
    /// character, even if bytes of other characters are between them.
    ///
    /// # Errors
    /// Fails if there is not enough memory, or if `context` is stopped.
    pub(crate) fn write(
        &self,
        context: &Context,
        piece: &[u8],
        symbols: &mut Vec<u32>,
    ) -> Result<(), Error> {
        symbols.clear();
        try_reserve(symbols, piece.len())?;
        match self {
            FirstSymbols::Bytes(of_byte) => {
                symbols.extend(piece.iter().map(|&byte| of_byte[usize::from(byte)]));
            }
            FirstSymbols::SomeBytes(of_byte, unknown) => {
                let mut out = Output::new(symbols, *unknown);
                for &byte in piece {
                    out.push(of_byte[usize::from(byte)]);
                }
                out.finish();
            }
            FirstSymbols::Characters { bytes, unknown, .. } => {
                let mut out = Output::new(symbols, *unknown);
                for chunk in piece.utf8_chunks() {
                    for (step, c) in (0..).zip(chunk.valid().chars()) {
                        context.check_at(step)?;
                        let symbol = self.of_char(c);
                        let mut utf8 = [0; 4];
                        if symbol != NONE
                            || !out.push_all(c.encode_utf8(&mut utf8).as_bytes(), bytes)
                        {
                            out.push(symbol);
                        }
                    }
                    for &byte in chunk.invalid() {
                        if !out.push_all(&[byte], bytes) {
                            out.push(NONE);
                        }
                    }
                }
                out.finish();
            }
        }
        Ok(())
    }

    /// Whether the symbols are of characters, or else of their bytes, so that none is unknown.
    pub(crate) fn are_characters_and_bytes(&self) -> bool {
        matches!(self, FirstSymbols::Characters { bytes, .. } if !bytes.contains(&NONE))
    }

    /// Whether a token is a single byte, or a single character.
    pub(crate) fn is_one(&self, token: &[u8]) -> bool {
        match self {
            FirstSymbols::Characters { .. } => only_char(token).is_some(),
            _ => token.len() == 1,
        }
    }

    /// Whether all bytes or characters of a token have a symbol.
    pub(crate) fn know(&self, token: &[u8]) -> bool {
        match self {
            FirstSymbols::Bytes(of_byte) | FirstSymbols::SomeBytes(of_byte, _) => {
                token.iter().all(|&byte| of_byte[usize::from(byte)] != NONE)
            }
            FirstSymbols::Characters { .. } => std::str::from_utf8(token)
                .is_ok_and(|text| text.chars().all(|c| self.of_char(c) != NONE)),
        }
    }

    /// The symbol of a character that has one, or [`NONE`].
    fn of_char(&self, c: char) -> u32 {
        match self {
            FirstSymbols::Characters { ascii, others, .. } => match ascii.get(c as usize) {
                Some(&symbol) => symbol,
                None => others.get(&c).copied().unwrap_or(NONE),
            },
            _ => NONE,
        }
    }

    /// Replace each symbol.
    pub(crate) fn map(&mut self, f: impl Fn(u32) -> u32) {
        let replace = |symbol: &mut u32| {
            if *symbol != NONE {
                *symbol = f(*symbol);
            }
        };
        match self {
            FirstSymbols::Bytes(of_byte) => of_byte.iter_mut().for_each(replace),
            FirstSymbols::SomeBytes(of_byte, unknown) => {
                of_byte.iter_mut().for_each(replace);
                replace(&mut unknown.symbol);
            }
            FirstSymbols::Characters {
                ascii,
                others,
                bytes,
                unknown,
            } => {
                ascii.iter_mut().for_each(replace);
                others.values_mut().for_each(replace);
                bytes.iter_mut().for_each(replace);
                replace(&mut unknown.symbol);
            }
        }
    }
}

/// The character that a token is, if it is a single one.
pub(super) fn only_char(token: &[u8]) -> Option<char> {
    let mut chars = std::str::from_utf8(token).ok()?.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// The spelling of the token that stands for a byte of a character that has no token.
pub(super) fn byte_token(byte: u8) -> Vec<u8> {
    format!("<0x{byte:02X}>").into_bytes()
}

/// Collects symbols.
struct Output<'a> {
    symbols: &'a mut Vec<u32>,
    unknown: Unknown,
    /// Whether the symbol of something unknown has yet to be written.
    is_pending: bool,
}

impl<'a> Output<'a> {
    fn new(symbols: &'a mut Vec<u32>, unknown: Unknown) -> Self {
        Output {
            symbols,
            unknown,
            is_pending: false,
        }
    }

    /// Add a symbol; [`NONE`] for something unknown.
    fn push(&mut self, symbol: u32) {
        if symbol == NONE {
            if !self.unknown.fuse {
                self.finish();
            }
            self.is_pending = true;
        } else {
            self.finish();
            self.symbols.push(symbol);
        }
    }

    /// Add the symbols of these bytes, if all have one.
    fn push_all(&mut self, bytes: &[u8], of_byte: &[u32; 256]) -> bool {
        let symbols = bytes.iter().map(|&byte| of_byte[usize::from(byte)]);
        let are_known = !symbols.clone().any(|symbol| symbol == NONE);
        if are_known {
            self.symbols.extend(symbols);
        }
        are_known
    }

    fn finish(&mut self) {
        if std::mem::take(&mut self.is_pending) && self.unknown.symbol != NONE {
            self.symbols.push(self.unknown.symbol);
        }
    }
}
