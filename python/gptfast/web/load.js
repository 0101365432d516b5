// Reading the weights from the page without stopping the browser.

import { decodeWeights } from "./matrix.js";

// Return a Map from names to weights, of the elements of the page that hold them, one for each.
// `onProgress(done, all)` is called after each.
export async function loadWeights(onProgress) {
  const weights = new Map();
  const scripts = [...document.querySelectorAll("script[data-name]")];
  for (const script of scripts) {
    const { name, type, shape } = script.dataset;
    weights.set(name, decodeWeights(script.textContent, type, shape.split(" ").map(Number)));
    script.remove(); // its text takes more memory than the weights
    onProgress(weights.size, scripts.length);
    await pause();
  }
  return weights;
}

// Let the browser draw and handle what the user did. A message comes back sooner than a timer.
const channel = new MessageChannel();

export function pause() {
  return new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
}
