"use strict";
// Small SVG charts: line, scatter, bars (stacked, or side by side with their values) and a heat picture, drawn at the width they are given.
// All text reaches the page as text nodes; colours come from the style sheet, so themes and print need no code.

// While printing, charts are drawn for the width of a page or, in the small multiples that the style sheet then sets
// three abreast, of a third of it, so that their type keeps its size.
const PRINTED = { page: 660, panel: 208 };
let printing = false;
const inPanel = (host) => host.parentElement.matches(".panel");
const widthOf = (host) => (printing ? PRINTED[inPanel(host) ? "panel" : "page"] : Math.max(host.clientWidth, 230));

const SVG_SPACE = "http://www.w3.org/2000/svg";
const ABSENT = "\u2013";

function svgNode(parent, tag, attributes = {}, text = null) {
  const node = document.createElementNS(SVG_SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  parent.append(node);
  return node;
}

function htmlNode(parent, tag, attributes = {}, text = null) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  parent.append(node);
  return node;
}

// Figures for people -------------------------------------------------------------------------------------

// The rules of fedfmd/units.py, whose tables are in UNITS: the same figure reads the same here and there.

const thousands = (whole) => whole.replace(/\B(?=(\d{3})+(?!\d))/g, ",");

function decimals(value, count) {
  const [whole, part] = value.toFixed(count).split(".");
  return `${whole === "-0" && !Number(part) ? "0" : thousands(whole)}.${part}`;
}

function number(value) {
  const [whole, part] = rounded(value).split(".");
  const kept = part ? part.replace(/0+$/, "") : "";
  const text = thousands(whole) + (kept && `.${kept}`);
  return text === "-0" ? "0" : text;
}

function rounded(value) {
  if (!value) return "0";
  const power = Number(Math.abs(value).toExponential().split("e")[1]);
  return value.toFixed(Math.min(100, Math.max(0, UNITS.digits - 1 - power)));
}

function scaleOf(value, unit) {
  if (unit === UNITS.share) return [100, unit];
  if (!UNITS.unscaled.includes(unit))
    for (const [factor, prefix] of [...(UNITS.noLarge.includes(unit) ? [] : UNITS.large), [1, ""], ...UNITS.small])
      if (Number(rounded(Math.abs(value) / factor)) >= (factor === 1 ? UNITS.plainFrom : 1)) return [1 / factor, prefix + unit];
  return [1, unit];
}

function scaled(value, unit) {
  return UNITS.twoDecimals.includes(unit) ? decimals(value, 2) : number(value);
}

function quantity(value, unit = "") {
  if (value === null || value === undefined) return ABSENT;
  if (typeof value === "string") return value;
  const [factor, written] = scaleOf(value, unit);
  const text = scaled(value * factor, unit);
  return UNITS.glued.includes(unit) ? `${text}${written}` : `${text} ${written}`;
}

const percent = (value) => quantity(value, UNITS.share);

function rate(value, unit) {
  if (value === null || value === undefined) return ABSENT;
  const steps = UNITS.noLarge.includes(unit) ? [[1, ""]] : [[1, ""], ...UNITS.large.slice().reverse()];
  const [factor, prefix] = steps.find(([f]) => value * f >= 1) || steps.at(value ? -1 : 0);
  return `${number(value * factor)} / ${prefix}${unit}`;
}

// As many digits as the step between two ticks needs.
const percentTick = (v) => `${Number((100 * v).toFixed(3))}%`;
// A cost inside a sentence, and as the name of an axis.
const inText = (axis) => (axis.key === "macs" ? axis.label : axis.label.toLowerCase());
const axisLabel = (axis) => (axis.key === "round" ? "Round" : `Cumulative ${inText(axis)}`);
const span = (series, format) => series.map((s) => `${s.name} from ${format(s.points[0].y)} to ${format(s.points.at(-1).y)}`).join("; ");

// Scales -------------------------------------------------------------------------------------------------

function stepFor(min, max, count) {
  const rough = (max - min) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
}

function ticks(min, max, step) {
  const first = Math.ceil(min / step - 1e-9);
  const last = Math.floor(max / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

function logTicks(min, max) {
  const all = [];
  for (let power = Math.floor(Math.log10(min)); power <= Math.ceil(Math.log10(max)); power += 1)
    for (const m of [1, 2, 5]) all.push(m * 10 ** power);
  const within = (list) => list.filter((t) => t >= min && t <= max);
  const inside = within(all);
  if (inside.length < 3) return within(all.flatMap((t) => [t, 1.5 * t])); // less than a decade
  return inside.length > 6 ? inside.filter((t) => Number.isInteger(Math.log10(t) + 1e-12) || /^1/.test(t.toExponential())) : inside;
}

// `at` are the only ticks, `least` is the smallest span: a difference of one point shall not fill the figure.
function scale(values, { zero = false, log = false, whole = false, at = null, least = 0 }, from, to, count) {
  let [min, max] = [Math.min(...values), Math.max(...values)];
  if (zero) min = Math.min(0, min);
  if (max - min < least) [min, max] = [Math.max(0, (min + max - least) / 2), (min + max + least) / 2];
  if (log) {
    const pad = (max / min) ** 0.08 || 1.1;
    [min, max] = [min / pad, max * pad];
    const map = (v) => from + ((Math.log(v) - Math.log(min)) / (Math.log(max) - Math.log(min))) * (to - from);
    return Object.assign(map, { min, max, ticks: at ?? logTicks(min, max) });
  }
  if (!(max > min)) [min, max] = zero ? [0, max || 1] : [min - 0.5, max + 0.5];
  const step = Math.max(stepFor(min, max, count), whole ? 1 : 0);
  if (to < from) { // a vertical axis ends on a tick
    max = Math.ceil(max / step - 1e-9) * step;
    min = Math.floor(min / step + 1e-9) * step;
  }
  const map = (v) => from + ((v - min) / (max - min)) * (to - from);
  return Object.assign(map, { min, max, ticks: at ?? ticks(min, max, step) });
}

// An axis of accuracies goes on to chance if that takes no more than a quarter of what it shows without.
const NEAR = 0.25;
function withChance(values, { chance = null, least = 0 }) {
  if (chance === null || !values.length) return values;
  const [min, max] = [Math.min(...values), Math.max(...values)];
  const room = NEAR * Math.max(max - min, least);
  return chance >= min - room && chance <= max + room ? [...values, chance] : values;
}

// The frame: axes, grid, labels ---------------------------------------------------------------------------

// Set a text closer where it would be wider than its place.
function fitted(text, width) {
  if (text.getComputedTextLength() <= width) return;
  text.setAttribute("textLength", width);
  text.setAttribute("lengthAdjust", "spacingAndGlyphs");
}

const axisName = (svg, place, name, width) => fitted(svgNode(svg, "text", { class: "axis", ...place }, name), width - 18);
const chanceName = (chance) => `chance ${Number((100 * chance).toFixed(1))}%`;

// What guessing scores, where the axis shows it.
function drawChance(svg, { left, right }, y, chance = null) {
  if (chance === null || chance < y.min || chance > y.max) return;
  svgNode(svg, "line", { class: "chance", x1: left, x2: right, y1: y(chance), y2: y(chance) });
}

// Name the line of chance: at its right end, or where fewer marks are.
function nameChance({ svg, marks }, spec) {
  const line = spec.y && svg.querySelector(".chance");
  if (!line) return;
  const [left, right, y] = ["x1", "x2", "y1"].map((name) => Number(line.getAttribute(name)));
  const text = svgNode(svg, "text", { class: "tick over" }, chanceName(spec.y.chance));
  const wide = text.getComputedTextLength() || 76;
  const near = ([x, below]) => marks.filter(({ px, py }) => px > x - 6 && px < x + wide + 6 && py > below - 16 && py < below + 8).length;
  const below = y + 14 < svg.viewBox.baseVal.height - 44 ? [y - 4, y + 14] : [y - 4];
  const places = [right - wide, left + 4, (left + right - wide) / 2].flatMap((x) => below.map((base) => [x, base]));
  const [x, base] = places.reduce((best, place) => (near(place) < near(best) ? place : best));
  text.setAttribute("x", x);
  text.setAttribute("y", base);
}

// The figures of an axis and its name: a cost has its unit, with what prefix suits the largest tick, in the name.
function worded({ label, format, unit }, ticks) {
  if (unit === undefined) return { label, format };
  const [factor, written] = scaleOf(Math.max(...ticks.map(Math.abs)), unit);
  return { label: written ? `${label} (${written})` : label, format: (v) => number(v * factor) };
}

function frame(host, spec, xs, values) {
  const ys = withChance(values, spec.y);
  const width = widthOf(host);
  const [least, share] = printing ? [170, 0.35] : [230, 0.46];
  const height = Math.round(Math.min(380, Math.max(least, width * share)));
  const format = spec.y.format;
  const probe = scale(ys, spec.y, height, 0, height / 62);
  const left = 16 + 6.6 * Math.max(...probe.ticks.map((t) => format(t).length), 2);
  const box = { left, right: width - 14, top: 26, bottom: height - 44, width, height };
  const svg = svgNode(host, "svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", focusable: "false" });
  const y = scale(ys, spec.y, box.bottom, box.top, height / 62);
  for (const t of y.ticks) {
    svgNode(svg, "line", { class: "grid", x1: box.left, x2: box.right, y1: y(t), y2: y(t) });
    svgNode(svg, "text", { class: "tick", x: box.left - 7, y: y(t) + 4, "text-anchor": "end" }, format(t));
  }
  drawChance(svg, box, y, spec.y.chance);
  axisName(svg, { x: 2, y: 13 }, spec.y.label, width);
  const x = xs && scale(xs, spec.x, box.left + (spec.x.inset || 0), box.right - (spec.x.inset || 6), width / 76);
  const { label: name, format: written } = worded(spec.x, x ? x.ticks : []);
  axisName(svg, { x: box.right, y: height - 6, "text-anchor": "end" }, name, width);
  let taken = -Infinity;
  if (x) for (const t of x.ticks) {
    svgNode(svg, "line", { class: "stub", x1: x(t), x2: x(t), y1: box.bottom, y2: box.bottom + 5 });
    const label = written(t);
    const half = label.length * 3.4;
    const middle = Math.min(x(t), width - half);
    if (middle - half < taken) continue; // no room beside the one before
    taken = middle + half + 4;
    svgNode(svg, "text", { class: "tick", x: middle, y: box.bottom + 19, "text-anchor": "middle" }, label);
  }
  svgNode(svg, "line", { class: "base", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
  return { svg, box, x, y };
}

const SHAPES = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (r) => `M0,${-1.25 * r}L${1.2 * r},${0.9 * r}H${-1.2 * r}z`,
  (r) => `M0,${-1.4 * r}L${1.4 * r},0L0,${1.4 * r}L${-1.4 * r},0z`,
  (r) => `M0,${1.25 * r}L${1.2 * r},${-0.9 * r}H${-1.2 * r}z`,
  (r) => `M${-0.45 * r},${-1.3 * r}h${0.9 * r}v${0.85 * r}h${0.85 * r}v${0.9 * r}h${-0.85 * r}v${0.85 * r}h${-0.9 * r}v${-0.85 * r}h${-0.85 * r}v${-0.9 * r}h${0.85 * r}z`,
  (r) => `M${-1.2 * r},${-0.7 * r}L${-0.7 * r},${-1.2 * r}L0,${-0.5 * r}L${0.7 * r},${-1.2 * r}L${1.2 * r},${-0.7 * r}L${0.5 * r},0L${1.2 * r},${0.7 * r}L${0.7 * r},${1.2 * r}L0,${0.5 * r}L${-0.7 * r},${1.2 * r}L${-1.2 * r},${0.7 * r}L${-0.5 * r},0z`,
  (r) => `M${-r},${-0.6 * r}L0,${-1.3 * r}L${r},${-0.6 * r}V${0.6 * r}L0,${1.3 * r}L${-r},${0.6 * r}z`,
];

function marker(parent, index, px, py, radius = 3.2, more = "") {
  return svgNode(parent, "path", { class: `mark s${index % 8} ${more}`, d: SHAPES[index % SHAPES.length](radius), transform: `translate(${px},${py})` });
}

// Charts: each returns the marks that the pointer and the arrow keys visit ------------------------------------

function drawLines(host, spec) {
  const points = spec.series.flatMap((s) => s.points);
  const { svg, x, y, box } = frame(host, spec, spec.x.span ?? points.map((p) => p.x), spec.y.span ?? points.map((p) => p.y));
  const marks = [];
  spec.series.forEach((series, row) => {
    const seen = series.points.map((p) => ({ px: x(p.x), py: y(p.y), row, text: [series.name, p.text] }));
    const path = seen.map((m, i) => `${i ? "L" : "M"}${m.px.toFixed(1)},${m.py.toFixed(1)}`).join("");
    svgNode(svg, "path", { class: `line ${css(series.index)}`, d: path });
    const every = Math.max(1, Math.ceil((seen.length * 26) / (box.right - box.left)));
    seen.forEach((m, i) => (i % every === 0 || i === seen.length - 1) && marker(svg, look(series.index).colour, m.px, m.py));
    marks.push(...seen);
  });
  return { svg, marks };
}

// Write names beside their points: to the right, the left, above or below, where nothing is yet and, if it can be, no line runs.
function placeNames(svg, box, points, lines) {
  const free = ([x0, y0, x1, y1], others) => others.every(([a0, b0, a1, b1]) => x1 <= a0 || a1 <= x0 || y1 <= b0 || b1 <= y0);
  const inside = ([x0, y0, x1, y1]) => x0 >= box.left && x1 <= box.width && y0 >= box.top - 10 && y1 <= box.bottom + 7;
  const taken = points.map(({ px, py }) => [px - 6, py - 6, px + 6, py + 6]);
  for (const { px, py, name } of points.filter((p) => p.name).sort((a, b) => a.py - b.py)) {
    const text = svgNode(svg, "text", { class: "label" }, name);
    const wide = text.getComputedTextLength() || 6.8 * name.length;
    const places = [[px + 10, py, "start"], [px - 10, py, "end"], [px, py - 15, "middle"], [px, py + 15, "middle"], [px + 10, py + 15, "start"], [px - 10, py + 15, "end"]]
      .map(([x, y, anchor]) => ({ x, y, anchor, area: [x - wide * { start: 0, middle: 0.5, end: 1 }[anchor], y - 7, x + wide * { start: 1, middle: 0.5, end: 0 }[anchor], y + 7] }));
    const within = places.filter(({ area }) => inside(area));
    const clear = within.filter(({ area }) => free(area, taken));
    const best = clear.find(({ area }) => free(area, lines)) ?? clear[0] ?? within[0] ?? places[0];
    taken.push(best.area);
    for (const [key, value] of Object.entries({ x: best.x, y: best.y + 4, "text-anchor": best.anchor })) text.setAttribute(key, value);
  }
}

// Draw the Pareto front as stairs, and return them as thin boxes.
function drawFront(svg, points) {
  const front = points.filter((p) => p.front).sort((a, b) => a.px - b.px);
  const stairs = front.map((p, i) => (i ? `H${p.px.toFixed(1)}V${p.py.toFixed(1)}` : `M${p.px.toFixed(1)},${p.py.toFixed(1)}`));
  if (front.length) svgNode(svg, "path", { class: "front", d: stairs.join("") });
  return front.slice(1).flatMap((p, i) => [[front[i].px, front[i].py - 1, p.px, front[i].py + 1], [p.px - 1, p.py, p.px + 1, front[i].py]]);
}

function drawScatter(host, spec) {
  const { svg, x, y, box } = frame(host, spec, spec.points.map((p) => p.x), spec.points.map((p) => p.y));
  const points = spec.points.map((p) => ({ ...p, px: x(p.x), py: y(p.y) }));
  const lines = drawFront(svg, points);
  points.forEach((p) => marker(svg, p.index, p.px, p.py, p.front ? 6 : 4.5));
  placeNames(svg, box, points, lines);
  return { svg, marks: points.map((p) => ({ px: p.px, py: p.py, row: 0, text: [p.title || p.name, p.text] })) };
}

function drawBars(host, spec) {
  const sums = spec.bars.map((bar) => (spec.beside ? Math.max(...bar.parts) : bar.parts.reduce((a, b) => a + b, 0)));
  const { svg, box, y } = frame(host, { ...spec, y: { ...spec.y, zero: true } }, null, [...sums, 0]);
  const step = (box.right - box.left) / Math.max(spec.bars.length, 1);
  const wide = Math.max(step * (step > 5 ? 0.76 : 0.94), 0.6);
  const each = spec.beside ? wide / spec.parts.length : wide;
  const layers = spec.parts.map(() => []);
  const marks = spec.bars.map((bar, i) => {
    const left = box.left + i * step + (step - wide) / 2;
    let base = 0;
    bar.parts.forEach((value, part) => {
      const [top, bottom] = [y(base + value), y(base)];
      const start = spec.beside ? left + part * each : left;
      if (value > 0) layers[part].push(`M${start.toFixed(2)},${bottom.toFixed(2)}v${(top - bottom).toFixed(2)}h${each.toFixed(2)}v${(bottom - top).toFixed(2)}z`);
      if (spec.beside && each > 40) svgNode(svg, "text", { class: "tick value", x: start + each / 2, y: top - 5, "text-anchor": "middle" }, spec.beside(value));
      base += spec.beside ? 0 : value;
    });
    return { px: left + wide / 2, py: y(sums[i]), row: 0, text: bar.text };
  });
  layers.forEach((d, part) => svgNode(svg, "path", { class: `bar part${part}`, d: d.join("") }));
  const every = Math.max(1, Math.ceil((spec.bars.length * (spec.x.room || 44)) / (box.right - box.left)));
  spec.bars.forEach((bar, i) => i % every === 0 && bar.tick !== undefined &&
    svgNode(svg, "text", { class: "tick", x: marks[i].px, y: box.bottom + 19, "text-anchor": "middle" }, bar.tick));
  return { svg, marks };
}

const HEAT_LEVELS = 8;

function drawHeat(host, spec) {
  const width = widthOf(host);
  const left = 16 + 6.6 * Math.max(...spec.rows.map((r) => r.length));
  const cell = Math.max(Math.min(26, 460 / spec.rows.length), 3);
  const [top, bottom] = [26, 26 + cell * spec.rows.length];
  const svg = svgNode(host, "svg", { viewBox: `0 0 ${width} ${bottom + 44}`, "aria-hidden": "true", focusable: "false" });
  const step = (width - left - 8) / spec.columns.length;
  const levels = Array.from({ length: HEAT_LEVELS + 1 }, () => []);
  const marks = [];
  spec.values.forEach((row, r) => row.forEach((value, c) => {
    if (value === null || value === undefined) return;
    const level = spec.level(value);
    const gap = [step > 6 ? 1 : 0, cell > 6 ? 1 : 0];
    levels[level].push(`M${(left + c * step).toFixed(2)},${(top + r * cell).toFixed(2)}h${(step - gap[0]).toFixed(2)}v${(cell - gap[1]).toFixed(2)}h${(gap[0] - step).toFixed(2)}z`);
    marks.push({ px: left + (c + 0.5) * step, py: top + (r + 0.5) * cell, row: r, text: spec.text(r, c) });
  }));
  levels.forEach((d, level) => svgNode(svg, "path", { class: `heat h${level}`, d: d.join("") }));
  const skip = Math.ceil(16 / cell);
  spec.rows.forEach((name, r) => r % skip === 0 && svgNode(svg, "text", { class: "tick", x: left - 7, y: top + (r + 0.5) * cell + 4, "text-anchor": "end" }, name));
  const every = Math.max(1, Math.ceil((spec.columns.length * 48) / (width - left)));
  spec.columns.forEach((name, c) => c % every === 0 && svgNode(svg, "text", { class: "tick", x: left + (c + 0.5) * step, y: bottom + 16, "text-anchor": "middle" }, name));
  axisName(svg, { x: 2, y: 13 }, spec.y.label, width);
  axisName(svg, { x: width - 8, y: bottom + 38, "text-anchor": "end" }, spec.x.label, width);
  return { svg, marks };
}

const DRAW = { lines: drawLines, scatter: drawScatter, bars: drawBars, heat: drawHeat };

// Reading a chart with the pointer and with the arrow keys ------------------------------------------------------

function explore(host, { svg, marks }, readout) {
  const tip = htmlNode(host, "div", { class: "tip", hidden: "" });
  const halo = svgNode(svg, "circle", { class: "halo", r: 7, visibility: "hidden" });
  let current = -1;
  function show(index, spoken) {
    current = index;
    const mark = marks[index];
    tip.replaceChildren();
    mark.text.forEach((line, i) => htmlNode(tip, i ? "span" : "strong", {}, line));
    tip.hidden = false;
    const ratio = svg.clientWidth / svg.viewBox.baseVal.width || 1;
    const [px, py] = [mark.px * ratio, mark.py * ratio];
    tip.style.left = `${Math.min(Math.max(px - tip.offsetWidth / 2, 0), host.clientWidth - tip.offsetWidth)}px`;
    tip.style.top = `${py > tip.offsetHeight + 14 ? py - tip.offsetHeight - 12 : py + 14}px`;
    halo.setAttribute("cx", mark.px);
    halo.setAttribute("cy", mark.py);
    halo.setAttribute("visibility", "visible");
    if (spoken) readout.textContent = mark.text.join(": ");
  }
  function hide() {
    tip.hidden = true;
    halo.setAttribute("visibility", "hidden");
  }
  function nearest(px, py) {
    let best = 0;
    let least = Infinity;
    marks.forEach((m, i) => {
      const distance = (m.px - px) ** 2 + (0.35 * (m.py - py)) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return best;
  }
  function neighbour(key) {
    if (current < 0) return 0;
    const { row, px } = marks[current];
    if (key === "ArrowLeft" || key === "ArrowRight") {
      const next = current + (key === "ArrowRight" ? 1 : -1);
      return marks[next] && marks[next].row === row ? next : current;
    }
    const rows = marks.map((m, i) => [m, i]).filter(([m]) => m.row === row + (key === "ArrowDown" ? 1 : -1));
    if (!rows.length) return current;
    return rows.reduce((a, b) => (Math.abs(a[0].px - px) <= Math.abs(b[0].px - px) ? a : b))[1];
  }
  if (!marks.length) return;
  host.onpointermove = host.onpointerdown = (event) => {
    const area = svg.getBoundingClientRect();
    const ratio = svg.viewBox.baseVal.width / area.width;
    show(nearest((event.clientX - area.left) * ratio, (event.clientY - area.top) * ratio), false);
  };
  host.onpointerleave = hide;
  host.onblur = hide;
  host.onkeydown = (event) => {
    if (event.key === "Escape") hide();
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    show(neighbour(event.key), true);
  };
}

function drawChart(host, readout, spec) {
  host.replaceChildren();
  host.classList.toggle("multiples", Boolean(spec.panels));
  if (spec.panels && !spec.empty) {
    host.removeAttribute("tabindex"); // each of its panels has the focus
    host.setAttribute("role", "group");
    host.setAttribute("aria-label", spec.describe);
    const places = spec.panels.map(([title, part]) => {
      const panel = htmlNode(host, "div", { class: "panel" });
      htmlNode(panel, "h4", {}, title);
      return [htmlNode(panel, "div", { class: "plot", tabindex: "0", role: "img" }), { ...part, describe: `${title}.` }];
    });
    for (const [own, part] of places) drawChart(own, readout, part); // once all are there: a panel's width depends on their number
    return;
  }
  host.setAttribute("tabindex", "0");
  host.setAttribute("role", "img");
  host.setAttribute("aria-label", `${spec.describe} Arrow keys read the points.`);
  if (spec.empty) {
    htmlNode(host, "p", { class: "empty" }, spec.empty);
    return;
  }
  const drawn = DRAW[spec.kind](host, spec);
  nameChance(drawn, spec);
  explore(host, drawn, readout);
}
