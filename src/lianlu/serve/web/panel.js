// The settings: sampling, the key, language and colours. What is empty is not sent, and the server decides.

import { storedKey, storeKey } from "/web/api.js";
import { make } from "/web/markdown.js";
import { saveSettings, settings } from "/web/store.js";
import { language, setLanguage, text } from "/web/texts.js";

// name, least, most, step; a step of 1 means whole numbers
const FIELDS = [
  ["temperature", 0, 2, 0.1], ["top_p", 0, 1, 0.05], ["top_k", 0, 100_000, 1], ["min_p", 0, 1, 0.01], ["max_tokens", 1, 1_000_000, 1],
  ["seed", -9_007_199_254_740_991, 9_007_199_254_740_991, 1], ["presence_penalty", -2, 2, 0.1], ["frequency_penalty", -2, 2, 0.1],
  ["repetition_penalty", 0.01, 10, 0.05],
];
const byId = (id) => document.getElementById(id);

// Draw the fields and react to changes. `actions` are keyChanged() and languageChanged().
export function openPanel(actions) {
  byId("sampling").replaceChildren(...FIELDS.map(field));
  byId("defaults").addEventListener("click", () => {
    saveSettings({ sampling: {} });
    for (const input of inputs()) input.value = "";
    inputs().forEach(check);
  });
  byId("key").value = storedKey();
  byId("key").addEventListener("change", () => {
    storeKey(byId("key").value.trim());
    actions.keyChanged();
  });
  byId("language").value = language();
  byId("language").addEventListener("change", () => {
    setLanguage(byId("language").value);
    actions.languageChanged();
  });
  byId("theme").value = settings().theme ?? "auto";
  byId("theme").addEventListener("change", () => {
    saveSettings({ theme: byId("theme").value });
    applyTheme();
  });
}

// The colours that were chosen, or the system's.
export function applyTheme() {
  const chosen = settings().theme ?? "auto";
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}

const inputs = () => [...byId("sampling").querySelectorAll("input")];

function field([name, least, most, step]) {
  const input = make("input");
  Object.assign(input, { id: name, type: "number", min: least, max: most, step: "any", value: settings().sampling?.[name] ?? "" });
  input.dataset.hint = "asServer";
  input.dataset.whole = step === 1 ? "yes" : "";
  const label = make("label");
  label.htmlFor = name;
  label.dataset.text = name;
  input.addEventListener("input", () => {
    if (check(input)) saveSettings({ sampling: { ...settings().sampling, [name]: input.value } });
  });
  const row = make("div", label, input);
  row.className = "field";
  return row;
}

function check(input) {
  const isWhole = !input.dataset.whole || !input.value || Number.isInteger(Number(input.value));
  const isRight = input.validity.valid && isWhole;
  input.setAttribute("aria-invalid", String(!isRight));
  return isRight;
}

// The sampling fields of a request. Throws an Error for a field with something in it that is no such number.
export function sampling() {
  const chosen = {};
  for (const input of inputs()) {
    if (!check(input)) {
      input.focus();
      throw new Error(text("badNumber", text(input.id)));
    }
    if (input.value !== "") chosen[input.id] = Number(input.value);
  }
  return chosen;
}
