// What the scripts of the pages compute, apart from drawing: node --test tests/pages/scripts.test.mjs
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import vm from "node:vm";

const ASSETS = new URL("../../fedfmd/pages/assets/", import.meta.url);
const source = (name) => readFileSync(new URL(name, ASSETS), "utf8");

/** Return named functions out of scripts that a page would run one after another. */
function load(text, names) {
  const context = vm.createContext({ UNITS: JSON.parse(process.env.FEDFMD_UNITS ?? "{}") });
  vm.runInContext(`${text}\nthis.out = { ${names.join(", ")} };`, context);
  return context.out;
}

/** Return the text of some functions of a script. */
const functions = (name, wanted) =>
  wanted.map((f) => source(name).match(new RegExp(`^(function ${f}\\(|const ${f} = )[\\s\\S]*?\\n(?=\\n|const |function )`, "m"))[0]).join("\n");

const chart = load(source("chart.js").split("// The frame")[0].replace(/^const widthOf.*$/m, ""), ["stepFor", "ticks", "logTicks", "scale", "decimals", "thousands"]);
const board = load(`const ABSENT = "–";\n${functions("board.js", ["firstText", "sortValue", "csvCell"])}`, ["csvCell", "sortValue"]);
const watch = load(functions("watch.js", ["duration"]), ["duration"]);

test("a step is 1, 2 or 5 times a power of ten and gives no more ticks than asked for", () => {
  for (const span of [0.003, 0.07, 1, 8.2, 1234, 5e9])
    for (const count of [2, 5, 9]) {
      const step = chart.stepFor(0, span, count);
      assert.ok([1, 2, 5].includes(Number((step / 10 ** Math.floor(Math.log10(step) + 1e-9)).toFixed(6))), `${step}`);
      assert.ok(chart.ticks(0, span, step).length <= count + 1);
    }
});

test("ticks lie within their range and are multiples of the step", () => {
  assert.deepEqual([...chart.ticks(0.3, 1.7, 0.5)], [0.5, 1, 1.5]);
  assert.deepEqual([...chart.ticks(-1, 1, 1)], [-1, 0, 1]);
});

test("logarithmic ticks are powers of ten when there are many", () => {
  assert.deepEqual([...chart.logTicks(1, 40)].map((t) => Number(t.toPrecision(6))), [1, 2, 5, 10, 20]);
  assert.ok([...chart.logTicks(1, 1e9)].every((t) => /^1(\.0+)?e/.test(t.toExponential(3).replace("1.000", "1"))));
});

test("a scale maps its ends, keeps order, and gives a constant some room", () => {
  const across = chart.scale([2, 10], {}, 0, 100, 5);
  assert.equal(across(2), 0);
  assert.equal(across(10), 100);
  const up = chart.scale([0.1, 0.93], { zero: true }, 300, 0, 5);
  assert.ok(up(0.2) > up(0.8));
  assert.ok(up.ticks.at(-1) >= 0.93);
  const flat = chart.scale([5, 5], {}, 0, 100, 5);
  assert.equal(flat(5), 50);
});

test("a small difference does not fill the figure", () => {
  const map = chart.scale([0.435, 0.454], { least: 0.1 }, 100, 0, 5);
  assert.ok(Math.abs(map(0.454) - map(0.435)) < 25);
});

test("a logarithmic scale gives equal ratios equal room", () => {
  const map = chart.scale([1, 1000], { log: true }, 0, 300, 5);
  assert.ok(Math.abs(map(10) - map(1) - (map(1000) - map(100))) < 1e-9);
});

test("digits are grouped, and minus nothing is nothing", () => {
  assert.equal(chart.decimals(1234567.891, 2), "1,234,567.89");
  assert.equal(chart.decimals(-0.001, 2), "0.00");
});

test("a cell of a CSV is quoted where it must be, and is no formula", () => {
  assert.equal(board.csvCell('say "hi", twice'), '"say ""hi"", twice"');
  assert.equal(board.csvCell("=1+1"), "'=1+1");
  assert.equal(board.csvCell("-12.5%"), "-12.5%");
  assert.equal(board.csvCell(-3), "-3");
  assert.equal(board.csvCell(null), "");
});

test("cells are sorted as numbers where they are numbers", () => {
  const cell = (text, dataset = {}) => ({ firstChild: { textContent: text }, dataset });
  assert.equal(board.sortValue(cell(" 1,234.5% ")), 1234.5);
  assert.equal(board.sortValue(cell("1.2 MB", { value: "1200000" })), 1200000);
  assert.equal(board.sortValue(cell("–")), null);
  assert.equal(board.sortValue(cell("FMDConv")), null);
});

test("a time left is told in two units at most", () => {
  assert.equal(watch.duration(0.2), "1 s");
  assert.equal(watch.duration(75), "1 min 15 s");
  assert.equal(watch.duration(3 * 3600 + 59 * 60 + 59), "3 h 59 min");
});
