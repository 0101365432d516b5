// The page: what happens when someone types, clicks or points.

import { loadWeights, pause } from "./load.js";
import { GPT } from "./model.js";
import { likeliest } from "./sampler.js";
import { Session } from "./session.js";
import { byId, findInvalid, settings } from "./settings.js";
import { contextInWords, number, speedInWords, Spelling, tokensOf } from "./shown.js";
import { buildTokenizer } from "./tokenizer.js";
import { Bars, HeadGrid, percent, TokenText } from "./view.js";

const N_BARS = 10;
const FRAME = 24; // milliseconds of computing before the browser may draw and listen
const LEAST_SHOWN = 500; // tokens that are shown of a prompt, even if the context is shorter

const failed = (error) => complain(`The page can't go on: ${error?.message ?? error}`);
addEventListener("error", (event) => failed(event.error ?? event.message));
addEventListener("unhandledrejection", (event) => failed(event.reason));

const description = JSON.parse(byId("description").textContent);
const tokenizer = buildTokenizer(description.tokenizer);
const { config, n_vocab, stop_tokens, start } = description;
const spelling = new Spelling(tokenizer);

const weights = await loadWeights((done, all) => {
  byId("speed").textContent = `Loading ${done} of ${all} tensors`;
});
const session = new Session(new GPT(config, weights), n_vocab);

// ---- state --------------------------------------------------------------------------------------

let nPrompt = 0; // tokens of the text that are the prompt
let shownFrom = 0; // the first token that is shown: of a long prompt, only the end is
let isDue = false; // whether the prompt has changed since it was read
let isWriting = false;
let task = 0; // number of the newest work; older work stops when it sees a newer number
let shownHead = null; // {layer, head}, or null for the mean of all
let peekedHead; // the head under the pointer
let place = null; // the token that is looked at; null for the end of the text

const text = new TokenText(byId("text"), (looked) => {
  place = looked === null ? null : looked + shownFrom;
  showGuesses();
  showHeads();
});
const bars = new Bars(byId("guesses"), N_BARS, choose);
const heads = new HeadGrid(
  byId("heads"), config.n_layer, config.n_head,
  (head) => { shownHead = head; showHeads(); },
  (head) => { peekedHead = head; paintText(); },
);

// ---- work ---------------------------------------------------------------------------------------

// Let the model see all of the text. Return false if other work began meanwhile.
async function catchUp(mine) {
  let rested = performance.now();
  while (session.isBehind) {
    session.step();
    if (performance.now() - rested > FRAME) {
      showContext();
      await pause();
      if (task !== mine) return false;
      rested = performance.now();
    }
  }
  return true;
}

// Read the prompt with the next picture, however many keys come until then.
function readSoon() {
  if (!isDue) requestAnimationFrame(() => isDue && readPrompt());
  isDue = true;
}

// Take the prompt as the text, and show what the model thinks of it. Return false if it can't be
// read, or other work began meanwhile.
async function readPrompt() {
  const mine = ++task;
  isDue = false;
  byId("speed").textContent = "";
  endWriting();
  let ids;
  try {
    ids = tokenizer.encode(byId("prompt").value);
    complain(null);
  } catch (error) {
    complain(`The prompt can't be read: ${error.message}.`);
    return false;
  }
  nPrompt = ids.length;
  shownFrom = Math.max(0, ids.length - Math.max(config.block_size, LEAST_SHOWN));
  session.setIds(ids.length ? ids : start);
  text.keep(null);
  showText();
  if (!(await catchUp(mine))) return false;
  showAll();
  return true;
}

// Write `length` more tokens, one after the other, until the model ends the text.
async function write() {
  const invalid = findInvalid();
  if (invalid !== null) return invalid.focus();
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
      byId("speed").textContent = speedInWords(written, (performance.now() - began) / 1000);
      await pause();
      if (task !== mine) return;
      rested = performance.now();
    }
  }
  byId("speed").textContent = speedInWords(written, (performance.now() - began) / 1000) + ending;
  byId("announcement").textContent = `Wrote ${written} tokens${ending}.`;
  endWriting();
  showAll();
}

function stop() {
  task++;
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
    byId("speed").textContent = `${spelling.quoted(id)} ends the text`;
    return;
  }
  if (place === null) session.append(id);
  else session.setIds([...session.ids.slice(0, place), id]);
  nPrompt = Math.min(nPrompt, session.ids.length - 1);
  text.keep(null);
  if (await catchUp(mine)) showAll();
}

// ---- show ---------------------------------------------------------------------------------------

function showAll() {
  showText();
  showGuesses();
  showHeads();
}

function showText() {
  const box = byId("text");
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  text.set(isBlank() ? [] : tokensOf(session, spelling, shownFrom, nPrompt));
  if (isBlank()) box.dataset.note = "Type a prompt, or press Generate.";
  else if (shownFrom > 0) box.dataset.note = `${number(shownFrom)} tokens before these`;
  else delete box.dataset.note;
  if (isAtEnd && isWriting) box.scrollTop = box.scrollHeight;
  showContext();
}

// Whether there is no text but the token that stands for an empty prompt.
function isBlank() {
  return nPrompt === 0 && session.ids.length === start.length;
}

// The bars: what may come next, or what else might have come at the token that is looked at.
function showGuesses() {
  const { ids, guesses, logits } = session;
  const title = byId("guesses-title"), about = byId("guesses-about");
  if (place === null) {
    byId("looked").textContent = "";
    const { sampling } = settings();
    const probabilities = logits ? session.next(sampling) : [];
    const top = likeliest(probabilities, N_BARS).filter((id) => probabilities[id] > 0);
    title.textContent = "Next token";
    about.textContent = `At temperature ${sampling.temperature}. Choose a token to write it.`;
    bars.show(top.map((id) => ({ id, spelled: spelling.of(id), probability: probabilities[id] })));
    return;
  }
  const id = ids[place], guess = guesses[place];
  title.textContent = `Instead of ${spelling.quoted(id)}`;
  if (guess) {
    const rank = `choice ${guess.rank} of ${number(n_vocab)}`;
    const found = `${percent(guess.probability)} at temperature 1, ${rank}.`;
    about.textContent = `It had ${found} Choose another to go on from there.`;
    byId("looked").textContent = `${spelling.quoted(id)} had ${found}`;
  } else {
    about.textContent =
      place === 0 ? "The text begins with it." : "The model has not seen what comes before it.";
    byId("looked").textContent = `${spelling.quoted(id)}: ${about.textContent}`;
  }
  const top = guess?.top ?? [];
  const shown = (other) => ({ ...other, spelled: spelling.of(other.id), isTaken: other.id === id });
  bars.show(top.map(shown));
}

// The grid: where the token that is looked at, or the last one, looks itself.
function showHeads() {
  const at = place ?? session.seen - 1;
  const first = session.cacheOf(at)?.first;
  const about = byId("heads-about");
  if (isBlank()) about.textContent = "There is no text yet.";
  else if (first === undefined) about.textContent = "The model has not seen this token.";
  else if (first === at) about.textContent = "The model sees no token before this one.";
  else {
    about.textContent =
      `Each strip is a head: where ${spelling.quoted(session.ids[at])} looks, from the first token to it.`;
  }
  heads.show((where) => session.attention(where, at));
  paintText();
}

// While a token or a head is pointed at, the text shows the weights of the head.
function paintText() {
  const at = place ?? session.seen - 1;
  const where = peekedHead === undefined ? shownHead : peekedHead;
  const isWanted = place !== null || peekedHead !== undefined || shownHead !== null;
  const weights = isWanted && !isWriting ? session.attention(where, at) : null;
  const first = session.cacheOf(at)?.first - shownFrom;
  text.paint(weights && weights.map(Math.sqrt), first, at - shownFrom);
}

function showContext() {
  byId("context").textContent = isBlank() ? "" : contextInWords(session);
}

function showTemperature() {
  byId("temperature-value").textContent = byId("temperature").value;
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
  if (isWriting) stop();
  else if (await readPrompt()) write();
}

byId("generate").addEventListener("click", generate);
byId("more").addEventListener("click", write);
byId("prompt").addEventListener("input", readSoon);
byId("settings").addEventListener("input", () => {
  showTemperature();
  if (findInvalid() && isWriting) stop();
  else showGuesses();
});
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
findInvalid();
// Without a prompt, begin with something to see.
if ((await readPrompt()) && isBlank()) write();
