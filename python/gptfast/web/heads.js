// Where the heads of the served model look.

import { ask } from "./events.js";
import { HeadGrid } from "./view.js";

const REST = 80; // milliseconds that a token is looked at until the server is asked

export class ServedHeads {
  // text: the TokenText that the weights of a chosen head colour.
  constructor(container, about, { n_layer, n_head }, text) {
    Object.assign(this, { about, text, ids: [], weights: null, chosen: null, peeked: undefined, timer: 0 });
    const choose = (head) => { this.chosen = head; this.show(); };
    const peek = (head) => { this.peeked = head; this.paint(); };
    this.grid = new HeadGrid(container, n_layer, n_head, choose, peek);
  }

  // Ask for the weights of the last of these ids, and show them. spelled: how to name it.
  look(ids, spelled, isKept) {
    clearTimeout(this.timer);
    this.timer = setTimeout(async () => {
      Object.assign(this, { ids, isKept, weights: null });
      if (ids.length > 0) {
        const answer = await ask("/attention", { tokens: ids }).catch(() => null);
        if (this.ids !== ids) return; // another is looked at meanwhile
        this.weights = answer?.weights.map((layer) => layer.map((head) => Float32Array.from(head))) ?? null;
      }
      this.about.textContent = this.weights
        ? `Each strip is a head: where “${spelled}” looks, from the first token to itself.`
        : "There is nothing to look at.";
      this.show();
    }, REST);
  }

  // Return the weights of a head, or the mean of all heads.
  of(where) {
    if (this.weights === null) return null;
    if (where !== null) return this.weights[where.layer][where.head];
    const heads = this.weights.flat();
    return heads[0].map((_, at) => heads.reduce((sum, head) => sum + head[at], 0) / heads.length);
  }

  show() {
    this.grid.show((where) => this.of(where));
    this.paint();
  }

  // While a token or a head is pointed at, the text shows the weights of the head.
  paint() {
    const where = this.peeked === undefined ? this.chosen : this.peeked;
    const isWanted = this.isKept || this.peeked !== undefined || this.chosen !== null;
    const weights = isWanted ? this.of(where) : null;
    this.text.paint(weights && weights.map(Math.sqrt), 0, this.ids.length - 1);
  }
}
