// The server's API as the page needs it: the list of models, and a streamed chat completion.

import { text } from "/web/texts.js";

// What went wrong, in the server's words where it has some; `status` is 0 where there was no answer.
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const storedKey = () => sessionStorage.getItem("lianlu.key") ?? "";
export const storeKey = (key) => sessionStorage.setItem("lianlu.key", key);

async function ask(path, options) {
  const headers = { "Content-Type": "application/json" };
  const key = storedKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(text("unreachable"), 0);
  }
  if (!response.ok) throw new ServerError(await reasonOf(response), response.status);
  return response;
}

async function reasonOf(response) {
  try {
    const said = (await response.json()).error;
    return said.message ?? String(said);
  } catch {
    return text("badAnswer", response.status);
  }
}

// The models and adapters on offer, as the server describes them.
export async function listModels() {
  const answer = await (await ask("/v1/models", { method: "GET" })).json();
  return answer.data ?? [];
}

// The chunks of a streamed chat completion. Aborting `signal` hangs up, which makes the server stop computing.
export async function* streamChat(body, signal) {
  const wanted = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await ask("/v1/chat/completions", { method: "POST", body: JSON.stringify(wanted), signal });
  let isDone = false;
  for await (const data of eventsOf(response.body, signal)) {
    if (data === "[DONE]") {
      isDone = true;
      break;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message ?? String(chunk.error), response.status);
    yield chunk;
  }
  if (!isDone) throw new ServerError(text("brokenStream"), 0);
}

// The data of server-sent events, one string each.
async function* eventsOf(stream, signal) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await read(reader, signal);
      if (done) return;
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    if (signal.aborted) throw new DOMException("stopped", "AbortError");
    throw new ServerError(text("brokenStream"), 0);
  }
}
