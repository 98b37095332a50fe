// The Markdown inside a line: code, links, bold, italic, struck out. Gives nodes; like `markdown.js` it never parses HTML.

const MAX_DEPTH = 8;
const MAX_LABEL = 1000;
const MAX_URL = 2000;
const SPECIAL = /[\\`*_~[!<\nh]/g;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}]/u;
const BARE_URL = /https?:\/\/[^\s<>"'`\u3000-\u303f\uff00-\uffef]+/y;
const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];

// The nodes of a text. Markers that nothing closes are text.
export function inline(text, depth = 0) {
  if (depth > MAX_DEPTH) return [document.createTextNode(text)];
  const scan = { text, depth, unclosed: new Set() };
  const nodes = [];
  let plain = 0;
  let at = 0;
  while ((at = nextSpecial(text, at)) < text.length) {
    const found = special(scan, at);
    if (!found) {
      at += 1;
      continue;
    }
    if (at > plain) nodes.push(document.createTextNode(text.slice(plain, at)));
    nodes.push(found.node);
    at = plain = found.end;
  }
  if (plain < text.length) nodes.push(document.createTextNode(text.slice(plain)));
  return nodes;
}

function nextSpecial(text, from) {
  SPECIAL.lastIndex = from;
  return SPECIAL.exec(text)?.index ?? text.length;
}

// The node that begins at a place and where it ends; null if the character there is just a character.
function special(scan, at) {
  const { text } = scan;
  switch (text[at]) {
    case "\\":
      if (text[at + 1] === "\n") return { node: document.createElement("br"), end: at + 2 };
      return PUNCTUATION.test(text[at + 1] ?? "") ? { node: document.createTextNode(text[at + 1]), end: at + 2 } : null;
    case "\n": return { node: document.createElement("br"), end: at + 1 };
    case "`": return code(scan, at);
    case "!": return text[at + 1] === "[" ? link(scan, at + 1) : null;
    case "[": return link(scan, at);
    case "<": return angle(text, at);
    case "h": return bareUrl(text, at);
    default: return emphasis(scan, at);
  }
}

function code(scan, at) {
  const { text, unclosed } = scan;
  const run = /`+/y;
  run.lastIndex = at;
  const [ticks] = run.exec(text);
  if (unclosed.has(ticks)) return { node: document.createTextNode(ticks), end: at + ticks.length };
  for (let end = text.indexOf(ticks, at + ticks.length); end >= 0; end = text.indexOf(ticks, end)) {
    run.lastIndex = end;
    const size = run.exec(text)[0].length;
    if (size === ticks.length) {
      const body = text.slice(at + size, end).replaceAll("\n", " ");
      const node = document.createElement("code");
      node.textContent = /^ .*[^ ].* $/.test(body) ? body.slice(1, -1) : body;
      return { node, end: end + size };
    }
    end += size;
  }
  unclosed.add(ticks);
  return { node: document.createTextNode(ticks), end: at + ticks.length };
}

// [label](url "title"): only http and https lead anywhere, everything else is shown as it was written.
function link(scan, at) {
  const close = closing(scan.text, at, "[", "]", MAX_LABEL);
  if (close < 0 || scan.text[close + 1] !== "(") return null;
  const end = closing(scan.text, close + 1, "(", ")", MAX_URL);
  if (end < 0) return null;
  const target = /^\s*<?([^\s<>]*)>?(?:\s+["'(].*["')])?\s*$/s.exec(scan.text.slice(close + 2, end));
  const url = target && safeUrl(target[1]);
  if (!url) return { node: document.createTextNode(scan.text.slice(at, end + 1)), end: end + 1 };
  const label = inline(scan.text.slice(at + 1, close), scan.depth + 1);
  return { node: anchor(url, label.length ? label : [url]), end: end + 1 };
}

// Where the bracket that opens at `at` is closed, within `most` characters; -1 if it is not.
function closing(text, at, open, close, most) {
  let depth = 0;
  for (let place = at; place < Math.min(text.length, at + most); place += 1) {
    if (text[place] === "\\") place += 1;
    else if (text[place] === open) depth += 1;
    else if (text[place] === close && (depth -= 1) === 0) return place;
  }
  return -1;
}

function angle(text, at) {
  const end = text.indexOf(">", at);
  const url = end < 0 || end - at > MAX_URL || /\s/.test(text.slice(at, end)) ? null : safeUrl(text.slice(at + 1, end));
  return url && { node: anchor(url, [text.slice(at + 1, end)]), end: end + 1 };
}

function bareUrl(text, at) {
  if (at > 0 && WORD.test(text[at - 1])) return null;
  BARE_URL.lastIndex = at;
  let found = BARE_URL.exec(text)?.[0].slice(0, MAX_URL).replace(/[.,;:!?*_~)\]}]+$/, "") ?? "";
  // a bracket that the address itself opened belongs to it
  if (found.includes("(") && !found.includes(")") && text[at + found.length] === ")") found += ")";
  const url = safeUrl(found);
  return url && { node: anchor(url, [found]), end: at + found.length };
}

// An absolute http or https address, normalised; null for anything else.
export function safeUrl(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function anchor(url, children) {
  const node = document.createElement("a");
  Object.assign(node, { href: url, title: url, target: "_blank", rel: "noopener noreferrer nofollow" });
  node.append(...children);
  return node;
}

function emphasis(scan, at) {
  const { text, unclosed } = scan;
  for (const [mark, tag] of MARKS) {
    if (!text.startsWith(mark, at)) continue;
    const end = unclosed.has(mark) ? -1 : closer(text, at, mark);
    if (end >= 0) {
      const node = document.createElement(tag);
      node.append(...inline(text.slice(at + mark.length, end), scan.depth + 1));
      return { node, end: end + mark.length };
    }
    if (canOpen(text, at, mark)) unclosed.add(mark);
    if (mark.length === 2) return { node: document.createTextNode(mark), end: at + 2 };
  }
  return null;
}

function canOpen(text, at, mark) {
  const next = text[at + mark.length] ?? " ";
  return !/\s/.test(next) && !(mark[0] === "_" && WORD.test(text[at - 1] ?? ""));
}

// Where the mark that opens at `at` is closed: behind something that is no space, and, for "_", not inside a word.
function closer(text, at, mark) {
  if (!canOpen(text, at, mark)) return -1;
  const size = mark.length;
  for (let end = text.indexOf(mark, at + size + 1); end >= 0; end = text.indexOf(mark, end + 1)) {
    if (/[\s\\]/.test(text[end - 1])) continue;
    if (mark[0] === "_" && WORD.test(text[end + size] ?? "")) continue;
    if (size === 2) return text[end + 2] === mark[0] ? end + 1 : end;
    if (text[end + 1] === mark) end += 1;
    else return end;
  }
  return -1;
}
