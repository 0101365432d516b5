// The page: what happens when someone types, clicks or points.

import { loadWeights, pause } from "./load.js";
import { GPT } from "./model.js";
import { likeliest } from "./sampler.js";
import { Session } from "./session.js";
import { buildTokenizer, textsOf } from "./tokenizer.js";
import { Bars, HeadGrid, percent, spell, TokenText } from "./view.js";

const N_BARS = 10;
const FRAME = 24; // milliseconds of computing before the browser may draw and listen
const ALL_SURPRISE = 10; // bits from which on a token is shown as wholly surprising

const byId = (id) => document.getElementById(id);
const failed = (error) => complain(`The page can't go on: ${error?.message ?? error}`);
addEventListener("error", (event) => failed(event.error ?? event.message));
addEventListener("unhandledrejection", (event) => failed(event.reason));

const description = JSON.parse(byId("description").textContent);
const tokenizer = buildTokenizer(description.tokenizer);
const { config, n_vocab, stop_tokens, start } = description;

const weights = await loadWeights((done, all) => {
  byId("speed").textContent = `Loading ${done} of ${all} tensors`;
});
const session = new Session(new GPT(config, weights), n_vocab);

// ---- state --------------------------------------------------------------------------------------

let nPrompt = 0; // tokens of the text that are the prompt
let isWriting = false;
let task = 0; // number of the newest work; older work stops when it sees a newer number
let shownHead = null; // {layer, head}, or null for the mean of all
let peekedHead; // the head under the pointer
let place = null; // the token that is looked at; null for the end of the text

const text = new TokenText(byId("text"), (looked) => {
  place = looked;
  showGuesses();
  showHeads();
});
const bars = new Bars(byId("guesses"), N_BARS, choose);
const heads = new HeadGrid(
  byId("heads"), config.n_layer, config.n_head,
  (head) => { shownHead = head; showHeads(); },
  (head) => { peekedHead = head; paintText(); },
);

function settings() {
  const number = (id, least, otherwise) => {
    const value = byId(id).valueAsNumber;
    return Number.isFinite(value) ? Math.max(least, value) : otherwise;
  };
  return {
    sampling: { temperature: number("temperature", 0, 1), topK: number("top-k", 1, null) },
    seed: Math.trunc(number("seed", 0, 0)),
    length: number("length", 1, 200),
  };
}

// ---- work ---------------------------------------------------------------------------------------

// Let the model see all of the text. Return false if other work began meanwhile.
async function catchUp(mine) {
  let rested = performance.now();
  while (session.isBehind) {
    session.step();
    if (performance.now() - rested > FRAME) {
      byId("context").textContent = contextInWords();
      await pause();
      if (task !== mine) return false;
      rested = performance.now();
    }
  }
  return true;
}

// Take the prompt as the text, and show what the model thinks of it.
async function readPrompt() {
  const mine = ++task;
  endWriting();
  let ids;
  try {
    ids = tokenizer.encode(byId("prompt").value);
    complain(null);
  } catch (error) {
    return complain(`The prompt can't be read: ${error.message}.`);
  }
  nPrompt = ids.length;
  session.setIds(ids.length ? ids : start);
  text.keep(null);
  showText();
  if (await catchUp(mine)) showAll();
}

// Write `length` more tokens, one after the other, until the model ends the text.
async function write() {
  const mine = ++task;
  isWriting = true;
  byId("generate").textContent = "Stop";
  byId("more").disabled = true;
  if (!(await catchUp(mine))) return;
  const began = performance.now();
  let rested = began, written = 0, ending = "";
  while (written < settings().length) {
    const { sampling, seed } = settings();
    const id = session.choose(sampling, seed);
    if (stop_tokens.includes(id)) {
      ending = ", and the model ended the text";
      break;
    }
    session.append(id);
    written++;
    if (!(await catchUp(mine))) return;
    if (performance.now() - rested > FRAME) {
      showAll();
      byId("speed").textContent = speedInWords(written, began);
      await pause();
      if (task !== mine) return;
      rested = performance.now();
    }
  }
  byId("speed").textContent = speedInWords(written, began) + ending;
  byId("announcement").textContent = `Wrote ${written} tokens${ending}.`;
  endWriting();
  showAll();
}

function endWriting() {
  isWriting = false;
  byId("generate").textContent = "Generate";
  byId("more").disabled = false;
}

// Put a token where one looks: after the text, or instead of a token of it, which drops what
// follows.
async function choose(id) {
  const mine = ++task;
  endWriting();
  if (stop_tokens.includes(id)) {
    byId("speed").textContent = `${quoted(id)} ends the text`;
    return;
  }
  if (place === null) session.append(id);
  else session.setIds([...session.ids.slice(0, place), id]);
  nPrompt = Math.min(nPrompt, session.ids.length - 1);
  text.keep(null);
  if (await catchUp(mine)) showAll();
}

// ---- show ---------------------------------------------------------------------------------------

const spellings = new Map();
function spelled(id) {
  if (!spellings.has(id)) {
    spellings.set(id, tokenizer.special.get(id) ?? spell(tokenizer.bytes(id)));
  }
  return spellings.get(id);
}
const quoted = (id) => `“${spelled(id)}”`;

function showAll() {
  showText();
  showGuesses();
  showHeads();
}

function showText() {
  const { ids, guesses, first } = session;
  const box = byId("text");
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  const texts = textsOf(tokenizer, ids);
  text.set(
    ids.map((id, at) => ({
      id,
      text: texts[at],
      spelled: spelled(id),
      isPrompt: at < nPrompt,
      isForgotten: at < first,
      surprise: guesses[at] ? Math.min(1, -Math.log2(guesses[at].probability) / ALL_SURPRISE) : 0,
    })),
  );
  if (isAtEnd && isWriting) box.scrollTop = box.scrollHeight;
  byId("context").textContent = contextInWords();
}

// The bars: what may come next, or what else might have come at the token that is looked at.
function showGuesses() {
  const { ids, guesses, logits } = session;
  const title = byId("guesses-title"), about = byId("guesses-about");
  if (place === null) {
    const { sampling } = settings();
    const probabilities = logits ? session.next(sampling) : [];
    const top = likeliest(probabilities, N_BARS).filter((id) => probabilities[id] > 0);
    title.textContent = "Next token";
    about.textContent = `At temperature ${sampling.temperature}. Choose a token to write it.`;
    bars.show(top.map((id) => ({ id, spelled: spelled(id), probability: probabilities[id] })));
    return;
  }
  const id = ids[place], guess = guesses[place];
  title.textContent = `Instead of ${quoted(id)}`;
  if (guess) {
    const rank = `choice ${guess.rank} of ${n_vocab.toLocaleString("en")}`;
    about.textContent =
      `It had ${percent(guess.probability)}, as ${rank}. Choose another to go on from there.`;
  } else {
    about.textContent =
      place === 0 ? "The text begins with it." : "The model has not seen what comes before it.";
  }
  const top = guess?.top ?? [];
  const shown = (other) => ({ ...other, spelled: spelled(other.id), isTaken: other.id === id });
  bars.show(top.map(shown));
}

// The grid: where the token that is looked at, or the last one, looks itself.
function showHeads() {
  const at = place ?? session.seen - 1;
  const isKnown = session.cacheOf(at) !== null;
  byId("heads-about").textContent = isKnown
    ? `Each strip is a head: where ${quoted(session.ids[at])} looks, from the first token to it.`
    : "The model has not seen this token.";
  heads.show((where) => session.attention(where, at));
  paintText();
}

// While a token or a head is pointed at, the text shows the weights of the head.
function paintText() {
  const at = place ?? session.seen - 1;
  const where = peekedHead === undefined ? shownHead : peekedHead;
  const isWanted = place !== null || peekedHead !== undefined || shownHead !== null;
  const weights = isWanted && !isWriting ? session.attention(where, at) : null;
  text.paint(weights && weights.map(Math.sqrt), session.cacheOf(at)?.first, at);
}

function speedInWords(written, began) {
  const seconds = (performance.now() - began) / 1000;
  return seconds > 0 ? `${Math.round(written / seconds).toLocaleString("en")} tokens/s` : "";
}

function contextInWords() {
  return `sees ${session.cache.length} of ${session.ids.length} tokens`;
}

function showTemperature() {
  byId("temperature-value").textContent = settings().sampling.temperature;
}

function chooseColours() {
  const isSurprise = document.querySelector("[name=colours][value=surprise]").checked;
  byId("text").classList.toggle("surprise", isSurprise);
}

function complain(message) {
  byId("failure").hidden = message === null;
  byId("failure").textContent = message ?? "";
}

// ---- listen -------------------------------------------------------------------------------------

async function generate() {
  if (isWriting) {
    task++;
    endWriting();
    showAll();
    return;
  }
  await readPrompt();
  if (byId("failure").hidden) write();
}

byId("generate").addEventListener("click", generate);
byId("more").addEventListener("click", write);
byId("prompt").addEventListener("input", readPrompt);
byId("temperature").addEventListener("input", () => {
  showTemperature();
  showGuesses();
});
byId("top-k").addEventListener("input", showGuesses);
for (const radio of document.querySelectorAll("input[name=colours]")) {
  radio.addEventListener("change", chooseColours);
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
  if (event.key === "Escape" && isWriting) generate();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showHeads);

// A browser may have kept what was set before the page was loaded again.
showTemperature();
chooseColours();
byId("prompt").disabled = byId("generate").disabled = false;
byId("speed").textContent = "";
readPrompt();
