// One reply: the request that asks for it, what comes in, and the figures that are shown below it.

import { streamChat } from "/web/api.js";

const SHORT_S = 0.02;

// The body of the request that continues a conversation; replies that failed before their first word are left out.
export function bodyOf(conversation, model, sampling) {
  const messages = conversation.messages
    .filter((message) => message.content || message.role === "user")
    .map(({ role, content }) => ({ role, content }));
  const system = conversation.system.trim();
  if (system) messages.unshift({ role: "system", content: system });
  return { model, messages, ...sampling };
}

// Let the reply to `body` grow in `message`, calling `onPiece` for each piece. Failures and stops are noted in the message;
// nothing is thrown. Gives back the status of a failure: 0 without an answer, undefined without a failure.
export async function fill(message, body, signal, onPiece) {
  const clock = { began: performance.now(), first: null, last: null, pieces: 0 };
  const ends = {};
  let status;
  try {
    for await (const chunk of streamChat(body, signal)) {
      const choice = chunk.choices?.[0];
      ends.usage = chunk.usage ?? ends.usage;
      ends.reason = choice?.finish_reason ?? ends.reason;
      message.model = chunk.model || message.model;
      if (!choice?.delta?.content) continue;
      clock.last = performance.now();
      clock.first ??= clock.last;
      clock.pieces += 1;
      message.content += choice.delta.content;
      onPiece();
    }
  } catch (error) {
    if (error.name === "AbortError") ends.isStopped = true;
    else {
      message.error = error.message;
      status = error.status ?? 0;
    }
  }
  if (clock.first !== null) message.stats = figures(clock, ends);
  return status;
}

// Seconds to the first token, tokens, tokens a second behind the first one, and how full the context is.
function figures(clock, { usage, reason, isStopped }) {
  const tokens = usage?.completion_tokens ?? clock.pieces;
  const stats = { first: (clock.first - clock.began) / 1000, tokens, isExact: Boolean(usage) };
  const seconds = (clock.last - clock.first) / 1000;
  // what comes in one go has no pace of its own: then the whole time counts
  stats.rate = seconds > SHORT_S ? (tokens - 1) / seconds : (1000 * tokens) / (clock.last - clock.began);
  if (usage) {
    stats.context = usage.prompt_tokens + usage.completion_tokens;
    stats.cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  }
  if (isStopped) stats.reason = "stopped";
  else if (reason) stats.reason = reason;
  return stats;
}

// Tokens in the context after the last reply that said so; 0 if none has.
export function contextOf(conversation) {
  return conversation.messages.findLast((message) => message.stats?.context)?.stats.context ?? 0;
}
