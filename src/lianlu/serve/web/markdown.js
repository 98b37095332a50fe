// Markdown to elements, block by block. Nodes are made with createElement and text nodes alone: no text of a model is ever
// parsed as HTML, so there is nothing to escape and nothing to forget. Source: CommonMark and GitHub's tables, the part of
// them that models write; raw HTML stays text, images become links, and a line end is a line end.

import { codeBlock } from "/web/code.js";
import { inline } from "/web/inline.js";

const MAX_DEPTH = 12;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}>\s?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)/;
const TASK = /^\[([ xX])\]\s+/;

// Show `text` in `place`. Blocks that are as they were the last time stay in place, with what is selected in them, so that a
// growing reply costs no more than its last block.
export function show(place, text) {
  const found = blocks(text.replaceAll("\t", "    ").split(/\r?\n/));
  const old = place.shownBlocks ?? [];
  let same = 0;
  while (same < old.length && same < found.length && old[same] === found[same].source) same += 1;
  while (place.childNodes.length > same) place.lastChild.remove();
  for (const block of found.slice(same)) place.append(element(block, 0));
  place.shownBlocks = found.map((block) => block.source);
}

// The blocks of some lines; each knows its `source`.
export function blocks(lines) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const block = fence(lines, at) ?? heading(lines, at) ?? rule(lines, at) ?? quote(lines, at) ?? list(lines, at)
      ?? table(lines, at) ?? paragraph(lines, at);
    found.push({ ...block, source: lines.slice(at, block.end).join("\n") });
    at = block.end;
  }
  return found;
}

function fence(lines, at) {
  const open = FENCE.exec(lines[at]);
  if (!open) return null;
  const indent = lines[at].search(/\S/);
  let end = at + 1;
  const isClose = (line) => line.trim().startsWith(open[1]) && !line.trim().replaceAll(open[1][0], "");
  while (end < lines.length && !isClose(lines[end])) end += 1;
  const body = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent, Math.max(line.search(/\S/), 0))));
  return { kind: "code", language: open[2], body: body.join("\n"), end: Math.min(end + 1, lines.length) };
}

function heading(lines, at) {
  const match = HEADING.exec(lines[at]);
  return match && { kind: "heading", level: match[1].length, text: match[2], end: at + 1 };
}

function rule(lines, at) {
  return RULE.test(lines[at]) ? { kind: "rule", end: at + 1 } : null;
}

function quote(lines, at) {
  if (!QUOTE.test(lines[at])) return null;
  let end = at + 1;
  while (end < lines.length && (QUOTE.test(lines[end]) || !beginsBlock(lines, end))) end += 1;
  return { kind: "quote", lines: lines.slice(at, end).map((line) => line.replace(QUOTE, "")), end };
}

// Items of one list: lines that are indented as far as an item's text belong to it, and so do lines that begin nothing new.
function list(lines, at) {
  const first = ITEM.exec(lines[at]);
  if (!first || first[1].length > 3) return null;
  const isOrdered = (marker) => /\d/.test(marker);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const open = ITEM.exec(lines[end]);
    if (!open || RULE.test(lines[end]) || isOrdered(open[2]) !== isOrdered(first[2]) || open[1].length > first[1].length + 1) break;
    const item = { lines: [lines[end].slice(open[0].length)], isLoose: false };
    end = itemEnd(lines, end + 1, open, item);
    items.push(item);
    const next = end + Number(end < lines.length && !lines[end].trim());
    if (next > end && next < lines.length && ITEM.test(lines[next])) {
      item.isLoose = true;
      end = next;
    }
  }
  return { kind: "list", isOrdered: isOrdered(first[2]), start: parseInt(first[2], 10), items, end };
}

function itemEnd(lines, from, open, item) {
  let end = from;
  while (end < lines.length) {
    const indent = lines[end].search(/\S/);
    const belongs = indent > open[1].length + 1 || (indent >= 0 && !beginsBlock(lines, end) && lines[end - 1].trim());
    const isGap = indent < 0 && end + 1 < lines.length && lines[end + 1].search(/\S/) > open[1].length + 1;
    if (!belongs && !isGap) break;
    item.isLoose ||= isGap;
    item.lines.push(lines[end].slice(Math.min(open[0].length, Math.max(indent, 0))));
    end += 1;
  }
  return end;
}

const isDivider = (cell) => /^:?-+:?$/.test(cell);

function table(lines, at) {
  if (!lines[at].includes("|") || at + 1 >= lines.length) return null;
  const head = cells(lines[at]);
  const divider = cells(lines[at + 1]);
  if (!lines[at + 1].includes("-") || divider.length !== head.length || !divider.every(isDivider)) return null;
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const sides = divider.map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
  return { kind: "table", head, sides, rows: lines.slice(at + 2, end).map(cells), end };
}

const cells = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/)
  .map((cell) => cell.trim().replaceAll("\\|", "|"));

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !beginsBlock(lines, end) && !table(lines, end)) end += 1;
  return { kind: "paragraph", text: lines.slice(at, end).map((line) => line.trim()).join("\n"), end };
}

// Whether a line ends the paragraph before it.
function beginsBlock(lines, at) {
  const line = lines[at];
  return !line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
}

// The element of a block; what is nested too deep is shown as the text it is.
function element(block, depth) {
  if (depth > MAX_DEPTH) return make("p", block.source);
  switch (block.kind) {
    case "code": return codeBlock(block.body, block.language);
    case "heading": return make(`h${Math.min(block.level + 2, 6)}`, ...inline(block.text));
    case "rule": return make("hr");
    case "quote": return make("blockquote", ...blocks(block.lines).map((one) => element(one, depth + 1)));
    case "list": return listElement(block, depth);
    case "table": return tableElement(block);
    default: return make("p", ...inline(block.text));
  }
}

function listElement(block, depth) {
  const node = make(block.isOrdered ? "ol" : "ul", ...block.items.map((item) => itemElement(item, depth)));
  if (block.isOrdered && block.start !== 1) node.start = block.start;
  return node;
}

function itemElement(item, depth) {
  const task = TASK.exec(item.lines[0]);
  if (task) item.lines[0] = item.lines[0].slice(task[0].length);
  const parts = blocks(item.lines).flatMap((block) =>
    block.kind === "paragraph" && !item.isLoose ? inline(block.text) : [element(block, depth + 1)]);
  const node = make("li", ...parts);
  if (task) {
    const box = make("input");
    Object.assign(box, { type: "checkbox", disabled: true, checked: task[1] !== " " });
    node.prepend(box, " ");
    node.className = "task";
  }
  return node;
}

function tableElement(block) {
  const row = (kind, values) => make("tr", ...block.sides.map((side, index) => {
    const cell = make(kind, ...inline(values[index] ?? ""));
    if (side !== "left") cell.className = side;
    return cell;
  }));
  const body = make("tbody", ...block.rows.map((values) => row("td", values)));
  const frame = make("div", make("table", make("thead", row("th", block.head)), body));
  frame.className = "scroll";
  return frame;
}

// An element with children; strings become text.
export function make(tag, ...children) {
  const node = document.createElement(tag);
  node.append(...children);
  return node;
}
