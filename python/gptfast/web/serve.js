// The page of a server: what happens when someone types, clicks or points.

import { Chat } from "./chat.js";
import { ask, stream } from "./events.js";
import { ServedHeads } from "./heads.js";
import { settings } from "./options.js";
import { byId, Performer } from "./performer.js";
import { guessesOf, isPartial, ServedText, spellToken } from "./text.js";
import { Bars, percent, TokenText } from "./view.js";

const N_BARS = 10;
const DETAILS = { logprobs: N_BARS, return_token_ids: true };
const TYPING = 150; // milliseconds without a key until the prompt is read
const ALL_SURPRISE = 10; // bits from which on a token is shown as wholly surprising
const NATS_PER_BIT = Math.log(2);

const description = JSON.parse(byId("description").textContent);

// What would end the text is not drawn, so that there is a token with its likeliest rivals.
const neverEnd = Object.fromEntries(description.stop_tokens.map((id) => [id, -100]));
const ONE_TOKEN = { max_tokens: 1, temperature: 0, logit_bias: neverEnd, ...DETAILS };

// ---- state ----------------------------------------------------------------------------------------

let served = new ServedText();
let nPrompt = 0; // code points of the text that are the prompt
let next = null; // guesses for what follows the text; null while unknown
let place = null; // the token that is looked at; null for the end of the text
let isWriting = false;
let timer = 0;
let isDue = false;

const requests = new Performer();
const text = new TokenText(byId("text"), (looked) => {
  place = looked;
  showGuesses();
  showHeads();
});
const heads = new ServedHeads(byId("heads"), byId("heads-about"), description, text);
const bars = new Bars(byId("guesses"), N_BARS, (row) => choose(bars.guesses[row].id));

// ---- requests -------------------------------------------------------------------------------------

function perform(work) {
  clearTimeout(timer);
  return requests.perform(work);
}

// Take a text as it is, and see what the model thinks of it.
function read(whole, promptLength) {
  return perform(async (signal) => {
    const answer = await ask("/v1/completions", { prompt: whole, ...ONE_TOKEN, echo: true }, signal);
    served = new ServedText();
    served.add(answer.choices[0]);
    const drawn = served.tokens.pop();
    served.characters.length = drawn ? drawn.offset : [...whole].length;
    next = drawn ? drawn.top : null;
    nPrompt = promptLength;
    text.keep(null);
    showAll();
    showHeads();
  });
}

function write(prompt, promptLength) {
  return perform(async (signal) => {
    const began = performance.now();
    served = new ServedText();
    [next, nPrompt] = [null, promptLength];
    setWriting(true);
    let usage = null;
    try {
      const wanted = settings();
      wanted.max_tokens ??= Math.max(1, await roomAfter(prompt, signal));
      const parts = stream("/v1/completions", { ...wanted, prompt, ...DETAILS, echo: true }, signal);
      for await (const part of parts) {
        usage = part.usage ?? usage;
        for (const choice of part.choices) {
          served.add(choice);
          showSoon();
        }
      }
    } finally {
      showAll();
      setWriting(false);
      showHeads();
    }
    showUsage(usage, began);
    byId("announcement").textContent = `Wrote ${usage.completion_tokens} tokens.`;
    await seeNext(signal);
  });
}

async function roomAfter(prompt, signal) {
  const { count } = await ask("/tokenize", { prompt }, signal);
  return description.block_size - count;
}

// See what may follow the text, if the context has room for all of it.
async function seeNext(signal) {
  if ((await roomAfter(served.text, signal)) < 0) return;
  const answer = await ask("/v1/completions", { prompt: served.text, ...ONE_TOKEN }, signal);
  next = Object.entries(answer.choices[0].logprobs.top_logprobs[0] ?? {});
  showGuesses();
}

// Put a token where one looks: after the text, or instead of a token of it, which drops what follows.
function choose(token) {
  if (isPartial(token) || description.special.includes(token)) return; // which no text can spell
  const kept = place === null ? served.text : served.before(place);
  const length = Math.min(nPrompt, [...kept].length);
  read(kept + token, length);
}

// ---- show -----------------------------------------------------------------------------------------

function showAll() {
  const box = byId("text");
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  const surprise = (logprob) => (logprob === null ? 0 : Math.min(1, -logprob / NATS_PER_BIT / ALL_SURPRISE));
  text.set(served.tokens.map(({ token, offset, logprob }, at) => ({
    id: token, text: served.textOf(at), spelled: spellToken(token),
    isPrompt: offset < nPrompt, isForgotten: false, surprise: surprise(logprob),
  })));
  if (isAtEnd && isWriting) box.scrollTop = box.scrollHeight;
  showGuesses();
}

// Show all with the next picture, however many tokens come until then.
function showSoon() {
  if (!isDue) requestAnimationFrame(() => ((isDue = false), showAll()));
  isDue = true;
}

// The bars: what may come next, or what else might have come at the token that is looked at.
function showGuesses() {
  const looked = place === null ? null : served.tokens[place];
  byId("guesses-title").textContent = looked ? `Instead of “${spellToken(looked.token)}”` : "Next token";
  if (looked) {
    byId("guesses-about").textContent = looked.logprob === null
      ? "The text begins with it: nothing comes before."
      : `It had ${percent(Math.exp(looked.logprob))}. Choose another to go on from there.`;
    bars.guesses = guessesOf(looked.top, looked.token);
  } else {
    byId("guesses-about").textContent = "What the model expects, at temperature 1. Choose a token to write it.";
    bars.guesses = next ? guessesOf(next) : [];
  }
  bars.show(bars.guesses.slice(0, N_BARS).map((guess, row) => ({ ...guess, id: row })), !isWriting);
}

// The grid: where the token that is looked at, or the last one, looks itself.
function showHeads() {
  if (isWriting || byId("heads").closest("[hidden]")) return;
  const seen = served.tokens.slice(0, place === null ? undefined : place + 1);
  heads.look(seen.map((token) => token.id), spellToken(seen.at(-1)?.token ?? ""), place !== null);
}

function showUsage(usage, began) {
  const seconds = (performance.now() - began) / 1000;
  byId("speed").textContent = `${Math.round(usage.completion_tokens / seconds).toLocaleString("en")} tokens/s`;
  byId("usage").textContent = `${usage.prompt_tokens} + ${usage.completion_tokens} of ${description.block_size} tokens`;
}

function setWriting(now) {
  isWriting = now;
  byId("generate").textContent = now ? "Stop" : "Generate";
  byId("send").textContent = now ? "Stop" : "Send";
  byId("more").disabled = now;
  showGuesses();
}

function showExample() {
  byId("base").textContent = `${location.origin}/v1`;
  byId("example").textContent = `curl ${location.origin}/v1/completions -H "Content-Type: application/json" -d '` +
    JSON.stringify({ model: description.name, prompt: "Once", max_tokens: 20 }) + "'";
}

// ---- listen ---------------------------------------------------------------------------------------

const prompt = () => byId("prompt").value;
const readPrompt = () => read(prompt(), [...prompt()].length);

function generate() {
  if (isWriting) requests.abort();
  else write(prompt(), [...prompt()].length);
}

byId("generate").addEventListener("click", generate);
byId("more").addEventListener("click", () => write(served.text, nPrompt));
byId("prompt").addEventListener("input", () => {
  if (isWriting) requests.abort();
  clearTimeout(timer);
  timer = setTimeout(readPrompt, TYPING);
});
byId("temperature").addEventListener("input", () => {
  byId("temperature-value").textContent = byId("temperature").value;
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", byId("key").value);
  byId("key-form").hidden = true;
  readPrompt();
});
for (const radio of document.querySelectorAll("input[name=colours]")) {
  radio.addEventListener("change", () => byId("text").classList.toggle("surprise", radio.value === "surprise"));
}
for (const radio of document.querySelectorAll("input[name=mode]")) {
  radio.addEventListener("change", () => {
    byId("text-mode").hidden = radio.value === "chat";
    byId("chat-mode").hidden = radio.value !== "chat";
    document.querySelector("main").classList.toggle("chatting", radio.value === "chat");
  });
}

const chat = new Chat(byId("messages"), byId("message"), byId("full"), { perform, settings, setWriting, showUsage });
byId("modes").hidden = !description.has_chat_template;
byId("send").addEventListener("click", () => (isWriting ? requests.abort() : chat.send()));
byId("forget").addEventListener("click", () => chat.forget());
byId("forget-oldest").addEventListener("click", () => chat.forgetOldest());
document.addEventListener("keydown", (event) => {
  const isChat = byId("text-mode").hidden;
  if (event.key === "Escape" && isWriting) requests.abort();
  else if (event.key !== "Enter" || isWriting) return;
  else if (!isChat && (event.ctrlKey || event.metaKey)) generate();
  else if (isChat && event.target === byId("message") && !event.shiftKey) {
    event.preventDefault();
    chat.send();
  }
});
showExample();
readPrompt();
