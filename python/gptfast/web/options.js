// How to draw: what is set at the top of the page of a server.

export function settings() {
  const field = (id) => document.getElementById(id);
  const number = (id) => (Number.isFinite(field(id).valueAsNumber) ? field(id).valueAsNumber : null);
  const stop = field("stop").value.replace(/\\n/g, "\n").replace(/\\t/g, "\t");
  return {
    temperature: number("temperature"), top_k: number("top-k"), seed: number("seed"),
    max_tokens: number("length"), stop: stop === "" ? null : stop,
  };
}
