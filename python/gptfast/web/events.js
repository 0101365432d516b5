// Requests to the server that this page comes from.

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers() {
  const key = sessionStorage.getItem("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function post(path, body, signal) {
  let answer;
  try {
    answer = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError(0, "The server can't be reached.");
  }
  if (answer.ok) return answer;
  const error = await answer.json().then((data) => data.error.message, () => "it gave no reason");
  throw new ServerError(answer.status, error);
}

// Return the answer to a request.
export async function ask(path, body, signal) {
  return (await post(path, body, signal)).json();
}

// Yield the parts of a streamed answer as they come.
export async function* stream(path, body, signal) {
  const answer = await post(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
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
