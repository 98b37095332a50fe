// The page: what is shown, what is typed, and which conversation it belongs to. Loaded by index.html; the other files know
// nothing of each other's state, which is all here.

import { listModels } from "/web/api.js";
import { draw, grow, isSendKey } from "/web/messages.js";
import { make } from "/web/markdown.js";
import { applyTheme, openPanel, sampling } from "/web/panel.js";
import { drawList, exportAll, importFrom, titleOf, toast } from "/web/sidebar.js";
import * as store from "/web/store.js";
import { bodyOf, contextOf, fill } from "/web/talk.js";
import { number, text, translate } from "/web/texts.js";

const MODELS_AGAIN_MS = 3000;
const MAX_TITLE = 60;
const NEAR_END_PX = 80;
const CURRENT = "lianlu.current";
const byId = (id) => document.getElementById(id);
const log = byId("log");
const input = byId("input");

const state = {
  conversation: store.newConversation(),
  models: [],
  running: new Map(), // conversation id -> { conversation, abort }
};
const isRunning = () => state.running.has(state.conversation.id);

// -- what is shown

function drawAll() {
  drawList(state.conversation, listActions);
  draw(log, state.conversation, isRunning(), messageActions);
  byId("send").hidden = isRunning();
  byId("stop").hidden = !isRunning();
  byId("system").value = state.conversation.system;
  document.title = state.conversation.title ? `${state.conversation.title} - lianlu` : "lianlu";
  drawContext();
}

function drawContext() {
  const used = contextOf(state.conversation);
  const all = state.models.find((model) => model.id === byId("model").value)?.context_length;
  byId("context").textContent = used ? text("context", number(used), all && number(all)) : "";
  byId("context").classList.toggle("full", Boolean(all) && used > 0.9 * all);
}

function drawModels() {
  const wanted = byId("model").value || store.settings().model;
  const names = state.models.map((model) => {
    const parent = model.parent && model.parent !== model.id ? ` (${model.parent})` : "";
    const now = model.state && model.state !== "ready" ? ` - ${model.state}` : "";
    return Object.assign(make("option", `${model.id}${parent}${now}`), { value: model.id });
  });
  byId("model").replaceChildren(...(names.length ? names : [placeholder("noModels")]));
  if (state.models.some((model) => model.id === wanted)) byId("model").value = wanted;
  drawContext();
}

const placeholder = (name) => Object.assign(make("option", text(name)), { value: "" });

function scrollToEnd() {
  log.scrollTop = log.scrollHeight;
}

const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;

// -- models

let modelsTimer;

async function refreshModels() {
  clearTimeout(modelsTimer);
  let isSettled = true;
  try {
    state.models = await listModels();
    isSettled = !state.models.some((model) => model.state === "loading");
    byId("state").textContent = "";
    drawModels();
  } catch (error) {
    byId("state").textContent = error.message;
    isSettled = error.status > 0 && error.status !== 503;
    if (error.status === 401) askForKey();
  }
  if (!isSettled) modelsTimer = setTimeout(refreshModels, MODELS_AGAIN_MS);
}

function askForKey() {
  showPanel(true);
  byId("key").focus();
}

// -- conversations

function keep(conversation) {
  if (!store.save(conversation)) toast(text("full"));
}

function open(conversation) {
  state.conversation = state.running.get(conversation.id)?.conversation ?? conversation;
  sessionStorage.setItem(CURRENT, conversation.id);
  document.body.classList.remove("show-list");
  drawAll();
  scrollToEnd();
}

function openNew() {
  open(store.newConversation());
  input.focus();
}

const listActions = {
  open,
  changed: drawAll,
  renamed(listed, title) {
    const conversation = listed.id === state.conversation.id ? state.conversation : listed;
    conversation.title = title;
    keep(conversation);
    drawAll();
  },
  removed(conversation) {
    state.running.get(conversation.id)?.abort.abort();
    if (conversation.id === state.conversation.id) openNew();
    else drawAll();
  },
};

const messageActions = {
  edit(index, content) {
    state.conversation.messages.splice(index, Infinity, { role: "user", content });
    answer();
  },
  regenerate(index) {
    state.conversation.messages.splice(index);
    answer();
  },
};

// -- a reply

function send() {
  const content = input.value;
  if (!content.trim() || isRunning()) return;
  const { conversation } = state;
  conversation.messages.push({ role: "user", content });
  conversation.title ||= content.trim().split("\n")[0].slice(0, MAX_TITLE);
  if (!answer()) return conversation.messages.pop();
  input.value = "";
  fitInput();
}

// Ask for a reply to the conversation as it stands; false if the settings do not allow a request.
function answer() {
  const { conversation } = state;
  let body;
  try {
    body = bodyOf(conversation, byId("model").value, sampling());
  } catch (error) {
    showPanel(true);
    toast(error.message);
    return false;
  }
  run(conversation, body);
  return true;
}

async function run(conversation, body) {
  const message = { role: "assistant", content: "", model: body.model };
  const abort = new AbortController();
  conversation.messages.push(message);
  conversation.updated = Date.now();
  state.running.set(conversation.id, { conversation, abort });
  keep(conversation);
  drawAll();
  scrollToEnd();
  const status = await fill(message, body, abort.signal, () => growSoon(conversation, message));
  state.running.delete(conversation.id);
  if (!message.content && !message.error) conversation.messages.pop();
  if (store.conversations().some((item) => item.id === conversation.id)) keep(conversation);
  if (conversation !== state.conversation) return drawList(state.conversation, listActions);
  const wasAtEnd = isAtEnd();
  drawAll();
  if (wasAtEnd) scrollToEnd();
  byId("spoken").textContent = text(message.error ? "failed" : "done");
  if (status === 401) askForKey();
  if (status === 404 || status === 503) refreshModels();
}

let isGrowDue = false;

// Draw what has come at most once a frame.
function growSoon(conversation, message) {
  if (isGrowDue) return;
  isGrowDue = true;
  requestAnimationFrame(() => {
    isGrowDue = false;
    if (conversation !== state.conversation || !isRunning()) return;
    const wasAtEnd = isAtEnd();
    grow(log, message);
    if (wasAtEnd) scrollToEnd();
  });
}

const stop = () => state.running.get(state.conversation.id)?.abort.abort();

// -- what is typed and pressed

function fitInput() {
  input.rows = Math.min(Math.max(input.value.split("\n").length, 1), 10);
}

function showPanel(isShown) {
  byId("settings").hidden = !isShown;
  byId("settings-button").setAttribute("aria-expanded", String(isShown));
}

function showList(isShown) {
  document.body.classList.toggle("show-list", isShown);
  byId("menu").setAttribute("aria-expanded", String(isShown));
}

function wire() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  input.addEventListener("keydown", (event) => {
    if (!isSendKey(event)) return;
    event.preventDefault();
    send();
  });
  input.addEventListener("input", fitInput);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
  });
  byId("stop").addEventListener("click", stop);
  byId("new").addEventListener("click", openNew);
  byId("menu").addEventListener("click", () => showList(!document.body.classList.contains("show-list")));
  byId("settings-button").addEventListener("click", () => showPanel(byId("settings").hidden));
  byId("settings-close").addEventListener("click", () => showPanel(false));
  byId("model").addEventListener("change", () => {
    store.saveSettings({ model: byId("model").value });
    drawContext();
  });
  byId("system").addEventListener("input", () => {
    state.conversation.system = byId("system").value;
    if (state.conversation.messages.length) keep(state.conversation);
  });
  byId("export").addEventListener("click", exportAll);
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("import-file").addEventListener("change", async (event) => {
    if (event.target.files.length) await importFrom(event.target.files[0], listActions);
    event.target.value = "";
  });
  addEventListener("pagehide", () => state.running.forEach(({ conversation }) => store.save(conversation)));
  store.onForeignChange(() => drawList(state.conversation, listActions));
}

function restore() {
  const all = store.conversations();
  const last = sessionStorage.getItem(CURRENT);
  const found = last === null ? all[0] : all.find((item) => item.id === last);
  if (found) state.conversation = found;
}

openPanel({
  keyChanged: refreshModels,
  languageChanged() {
    translate();
    drawModels();
    drawAll();
  },
});
applyTheme();
translate();
wire();
restore();
drawAll();
scrollToEnd();
byId("model").replaceChildren(placeholder("loadingModels"));
refreshModels();
