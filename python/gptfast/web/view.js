// What shows things: a text in tokens, probabilities as bars, attention as a grid of heads. Each is
// given data and calls back; none computes with a model. Text of tokens is set as textContent only,
// so a token that looks like HTML is shown as it is.

// ---- words --------------------------------------------------------------------------------------

const VISIBLE = { " ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥" };

// Return a token in one line, with white space made visible; bytes that are no text in hexadecimal.
export function spell(bytes) {
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return Array.from(bytes, hexadecimal).join("");
  }
  return text.replace(/[\p{C}\p{Z}]/gu, (c) => VISIBLE[c] ?? hexadecimal(c.codePointAt(0)));
}

function hexadecimal(number) {
  return `‹${number.toString(16).toUpperCase().padStart(2, "0")}›`;
}

export function percent(probability) {
  const value = 100 * probability;
  if (value === 0 || value === 100) return `${value} %`;
  if (value < 0.1) return "< 0.1 %";
  return `${value < 99.95 ? value.toFixed(1) : "> 99.9"} %`;
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Let the arrow keys move between the children of a container, one of which Tab reaches.
// `columns()` is how many places an arrow up or down skips.
function moveByKeys(container, selector, columns) {
  container.addEventListener("keydown", (event) => {
    const items = [...container.querySelectorAll(selector)];
    const at = items.indexOf(document.activeElement);
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns(),
      Home: -at, End: items.length - 1 - at,
    };
    if (at < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const to = Math.min(items.length - 1, Math.max(0, at + steps[event.key]));
    items[at].tabIndex = -1;
    items[to].tabIndex = 0;
    items[to].focus();
  });
}

// ---- the text -----------------------------------------------------------------------------------

const N_COLOURS = 5;

// Shows tokens, each in a span. `onLook(place)` is called when the pointer or the focus is on a
// token, and with null when it leaves; a click keeps the token.
export class TokenText {
  constructor(container, onLook) {
    this.container = container;
    this.onLook = onLook;
    this.spans = [];
    this.tokens = []; // what the spans show
    this.kept = null;
    const placeOf = (event) => {
      const span = event.target.closest(".token");
      return span ? this.spans.indexOf(span) : null;
    };
    container.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse") this.look(placeOf(event) ?? this.kept);
    });
    container.addEventListener("pointerleave", () => this.look(this.kept));
    container.addEventListener("focusin", (event) => this.keep(placeOf(event)));
    container.addEventListener("click", (event) => this.keep(placeOf(event)));
    container.addEventListener("keydown", (event) => event.key === "Escape" && this.keep(null));
    moveByKeys(container, ".token", () => 10);
  }

  // tokens: {id, text, spelled, isPrompt, isForgotten, surprise from 0 to 1}. Only what differs
  // from what is shown changes.
  set(tokens) {
    const differs = tokens.findIndex((token, place) => token.id !== this.tokens[place]?.id);
    const same = differs < 0 ? tokens.length : differs;
    this.spans.splice(same).forEach((span) => span.remove());
    tokens.forEach((token, place) => {
      if (place >= same) this.add(token, place);
      const { text, isPrompt, isForgotten, surprise } = place < same ? this.tokens[place] : {};
      const span = this.spans[place];
      if (token.text !== text) span.textContent = token.text;
      if (token.isPrompt !== isPrompt) span.classList.toggle("prompt", token.isPrompt);
      if (token.isForgotten !== isForgotten) span.classList.toggle("forgotten", token.isForgotten);
      if (token.surprise !== surprise) setNumber(span, "--surprise", token.surprise);
    });
    this.tokens = tokens;
    if (this.kept !== null && this.kept >= this.spans.length) this.keep(null);
  }

  add({ id, text, spelled }, place) {
    const span = element("span", { className: `token colour-${place % N_COLOURS}` });
    span.dataset.id = id;
    span.setAttribute("role", "option");
    span.setAttribute("aria-label", spelled);
    // Of white space, and of a part of a character, nothing would be seen.
    if (/^\s*$/.test(text)) span.dataset.spelled = spelled;
    span.tabIndex = place === 0 ? 0 : -1;
    this.spans.push(span);
    this.container.append(span);
  }

  keep(place) {
    for (const [which, isKept] of [[this.kept, false], [place, true]]) {
      this.spans[which]?.classList.toggle("kept", isKept);
      this.spans[which]?.setAttribute("aria-selected", String(isKept));
    }
    this.kept = place;
    this.look(place);
  }

  look(place) {
    this.looked = place;
    this.onLook(place);
  }

  // Colour the tokens by weights from 0 to 1, of which the first belongs to the token `first`, as
  // those that `place` looks at. null for their usual colours.
  paint(weights, first = 0, place = null) {
    this.container.classList.toggle("painted", weights !== null);
    this.container.querySelector(".looking")?.classList.remove("looking");
    if (weights === null) return;
    this.spans.forEach((span, at) => setNumber(span, "--weight", weights[at - first] ?? 0));
    this.spans[place]?.classList.add("looking");
  }
}

function setNumber(span, property, value) {
  span.style.setProperty(property, value.toFixed(3));
}

// ---- probabilities ------------------------------------------------------------------------------

// Shows the likeliest tokens as bars, in a fixed number of rows. `onChoose(id)` is called for a
// click.
export class Bars {
  constructor(list, n, onChoose) {
    this.rows = Array.from({ length: n }, () => {
      const name = element("span", { className: "name" });
      const bar = element("span", { className: "bar" });
      const track = element("span", { className: "track" }, bar);
      const value = element("span", { className: "value" });
      const button = element("button", { type: "button" }, name, track, value);
      button.addEventListener("click", () => onChoose(Number(button.dataset.id)));
      list.append(element("li", {}, button));
      return { button, name, bar, value };
    });
    moveByKeys(list, "button:not(:disabled)", () => 1);
  }

  // guesses: {id, spelled, probability, isTaken}. Rows without a guess are empty.
  show(guesses, canChoose = true) {
    this.rows.forEach(({ button, name, bar, value }, row) => {
      const guess = guesses[row];
      button.disabled = !guess || !canChoose;
      button.classList.toggle("taken", Boolean(guess?.isTaken));
      name.textContent = guess?.spelled ?? "";
      value.textContent = guess ? percent(guess.probability) : "";
      bar.style.transform = `scaleX(${guess?.probability ?? 0})`;
      button.dataset.id = guess?.id ?? "";
      const label = guess ? `Choose ${guess.spelled}, ${value.textContent}` : "empty";
      button.setAttribute("aria-label", label);
    });
  }
}

// ---- attention ----------------------------------------------------------------------------------

const N_BINS = 48; // columns of a strip; more tokens than that share them

// Shows a strip for each head, layers from top to bottom: how much it looks at each token, the
// first at the left. `onSelect(head)` is called with {layer, head}, or with null for the mean of
// all heads, and `onPeek` alike while the pointer is on a strip (with undefined when it leaves).
export class HeadGrid {
  constructor(container, n_layer, n_head, onSelect, onPeek) {
    this.cells = [];
    const add = (where, label) => {
      const canvas = element("canvas", { width: N_BINS, height: 1 });
      const button = element("button", { type: "button", className: "head", title: label }, canvas);
      button.setAttribute("aria-label", label);
      button.setAttribute("aria-pressed", "false");
      button.tabIndex = this.cells.length === 0 ? 0 : -1;
      button.addEventListener("click", () => {
        this.select(button);
        onSelect(where);
      });
      button.addEventListener("pointerenter", (event) => {
        if (event.pointerType === "mouse") onPeek(where);
      });
      button.addEventListener("pointerleave", () => onPeek(undefined));
      this.cells.push({ where, button, context: canvas.getContext("2d") });
      return button;
    };
    container.style.setProperty("--heads", n_head);
    const all = add(null, "All heads: their mean");
    all.append(element("span", { className: "all", textContent: "all heads" }));
    container.append(all);
    for (let layer = 0; layer < n_layer; layer++) {
      const title = `Layer ${layer + 1}`;
      container.append(element("span", { className: "layer", textContent: layer + 1, title }));
      for (let head = 0; head < n_head; head++) {
        container.append(add({ layer, head }, `Layer ${layer + 1}, head ${head + 1}`));
      }
    }
    this.select(all);
    moveByKeys(container, ".head", () => (document.activeElement === all ? 1 : n_head));
  }

  select(chosen) {
    for (const { button } of this.cells) {
      button.setAttribute("aria-pressed", String(button === chosen));
    }
  }

  // weightsOf(where): the weights of a head, or of the mean of all; null if there are none.
  show(weightsOf) {
    const colour = getComputedStyle(document.documentElement).getPropertyValue("--accent");
    for (const { where, context } of this.cells) {
      const weights = weightsOf(where);
      // A token that is alone looks at itself, which tells nothing.
      const n = weights?.length > 1 ? Math.min(N_BINS, weights.length) : 0;
      context.clearRect(0, 0, N_BINS, 1);
      context.fillStyle = colour;
      for (let bin = 0; bin < n; bin++) {
        // Of the tokens that share a column, the one that is looked at most.
        const begin = Math.floor((bin * weights.length) / n);
        const end = Math.floor(((bin + 1) * weights.length) / n);
        const part = weights.subarray(begin, end);
        context.globalAlpha = Math.sqrt(part.reduce((a, b) => Math.max(a, b)));
        context.fillRect((bin * N_BINS) / n, 0, N_BINS / n, 1);
      }
    }
  }
}
