// The GPT of gptfast's model/transformer.py, for one token at a time.
//
// Names are those of the Python files. Suffixes tell shapes: C channels (n_embd), H query heads, G
// key and value heads, D head width, F width of the MLP, E experts, V vocabulary, T tokens so far.
// There is no batch: x_C is the vector of one token.

// Keys, values and queries of every layer, and the ids, of the tokens that the model has seen.
// A new token needs only the keys and values. The queries are kept to show who looked where.
export class KVCache {
  constructor(config) {
    const { n_layer, block_size, n_head, n_kv_head, head_width } = config;
    const buffers = (heads) =>
      Array.from({ length: n_layer }, () => new Float32Array(block_size * heads * head_width));
    this.k = buffers(n_kv_head);
    this.v = buffers(n_kv_head);
    this.q = buffers(n_head);
    this.ids = [];
  }

  get length() {
    return this.ids.length;
  }

  get bytes() {
    return [...this.k, ...this.v, ...this.q].reduce((sum, buffer) => sum + buffer.byteLength, 0);
  }

  // Forget all tokens but the first `length`. What is beyond them will be overwritten.
  truncate(length) {
    this.ids.length = Math.min(this.ids.length, length);
  }
}

export class GPT {
  // config: the fields of model/config.py, and a few numbers computed from them. weights: a Map
  // from the names in a model's state_dict to vectors and matrices.
  constructor(config, weights) {
    this.config = config;
    this.weights = weights;
    this.lm_head = weights.get(config.tie_embeddings ? "wte.weight" : "lm_head.weight");
  }

  // Append a token to the cache and return the logits (V) of the next one; null if they are not
  // wanted.
  step(id, cache, wantLogits = true) {
    const { config } = this;
    const position = cache.length;
    cache.ids.push(id);
    // A token starts as a sum of embeddings of its id, its n-grams and its position: (C).
    let x_C = this.weights.get("wte.weight").row(id);
    if (config.max_ngram > 1) add(x_C, this.ngrams(cache.ids));
    if (config.positions === "learned") add(x_C, this.weights.get("wpe.weight").row(position));
    if (config.embedding_norm) x_C = this.norm(x_C, "ln_emb");
    // Every block reads the residual stream and adds to it: it communicates (attention), then it
    // computes (MLP). Both halves read a normalised copy; the stream stays a sum.
    for (let layer = 0; layer < config.n_layer; layer++) {
      const h = `h.${layer}`;
      add(x_C, this.attention(this.norm(x_C, `${h}.ln_1`), layer, position, cache));
      add(x_C, this.mlp(this.norm(x_C, `${h}.ln_2`), `${h}.mlp`));
    }
    if (!wantLogits) return null;
    // The vector at this position predicts the next token: one product with every row of the head.
    const logits_V = multiply(this.lm_head, this.norm(x_C, "ln_f"));
    const cap = config.logit_softcap;
    return cap === null ? logits_V : logits_V.map((logit) => cap * Math.tanh(logit / cap));
  }

  // ---- attention: the one place where tokens exchange information (model/attention.py) ----------

  attention(x_C, layer, position, cache) {
    const { n_head: H, n_kv_head: G, head_width: D } = this.config;
    const name = `h.${layer}.attn`;
    // One product makes the queries, keys and values of all heads, one after the other: (H + 2 G,
    // D).
    const qkv = this.linear(x_C, `${name}.c_attn`);
    const q_HD = qkv.subarray(0, H * D);
    const k_GD = qkv.subarray(H * D, (H + G) * D);
    const v_GD = qkv.subarray((H + G) * D);
    if (this.config.qk_norm) {
      this.normHeads(q_HD, `${name}.q_norm.weight`);
      this.normHeads(k_GD, `${name}.k_norm.weight`);
    }
    // Rotate by position, so that q . k depends only on the distance between two tokens.
    if (this.config.rotates[layer]) {
      this.rotate(q_HD, position);
      this.rotate(k_GD, position);
    }
    cache.q[layer].set(q_HD, position * H * D);
    cache.k[layer].set(k_GD, position * G * D);
    cache.v[layer].set(v_GD, position * G * D);
    // Each head mixes the values of the tokens by its weights. If G is less than H, several query
    // heads share keys and values.
    const y_HD = new Float32Array(H * D);
    const values = cache.v[layer];
    for (let head = 0; head < H; head++) {
      const weights_T = this.attentionWeights(layer, head, position, cache);
      const shared = Math.floor((head * G) / H);
      for (let t = 0; t <= position; t++) {
        const weight = weights_T[t];
        const from = (t * G + shared) * D;
        if (weight) for (let d = 0; d < D; d++) y_HD[head * D + d] += weight * values[from + d];
      }
    }
    return this.linear(y_HD, `${name}.c_proj`);
  }

  // Return how much a head of the token at `position` looks at each token up to itself:
  // softmax(q . k / sqrt(D)), (position + 1). Tokens outside of the layer's window get 0.
  attentionWeights(layer, head, position, cache) {
    const { n_head: H, n_kv_head: G, head_width: D, windows } = this.config;
    const q = cache.q[layer], k = cache.k[layer];
    const shared = Math.floor((head * G) / H);
    const first = windows[layer] === null ? 0 : Math.max(0, position + 1 - windows[layer]);
    const weights_T = new Float32Array(position + 1);
    let largest = -Infinity;
    for (let t = first; t <= position; t++) {
      const atQ = (position * H + head) * D, atK = (t * G + shared) * D;
      let dot = 0;
      for (let d = 0; d < D; d++) dot += q[atQ + d] * k[atK + d];
      weights_T[t] = dot / Math.sqrt(D);
      largest = Math.max(largest, weights_T[t]);
    }
    let sum = 0;
    for (let t = first; t <= position; t++) {
      weights_T[t] = Math.exp(weights_T[t] - largest);
      sum += weights_T[t];
    }
    for (let t = first; t <= position; t++) weights_T[t] /= sum;
    return weights_T;
  }

  // Rotate the channel pairs of each head, p and p + D / 2, by angles that grow with the position
  // (ops/rotary.py). The first pair turns fastest.
  rotate(x_HD, position) {
    const { head_width: D, rotary } = this.config;
    for (let pair = 0; pair < D / 2; pair++) {
      const angle = position * rotary.frequencies[pair];
      const cos = Math.cos(angle) * rotary.scale, sin = Math.sin(angle) * rotary.scale;
      for (let a = pair, b = pair + D / 2; a < x_HD.length; a += D, b += D) {
        [x_HD[a], x_HD[b]] = [x_HD[a] * cos - x_HD[b] * sin, x_HD[b] * cos + x_HD[a] * sin];
      }
    }
  }

  // ---- the MLP, which processes each token by itself (model/mlp.py, model/moe.py) ---------------

  mlp(x_C, name) {
    if (this.config.n_expert) return this.experts(x_C, name);
    return this.linear(activate(this.linear(x_C, `${name}.c_fc`), this.config), `${name}.c_proj`);
  }

  // Several MLPs, the experts. A router gives each a score; the best few compute, and are weighed
  // by their scores.
  experts(x_C, name) {
    const { n_expert: E, n_expert_active, n_embd: C } = this.config;
    const c_fc = this.weights.get(`${name}.c_fc`), c_proj = this.weights.get(`${name}.c_proj`);
    const scores_E = softmaxOf(multiply(this.weights.get(`${name}.router.weight`), x_C));
    // A bias that balances the experts changes the choice, not the weights.
    const bias_E = this.weights.get(`${name}.bias_E`) ?? new Float32Array(E);
    const chosen = [...scores_E.keys()]
      .sort((a, b) => scores_E[b] + bias_E[b] - (scores_E[a] + bias_E[a]))
      .slice(0, n_expert_active);
    const total = chosen.reduce((sum, expert) => sum + scores_E[expert], 0);
    const out_C = new Float32Array(C), expert_C = new Float32Array(C);
    for (const expert of chosen) {
      const rows = c_fc.rows / E;
      const hidden = new Float32Array(rows);
      c_fc.multiply(x_C, hidden, expert * rows);
      c_proj.multiply(activate(hidden, this.config), expert_C, expert * C);
      const weight = scores_E[expert] / total;
      for (let c = 0; c < C; c++) out_C[c] += weight * expert_C[c];
    }
    return out_C;
  }

  // ---- parts ------------------------------------------------------------------------------------

  linear(x, name) {
    const out = multiply(this.weights.get(`${name}.weight`), x);
    const bias = this.weights.get(`${name}.bias`);
    if (bias) add(out, bias);
    return out;
  }

  // Layer norm: (x - mean) / sqrt(variance + eps) * weight + bias. RMS norm leaves the mean in
  // (model/norm.py).
  norm(x_C, name) {
    const C = x_C.length;
    const weight = this.weights.get(`${name}.weight`), bias = this.weights.get(`${name}.bias`);
    let mean = 0;
    if (this.config.norm === "layernorm") {
      for (let c = 0; c < C; c++) mean += x_C[c];
      mean /= C;
    }
    let squares = 0;
    for (let c = 0; c < C; c++) squares += (x_C[c] - mean) ** 2;
    const scale = 1 / Math.sqrt(squares / C + this.config.norm_eps);
    const out_C = new Float32Array(C);
    for (let c = 0; c < C; c++) out_C[c] = (x_C[c] - mean) * scale * weight[c];
    if (bias) add(out_C, bias);
    return out_C;
  }

  // RMS norm of each head, in place.
  normHeads(x_HD, name) {
    const D = this.config.head_width;
    const weight_D = this.weights.get(name);
    for (let start = 0; start < x_HD.length; start += D) {
      let squares = 0;
      for (let d = 0; d < D; d++) squares += x_HD[start + d] ** 2;
      const scale = 1 / Math.sqrt(squares / D + this.config.norm_eps);
      for (let d = 0; d < D; d++) x_HD[start + d] *= scale * weight_D[d];
    }
  }

  // Return the sum of the embeddings of the n-grams that end at the last id, (C). A hash of the ids
  // chooses the row of each (model/ngrams.py). It wraps at 64 bits, hence BigInt.
  ngrams(ids) {
    const { max_ngram, ngram_rows, vocab_size, n_embd } = this.config;
    const table = this.weights.get("wne.weight");
    const sum_C = new Float32Array(n_embd);
    let hash = BigInt(ids[ids.length - 1]);
    for (let back = 1; back < max_ngram; back++) {
      const before = ids[ids.length - 1 - back] ?? vocab_size; // an id of its own before the text
      hash = BigInt.asIntN(64, hash * 0x9e3779b1n + BigInt(before) + 1n);
      let row = Number((hash ^ (hash >> 32n)) % BigInt(ngram_rows));
      if (row < 0) row += ngram_rows; // in Python, a remainder is never negative
      add(sum_C, table.row(row + (back - 1) * ngram_rows));
    }
    return sum_C;
  }
}

function multiply(matrix, x) {
  const out = new Float32Array(matrix.rows);
  matrix.multiply(x, out);
  return out;
}

function add(x, other) {
  for (let i = 0; i < x.length; i++) x[i] += other[i];
}

function softmaxOf(x) {
  const largest = Math.max(...x);
  const exps = x.map((value) => Math.exp(value - largest));
  const sum = exps.reduce((total, value) => total + value, 0);
  return exps.map((value) => value / sum);
}

// Return the activation (F) of x (F); for 'swiglu', x is (2 F), gates first.
function activate(x, { activation }) {
  if (activation === "swiglu") {
    const F = x.length / 2;
    return x.subarray(0, F).map((gate, f) => (gate / (1 + Math.exp(-gate))) * x[F + f]);
  }
  if (activation === "relu2") return x.map((value) => Math.max(value, 0) ** 2);
  if (activation === "gelu_exact") return x.map((a) => (a / 2) * (1 + erf(a / Math.SQRT2)));
  // 'gelu' is GPT-2's approximation, x / 2 * (1 + tanh(u)), which is x * sigmoid(2 u).
  const twice = 2 * Math.sqrt(2 / Math.PI);
  return x.map((a) => a / (1 + Math.exp(-twice * (a + 0.044715 * a * a * a))));
}

// The error function to 1.5e-7 (Abramowitz and Stegun, 1964, 7.1.26).
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const coefficients = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  const polynomial = coefficients.reduce((sum, coefficient) => sum * t + coefficient, 0) * t;
  return Math.sign(x) * (1 - polynomial * Math.exp(-x * x));
}
