"use strict";
const root = document.documentElement;
// A check of the page reads these: an error, or that all of it ran.
addEventListener("error", (event) => { root.dataset.error = event.message; });

const data = JSON.parse(document.getElementById("data").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
const place = new Float32Array(bytes(data.place));
const order = new Int32Array(bytes(data.order));
const row = new Int32Array(bytes(data.row));
const span = data.span === null ? null : new Float32Array(bytes(data.span));
const near = { k: data.near.k, number: new Int32Array(bytes(data.near.number)), similarity: new Float32Array(bytes(data.near.similarity)) };
const colourings = data.colourings.map((one) => ({ ...one, index: new Int32Array(bytes(one.index)) }));
const count = data.count;
const GREY = { text: "without a class", colour: data.grey, shape: "circle" };
const byId = (id) => document.getElementById(id);
const canvas = byId("map"), context = canvas.getContext("2d"), tip = byId("tip");
const below = byId("points"), points = below.getContext("2d");
const reduced = matchMedia("(prefers-reduced-motion: reduce)"), dark = matchMedia("(prefers-color-scheme: dark)");

// --- State ---
let colouring = colourings[0];
let chosen = new Set(); // entries that are picked in the legend
let words = ""; // that are searched for
const shown = new Uint8Array(count).fill(1);
let pinned = -1, hovered = -1;
let width = 1, height = 1;
const view = { x: 0, y: 0, zoom: 1, unit: 1 }; // the middle of the map, and pixels per unit at zoom 1

const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
for (let i = 0; i < 2 * count; i++) {
  low[i % 2] = Math.min(low[i % 2], place[i]);
  high[i % 2] = Math.max(high[i % 2], place[i]);
}

// --- Words ---
// All that comes from files is set as text, never as HTML. Films are strips of frames, which CSS plays.
function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}
const pathOf = (i) => data.paths[row[i]];
const fileOf = (i) => pathOf(i).split("/").pop();
const classOf = (i) => data.labels[row[i]];
const spanOf = (i) => (span === null ? "" : `${span[2 * i].toFixed(2)} to ${span[2 * i + 1].toFixed(2)} s`);
function clusterOf(i) {
  const clusters = colourings.find((one) => one.name === "cluster");
  return clusters.entries[clusters.index[i]].text;
}

const hasFilms = Object.keys(data.films).length > 0;
function film(i) {
  if (!hasFilms) return "";
  const made = element("div", "film"), found = data.films[i];
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", `clip of ${pathOf(i)}`);
  if (found === undefined || found.reason !== undefined) {
    made.classList.add("missing");
    made.textContent = found === undefined ? "no film (--film_limit)" : found.reason;
    return made;
  }
  made.style.backgroundImage = `url(data:image/webp;base64,${found.strip})`;
  made.style.backgroundSize = `${100 * found.frames}% 100%`;
  if (found.frames > 1) {
    made.classList.add("plays");
    made.style.setProperty("--frames", found.frames);
    made.style.setProperty("--time", `${found.frames * interval(found)}s`);
  }
  return made;
}

// Seconds from frame to frame: those of the video, but never slower than two and a half frames per second.
const realInterval = (found) => found.seconds / (found.frames - 1);
const interval = (found) => Math.min(Math.max(realInterval(found), 1 / 30), 0.4);

function speedOf(i) {
  const found = data.films[i];
  if (found === undefined || !(found.frames > 1)) return "";
  const speed = realInterval(found) / interval(found);
  return Math.abs(speed - 1) < 0.05 ? "" : `film at ${speed.toFixed(1)}x speed`;
}

function describe(i) {
  const made = element("div");
  made.append(element("div", "name", fileOf(i)));
  if (classOf(i)) made.append(element("div", "", `Class: ${classOf(i)}`));
  const path = pathOf(i) === fileOf(i) ? "" : pathOf(i);
  for (const line of [spanOf(i), speedOf(i), clusterOf(i), path]) if (line) made.append(element("div", "faint", line));
  return made;
}

// --- Drawing ---
const unit = () => view.unit * view.zoom;
const toX = (i) => width / 2 + (place[2 * i] - view.x) * unit();
const toY = (i) => height / 2 - (place[2 * i + 1] - view.y) * unit();
const radius = () => Math.max(1.8, Math.min(6.5, 130 / Math.sqrt(count))) * Math.min(2.2, Math.pow(view.zoom, 0.3));

function trace(pen, shape, x, y, r) {
  if (shape === "circle") { pen.moveTo(x + r, y); pen.arc(x, y, r, 0, 2 * Math.PI); return; }
  const corners = {
    square: [[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]],
    triangle: [[0, -1.1], [1.05, 0.8], [-1.05, 0.8]],
    diamond: [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]],
  }[shape];
  corners.forEach(([a, b], n) => (n ? pen.lineTo(x + a * r, y + b * r) : pen.moveTo(x + a * r, y + b * r)));
  pen.closePath();
}

// A picture of a point, which is much faster to copy than to draw again.
function mark(entry, r) {
  const made = document.createElement("canvas"), pen = made.getContext("2d"), side = Math.ceil((2.4 * r + 3) * devicePixelRatio);
  made.width = made.height = side;
  pen.scale(devicePixelRatio, devicePixelRatio);
  trace(pen, entry.shape, side / devicePixelRatio / 2, side / devicePixelRatio / 2, r);
  pen.fillStyle = entry.colour;
  pen.fill();
  pen.lineWidth = 0.6;
  pen.strokeStyle = isDark() ? "rgb(255 255 255 / 45%)" : "rgb(0 0 0 / 35%)";
  if (r > 2.5) pen.stroke();
  return made;
}

function inside(x, y) { return x > -20 && y > -20 && x < width + 20 && y < height + 20; }

// Points are drawn again only where they move or change; rings and lines cost next to nothing.
let waiting = false, stale = true;
function redraw(pointsToo = true) {
  stale = stale || pointsToo;
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}
function draw() {
  if (stale) drawPoints();
  stale = false;
  drawRings();
}

function drawPoints() {
  const r = radius(), entries = [...colouring.entries, GREY], last = entries.length - 1;
  const marks = entries.map((entry) => mark(entry, r)), faded = mark(GREY, r);
  const half = faded.width / 2;
  points.clearRect(0, 0, below.width, below.height);
  // Points that are not chosen first, then those without a group, then the others, in an order that favours none.
  for (const layer of [0, 1, 2]) {
    points.globalAlpha = layer ? 0.88 : 0.12;
    for (const i of order) {
      const entry = colouring.index[i] < 0 ? last : colouring.index[i];
      if ((shown[i] ? (entry === last ? 1 : 2) : 0) !== layer) continue;
      const x = toX(i), y = toY(i);
      if (inside(x, y)) points.drawImage(layer ? marks[entry] : faded, Math.round(x * devicePixelRatio - half), Math.round(y * devicePixelRatio - half));
    }
  }
}

function drawRings() {
  const r = radius();
  context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.strokeStyle = getComputedStyle(canvas).color;
  if (pinned >= 0) {
    context.lineWidth = 1.2;
    context.globalAlpha = 0.6;
    context.beginPath();
    for (const other of neighboursOf(pinned)) { context.moveTo(toX(pinned), toY(pinned)); context.lineTo(toX(other), toY(other)); }
    context.stroke();
    context.globalAlpha = 1;
    for (const other of neighboursOf(pinned)) ring(other, r + 3, 1.5);
    ring(pinned, r + 5, 3);
  }
  if (hovered >= 0) ring(hovered, r + 3, 2);
}

function ring(i, r, line) {
  context.lineWidth = line;
  context.beginPath();
  context.arc(toX(i), toY(i), r, 0, 2 * Math.PI);
  context.stroke();
}

function neighboursOf(i) { return near.number.subarray(i * near.k, (i + 1) * near.k); }

function fit() {
  const room = (side, from, to) => (side - 90) / Math.max(to - from, 1e-9);
  view.unit = Math.max(1e-9, Math.min(room(width, low[0], high[0]), room(height, low[1], high[1])));
}
function showAll() {
  view.x = (low[0] + high[0]) / 2;
  view.y = (low[1] + high[1]) / 2;
  view.zoom = 1;
  redraw();
}
function zoom(factor, x = width / 2, y = height / 2) {
  const old = unit();
  view.zoom = Math.min(2000, Math.max(0.5, view.zoom * factor));
  const moved = 1 / old - 1 / unit(); // what lies under the pointer stays there
  view.x += (x - width / 2) * moved;
  view.y -= (y - height / 2) * moved;
  redraw();
}
function bringIntoView(i) {
  const x = toX(i), y = toY(i);
  if (x < 30 || y < 30 || x > width - 30 || y > height - 30) { view.x = place[2 * i]; view.y = place[2 * i + 1]; redraw(); }
}

// --- Colours and legend ---
function setColouring(name) {
  colouring = colourings.find((one) => one.name === name) || colouring;
  chosen.clear();
  for (const button of byId("colours").children) button.setAttribute("aria-pressed", button.dataset.name === colouring.name);
  drawLegend();
  update();
}

function drawLegend() {
  const legend = byId("legend");
  byId("legend-title").textContent = `Colour: ${colouring.name}`;
  legend.replaceChildren();
  if (colouring.scale) {
    const bar = element("li", "scale"), ticks = element("li", "ticks"), [from, to] = colouring.scale;
    bar.style.background = `linear-gradient(to right, ${colouring.entries.map((entry) => entry.colour).join(", ")})`;
    for (const value of [from, (from + to) / 2, to]) ticks.append(element("span", "", `${value.toFixed(1)} s`));
    legend.append(bar, ticks);
    return;
  }
  const without = colouring.index.filter((entry) => entry < 0).length;
  const lines = without ? [...colouring.entries, { ...GREY, points: without }] : colouring.entries;
  lines.forEach((entry, number) => {
    const item = element("li"), button = element("button"), sample = element("canvas"), pen = sample.getContext("2d");
    sample.width = sample.height = 32;
    pen.fillStyle = entry.colour;
    pen.beginPath();
    trace(pen, entry.shape, 16, 16, 11);
    pen.fill();
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(sample, element("span", "text", entry.text), element("span", "count", entry.points));
    button.addEventListener("click", () => {
      if (!chosen.delete(number)) chosen.add(number);
      button.setAttribute("aria-pressed", chosen.has(number));
      legend.classList.toggle("chosen", chosen.size > 0);
      update();
    });
    item.append(button);
    legend.append(item);
  });
  legend.classList.remove("chosen");
}

// --- Search, and what is shown ---
function update() {
  const wanted = words.trim().toLowerCase(), hits = [];
  const hit = data.paths.map((path, n) => !wanted || path.toLowerCase().includes(wanted) || data.labels[n].toLowerCase().includes(wanted));
  for (let i = 0; i < count; i++) {
    const entry = colouring.index[i] < 0 ? colouring.entries.length : colouring.index[i];
    shown[i] = hit[row[i]] && (chosen.size === 0 || chosen.has(entry)) ? 1 : 0;
    if (wanted && shown[i]) hits.push(i);
  }
  const results = byId("results"), matches = byId("matches");
  matches.hidden = results.hidden = !wanted;
  matches.textContent = `${hits.length} of ${count} points${hits.length > 50 ? ", the first 50 of them:" : ""}`;
  results.replaceChildren(...hits.slice(0, 50).map((i) => {
    const item = element("li"), button = element("button");
    button.type = "button";
    const when = data.paths.length < count && spanOf(i) ? `, ${spanOf(i)}` : "";
    button.append(element("span", "text", `${pathOf(i)}${when}`));
    button.addEventListener("click", () => pin(i));
    item.append(button);
    return item;
  }));
  redraw();
}

// --- One point ---
function pin(i) {
  pinned = i;
  const panel = byId("pinned");
  panel.hidden = i < 0;
  panel.replaceChildren();
  if (i >= 0) {
    bringIntoView(i);
    const head = element("div", "pin-head"), close = element("button", "", "Unpin"), top = element("div", "top");
    close.type = "button";
    close.addEventListener("click", () => { pin(-1); canvas.focus(); });
    head.append(element("h2", "", `Point ${i}`), close);
    top.append(film(i), describe(i));
    const several = new Set(data.paths).size > 1;
    const list = element("div", "near");
    neighboursOf(i).forEach((other, n) => list.append(neighbour(i, other, near.similarity[i * near.k + n])));
    panel.append(head, top, element("h3", "", `Nearest${several ? " in other videos" : ""}, by cosine similarity`), list);
    byId("said").textContent = `${pathOf(i)}${classOf(i) ? `, class ${classOf(i)}` : ""}`;
    panel.parentElement.scrollTop = 0;
  }
  remember();
  redraw(false);
}

function neighbour(i, other, similarity) {
  const button = element("button"), same = classOf(i) && classOf(i) === classOf(other);
  button.type = "button";
  button.title = pathOf(other);
  if (same) button.className = "same";
  button.append(film(other));
  if (classOf(other)) button.append(element("span", "name", `${same ? "✓ " : ""}${classOf(other)}`));
  button.append(element("span", "", `cosine ${similarity.toFixed(3)}`), element("span", "faint", fileOf(other)));
  if (data.paths.length < count && spanOf(other)) button.append(element("span", "faint", spanOf(other)));
  button.addEventListener("click", () => pin(other));
  button.addEventListener("pointerenter", () => { hovered = other; redraw(false); });
  button.addEventListener("pointerleave", () => { hovered = -1; redraw(false); });
  return button;
}

function nearestTo(x, y, reach) {
  let best = -1, least = reach * reach;
  for (let i = 0; i < count; i++) {
    if (!shown[i]) continue;
    const a = toX(i) - x, b = toY(i) - y, distance = a * a + b * b;
    if (distance < least) { least = distance; best = i; }
  }
  return best;
}

function hover(i, x, y) {
  canvas.classList.toggle("over", i >= 0);
  if (i !== hovered) {
    hovered = i;
    tip.hidden = i < 0;
    tip.replaceChildren();
    if (i >= 0) tip.append(film(i), describe(i));
    redraw(false);
  }
  if (i < 0) return;
  const left = x + 18 + tip.offsetWidth > width ? x - 18 - tip.offsetWidth : x + 18;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, Math.min(y - 20, height - tip.offsetHeight - 8))}px`;
}

// The next point in a direction: near, and not far off to the side.
function step(right, up) {
  if (pinned < 0) { const first = nearestTo(width / 2, height / 2, Infinity); if (first >= 0) pin(first); return; }
  let best = -1, least = Infinity;
  for (let i = 0; i < count; i++) {
    if (!shown[i] || i === pinned) continue;
    const x = toX(i) - toX(pinned), y = toY(pinned) - toY(i);
    const along = x * right + y * up, aside = Math.abs(x * up) + Math.abs(y * right);
    const cost = along + 2 * aside;
    if (along > 0 && aside <= 2 * along && cost < least) { least = cost; best = i; }
  }
  if (best >= 0) pin(best);
}

// --- Pointers: hover, click, drag, wheel, pinch ---
const fingers = new Map();
let travelled = 0;
function at(event) { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; }
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  if (fingers.size === 0) travelled = 0;
  fingers.set(event.pointerId, at(event));
});
canvas.addEventListener("pointermove", (event) => {
  const [x, y] = at(event), before = fingers.get(event.pointerId);
  if (!before) { hover(nearestTo(x, y, Math.max(12, radius() + 4)), x, y); return; }
  const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, where]) => where);
  if (others.length) {
    const [a, b] = others[0], gap = (where) => Math.max(10, Math.hypot(where[0] - a, where[1] - b));
    zoom(gap([x, y]) / gap(before), (x + a) / 2, (y + b) / 2);
  }
  travelled += Math.abs(x - before[0]) + Math.abs(y - before[1]);
  const share = 1 / fingers.size;
  if (travelled > 4) {
    hover(-1);
    canvas.classList.add("dragging");
    view.x -= ((x - before[0]) * share) / unit();
    view.y += ((y - before[1]) * share) / unit();
    redraw();
  }
  fingers.set(event.pointerId, [x, y]);
});
function release(event) {
  const wasDown = fingers.delete(event.pointerId), [x, y] = at(event);
  canvas.classList.remove("dragging");
  if (wasDown && event.type === "pointerup" && travelled <= 4 && fingers.size === 0) {
    const found = nearestTo(x, y, event.pointerType === "touch" ? 24 : Math.max(12, radius() + 4));
    if (event.pointerType === "touch") hover(-1);
    pin(found);
  }
}
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", () => hover(-1));
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 16 : 1;
  hover(-1);
  zoom(Math.exp(-event.deltaY * lines * 0.0018), ...at(event));
}, { passive: false });

// --- Keys and buttons ---
const keys = {
  ArrowRight: () => step(1, 0), ArrowLeft: () => step(-1, 0), ArrowUp: () => step(0, 1), ArrowDown: () => step(0, -1),
  "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: showAll, " ": () => setPlaying(root.classList.contains("paused")),
};
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") pin(-1);
  if (event.key === "/" && event.target !== byId("search")) { event.preventDefault(); byId("search").focus(); }
});
byId("zoom-in").addEventListener("click", () => zoom(1.5));
byId("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
byId("zoom-all").addEventListener("click", showAll);
byId("search").addEventListener("input", (event) => { words = event.target.value; update(); remember(); });

function setPlaying(plays) {
  root.classList.toggle("paused", !plays);
  byId("play").textContent = plays ? "Pause films" : "Play films";
}
byId("play").addEventListener("click", () => setPlaying(root.classList.contains("paused")));

function isDark() { return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches; }
function setTheme(name) {
  if (name) root.dataset.theme = name;
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
  redraw();
}
byId("theme").addEventListener("click", () => { setTheme(byId("theme").textContent.toLowerCase()); remember(); });
dark.addEventListener("change", () => setTheme());

// --- The address says what is shown: #point=3&colour=cluster&search=walk&theme=dark ---
function remember() {
  const said = new URLSearchParams();
  if (pinned >= 0) said.set("point", pinned);
  if (colouring !== colourings[0]) said.set("colour", colouring.name);
  if (words) said.set("search", words);
  if (root.dataset.theme) said.set("theme", root.dataset.theme);
  const text = said.toString();
  if (text !== location.hash.slice(1)) history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}
function recall() {
  const said = new URLSearchParams(location.hash.slice(1));
  const point = said.has("point") ? Number(said.get("point")) : -1;
  if (["light", "dark"].includes(said.get("theme"))) root.dataset.theme = said.get("theme");
  words = byId("search").value = said.get("search") || "";
  setTheme();
  setColouring(said.get("colour") || colourings[0].name);
  pin(Number.isInteger(point) && point >= 0 && point < count ? point : -1);
}
addEventListener("hashchange", recall);

// --- Start ---
byId("subtitle").textContent = data.subtitle;
byId("x-axis").textContent = data.axes[0];
byId("y-axis").textContent = data.axes[1];
byId("facts").append(...data.facts.map((fact) => element("li", "", fact)));
for (const one of colourings) {
  const button = element("button", "", one.name[0].toUpperCase() + one.name.slice(1));
  button.type = "button";
  button.dataset.name = one.name;
  button.addEventListener("click", () => { setColouring(one.name); remember(); });
  byId("colours").append(button);
}
function resize() {
  width = Math.max(1, canvas.clientWidth);
  height = Math.max(1, canvas.clientHeight);
  for (const one of [canvas, below]) { one.width = Math.round(width * devicePixelRatio); one.height = Math.round(height * devicePixelRatio); }
  fit();
  stale = true;
  draw();
}
setPlaying(!reduced.matches);
showAll();
resize();
recall();
new ResizeObserver(resize).observe(canvas);
root.dataset.ready = "true";
