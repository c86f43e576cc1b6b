// What a reader can do on the report's page. Without this file the page is whole, and still.
// Everything is drawn from the JSON in #data; texts of tables reach the page as textContent only.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const CODES = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
// cividis from few bits to many, readable in grey
const SHADES = ["#fee838", "#e1cc55", "#c3b369", "#a59c74", "#8a8678", "#707173", "#575d6d",
  "#3b496c", "#123570", "#00204d"];
const LOOKS = [["#000000", "star"], ["#0072b2", "circle"], ["#d55e00", "square"],
  ["#332288", "diamond"], ["#aa4499", "up"], ["#661100", "down"]];
const GREY = ["#999999", "dot"];
const BLACK = ["#000000", "cross"];

// ---- small helpers -------------------------------------------------------------------------

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function draw(name, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

function figures(value) {
  if (value === null || value === undefined) return "–";
  return value >= 10 ? value.toFixed(1) : value >= 0.01 ? value.toFixed(3) : value.toPrecision(2);
}

function between(value, low, high) {
  return `${figures(value)} [${figures(low)}, ${figures(high)}]`;
}

// ---- one box that says more about what the pointer, or the focus, is on ---------------------

const tip = make("div", { id: "tip", role: "tooltip", hidden: "" });
document.body.append(tip);

function explain(element, text) {
  const show = () => {
    tip.textContent = typeof text === "function" ? text() : text;
    tip.hidden = !tip.textContent;
    const place = element.getBoundingClientRect();
    const wide = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(4, Math.min(place.left, wide - tip.offsetWidth - 4))}px`;
    const below = place.bottom + 6;
    const fits = below + tip.offsetHeight < window.innerHeight;
    tip.style.top = `${fits ? below : Math.max(4, place.top - tip.offsetHeight - 6)}px`;
  };
  const hide = () => { tip.hidden = true; };
  for (const event of ["mouseenter", "focus"]) element.addEventListener(event, show);
  for (const event of ["mouseleave", "blur"]) element.addEventListener(event, hide);
}

document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

// ---- tables that sort, rows that say how to repeat them, previews of what a link leads to ---

function valueOf(cell) {
  const text = cell.textContent.replaceAll("−", "-").replaceAll(",", "");
  const found = text.match(/[-+]?\d+(\.\d+)?(e[-+]?\d+)?/i);
  return found ? Number(found[0]) : text.trim() === "–" || !text.trim() ? -Infinity : null;
}

const SIZE = /^\d+(\.\d+)?( \w+)?$/;  // "93.5 MB"; other first columns are names

function sortBy(table, place, header) {
  const up = header.getAttribute("aria-sort") === "descending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = table.tBodies[0];
  const cells = [...body.rows].map((row) => row.cells[place]);
  const words = cells.some((cell) => valueOf(cell) === null) ||
    (place === 0 && !cells.every((cell) => SIZE.test(cell.textContent.trim())));
  const order = (a, b) => words
    ? b.cells[place].textContent.localeCompare(a.cells[place].textContent, "en")
    : valueOf(b.cells[place]) - valueOf(a.cells[place]);
  body.append(...[...body.rows].sort((a, b) => (up ? -order(a, b) : order(a, b))));
}

for (const table of document.querySelectorAll("main table")) {
  if (!table.tHead || table.tBodies[0].rows.length < 3) continue;
  [...table.tHead.rows[0].cells].forEach((header, place) => {
    const button = make("button", { type: "button", title: "sort" }, ...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sortBy(table, place, header));
  });
}

const studyOf = new Map(
  Object.entries(data.studies).flatMap(([name, ids]) => ids.map((id) => [id, name])));

function repeat(id) {
  const study = studyOf.get(id);
  return study ? `row ${id} of ${data.table}, study ${study}\nrepeat it: lwq study ${study} ` +
    `--size ${data.size}\n(what is measured already is not measured again)` : `row ${id}`;
}

for (const link of document.querySelectorAll("a.row")) {
  explain(link, () => repeat(link.textContent.trim()));
}

function preview(target) {
  let element = target;
  while (element && element.textContent.trim().length < 2) {
    element = element.nextElementSibling ?? element.parentElement?.nextElementSibling;
  }
  const next = element && element.nextElementSibling;
  const more = /^H\d$/.test(element?.tagName ?? "") && next ? `\n${next.textContent.trim()}` : "";
  const text = `${element ? element.textContent.trim() : ""}${more}`.replace(/[ \t]+/g, " ");
  return text.length > 320 ? `${text.slice(0, 320)} …` : text;
}

for (const link of document.querySelectorAll('a[href^="#"]:not(.row)')) {
  const target = document.getElementById(decodeURIComponent(link.hash.slice(1)));
  if (target) explain(link, () => preview(target));
}

function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) {
    fold.open = true;
  }
}
window.addEventListener("hashchange", unfold);
unfold();

// ---- size against quality, a slider, and the plan behind it ---------------------------------

const MARKS = {
  circle: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z", square: "M-3.5,-3.5H3.5V3.5H-3.5Z",
  diamond: "M0,-5L5,0L0,5L-5,0Z", up: "M0,-5L4.6,4H-4.6Z", down: "M0,5L4.6,-4H-4.6Z",
  star: "M0,-7L2,-2L7,-2L3,1.5L4.5,7L0,3.5L-4.5,7L-3,1.5L-7,-2L-2,-2Z",
  dot: "M-2,0a2,2 0 1,0 4,0a2,2 0 1,0 -4,0Z", cross: "M-4,-4L4,4M-4,4L4,-4",
  plus: "M-5,-2H-2V-5H2V-2H5V2H2V5H-2V2H-5Z",
};

function mark([color, shape], x, y, extra = {}) {
  return draw("path", { d: MARKS[shape], transform: `translate(${x},${y})`, stroke: color,
    fill: shape === "cross" ? "none" : color, "stroke-width": shape === "cross" ? 1.8 : 0.5,
    ...extra });
}

function looksOf(arena) {
  const best = arena.methods.slice(0, 1).filter((name) => !data.claimed.includes(name));
  const shown = [...new Set([...best, ...data.claimed, ...data.shown, ...arena.methods])];
  const looks = new Map([["uniform", BLACK], ["random", GREY]]);
  let place = 1 - best.length;
  for (const name of shown) {
    if (data.claimed.includes(name) && !arena.methods.includes(name)) place++;  // kept for it
    if (!arena.methods.includes(name) || looks.has(name) || place >= LOOKS.length) continue;
    if (/reversed| to (last|first)$/.test(name)) continue;
    looks.set(name, LOOKS[place++]);
  }
  return looks;
}

function uniformAt(arena, mb) {
  const found = arena.lines.map((line) => {
    const right = line.findIndex(([size]) => size >= mb);
    if (right < 0 || (right === 0 && line[0][0] > mb)) return null;
    if (right === 0) return line[0][1];
    const [[x0, y0], [x1, y1]] = [line[right - 1], line[right]];
    return Math.exp(Math.log(y0) + (Math.log(y1 / y0) * (mb - x0)) / (x1 - x0));
  }).filter((value) => value !== null);
  return found.length ? Math.min(...found) : null;
}

function describe(plan) {
  const name = plan.method === "uniform" ? `uniform ${figures(plan.avg_bits)} bits` : plan.method;
  const beside = plan.ratio === null || plan.ratio === undefined ? ""
    : `\n${between(plan.ratio, plan.low_ratio, plan.high_ratio)} times the KL of uniform bits of ` +
      "the same bytes";
  return `${name}: ${plan.mb.toFixed(1)} MB, ${figures(plan.true_bits)} true bits\n` +
    `KL ${between(plan.kl, plan.low_kl, plan.high_kl)}, top-1 ${figures(plan.top1)}, perplexity ` +
    `${figures(plan.perplexity)}${beside}\n${repeat(plan.id)}`;
}

function ticks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const step of [1, 2, 5]) {
      const value = step * 10 ** power;
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found.length > 9 ? found.filter((value) => /^[0.]*1[0]*$/.test(String(value))) : found;
}

function chart(arena, looks, choose) {
  const wide = Math.max(300, Math.min(900, box.clientWidth - 24));
  const high = Math.max(280, Math.min(420, wide * 0.6));
  const edge = { left: 52, right: 12, top: 14, bottom: 40 };
  const plans = arena.plans.filter((plan) => looks.has(plan.method));
  const mixes = data.mixes.filter((mix) => mix.model === arena.model);
  const sizes = [...plans, ...mixes].map((plan) => plan.mb);
  const losses = [...plans, ...mixes].map((plan) => plan.kl).filter((value) => value > 0);
  const [left, right] = [Math.min(...sizes), Math.max(...sizes)];
  const [low, top] = [Math.min(...losses) / 1.3, Math.max(...losses) * 1.3];
  const x = (mb) => edge.left + ((mb - left) / (right - left || 1)) * (wide - edge.left - edge.right);
  const y = (kl) => edge.top +
    (Math.log(top / Math.max(kl, low)) / Math.log(top / low)) * (high - edge.top - edge.bottom);
  const svg = draw("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img",
    "aria-label": `KL against megabytes: ${arena.model}, ${arena.quantizer}` });
  for (const value of ticks(low, top)) {
    svg.append(draw("line", { x1: edge.left, x2: wide - edge.right, y1: y(value), y2: y(value),
      stroke: "#e5e5e5" }));
    svg.append(draw("text", { x: edge.left - 6, y: y(value) + 4, "text-anchor": "end" },
      String(value)));
  }
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find(
    (one) => (right - left) / one <= wide / 70) ?? 5000;
  for (let mb = Math.ceil(left / step) * step; mb <= right; mb += step) {
    svg.append(draw("text", { x: x(mb), y: high - 22, "text-anchor": "middle" }, String(mb)));
  }
  svg.append(draw("text", { x: wide / 2, y: high - 4, "text-anchor": "middle" },
    "whole file (MB)"));
  svg.append(draw("text", { x: edge.left + 6, y: high - edge.bottom - 8, fill: "#555" },
    "↙ better"));
  svg.append(draw("text", { x: 0, y: 0, "text-anchor": "middle",
    transform: `translate(12,${(high - edge.bottom) / 2}) rotate(-90)` },
    "KL to the untouched model (nats/token)"));
  if (arena.floor > low) {
    svg.append(draw("line", { x1: edge.left, x2: wide - edge.right, y1: y(arena.floor),
      y2: y(arena.floor), stroke: "#777", "stroke-dasharray": "1 3" }));
    svg.append(draw("text", { x: wide - edge.right - 3, y: y(arena.floor) - 4, fill: "#777",
      "text-anchor": "end" }, "noise floor"));
  }
  for (const line of arena.lines) {
    svg.append(draw("polyline", { fill: "none", stroke: "#000", "stroke-dasharray": "2 4",
      points: line.map(([mb, kl]) => `${x(mb)},${y(kl)}`).join(" ") }));
  }
  for (const plan of plans.toSorted((a, b) => (b.method === "random") - (a.method === "random"))) {
    const look = looks.get(plan.method);
    svg.append(draw("line", { x1: x(plan.mb), x2: x(plan.mb), y1: y(plan.low_kl),
      y2: y(plan.high_kl), stroke: look[0], "stroke-width": 1 }));
    const point = mark(look, x(plan.mb), y(plan.kl), { class: "hit", tabindex: -1,
      "data-id": plan.id });
    explain(point, describe(plan));
    point.addEventListener("click", () => choose(plan.mb));
    svg.append(point);
  }
  for (const mix of mixes) {
    const name = `llama.cpp ${mix.mix}${mix.imatrix ? " (imatrix)" : " (plain)"}`;
    const point = mark(["#882255", "plus"], x(mix.mb), y(mix.kl));
    explain(point, `${name}: ${mix.mb.toFixed(1)} MB, KL ${figures(mix.kl)}` +
      `${mix.low === null ? "" : ` [${figures(mix.low)}, ${figures(mix.high)}]`}\n` +
      `${mix.n} windows, judged in ${mix.judged_in}`);
    svg.append(point);
  }
  const cursor = draw("line", { y1: edge.top, y2: high - edge.bottom, stroke: "#0072b2",
    "stroke-width": 1.5 });
  svg.append(cursor);
  return { svg, mixes, move: (mb) => {
    cursor.setAttribute("x1", x(mb));
    cursor.setAttribute("x2", x(mb));
  } };
}

function legend(looks, arena, mixes) {
  const list = make("ul", { class: "legend" });
  const all = [...looks].filter(([name]) => name === "uniform" || arena.methods.includes(name));
  if (mixes.length) all.push(["llama.cpp", ["#882255", "plus"]]);
  for (const [name, look] of all) {
    const icon = draw("svg", { viewBox: "-8 -8 16 16" });
    icon.append(mark(look, 0, 0));
    list.append(make("li", {}, icon, name === "uniform" ? "uniform bits" : name));
  }
  if (arena.floor) {
    const item = make("li", {}, `noise floor: ${figures(arena.floor)} nats`);
    explain(item, "what 16-bit arithmetic alone costs the untouched model; nothing below it " +
      "tells plans apart");
    list.append(item);
  }
  return list;
}

function shade(option) {
  const bits = Number((option.match(/\d+(\.\d+)?/) ?? [0])[0]);
  const place = Math.min(SHADES.length - 1, bits > 8 ? 9 : Math.round(bits));
  return [SHADES[place], place > 4 ? "#fff" : "#000"];
}

function placeOf(unit) {
  const found = unit.match(/^(.*?\.)?(\d+)(?:\.(.+))?$/) ?? unit.match(/^(.*?\.)(\d+)\.(.+)$/);
  return found ? [found[3] ?? "blocks", Number(found[2])] : [unit, 0];
}

function optionAt(arena, plan, place) {
  return arena.options[CODES.indexOf(plan.strip[place])];
}

function whyThis(arena, plan, place, alike) {
  const unit = arena.layouts[plan.units][place];
  const here = alike.indexOf(plan);
  const beside = [["smaller", alike[here - 1]], ["larger", alike[here + 1]]]
    .filter(([, other]) => other)
    .map(([word, other]) => `next ${word} plan (${other.mb.toFixed(1)} MB, KL ` +
      `${figures(other.kl)}): ${optionAt(arena, other, place)} bits here`);
  const by = plan.method === "uniform" ? "the same everywhere"
    : [plan.scorer, plan.allocator, plan.budget].filter(Boolean).join(" → ");
  return [`${unit}: ${optionAt(arena, plan, place)} bits`, `why: ${by}`, ...beside].join("\n");
}

function cell(arena, plan, place, alike) {
  const option = optionAt(arena, plan, place);
  const [color, ink] = shade(option);
  const td = make("td", { tabindex: 0 }, option);
  td.style.background = color;
  td.style.color = ink;
  explain(td, () => whyThis(arena, plan, place, alike));
  return td;
}

// One row a plan of the method where units are blocks; one row a kind of matrix where they are not.
function strip(arena, plan, choose) {
  const layout = arena.layouts[plan.units];
  const alike = arena.plans.filter((one) => one.method === plan.method && one.units === plan.units)
    .sort((a, b) => a.mb - b.mb);
  const places = layout.map(placeOf);
  const kinds = [...new Set(places.map(([kind]) => kind))];
  const table = make("table");
  if (kinds.length === 1 || layout.length <= 40) {
    const near = alike.indexOf(plan);
    for (const one of alike.slice(Math.max(0, near - 3), near + 4).reverse()) {
      const head = make("th", { scope: "row" }, `${one.mb.toFixed(1)} MB`);
      const row = make("tr", one === plan ? { class: "chosen" } : {}, head);
      layout.forEach((_, place) => row.append(cell(arena, one, place, alike)));
      head.addEventListener("click", () => choose(one.mb));
      table.append(row);
    }
  } else {
    const columns = 1 + Math.max(...places.map(([, block]) => block));
    for (const kind of kinds) {
      const row = make("tr", {}, make("th", { scope: "row", title: kind }, kind));
      const own = new Map();
      places.forEach(([name, block], place) => { if (name === kind) own.set(block, place); });
      for (let block = 0; block < (own.size === 1 ? 1 : columns); block++) {
        row.append(own.has(block) ? cell(arena, plan, own.get(block), alike) : make("td"));
      }
      table.append(row);
    }
  }
  const holder = make("div", { class: "strip" }, table);
  return holder;
}

const home = document.getElementById("frontier");
const box = make("section", { id: "play", "aria-label": "size against quality" });

function play() {
  const arenas = data.arenas.filter((arena) => arena.plans.length);
  if (!home || !arenas.length) return;
  for (const arena of arenas) {
    arena.methods = [...new Set(arena.plans.map((plan) => plan.method))]
      .filter((name) => name !== "uniform");
    const rank = (name) => (data.shown.includes(name) ? data.shown.indexOf(name) : 99);
    arena.methods.sort((a, b) => rank(a) - rank(b));
  }
  const select = make("select", { id: "arena" }, ...arenas.map((arena, place) =>
    make("option", { value: place }, `${arena.model}, ${arena.quantizer}`)));
  const slider = make("input", { type: "range", id: "size", step: "any" });
  const shown = make("b", { id: "mb" });
  const picture = make("div");
  const output = make("output", { for: "size", "aria-live": "polite" });
  const bits = make("div", { id: "strip" });
  box.append(make("label", {}, "Model and quantizer: ", select), picture,
    make("label", {}, "File size at most: ", shown, slider), output, bits);
  home.before(box);
  home.hidden = true;

  let drawn = null;
  const arena = () => arenas[Number(select.value)];
  const choose = (mb) => { slider.value = mb; say(); };

  function say() {
    const limit = Number(slider.value) + 1e-6;
    const here = arena();
    const fits = here.plans.filter((plan) => plan.mb <= limit);
    const best = fits.length ? fits.reduce((a, b) => (b.kl < a.kl ? b : a)) : here.plans[0];
    shown.textContent = `${limit.toFixed(1)} MB`;
    drawn.move(limit);
    const even = uniformAt(here, best.mb);
    const name = best.method === "uniform" ? `uniform ${figures(best.avg_bits)} bits` : best.method;
    const link = make("a", { class: "row", href: "#repeat-it" }, best.id);
    explain(link, () => repeat(best.id));
    output.replaceChildren(
      make("b", {}, `Best measured plan: ${name}`),
      `, ${best.mb.toFixed(1)} MB, ${figures(best.true_bits)} true bits. KL ` +
      `${between(best.kl, best.low_kl, best.high_kl)}, top-1 ${figures(best.top1)}, perplexity ` +
      `${figures(best.perplexity)}. `,
      best.method === "uniform" ? "No measured mix of these bytes is better. "
        : `Uniform bits of the same bytes, on the line: KL ${figures(even)}. `,
      "Row ", link, ".");
    bits.replaceChildren(...(best.strip ? [strip(here, best, choose)] : []));
  }

  function show() {
    const here = arena();
    const looks = looksOf(here);
    drawn = chart(here, looks, choose);
    picture.replaceChildren(drawn.svg, legend(looks, here, drawn.mixes));
    const sizes = here.plans.map((plan) => plan.mb);
    const kept = Number(slider.value);
    [slider.min, slider.max] = [Math.min(...sizes), Math.max(...sizes)];
    slider.value = show.again ? kept : sizes[Math.floor(sizes.length / 2)];
    show.again = true;
    say();
  }

  select.addEventListener("change", () => { show.again = false; show(); });
  slider.addEventListener("input", say);
  window.addEventListener("resize", show);
  show();
}

play();
