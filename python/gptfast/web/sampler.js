// How the next token is drawn from the logits (gptfast's sample/).

// Return the probabilities (V) from which a token is drawn. The temperature divides the logits:
// below 1 samples are safer, above 1 more varied; 0 takes the likeliest. topK keeps the k likeliest
// tokens and those that tie with the last of them; null keeps all.
export function distribution(logits, { temperature = 1, topK = null } = {}) {
  let largest = -Infinity;
  for (const logit of logits) largest = Math.max(largest, logit);
  if (temperature === 0) {
    const only = new Float64Array(logits.length);
    only[logits.indexOf(largest)] = 1;
    return only;
  }
  const kth = topK === null || topK >= logits.length ? -Infinity : logits.slice().sort().at(-topK);
  const probabilities = new Float64Array(logits.length);
  let sum = 0;
  for (let id = 0; id < logits.length; id++) {
    if (logits[id] >= kth) probabilities[id] = Math.exp((logits[id] - largest) / temperature);
    sum += probabilities[id];
  }
  for (let id = 0; id < logits.length; id++) probabilities[id] /= sum;
  return probabilities;
}

// Return the id that a number from 0 to 1 falls on, if each id takes as much room as it is likely.
export function draw(probabilities, number) {
  let last = 0;
  for (let id = 0, sum = 0; id < probabilities.length; id++) {
    if (probabilities[id] === 0) continue;
    sum += probabilities[id];
    last = id;
    if (number < sum) return id;
  }
  return last; // the sum of all may be rounded to less than 1
}

// Return the ids of the n largest values, largest first.
export function likeliest(values, n) {
  const best = [];
  for (let id = 0; id < values.length; id++) {
    if (best.length === n && !(values[id] > values[best[n - 1]])) continue;
    let place = best.length;
    while (place > 0 && values[id] > values[best[place - 1]]) place--;
    best.splice(place, 0, id);
    best.length = Math.min(best.length, n);
  }
  return best;
}

// Return a number from 0 to 1 for the token at a position. It depends on the seed and the position
// alone, so the same seed gives the same text, however often one stops and goes on. It is
// SplitMix's idea ("Fast splittable pseudorandom number generators", Steele et al., 2014): count,
// then scramble.
export function random(seed, position) {
  let bits = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) + Math.imul(position + 1, 0x9e3779b9);
  for (let round = 0; round < 2; round++) {
    bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
    bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
    bits ^= bits >>> 16;
  }
  return (bits >>> 0) / 2 ** 32;
}
