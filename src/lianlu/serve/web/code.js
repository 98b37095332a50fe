// Blocks of code: a bar with the language and a button that copies, and light colouring of words, strings, comments, numbers.

import { text } from "/web/texts.js";

const MAX_COLOURED = 60_000;
const WORDS = {
  python: "and as assert async await break case class continue def del elif else except False finally for from global if import"
    + " in is lambda match None nonlocal not or pass raise return True try while with yield self",
  c: "abstract as async await auto bool boolean break byte case catch char class const constexpr continue default defer delete do"
    + " double else enum export extends extern false final float fn for from func function go if impl implements import in int"
    + " interface let long loop match mod mut namespace new nil null nullptr override package private protected pub public range"
    + " return select self short signed sizeof static string struct super switch template this throw trait true try type typeof"
    + " undefined union unsafe unsigned use using var virtual void where while yield",
  sh: "case do done elif else esac exit export fi for function if in local return set then until while cd echo source sudo",
  sql: "add all alter and as asc between by case create delete desc distinct drop else end exists from group having in index inner"
    + " insert into is join key left like limit not null on or order outer primary select set table then union update values view"
    + " when where with",
  json: "true false null",
};
const FAMILIES = {
  python: ["py", "python", "python3", "pycon", "toml", "yaml", "yml", "r", "ruby", "rb"],
  c: ["c", "h", "cpp", "c++", "cc", "cs", "csharp", "java", "kotlin", "scala", "swift", "go", "golang", "rust", "rs", "js", "jsx",
    "javascript", "ts", "tsx", "typescript", "php", "dart", "zig", "css"],
  sh: ["sh", "bash", "zsh", "shell", "console", "dockerfile", "makefile"],
  sql: ["sql", "sqlite", "postgresql", "mysql", "lua"],
  json: ["json", "jsonl"],
};
const COMMENTS = {
  python: "#[^\\n]*",
  c: "\\/\\/[^\\n]*|\\/\\*[\\s\\S]*?(?:\\*\\/|$)",
  sh: "(?<![^\\s])#[^\\n]*",
  sql: "--[^\\n]*",
  json: "(?!)",
};
const LONG_STRINGS = { python: '"""[\\s\\S]*?(?:"""|$)|\'\'\'[\\s\\S]*?(?:\'\'\'|$)|', c: "`(?:\\\\[\\s\\S]|[^`\\\\])*`|" };
const STRINGS = '"(?:\\\\.|[^"\\\\\\n])*"|\'(?:\\\\.|[^\'\\\\\\n])*\'';

function familyOf(language) {
  const name = language.toLowerCase();
  return Object.keys(FAMILIES).find((family) => FAMILIES[family].includes(name));
}

// Code as text nodes and spans; of a language we do not know, as text.
export function coloured(code, language) {
  const family = familyOf(language);
  if (!family || code.length > MAX_COLOURED) return [document.createTextNode(code)];
  const words = new Set(WORDS[family].split(" "));
  const tokens = new RegExp(
    `(?<comment>${COMMENTS[family]})|(?<string>${LONG_STRINGS[family] ?? ""}${STRINGS})|(?<number>\\b\\d[\\w.]*)|(?<word>[A-Za-z_]\\w*)`, "g");
  const nodes = [];
  let plain = 0;
  for (const match of code.matchAll(tokens)) {
    const word = match.groups.word;
    const kind = Object.keys(match.groups).find((name) => match.groups[name] !== undefined);
    if (word !== undefined && !words.has(family === "sql" ? word.toLowerCase() : word)) continue;
    if (!match[0]) continue;
    nodes.push(document.createTextNode(code.slice(plain, match.index)));
    const span = document.createElement("span");
    span.className = `token-${kind}`;
    span.textContent = match[0];
    nodes.push(span);
    plain = match.index + match[0].length;
  }
  nodes.push(document.createTextNode(code.slice(plain)));
  return nodes;
}

// A block of code with its bar.
export function codeBlock(body, language) {
  const label = document.createElement("span");
  label.textContent = language;
  const bar = document.createElement("div");
  bar.className = "bar";
  bar.append(label, copyButton(() => body));
  const code = document.createElement("code");
  code.append(...coloured(body, language));
  const pre = document.createElement("pre");
  pre.tabIndex = 0;
  pre.append(code);
  const block = document.createElement("div");
  block.className = "code";
  block.append(bar, pre);
  return block;
}

// A button that copies what `source` gives when it is pressed.
export function copyButton(source) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.text = "copy";
  button.textContent = text("copy");
  button.addEventListener("click", async () => {
    await copy(source());
    button.textContent = text("copied");
    setTimeout(() => (button.textContent = text("copy")), 1500);
  });
  return button;
}

// The clipboard proper exists on secure origins only; elsewhere a selected text is copied in the old way.
async function copy(value) {
  if (navigator.clipboard && isSecureContext) {
    try {
      return await navigator.clipboard.writeText(value);
    } catch {
      // not allowed here: go on with the old way
    }
  }
  const area = document.createElement("textarea");
  area.value = value;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
