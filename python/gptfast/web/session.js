// A text in progress: its tokens, what the model has seen of them, and what it thought of each.

import { KVCache } from "./model.js";
import { distribution, draw, likeliest, random } from "./sampler.js";

const N_TOP = 10; // alternatives kept for each token
const PAST_BYTES = 100e6; // the most that caches of forgotten tokens may take

export class Session {
  // n_vocab: ids of the tokenizer. A model may have more rows, as padding that stands for no token.
  constructor(model, n_vocab) {
    this.model = model;
    this.n_vocab = n_vocab;
    this.block_size = model.config.block_size;
    this.cache = new KVCache(model.config);
    this.ids = [];
    this.first = 0; // the first token in the cache: the model has forgotten those before it
    this.past = []; // {first, cache} of forgotten tokens, the latest first, for `attention`
    this.logits = null; // of the token after the last one seen
    this.guesses = []; // for each token, how likely the model found it; see `guess`
  }

  // The number of tokens that the model has seen, forgotten ones included.
  get seen() {
    return this.first + this.cache.length;
  }

  get isBehind() {
    return this.seen < this.ids.length;
  }

  // Replace the text. What the model computed for a common beginning is kept. Of a text that is
  // longer than the context, the model sees the end.
  setIds(ids) {
    const differs = ids.findIndex((id, place) => id !== this.ids[place]);
    const common = differs < 0 ? ids.length : differs;
    this.ids = ids.slice();
    this.guesses.length = Math.min(this.guesses.length, common);
    const fits = ids.length - this.first <= this.block_size;
    if (common === this.seen && fits) return; // tokens were appended
    // The logits after the last common token are gone, so the model sees that token once more.
    const kept = Math.max(0, Math.min(common, this.seen) - 1);
    this.logits = null;
    this.past = this.past.filter(({ first, cache }) => first + cache.length <= common);
    if (kept < this.first || !fits) {
      this.first = Math.max(0, ids.length - this.block_size);
      this.cache.truncate(0);
    } else {
      this.cache.truncate(kept - this.first);
    }
  }

  // Add a token. Once the context is full, the model forgets its older half.
  append(id) {
    this.ids.push(id);
  }

  // Let the model see one more token of the text.
  step() {
    if (this.cache.length === this.block_size) this.forget();
    const place = this.seen;
    if (this.logits !== null) this.guesses[place] ??= guess(this.logits, this.ids[place]);
    const isWanted = place + 1 === this.ids.length || this.guesses[place + 1] === undefined;
    const logits = this.model.step(this.ids[place], this.cache, isWanted);
    this.logits = logits && logits.subarray(0, this.n_vocab);
  }

  // The context is full: forget the older half, and see the rest again from position 0.
  forget() {
    const place = this.seen;
    if (this.logits !== null) this.guesses[place] ??= guess(this.logits, this.ids[place]);
    if ((this.past.length + 1) * this.cache.bytes < PAST_BYTES) {
      this.past.unshift({ first: this.first, cache: this.cache });
      this.cache = new KVCache(this.model.config);
    }
    this.first = place + 1 - Math.max(1, Math.floor(this.block_size / 2));
    this.cache.truncate(0);
    this.logits = null;
  }

  // Return the probabilities (V) of the next token; sampling as in `distribution`.
  next(sampling) {
    return distribution(this.logits, sampling);
  }

  // Draw the next token's id. The same seed draws the same.
  choose(sampling, seed) {
    return draw(this.next(sampling), random(seed, this.ids.length));
  }

  // Return {first, cache} of a cache that holds the token at `place`, whose first token is `first`;
  // null if there is none.
  cacheOf(place) {
    const caches = [{ first: this.first, cache: this.cache }, ...this.past];
    const holds = ({ first, cache }) => first <= place && place < first + cache.length;
    return caches.find(holds) ?? null;
  }

  // Return how much a head of the token at `place` looks at each token from the first in its cache
  // to itself; null if it is in no cache. where: {layer, head}, or null for the mean of all heads.
  attention(where, place) {
    const found = this.cacheOf(place);
    if (found === null) return null;
    const position = place - found.first;
    const weightsOf = ({ layer, head }) =>
      this.model.attentionWeights(layer, head, position, found.cache);
    if (where !== null) return weightsOf(where);
    const { n_layer, n_head } = this.model.config;
    const mean = new Float32Array(position + 1);
    for (let layer = 0; layer < n_layer; layer++) {
      for (let head = 0; head < n_head; head++) {
        weightsOf({ layer, head }).forEach((weight, t) => (mean[t] += weight / (n_layer * n_head)));
      }
    }
    return mean;
  }
}

// Return how likely the model found a token before it saw it: its probability, its rank (1 is the
// likeliest), and the likeliest tokens with theirs. At temperature 1: what the model learned.
function guess(logits, id) {
  const probabilities = distribution(logits);
  const top = likeliest(probabilities, N_TOP).map((other) => {
    return { id: other, probability: probabilities[other] };
  });
  const probability = probabilities[id];
  const rank = probabilities.reduce((n, other) => n + (other > probability), 1);
  return { probability, rank, top };
}
