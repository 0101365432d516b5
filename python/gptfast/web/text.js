// A text of tokens, as a server's log-probabilities describe it.

import { spell } from "./view.js";

// A token that is not whole characters is spelled "bytes:\xe2\x82".
export const isPartial = (token) => /^bytes:(\\x[0-9a-f]{2})+$/.test(token);

export function spellToken(token) {
  const bytes = isPartial(token)
    ? Uint8Array.from(token.slice(6).split("\\x").slice(1), (digits) => parseInt(digits, 16))
    : new TextEncoder().encode(token);
  return spell(bytes);
}

export class ServedText {
  constructor() {
    this.characters = []; // whole code points, in which the server counts
    this.tokens = []; // {id, token, offset, logprob, top}
  }

  get text() {
    return this.characters.join("");
  }

  // Append a choice of a completion.
  add({ text, logprobs }) {
    this.characters.push(...text);
    logprobs?.tokens.forEach((token, i) => {
      this.tokens.push({
        id: logprobs.token_ids[i],
        token,
        offset: logprobs.text_offset[i],
        logprob: logprobs.token_logprobs[i],
        top: Object.entries(logprobs.top_logprobs[i] ?? {}),
      });
    });
  }

  // Return the text of a token; of those that share a character, the last has it.
  textOf(place) {
    const end = this.tokens[place + 1]?.offset ?? this.characters.length;
    return this.characters.slice(this.tokens[place].offset, end).join("");
  }

  // Return the text before a token.
  before(place) {
    return this.characters.slice(0, this.tokens[place].offset).join("");
  }
}

// Return the likeliest tokens as bars show them.
export function guessesOf(top, taken = null) {
  const sorted = [...top].sort((a, b) => b[1] - a[1]);
  return sorted.map(([token, logprob]) => ({
    id: token, spelled: spellToken(token), probability: Math.exp(logprob), isTaken: token === taken,
  }));
}
