// The page that asks documents: quotes, and the places where they stand. All text is set as text.

import { ask, ServerError } from "./events.js";
import { byId, Performer } from "./performer.js";

const { writer } = JSON.parse(byId("description").textContent);

let opened = null; // the button of the quote whose place is shown

const questions = new Performer();
const places = new Performer();

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

// ---- the answer -----------------------------------------------------------------------------------

function answerTo(question) {
  places.abort();
  return questions.perform(async (signal) => {
    byId("about").textContent = "Looking …";
    byId("quotes").replaceChildren();
    byId("generated").hidden = true;
    byId("place").hidden = true;
    opened = null;
    let answer;
    try {
      answer = await ask("/documents/ask", { question }, signal);
    } catch (error) {
      byId("about").textContent = "";
      throw error;
    }
    showQuotes(answer);
    if (writer === null || !answer.answered) return;
    showGenerated([element("p", "by", `${writer} is writing a sentence …`)]);
    const written = await ask("/documents/ask", { question, generate: true }, signal);
    showSentence(written);
  });
}

function showQuotes({ answered, quotes, nearest }) {
  const one = quotes.length === 1;
  byId("about").textContent = answered
    ? `${quotes.length} ${one ? "quote" : "quotes"}, the best first. Choose one to see where it stands.`
    : nearest === null
      ? "No answer: the documents have nothing about the question."
      : `No answer: the nearest place, ${nearest}, is not near enough.`;
  byId("quotes").replaceChildren(...quotes.map((quote) => {
    const item = document.createElement("li");
    const button = element("button", "");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(element("span", "where", quote.reference), element("span", "said", quote.text));
    button.addEventListener("click", () => open(quote, button));
    item.append(button);
    return item;
  }));
}

function showGenerated(children) {
  byId("generated").replaceChildren(...children);
  byId("generated").hidden = false;
}

// Show a model's sentence, in which what no quote has is marked.
function showSentence({ generated, failure }) {
  if (generated === null) {
    showGenerated([element("p", "by", failure ?? "The documents have changed: ask again.")]);
    return;
  }
  const characters = [...generated.text]; // code points, in which the server counts
  const sentence = element("p", "sentence");
  let done = 0;
  for (const [begin, end] of generated.spans) {
    sentence.append(characters.slice(done, begin).join(""), element("mark", "", characters.slice(begin, end).join("")));
    done = end;
  }
  sentence.append(characters.slice(done).join(""));
  const by = [element("p", "by", `written by ${generated.writer}`), sentence];
  if (generated.spans.length) by.push(element("p", "by", "Underlined: a number or name that is not in the quotes."));
  showGenerated(by);
}

// ---- a place --------------------------------------------------------------------------------------

function open(quote, button) {
  return places.perform(async (signal) => {
    const { file, page, char_start, char_end } = quote;
    const place = await ask("/documents/place", { file, page, char_start, char_end }, signal);
    if (place.quoted !== quote.text) throw new ServerError(0, "The document has changed: ask again.");
    opened?.setAttribute("aria-pressed", "false");
    opened = button;
    opened.setAttribute("aria-pressed", "true");
    byId("place-title").textContent = quote.reference;
    byId("page").replaceChildren(...linesOf(place));
    byId("place").hidden = false;
    byId("page").focus({ preventScroll: true });
    showMiddle(byId("page"), byId("page").querySelector("mark"));
    byId("place").scrollIntoView({ block: "nearest" });
  });
}

// Scroll a box, and nothing around it, so that what it holds is in its middle.
function showMiddle(box, inside) {
  const [outer, inner] = [box.getBoundingClientRect(), inside.getBoundingClientRect()];
  box.scrollTop += inner.top - outer.top - Math.max(0, box.clientHeight - inner.height) / 2;
}

function close() {
  byId("place").hidden = true;
  opened.setAttribute("aria-pressed", "false");
  opened.focus();
}

// Return the elements of the lines around a quote, each with its number.
function linesOf({ before, quoted, after, line_start, is_begin, is_end }) {
  const lines = [[]];
  const rest = is_end ? after.replace(/\n$/, "") : after;
  for (const [text, isQuoted] of [[before, false], [quoted, true], [rest, false]]) {
    text.split("\n").forEach((part, i) => {
      if (i > 0) lines.push([]);
      if (part !== "") lines.at(-1).push([part, isQuoted]);
    });
  }
  const shown = lines.map((parts, i) => {
    const line = element("div", "line");
    line.dataset.number = line_start + i;
    const text = element("span", "");
    text.append(...parts.map(([part, isQuoted]) => (isQuoted ? element("mark", "", part) : part)));
    line.append(text);
    return line;
  });
  if (!is_begin) shown.unshift(element("p", "cut", "The text goes on before."));
  if (!is_end) shown.push(element("p", "cut", "The text goes on."));
  return shown;
}

// ---- listen ---------------------------------------------------------------------------------------

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  answerTo(byId("question").value);
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", byId("key").value);
  byId("key-form").hidden = true;
  answerTo(byId("question").value);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !byId("place").hidden) close();
});
byId("close").addEventListener("click", close);
