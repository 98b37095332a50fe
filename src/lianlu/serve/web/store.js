// Conversations and settings in the browser's storage. Each conversation has an entry of its own, so that two tabs do not
// write over each other's. What comes from a file is taken over field by field and never as it stands.

const PREFIX = "lianlu.chat.";
const SETTINGS = "lianlu.settings";
const ROLES = ["user", "assistant"];
const FIGURES = ["first", "tokens", "rate", "context", "cached"];

// Not crypto.randomUUID: that exists on secure origins only, and a server in the next room is none.
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation() {
  return { id: newId(), title: "", system: "", messages: [], updated: Date.now() };
}

// All conversations, the latest first.
export function conversations() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  return keys.map(read).filter(Boolean).sort((a, b) => b.updated - a.updated);
}

function read(key) {
  try {
    return clean(JSON.parse(localStorage.getItem(key)));
  } catch {
    return null;
  }
}

// Keep a conversation; false if the browser has no room for it.
export function save(conversation) {
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}

export function remove(conversation) {
  localStorage.removeItem(PREFIX + conversation.id);
}

// Tell `listener` when another tab has changed a conversation.
export function onForeignChange(listener) {
  addEventListener("storage", (event) => {
    if (event.key === null || event.key.startsWith(PREFIX)) listener();
  });
}

export function exported() {
  return JSON.stringify({ lianlu: "chats", format: 1, conversations: conversations() }, null, 1);
}

// Add the conversations of a file to those here, those that are here already under new ids; how many. Throws for other files.
export function imported(source) {
  const file = JSON.parse(source);
  if (file?.lianlu !== "chats" || !Array.isArray(file.conversations)) throw new Error("no conversations");
  const known = new Set(conversations().map((item) => item.id));
  const found = file.conversations.map(clean).filter(Boolean);
  for (const item of found) {
    if (known.has(item.id)) item.id = newId();
    if (!save(item)) throw new RangeError("full");
  }
  return found.length;
}

// A conversation with the fields we know, each of its own type; null if there is nothing of the kind.
function clean(given) {
  if (typeof given !== "object" || given === null || !Array.isArray(given.messages)) return null;
  return {
    id: /^[0-9a-f]{24}$/.test(given.id) ? given.id : newId(),
    title: string(given.title),
    system: string(given.system),
    messages: given.messages.filter((one) => ROLES.includes(one?.role)).map(cleanMessage),
    updated: Number.isFinite(given.updated) ? given.updated : Date.now(),
  };
}

function cleanMessage(given) {
  const message = { role: given.role, content: string(given.content) };
  if (given.error) message.error = string(given.error);
  if (given.model) message.model = string(given.model);
  const stats = cleanStats(given.stats ?? {});
  if (stats) message.stats = stats;
  return message;
}

function cleanStats(given) {
  const numbers = FIGURES.filter((name) => Number.isFinite(given[name])).map((name) => [name, given[name]]);
  const stats = { ...Object.fromEntries(numbers), reason: string(given.reason), isExact: given.isExact === true };
  return "first" in stats && "tokens" in stats ? stats : null;
}

const string = (value) => (typeof value === "string" ? value : "");

export function settings() {
  try {
    const found = JSON.parse(localStorage.getItem(SETTINGS));
    return typeof found === "object" && found !== null ? found : {};
  } catch {
    return {};
  }
}

export function saveSettings(changes) {
  localStorage.setItem(SETTINGS, JSON.stringify({ ...settings(), ...changes }));
}
