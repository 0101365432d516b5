// What is set for writing. The elements themselves tell which numbers they take.

export const byId = (id) => document.getElementById(id);
const numbers = () => ["top-k", "seed", "length"].map(byId);

// Mark the numbers that can't be used and say what is expected. Return the first such element; null
// if all are valid.
export function findInvalid() {
  const invalid = numbers().filter((input) => !input.validity.valid);
  for (const input of numbers()) {
    input.setAttribute("aria-invalid", String(invalid.includes(input)));
  }
  byId("invalid").textContent = invalid.map((input) => input.title).join(" ");
  return invalid[0] ?? null;
}

// Return what is set. It is to be used for writing only if all of it is valid.
export function settings() {
  const topK = byId("top-k");
  return {
    sampling: { temperature: byId("temperature").valueAsNumber, topK: (topK.validity.valid && topK.valueAsNumber) || null },
    seed: byId("seed").valueAsNumber,
    length: byId("length").valueAsNumber,
  };
}
