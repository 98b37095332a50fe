// The list of conversations: open, rename, delete with a way back, export and import.

import { make } from "/web/markdown.js";
import { button, withClass } from "/web/messages.js";
import * as store from "/web/store.js";
import { text } from "/web/texts.js";

const TOAST_MS = 8000;
const byId = (id) => document.getElementById(id);

// Draw the list. `actions` are open(conversation), changed(), removed(conversation), restored(conversation).
export function drawList(current, actions) {
  byId("list").replaceChildren(...store.conversations().map((item) => line(item, item.id === current.id, actions)));
}

export const titleOf = (conversation) => conversation.title || text("untitled");

function line(conversation, isCurrent, actions) {
  const open = withClass(make("button", titleOf(conversation)), "open");
  open.title = titleOf(conversation);
  if (isCurrent) open.setAttribute("aria-current", "true");
  open.addEventListener("click", () => actions.open(conversation));
  const node = make("li", open, small("rename", "\u270e", () => rename(node, conversation, actions)),
    small("remove", "\u2715", () => remove(conversation, actions)));
  return node;
}

function small(name, sign, action) {
  const node = withClass(button(name, action), "icon");
  node.textContent = sign;
  node.title = text(name);
  node.setAttribute("aria-label", text(name));
  return node;
}

function rename(node, conversation, actions) {
  const field = make("input");
  field.value = conversation.title;
  field.setAttribute("aria-label", text("title"));
  let isOver = false;
  const end = (isKept) => {
    if (isOver) return;
    isOver = true;
    if (isKept) actions.renamed(conversation, field.value.trim());
    else actions.changed();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) end(true);
    if (event.key === "Escape") end(false);
    event.stopPropagation();
  });
  field.addEventListener("blur", () => end(true));
  node.replaceChildren(field);
  field.focus();
  field.select();
}

function remove(conversation, actions) {
  store.remove(conversation);
  actions.removed(conversation);
  toast(text("removed"), "undo", () => {
    store.save(conversation);
    actions.changed();
  });
}

// Offer all conversations as a file.
export function exportAll() {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([store.exported()], { type: "application/json" }));
  link.download = `lianlu-${new Date().toISOString().slice(0, 10)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Add the conversations of a chosen file.
export async function importFrom(file, actions) {
  try {
    toast(text("imported", store.imported(await file.text())));
  } catch (error) {
    toast(text(error instanceof RangeError ? "full" : "badFile"));
  }
  actions.changed();
}

let timer;

// Say something for a few seconds, with something to do about it if there is.
export function toast(message, name = "", action = () => {}) {
  const place = byId("toast");
  place.replaceChildren(make("span", message));
  if (name) {
    place.append(button(name, () => {
      place.hidden = true;
      action();
    }));
  }
  place.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => (place.hidden = true), TOAST_MS);
}
