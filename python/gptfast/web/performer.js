// What the pages of a server share: one request at a time, and what goes wrong is shown.

import { ServerError } from "./events.js";

export const byId = (id) => document.getElementById(id);

function complain(message) {
  byId("failure").hidden = message === null;
  byId("failure").textContent = message ?? "";
}

// Does one thing at a time: what is under way is stopped first.
export class Performer {
  async perform(work) {
    this.abort();
    const mine = (this.running = new AbortController());
    try {
      await work(mine.signal);
      complain(null);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ServerError)) throw error;
      byId("key-form").hidden = error.status !== 401;
      complain(error.message);
    }
  }

  abort() {
    this.running?.abort();
  }
}
