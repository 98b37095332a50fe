"use strict";
// What a reader can turn and choose. All texts of the corpus go into the page as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const at = (id) => document.getElementById(id);
  const word = (key) => data.words[root.dataset.lang][key];
  const filled = (key, values) => word(key).replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
  const number = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4))));
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 760, HEIGHT = 230, LEFT = 52, RIGHT = 12, TOP = 16, BOTTOM = 34;

  function element(name, text, attributes) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    return made;
  }

  function drawn(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function kindName(index) {
    const kind = data.kinds[index];
    if (!kind) return word("other_kinds") + " (" + number(data.others) + ")";
    const parts = [kind.domain, kind.lang, kind.script].filter(Boolean);
    return (parts.join(" / ") || word("none")) + " (" + number(kind.documents) + ")";
  }

  // The choice: all kinds (-1), one of them, or the rest, which comes last in the counts.
  function chosen() {
    const rule = data.rules[Number(at("rule").value)];
    const kind = Number(at("kind").value);
    const kinds = kind < 0 ? rule.counts.map((_, index) => index) : [kind];
    const counts = rule.counts[0].map((_, bar) => kinds.reduce((sum, index) => sum + rule.counts[index][bar], 0));
    const limits = [...new Set(kinds.map((index) => rule.limits[index]).filter((limit) => limit !== null))];
    const cuts = [...new Set(kinds.map((index) => rule.cuts[index]).filter((cut) => cut !== null))];
    const broken = kinds.reduce((sum, index) => sum + rule.broken[index], 0);
    return { rule, kind, counts, limits, cuts, broken, total: counts.reduce((a, b) => a + b, 0) };
  }

  function summary(now) {
    const limits = now.limits.length ? word("threshold") + " " + now.limits.map(number).join(", ") +
      (now.cuts.length ? " (" + now.cuts.join(", ") + ")" : "") : word("no_threshold");
    const share = now.total ? " (" + ((100 * now.broken) / now.total).toFixed(2) + " %)" : "";
    const taken = now.limits.length ? "; " + word("takes") + " " + number(now.broken) + share : "";
    return now.rule.name + ": " + number(now.total) + " " + word("documents") + "; " + limits + taken + ". " +
      (now.rule.log ? word("scale") + " " : "") + word("outer");
  }

  function histogram(now) {
    const edges = now.rule.edges, log = now.rule.log;
    const place = (value) => (log ? Math.log(value) : value);
    const low = place(edges[0]), high = place(edges[edges.length - 1]);
    const x = (value) => LEFT + ((place(value) - low) / (high - low)) * (WIDTH - LEFT - RIGHT);
    const most = Math.max(1, ...now.counts), base = HEIGHT - BOTTOM;
    const chart = drawn("svg", { viewBox: "0 0 " + WIDTH + " " + HEIGHT, class: "chart", role: "img", "aria-label": summary(now) });
    now.counts.forEach((count, bar) => {
      const height = (count / most) * (base - TOP), from = x(edges[bar]);
      const box = drawn("rect", { class: "bar", x: from + 0.5, y: base - height, width: Math.max(x(edges[bar + 1]) - from - 1, 0.5), height });
      box.append(drawn("title", {}, number(edges[bar]) + " – " + number(edges[bar + 1]) + ": " + number(count)));
      chart.append(box);
    });
    chart.append(drawn("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: base, y2: base }));
    chart.append(drawn("text", { x: LEFT - 6, y: TOP + 4, "text-anchor": "end" }, number(most)));
    chart.append(drawn("text", { x: LEFT - 6, y: base + 4, "text-anchor": "end" }, "0"));
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      const inner = low + share * (high - low), value = log ? Math.exp(inner) : inner;
      chart.append(drawn("text", { x: x(value), y: base + 18, "text-anchor": ["start", "middle", "end"][Math.ceil(share * 2)] || "middle" }, number(Number(value.toPrecision(3)))));
    }
    for (const limit of now.limits) {
      const inside = Math.min(Math.max(log && limit <= 0 ? edges[0] : limit, edges[0]), edges[edges.length - 1]);
      const line = drawn("line", { class: "mark", x1: x(inside), x2: x(inside), y1: TOP - 8, y2: base });
      line.append(drawn("title", {}, word("threshold") + " " + number(limit)));
      chart.append(line);
    }
    return chart;
  }

  function numbers(now) {
    const table = element("table");
    const head = element("tr");
    for (const key of ["bar_from", "bar_to", "documents"]) head.append(element("th", word(key), { scope: "col", class: "n" }));
    table.append(head);
    now.counts.forEach((count, bar) => {
      const row = element("tr");
      for (const value of [now.rule.edges[bar], now.rule.edges[bar + 1], count]) row.append(element("td", number(value), { class: "n" }));
      table.append(row);
    });
    const details = element("details");
    details.append(element("summary", word("numbers")), table);
    return details;
  }

  function samples(now) {
    if (now.kind < 0) return [element("p", now.limits.length ? word("choose_kind") : "", { class: "note" })];
    if (!now.limits.length) return [];
    return [true, false].map((taken) => {
      const side = element("section");
      side.append(element("h3", word(taken ? "taken_side" : "kept_side")));
      const found = now.rule.samples.filter((sample) => sample[0] === now.kind && sample[1] === taken);
      if (!found.length) side.append(element("p", word("none_near"), { class: "note" }));
      for (const [, , value, id, text] of found) {
        const line = element("p", undefined, { class: "note" });
        line.append(element("code", id), " " + number(value));
        side.append(line, element("pre", text, { tabindex: "0", dir: "auto" }));
      }
      return side;
    });
  }

  function show() {
    if (!data.rules.length) {
      at("summary").textContent = word("no_signals");
      return;
    }
    const now = chosen();
    at("summary").textContent = summary(now);
    at("histogram").replaceChildren(histogram(now), numbers(now));
    at("samples").replaceChildren(...samples(now));
  }

  function search() {
    const rows = document.querySelectorAll("#rejections tbody tr");
    if (!rows.length) return;
    const wanted = at("search").value.trim().toLowerCase(), rule = at("rejected-rule").value;
    let count = 0;
    for (const row of rows) {
      row.hidden = Boolean((rule && row.dataset.rule !== rule) || (wanted && !row.textContent.toLowerCase().includes(wanted)));
      count += row.hidden ? 0 : 1;
    }
    at("matches").textContent = number(count) + " " + word("matches");
  }

  function kinds() {
    const before = at("kind").value;
    const last = data.others ? data.kinds.length + 1 : data.kinds.length;
    const options = [element("option", word("all_kinds"), { value: "-1" })];
    for (let index = 0; index < last; index++) options.push(element("option", kindName(index), { value: String(index) }));
    at("kind").replaceChildren(...options);
    at("kind").value = before || "-1";
  }

  function speak(language) {
    root.dataset.lang = root.lang = language;
    at("signals-note").textContent = filled("signals_note", { per_side: data.per_side, chars: data.excerpt_chars, kinds: data.max_kinds });
    for (const option of document.querySelectorAll("option[data-word]")) option.textContent = word(option.dataset.word);
    kinds();
    show();
    search();
  }

  data.rules.forEach((rule, index) => at("rule").append(element("option", rule.name, { value: String(index) })));
  at("rule").addEventListener("change", show);
  at("kind").addEventListener("change", show);
  if (at("search")) {
    at("search").addEventListener("input", search);
    at("rejected-rule").addEventListener("change", search);
  }
  at("language").addEventListener("click", () => speak(root.dataset.lang === "en" ? "zh" : "en"));
  at("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  speak((navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en");
})();
