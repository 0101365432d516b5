// Messages to and from a model with a chat template.

import { stream } from "./events.js";

export class Chat {
  // full: what is shown when the messages no longer fit the context. page: {perform, settings,
  // setWriting, showUsage}, what the rest of the page offers.
  constructor(list, input, full, page) {
    Object.assign(this, { list, input, full, page });
    this.messages = [];
  }

  forget() {
    this.messages = [];
    this.list.replaceChildren();
    this.full.hidden = true;
    this.input.focus();
  }

  // Forget the older half of the turns, each of two messages, and send what was refused.
  forgetOldest() {
    const n = 2 * Math.ceil(this.messages.length / 4);
    this.messages.splice(0, n);
    for (const shown of [...this.list.children].slice(0, n)) shown.remove();
    this.send();
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
    this.full.hidden = true;
    const messages = [...this.messages, { role: "user", content }];
    const asked = this.show("user", content);
    const text = this.show("assistant", "");
    this.page.perform(async (signal) => {
      const began = performance.now();
      this.page.setWriting(true);
      let usage = null;
      try {
        const body = { ...this.page.settings(), messages };
        for await (const part of stream("/v1/chat/completions", body, signal)) {
          usage = part.usage ?? usage;
          for (const choice of part.choices) text.data += choice.delta.content ?? "";
          this.list.scrollTop = this.list.scrollHeight;
        }
      } catch (error) {
        if (text.data === "") this.takeBack(content, [asked, text], error);
        throw error;
      } finally {
        this.page.setWriting(false);
        if (text.isConnected) this.messages = [...messages, { role: "assistant", content: text.data }];
      }
      this.page.showUsage(usage, began);
    });
  }

  // Put a message that got no answer back where it was typed.
  takeBack(content, shown, error) {
    for (const text of shown) text.parentNode.remove();
    if (this.input.value === "") this.input.value = content;
    this.full.hidden = error.code !== "context_length_exceeded" || this.messages.length === 0;
  }
}
