// Messages to and from a model with a chat template.

import { stream } from "./events.js";

export class Chat {
  // page: {perform, settings, setWriting, showUsage}, what the rest of the page offers.
  constructor(list, input, page) {
    Object.assign(this, { list, input, page });
    this.messages = [];
  }

  forget() {
    this.messages = [];
    this.list.replaceChildren();
    this.input.focus();
  }

  // Show a message; return the node of its text.
  show(role, content) {
    const message = document.createElement("p");
    message.className = `message ${role}`;
    const name = document.createElement("b");
    name.textContent = role === "user" ? "You" : "Model";
    const text = document.createTextNode(content);
    message.append(name, text);
    this.list.append(message);
    this.list.scrollTop = this.list.scrollHeight;
    return text;
  }

  send() {
    const content = this.input.value;
    if (content.trim() === "") return;
    this.input.value = "";
    this.messages.push({ role: "user", content });
    this.show("user", content);
    const text = this.show("assistant", "");
    this.page.perform(async (signal) => {
      const began = performance.now();
      this.page.setWriting(true);
      let usage = null;
      try {
        const body = { ...this.page.settings(), messages: this.messages };
        for await (const part of stream("/v1/chat/completions", body, signal)) {
          usage = part.usage ?? usage;
          for (const choice of part.choices) text.data += choice.delta.content ?? "";
          this.list.scrollTop = this.list.scrollHeight;
        }
      } finally {
        this.page.setWriting(false);
        this.messages.push({ role: "assistant", content: text.data });
      }
      this.page.showUsage(usage, began);
    });
  }
}
