// The page of `gptfast audit attention`: where the heads of a model look on one text.

import { HeadGrid, TokenText } from "./view.js";

const audit = JSON.parse(document.getElementById("audit").textContent);
const { tokens, ids, masks, weights } = audit;
const byId = (id) => document.getElementById(id);
const T = tokens.length;
const NUMBER = 26; // width in pixels of CSS of a cell that a number fits into

const state = {
  where: { layer: audit.layer - 1, head: audit.head - 1 }, // null for the mean of all heads
  row: T - 1, // the token that looks
  cell: null, // {row, column} that is pointed at
  isMask: false,
};

// Return the weights of a token's row, (row + 1), of a head or of the mean of all heads.
function rowOf(where, row) {
  if (where !== null) return weights[where.layer][where.head][row];
  const rows = weights.flat().map((head) => head[row]);
  return rows[0].map((_, at) => rows.reduce((sum, of) => sum + of[at], 0) / rows.length);
}

function valueOf(row, column) {
  if (state.isMask) return masks[state.where?.layer ?? 0][row][column];
  return column > row ? 0 : rowOf(state.where, row)[column];
}

// ---- the text and the strips ----------------------------------------------------------------------

const text = new TokenText(byId("text"), (place) => {
  state.row = place ?? T - 1;
  show();
});
text.set(tokens.map((token, place) => ({ id: `${place}:${ids[place]}`, text: audit.texts[place], spelled: token })));

const grid = new HeadGrid(
  byId("heads"), weights.length, weights[0].length,
  (where) => { state.where = where; show(); },
  (where) => paint(where === undefined ? state.where : where),
);
grid.select(grid.cells.find(({ where }) => where?.layer === state.where.layer && where.head === state.where.head).button);

function paint(where) {
  text.paint(rowOf(where, state.row).map(Math.sqrt), 0, state.row);
}

// ---- the matrix -----------------------------------------------------------------------------------

const canvas = byId("matrix");
const context = canvas.getContext("2d");
let label = 0; // width of the labels, and size of a cell, in pixels of CSS
let size = 0;

function draw() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const width = canvas.clientWidth;
  const letters = Math.min(13, Math.max(7, (width * 0.7) / T));
  context.font = `${letters}px ${colour("--mono")}`;
  label = Math.min(0.3 * width, Math.max(...tokens.map((token) => context.measureText(token).width)) + 8);
  size = (width - label) / T;
  const scale = window.devicePixelRatio;
  canvas.style.height = `${width}px`;
  canvas.width = canvas.height = width * scale;
  context.scale(scale, scale);
  context.font = `${letters}px ${colour("--mono")}`;
  context.textBaseline = "middle";
  for (let row = 0; row < T; row++) {
    const middle = label + (row + 0.5) * size;
    context.fillStyle = colour(row === state.row ? "--accent" : "--muted");
    context.textAlign = "right";
    context.fillText(tokens[row], label - 5, middle, label - 5);
    context.save();
    context.translate(middle, label - 5);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillText(tokens[row], 0, 0, label - 5);
    context.restore();
    for (let column = 0; column < T; column++) {
      const value = valueOf(row, column);
      const [x, y] = [label + column * size, label + row * size];
      context.fillStyle = colour("--accent");
      context.globalAlpha = state.isMask ? 0.35 * value : Math.max(column > row ? 0 : 0.04, Math.sqrt(value));
      context.fillRect(x, y, size - 0.5, size - 0.5);
      context.globalAlpha = 1;
      if (size < NUMBER || (!state.isMask && column > row)) continue;
      context.fillStyle = colour(!state.isMask && value > 0.3 ? "--on-accent" : "--ink");
      context.textAlign = "center";
      context.fillText(state.isMask ? String(value) : value.toFixed(2), x + size / 2, y + size / 2, size - 4);
    }
  }
  if (state.cell) {
    context.strokeStyle = colour("--ink");
    context.strokeRect(label + state.cell.column * size, label + state.cell.row * size, size, size);
  }
}

function name() {
  return state.where ? `layer ${state.where.layer + 1}, head ${state.where.head + 1}` : "all heads: their mean";
}

function say() {
  const { cell } = state;
  if (!cell) {
    byId("cell").textContent = "A row is a token that looks, a column one that it looks at. Point at a cell.";
    return;
  }
  const [from, to] = [`“${tokens[cell.row]}” (${cell.row + 1})`, `“${tokens[cell.column]}” (${cell.column + 1})`];
  const value = valueOf(cell.row, cell.column);
  byId("cell").textContent = state.isMask
    ? `${from} ${value ? "may see" : "does not see"} ${to}.`
    : `${from} gives ${value.toFixed(4)} of its attention to ${to}.`;
}

function show() {
  byId("matrix-title").textContent = `${state.isMask ? "Mask" : "Attention"} of ${name()}`;
  byId("heads-about").textContent =
    `Each strip is a head: where “${tokens[state.row]}” looks, from the first token to itself.`;
  grid.show((where) => Float32Array.from(rowOf(where, state.row)));
  paint(state.where);
  draw();
  say();
}

function point(cell) {
  state.cell = cell;
  if (cell) state.row = cell.row;
  show();
}

canvas.addEventListener("pointermove", ({ offsetX, offsetY }) => {
  const [row, column] = [offsetY, offsetX].map((at) => Math.floor((at - label) / size));
  const isInside = Math.min(row, column) >= 0 && Math.max(row, column) < T;
  if (isInside && (row !== state.cell?.row || column !== state.cell?.column)) point({ row, column });
});
canvas.addEventListener("pointerleave", () => point(null));
canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const { row, column } = state.cell ?? { row: T - 1, column: T - 1 };
  const within = (at) => Math.min(T - 1, Math.max(0, at));
  point({ row: within(row + steps[event.key][0]), column: within(column + steps[event.key][1]) });
});
document.querySelectorAll("[name=shown]").forEach((input) => {
  input.addEventListener("change", () => { state.isMask = input.value === "mask"; show(); });
});
window.addEventListener("resize", show);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
show();
