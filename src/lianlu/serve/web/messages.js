// The messages of a conversation as elements: who, what, figures, and what can be done with each.

import { copyButton } from "/web/code.js";
import { make, show } from "/web/markdown.js";
import { number, text } from "/web/texts.js";

const REASONS = { stopped: "stopped", length: "cutOff", content_filter: "filtered" };

// Draw all messages. `actions` are edit(index, text), regenerate(index); while a reply runs they are not offered.
export function draw(log, conversation, isRunning, actions) {
  log.replaceChildren(...conversation.messages.map((message, index) =>
    article(message, index, isRunning, isRunning && index === conversation.messages.length - 1, actions)));
  if (!conversation.messages.length) log.append(withClass(make("p", text("empty")), "empty"));
  log.setAttribute("aria-busy", String(isRunning));
}

// Show what has been added to the last message.
export function grow(log, message) {
  const body = log.lastElementChild?.querySelector(".body");
  if (body) show(body, message.content);
}

function article(message, index, isRunning, isGrowing, actions) {
  const isUser = message.role === "user";
  const who = text(isUser ? "you" : "assistant");
  const body = withClass(make("div"), "body");
  const node = withClass(make("article", withClass(make("div", who), "who"), body), message.role);
  node.setAttribute("aria-label", who);
  if (message.model && !isUser) node.firstChild.append(withClass(make("span", message.model), "note"));
  if (isUser) body.textContent = message.content;
  else show(body, message.content);
  if (isGrowing) node.classList.add("growing");
  if (message.error) node.append(errorLine(message, index, isRunning, actions));
  node.append(footer(message, index, isRunning, isGrowing, actions));
  return node;
}

function errorLine(message, index, isRunning, actions) {
  const line = withClass(make("div", make("span", message.error)), "error");
  line.setAttribute("role", "alert");
  if (!isRunning) line.append(button("retry", () => actions.regenerate(index)));
  return line;
}

function footer(message, index, isRunning, isGrowing, actions) {
  const foot = withClass(make("div"), "foot");
  if (message.stats) foot.append(withClass(make("span", figures(message.stats)), "stats"));
  if (message.content && !isGrowing) foot.append(copyButton(() => message.content));
  if (!isRunning && message.role === "user") foot.append(button("edit", (event) => edit(event, message, index, actions)));
  if (!isRunning && message.role === "assistant" && !message.error) {
    foot.append(button("regenerate", () => actions.regenerate(index)));
  }
  return foot;
}

function figures(stats) {
  const about = stats.isExact ? "" : "~";
  const parts = [about + text("tokens", number(stats.tokens))];
  if (stats.rate) parts.push(about + text("rate", number(stats.rate)));
  parts.push(text("first", number(stats.first)));
  if (stats.context) parts.push(text("inContext", number(stats.context), stats.cached && number(stats.cached)));
  if (REASONS[stats.reason]) parts.push(text(REASONS[stats.reason]));
  return parts.join(" \u00b7 ");
}

// Put a field in the place of a user's message; what is sent from it replaces the message and all that follows.
function edit(event, message, index, actions) {
  const node = event.target.closest("article");
  const field = make("textarea");
  field.value = message.content;
  field.rows = Math.min(message.content.split("\n").length + 1, 12);
  field.setAttribute("aria-label", text("editLabel"));
  const send = () => field.value.trim() && actions.edit(index, field.value);
  const leave = () => node.replaceWith(article(message, index, false, false, actions));
  field.addEventListener("keydown", (key) => {
    if (isSendKey(key)) {
      key.preventDefault();
      send();
    } else if (key.key === "Escape") leave();
  });
  const row = withClass(make("div", withClass(button("sendEdited", send), "primary"), button("cancel", leave)), "foot");
  node.querySelector(".body").replaceChildren(field);
  node.querySelector(".foot").replaceWith(row);
  field.focus();
}

// Enter sends, but not with Shift, and not while an input method composes a word.
export const isSendKey = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;

export function button(name, action) {
  const node = make("button", text(name));
  node.type = "button";
  node.addEventListener("click", action);
  return node;
}

export function withClass(node, ...names) {
  node.classList.add(...names);
  return node;
}
