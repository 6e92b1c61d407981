"use strict";
// What every page does with its figures and tables: draw, fill, print, switch and filter. Loaded after the script
// that defines AXES, FIGURES, TABLES, MANY and state.

// Drawing and controls ---------------------------------------------------------------------------------------

function fillTable(holder, { columns, rows }, caption) {
  holder.replaceChildren();
  const table = htmlNode(holder, "table");
  htmlNode(table, "caption", { class: "quiet" }, caption);
  const head = htmlNode(htmlNode(table, "thead"), "tr");
  columns.forEach((name) => htmlNode(head, "th", { scope: "col" }, name));
  const body = htmlNode(table, "tbody");
  rows.forEach((row) => {
    const line = htmlNode(body, "tr");
    row.forEach((value, i) => htmlNode(line, i ? "td" : "th", i ? {} : { scope: "row" }, quantity(value)));
  });
}

function drawKey(figure, spec) {
  const key = figure.querySelector(".key");
  if (!key) return;
  key.replaceChildren();
  const entries = spec.named
    ? spec.named.map(([name, arm]) => [name, (svg) => { if (spec.kind !== "cloud") svgNode(svg, "path", { class: `line ${css(arm)}`, d: "M1,7H25" }); marker(svg, look(arm).colour, 13, 7); }])
    : spec.kind === "lines"
    ? (MANY && !spec.keyed ? [] : spec.series.map((s) => [s.name, (svg) => { svgNode(svg, "path", { class: `line ${css(s.index)}`, d: "M1,7H25" }); marker(svg, s.index, 13, 7); }]))
    : spec.kind === "bars" && spec.parts.length > 1
      ? spec.parts.map((name, part) => [name, (svg) => svgNode(svg, "path", { class: `bar part${part}`, d: "M5,1h14v12h-14z" })])
      : spec.kind === "heat" && !spec.empty
        ? spec.key.map(([name, level]) => [name, (svg) => svgNode(svg, "path", { class: `heat h${level}`, d: "M5,1h14v12h-14z" })])
        : (spec.keys || []).map(({ name, index }) => [name, (svg) => marker(svg, index, 13, 7)]);
  if ((spec.named || spec.kind === "lines") && entries.length < 2) return;
  for (const [name, draw] of entries) {
    const item = htmlNode(key, "span");
    const svg = document.createElementNS(SVG_SPACE, "svg");
    svg.setAttribute("viewBox", "0 0 26 14");
    svg.setAttribute("aria-hidden", "true");
    item.append(svg);
    draw(svg);
    htmlNode(item, "span", {}, name);
  }
}

function render(only = null) {
  for (const figure of document.querySelectorAll("figure[data-figure]")) {
    if (only && !only.includes(figure)) continue;
    const spec = FIGURES[figure.dataset.figure]();
    drawKey(figure, spec);
    drawChart(figure.querySelector(".plot"), figure.querySelector(".readout"), spec);
    const details = figure.querySelector("details.data");
    if (details.open) fillTable(details.querySelector(".scroll"), spec.table, figure.querySelector("h3").textContent);
  }
}

function renderTables() {
  for (const details of document.querySelectorAll("details[data-table]"))
    if (details.open) fillTable(details.querySelector(".scroll"), TABLES[details.dataset.table](), details.querySelector("summary").textContent);
}

// Tables that are sorted by a click on a head, and taken along as CSV ------------------------------------------

const firstText = (cell) => cell.firstChild?.textContent.trim() ?? "";
function sortValue(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const text = firstText(cell);
  const value = Number(text.replace(/[,%]/g, ""));
  return text === "" || text === ABSENT || Number.isNaN(value) ? null : value;
}

function sortTable(table, column, head) {
  const down = head.getAttribute("aria-sort") === "descending";
  const rows = [...table.tBodies[0].rows];
  const numbers = rows.map((row) => sortValue(row.cells[column]));
  const numeric = numbers.some((v) => v !== null);
  const keys = new Map(rows.map((row, i) => [row, numeric ? numbers[i] : firstText(row.cells[column])]));
  const order = (a, b) => (numeric ? keys.get(a) - keys.get(b) : keys.get(a).localeCompare(keys.get(b)));
  const absent = (row) => numeric && keys.get(row) === null;
  rows.sort((a, b) => absent(a) - absent(b) || (down ? 1 : -1) * order(a, b));
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "ascending" : "descending");
}

// A text that a spreadsheet would take for a formula gets a quote before it; a number does not.
function csvCell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  const formula = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text.replace(/[,%]/g, "")));
  const safe = formula ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function tableCsv(table) {
  const shown = [...table.rows].filter((row) => !row.hidden);
  const text = (cell) => [...cell.childNodes].map((n) => n.textContent.trim()).filter(Boolean).join(" ");
  return shown.map((row) => [...row.cells].map((cell) => csvCell(text(cell))).join(",")).join("\r\n");
}

function saveCsv(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

for (const table of document.querySelectorAll("table[data-sort]")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = htmlNode(head, "button", { type: "button", class: "sort" });
    button.append(...[...head.childNodes].filter((node) => node !== button));
    button.onclick = () => sortTable(table, column, head);
  });
  const holder = table.parentElement;
  const save = htmlNode(holder, "button", { type: "button", class: "save" }, "Save as CSV");
  save.onclick = () => saveCsv(tableCsv(table), `${holder.getAttribute("aria-label").replace(/[^\w]+/g, "-")}.csv`);
}

function showPanels() {
  for (const node of document.querySelectorAll("[data-run]")) node.hidden = Number(node.dataset.run) !== state.run;
  for (const node of document.querySelectorAll("[data-axis]")) node.hidden = node.dataset.axis !== state.axis;
  for (const node of document.querySelectorAll("[data-meaning]")) node.textContent = (AXES[state[node.dataset.meaning]] || {}).meaning || "";
  for (const row of document.querySelectorAll("tr[data-row]")) row.hidden = state.hidden.has(Number(row.dataset.row));
}

function update() {
  if (typeof refilter === "function") refilter();
  showPanels();
  render();
  renderTables();
}

document.addEventListener("change", ({ target }) => {
  if (target.dataset.set) state[target.dataset.set] = target.dataset.set === "run" ? Number(target.value) : target.value;
  if (target.dataset.show) state.hidden[target.checked ? "delete" : "add"](Number(target.dataset.show));
  update();
});
document.addEventListener("toggle", ({ target }) => {
  const figure = target.closest("figure");
  if (figure) render([figure]);
  else renderTables();
}, true);

// A reload may restore the controls to what they were before it.
function readControls() {
  for (const input of document.querySelectorAll("[data-set]:checked, select[data-set]")) {
    if (!Object.keys(state).includes(input.dataset.set)) continue;
    state[input.dataset.set] = input.dataset.set === "run" ? Number(input.value) : input.value;
  }
  for (const box of document.querySelectorAll("[data-show]")) if (!box.checked) state.hidden.add(Number(box.dataset.show));
}

function writeControls() {
  for (const input of document.querySelectorAll("[data-set]")) {
    if (input.tagName === "SELECT") input.value = String(state[input.dataset.set]);
    else input.checked = input.value === String(state[input.dataset.set]);
  }
  for (const box of document.querySelectorAll("[data-show]")) box.checked = !state.hidden.has(Number(box.dataset.show));
}

function drawMarks() {
  for (const svg of document.querySelectorAll("svg[data-swatch]")) {
    svgNode(svg, "path", { class: `line s${svg.dataset.swatch % 8}`, d: "M1,7H25" });
    marker(svg, Number(svg.dataset.swatch), 13, 7);
  }
}

// Take new data for a page whose text has been replaced; what the reader has chosen stays chosen.
function adopt(data) {
  Object.assign(DATA, data);
  Object.assign(AXES, Object.fromEntries(data.axes.map((a) => [a.key, a])));
  writeControls();
  drawMarks();
  update();
}

readControls();
drawMarks();
// Chromium leaves buttons out of the heads that it repeats on each printed page: text stands there meanwhile.
let sorters = [];
window.addEventListener("beforeprint", () => {
  printing = true;
  sorters = [...document.querySelectorAll("button.sort")].map((button) => [button, button.parentElement]);
  for (const [button, head] of sorters) head.replaceChildren(...button.childNodes);
  render();
});
window.addEventListener("afterprint", () => {
  printing = false;
  for (const [button, head] of sorters) {
    button.append(...head.childNodes);
    head.append(button);
  }
  render();
});

let width = 0;
new ResizeObserver(() => {
  if (document.body.clientWidth === width) return;
  width = document.body.clientWidth;
  render();
}).observe(document.body);
update();
document.documentElement.dataset.ready = "true";
