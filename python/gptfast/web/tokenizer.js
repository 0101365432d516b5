// Text to ids and back (gptfast's tokenizer/). A token is a sequence of bytes; a character of text
// is one to four bytes in UTF-8, so a token may hold a part of a character only.

// How text is cut before tokens are merged: no token crosses a cut. \p{L} is a letter and \p{N} a
// number in the version of Unicode that this browser has. \p{White_Space} is what \s is in Python
// and Rust; in JavaScript, \s differs from it in two characters.
const CONTRACTION = String.raw`'(?:[sſdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])`;
const UPPER = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const LOWER = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
const withDigits = (digits) => [
  CONTRACTION,
  String.raw`[^\r\n\p{L}\p{N}]?\p{L}+`,
  digits,
  String.raw` ?[^\p{White_Space}\p{L}\p{N}]+[\r\n]*`,
  String.raw`\p{White_Space}*[\r\n]+`,
  String.raw`\p{White_Space}+(?!\P{White_Space})`,
  String.raw`\p{White_Space}+`,
];
const PATTERNS = {
  gpt2: [
    String.raw`'(?:[sdmt]|ll|ve|re)`, // 's, 'll
    String.raw` ?\p{L}+`, // a word, with the space before it
    String.raw` ?\p{N}+`, // a number
    String.raw` ?[^\p{White_Space}\p{L}\p{N}]+`, // signs
    String.raw`\p{White_Space}+(?!\P{White_Space})`, // white space, but for the last before a word
    String.raw`\p{White_Space}+`,
  ],
  cl100k: [
    CONTRACTION,
    String.raw`[^\r\n\p{L}\p{N}]?\p{L}+`,
    String.raw`\p{N}{1,3}`,
    String.raw` ?[^\p{White_Space}\p{L}\p{N}]+[\r\n]*`,
    String.raw`\p{White_Space}+$`,
    String.raw`\p{White_Space}*[\r\n]`,
    String.raw`\p{White_Space}+(?!\P{White_Space})`,
    String.raw`\p{White_Space}`,
  ],
  llama3: withDigits(String.raw`\p{N}{1,3}`),
  qwen2: withDigits(String.raw`\p{N}`),
  o200k: [
    String.raw`[^\r\n\p{L}\p{N}]?${UPPER}*${LOWER}+(?:${CONTRACTION})?`,
    String.raw`[^\r\n\p{L}\p{N}]?${UPPER}+${LOWER}*(?:${CONTRACTION})?`,
    String.raw`\p{N}{1,3}`,
    String.raw` ?[^\p{White_Space}\p{L}\p{N}]+[\r\n/]*`,
    String.raw`\p{White_Space}*[\r\n]+`,
    String.raw`\p{White_Space}+(?!\P{White_Space})`,
    String.raw`\p{White_Space}+`,
  ],
};

// Byte-level BPE, as tokenizer/bpe_reference.py defines it.
export class BPETokenizer {
  // tokens: for each id the token's bytes, as a string with a character from U+0000 to U+00FF for
  // each; null for an id without an ordinary token. special: ids by the names of special tokens.
  constructor({ pattern, tokens, special }) {
    this.pattern = new RegExp(PATTERNS[pattern].join("|"), "gu");
    this.ranks = new Map();
    this.tokens = tokens.map((token) => token && Uint8Array.from(token, (c) => c.charCodeAt(0)));
    tokens.forEach((token, id) => token !== null && this.ranks.set(token, id));
    this.known = new Map(); // ids of pieces that were encoded before
    addSpecial(this, special);
  }

  // Return the ids of a text. Names of special tokens in it are ordinary text.
  encode(text) {
    const pieces = text.match(this.pattern) ?? [];
    return pieces.flatMap((piece) => {
      if (!this.known.has(piece)) this.known.set(piece, this.encodePiece(piece));
      return this.known.get(piece);
    });
  }

  encodePiece(piece) {
    let word = [...new TextEncoder().encode(piece)].map((byte) => String.fromCharCode(byte));
    // Some vocabularies have tokens that no merges make.
    const whole = this.ranks.get(word.join(""));
    if (whole !== undefined) return [whole];
    // Of all adjacent pairs, merge the one that was learned first, until no pair is a token.
    for (;;) {
      let best = Infinity;
      for (let i = 1; i < word.length; i++) {
        best = Math.min(best, this.ranks.get(word[i - 1] + word[i]) ?? Infinity);
      }
      if (best === Infinity) return word.map((token) => this.ranks.get(token));
      const merged = [];
      for (const token of word) {
        const pair = (merged.at(-1) ?? "") + token;
        if (merged.length && this.ranks.get(pair) === best) merged[merged.length - 1] = pair;
        else merged.push(token);
      }
      word = merged;
    }
  }

  // Return the bytes of a token; of a special token, its name.
  bytes(id) {
    return this.tokens[id] ?? new Uint8Array();
  }
}

// One id per character. A character is a code point, not one of JavaScript's 16-bit units.
export class CharTokenizer {
  // chars: a list of characters. unk: the id of any other character; null if others can't be
  // encoded.
  constructor({ chars, special, unk }) {
    this.ids = new Map(chars.map((char, id) => [char, id]));
    this.unk = unk;
    this.tokens = chars.map((char) => new TextEncoder().encode(char));
    addSpecial(this, special);
  }

  encode(text) {
    return Array.from(text.toWellFormed?.() ?? text, (char) => {
      const id = this.ids.get(char) ?? this.unk;
      if (id === null) throw new Error(`the model has never seen the character ${char}`);
      return id;
    });
  }

  bytes(id) {
    return this.tokens[id] ?? new Uint8Array();
  }
}

function addSpecial(tokenizer, special) {
  tokenizer.special = new Map(Object.entries(special).map(([name, id]) => [id, name]));
  for (const [id, name] of tokenizer.special) tokenizer.tokens[id] = new TextEncoder().encode(name);
}

export function buildTokenizer(description) {
  if (description.kind === "bpe") return new BPETokenizer(description);
  return new CharTokenizer(description);
}

// Return the text that each token adds to those before it. A character appears with its last byte,
// so a token that holds only its beginning adds "". What is no UTF-8 becomes U+FFFD.
export function textsOf(tokenizer, ids) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return ids.map((id) => decoder.decode(tokenizer.bytes(id), { stream: true }));
}
