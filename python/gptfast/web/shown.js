// What the page shows of a text in progress: its tokens, as `TokenText` takes them, and words.

import { textsOf } from "./tokenizer.js";
import { spell } from "./view.js";

const ALL_SURPRISE = 10; // bits from which on a token is shown as wholly surprising

export const number = (value) => value.toLocaleString("en");

export class Spelling {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.spellings = new Map();
  }

  of(id) {
    const { tokenizer, spellings } = this;
    if (!spellings.has(id)) {
      spellings.set(id, tokenizer.special.get(id) ?? spell(tokenizer.bytes(id)));
    }
    return spellings.get(id);
  }

  quoted(id) {
    return `“${this.of(id)}”`;
  }
}

// Return the tokens of a session from the place `from` on; the first `nPrompt` are the prompt.
export function tokensOf({ ids, guesses, first }, spelling, from, nPrompt) {
  // A character that began in the three tokens before ends in one that is shown.
  const before = Math.min(from, 3);
  const texts = textsOf(spelling.tokenizer, ids.slice(from - before)).slice(before);
  return texts.map((text, i) => {
    const at = from + i, id = ids[at], guess = guesses[at];
    return {
      id,
      text,
      spelled: spelling.of(id),
      isPrompt: at < nPrompt,
      isForgotten: at < first,
      surprise: guess ? Math.min(1, -Math.log2(guess.probability) / ALL_SURPRISE) : 0,
    };
  });
}

export function speedInWords(n, seconds) {
  return seconds > 0 ? `${number(Math.round(n / seconds))} tokens/s` : "";
}

export function contextInWords({ ids, cache, seen, isBehind }) {
  if (isBehind) return `${number(ids.length - seen)} tokens to read`;
  const all = `${number(ids.length)} tokens`;
  return cache.length < ids.length ? `sees the last ${number(cache.length)} of ${all}` : `sees all ${all}`;
}
