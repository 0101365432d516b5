// Requests to the server that this page comes from.

export class ServerError extends Error {
  constructor(status, message, code = null) {
    super(message);
    Object.assign(this, { status, code });
  }
}

// Wait for the server; say so if it goes away.
async function reached(waiting, otherwise) {
  try {
    return await waiting;
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError(0, otherwise);
  }
}

function headers() {
  const key = sessionStorage.getItem("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function post(path, body, signal) {
  const asked = fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  const answer = await reached(asked, "The server can't be reached.");
  if (answer.ok) return answer;
  const unknown = { message: `The server answered ${answer.status} and gave no reason.` };
  const error = await answer.json().then((data) => data.error ?? unknown, () => unknown);
  throw new ServerError(answer.status, error.message, error.code);
}

const LOST = "The connection to the server was lost.";

// Return the answer to a request.
export async function ask(path, body, signal) {
  return reached((await post(path, body, signal)).json(), LOST);
}

// Yield the parts of a streamed answer as they come; the last has the usage.
export async function* stream(path, body, signal) {
  const answer = await post(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reached(reader.read(), LOST);
    if (done) throw new ServerError(0, "The server ended the answer early.");
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const part = JSON.parse(data);
      if (part.error) throw new ServerError(500, part.error.message);
      yield part;
    }
  }
}
