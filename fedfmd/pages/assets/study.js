"use strict";
// A study's page: means over seeds with their intervals, every run, and differences to the baseline.

const DATA = JSON.parse(document.getElementById("report-data").textContent);
const AXES = Object.fromEntries(DATA.axes.map((a) => [a.key, a]));
const MANY = true;
const state = { axis: DATA.axis, measure: "", hidden: new Set() };

const look = (arm) => DATA.looks[arm];
const css = (arm) => `s${look(arm).colour % 8}${look(arm).dash === null ? "" : ` d${look(arm).dash % 4}`}`;
const shownArms = () => DATA.arms.map((arm, index) => ({ name: arm, index, ...found().arms[index] })).filter(({ index }) => !state.hidden.has(index));
const shownRuns = () => DATA.runs.filter((run) => !state.hidden.has(run.arm));
const found = () => DATA.comparisons[state.axis];
// Small multiples: a panel for each group of arms that their looks tell apart, all on one scale.
function panels(spec, part) {
  const groups = DATA.groups.map((group) => [group.title, new Set(group.arms)]);
  if (groups.length < 2) return spec;
  const shown = groups.map(([title, arms]) => [title, part(arms)]).filter(([, own]) => !own.empty);
  return { ...spec, panels: shown, empty: shown.length ? null : spec.empty };
}
// A box of the filters hides every arm at its level.
function refilter() {
  const off = [...document.querySelectorAll("[data-level]:not(:checked)")].map((box) => box.dataset.level.split(":").map(Number));
  state.hidden = new Set(DATA.levels.flatMap((levels, arm) => (off.some(([factor, level]) => levels[factor] === level) ? [arm] : [])));
}
const runName = (run) => `${DATA.arms[run.arm]}, seed ${run.seed}`;
const pointTick = (v) => `${v > 0 ? "+" : ""}${Number((100 * v).toFixed(2))}`;
const points = (v) => `${v < 0 ? "" : "+"}${(100 * v).toFixed(2)}`;
const interval = (e, format) => (e.low === null ? "" : ` [${format(e.low)}, ${format(e.high)}]`);
// The ends of an interval as they are drawn: those of few seeds reach beyond what is possible.
const within = ({ mean, low, high }, possible) => [low ?? mean, high ?? mean].map((v) => (possible ? Math.min(possible[1], Math.max(possible[0], v)) : v));
const ACCURACIES = [0, 1];
const GUESS = ", within noise of chance";
const spent = (x, axis) => (axis.key === "round" ? `${number(x)} rounds` : quantity(x, axis.unit));

const FIGURES = {
  answer() {
    const { label, unit, possible, listed, joined, lined, x, panels: all } = DATA.answer;
    const every = all.flatMap((panel) => panel.series.flat()).filter((p) => !state.hidden.has(p.arm) && p.y.mean !== null);
    const text = (p) => [DATA.arms[p.arm], `${quantity(p.y.mean, unit)}${interval(p.y, (v) => quantity(v, unit))}${p.guess ? GUESS : ""}`, `seeds: ${p.seeds.map(([seed, v]) => `${seed} ${quantity(v, unit)}`).join(", ")}`, `${percent(p.met)} of clients used in budget, ${percent(p.wasted)} wasted`];
    const axes = {
      x: { label: x.label, at: x.at, format: (v) => x.names[x.at.indexOf(v)], log: x.log, inset: x.numeric ? 16 : 40, span: x.at },
      y: { label, format: unit === UNITS.share ? percentTick : (v) => quantity(v, unit), least: unit === UNITS.share ? 0.08 : 0, chance: DATA.answer.chance, span: every.flatMap((p) => within(p.y, possible)) },
    };
    const write = (v) => quantity(v, unit);
    const list = {
      kind: "forest",
      rows: every.map((p) => ({ name: DATA.arms[p.arm], index: p.arm, ...p.y, seeds: p.seeds.filter(([, v]) => v !== null), guess: p.guess, text: text(p).slice(1) })),
      label,
      possible,
      tick: axes.y.format,
      write,
      chance: DATA.answer.chance,
      least: axes.y.least,
    };
    const parts = all.map(({ title, series }) => [title, {
      kind: "points",
      lined,
      possible,
      grey: !joined,
      series: series.map((list) => list.filter((p) => every.includes(p)).map((p) => ({ ...p, text: text(p) }))).filter((list) => list.length),
      ...axes,
    }]).filter(([, part]) => part.series.length);
    return {
      ...(listed ? list : parts.length > 1 ? { panels: parts, kind: "points" } : parts.length ? parts[0][1] : { kind: "points" }),
      named: joined && !listed ? [...new Map(every.map((p) => [look(p.arm).curve, p.arm]))] : [],
      describe: `${label} against ${x.label}: ${every.map((p) => text(p).slice(0, 2).join(" ")).join("; ")}.`,
      empty: parts.length ? null : "No arm is shown.",
      table: {
        columns: ["Arm", x.label, label, "Low", "High", "Clients used in budget", "Wasted MACs"],
        rows: every.map((p) => [DATA.arms[p.arm], x.names[x.at.indexOf(p.x)], quantity(p.y.mean, unit), quantity(p.y.low, unit), quantity(p.y.high, unit), percent(p.met), percent(p.wasted)]),
      },
    };
  },
  budget() {
    const axis = AXES[state.axis];
    const series = shownArms().filter((arm) => arm.curve.x.length).map((arm) => ({
      name: arm.name,
      index: arm.index,
      points: arm.curve.x.map((x, i) => {
        const [y, bounds] = [arm.curve.mean[i], { low: arm.curve.low[i], high: arm.curve.high[i] }];
        // Bands of two or three seeds reach beyond what an accuracy can be; the figures in the text are whole.
        const [low, high] = [Math.max(0, bounds.low ?? y), Math.min(1, bounds.high ?? y)];
        return { x, y, low, high, bounds, text: `${percent(y)}${interval(bounds, percent)} within ${spent(x, axis)}` };
      }),
    }));
    const last = (s) => s.points.at(-1);
    const all = series.flatMap((s) => s.points);
    const spec = {
      kind: "bands",
      series,
      named: curveNames(series),
      rules: found().budgets,
      x: { label: axis.key === "round" ? "Rounds" : `Budget: cumulative ${inText(axis)}`, unit: axis.unit, whole: axis.key === "round", span: all.map((p) => p.x) },
      y: { label: "Accuracy within the budget", format: percentTick, least: 0.08, chance: DATA.chance, span: all.flatMap((p) => [p.low, p.high]) },
      describe: `Accuracy within a budget of ${inText(axis)}, means over seeds: ${series.map((s) => `${s.name} ${percent(last(s).y)} within ${spent(last(s).x, axis)}`).join("; ")}.`,
      empty: series.length ? null : "No arm is shown, or none has this cost.",
      table: {
        columns: ["Arm", "Budget", "Mean", "Low", "High"],
        rows: series.flatMap((s) => s.points.map((p) => [s.name, spent(p.x, axis), percent(p.y), percent(p.bounds.low), percent(p.bounds.high)])),
      },
    };
    return panels(spec, (arms) => ({ ...spec, ...kept(series, arms) }));
  },
  curves() {
    const axis = AXES[state.axis];
    const series = shownRuns().map((run) => ({
      name: runName(run),
      index: run.arm,
      points: run.rounds.flatMap((round, i) => {
        const [x, y] = [run.x[axis.key][i], run.top1[i]];
        if (x === null || x === undefined) return [];
        return [{ x, y, text: `${percent(y)} after round ${round}${axis.key === "round" ? "" : `, ${quantity(x, axis.unit)}`}` }];
      }),
    })).filter((s) => s.points.length);
    const all = series.flatMap((s) => s.points);
    const spec = {
      kind: "lines",
      series,
      named: curveNames(series),
      x: { label: axisLabel(axis), unit: axis.unit, whole: axis.key === "round", span: all.map((p) => p.x) },
      y: { label: DATA.accuracy, format: percentTick, least: 0.08, chance: DATA.chance, span: all.map((p) => p.y) },
      describe: `Accuracy of every run by ${inText(axis)}: ${series.map((s) => `${s.name} ends at ${percent(s.points.at(-1).y)}`).join("; ")}.`,
      empty: series.length ? null : "No arm is shown, or none has this cost.",
      table: {
        columns: ["Run", "Round", axisLabel(axis), "Top-1"],
        rows: shownRuns().flatMap((run) => run.rounds.map((round, i) => [runName(run), round, quantity(run.x[axis.key][i], axis.unit), percent(run.top1[i])])),
      },
    };
    return panels(spec, (arms) => ({ ...spec, ...kept(series, arms) }));
  },
  pareto() {
    const axis = AXES[state.axis];
    const arms = shownArms().filter((arm) => arm.cost.mean !== null && arm.final.mean !== null);
    const runs = shownRuns().filter((run) => run.total[axis.key] !== null && run.final !== null);
    const costs = [...runs.map((run) => run.total[axis.key]), ...arms.map((arm) => arm.cost.mean)];
    // An interval of few seeds may be many times as wide as all costs are apart: the axis cuts it.
    const [cheap, dear] = [Math.min(...costs) / 2, 2 * Math.max(...costs)];
    const ends = ({ cost }) => [cost.low ?? cost.mean, cost.high ?? cost.mean].map((v) => Math.min(dear, Math.max(cheap, v)));
    const spec = {
      kind: "cloud",
      named: DATA.groups.length > 1 ? curveNames(arms) : [],
      points: arms.map((arm) => ({ x: arm.cost.mean, y: arm.final.mean, across: arm.cost, along: arm.final, index: arm.index, name: arm.name, front: arm.front, guess: arm.guess, text: `mean ${percent(arm.final.mean)} for ${spent(arm.cost.mean, axis)}${arm.front ? ", on the front" : ""}${arm.guess ? GUESS : ""}` })),
      runs: runs.map((run) => ({ x: run.total[axis.key], y: run.final, index: run.arm, name: runName(run), text: `${percent(run.final)} for ${spent(run.total[axis.key], axis)}` })),
      x: { label: `${axis.label} of the whole run`, unit: axis.unit, whole: axis.key === "round", inset: 24, span: [...costs, ...arms.flatMap(ends)], log: Math.min(...costs) > 0 && Math.max(...costs) > 8 * Math.min(...costs) },
      y: { label: "Final accuracy", format: percentTick, least: 0.08, chance: DATA.chance, span: [...runs.map((run) => run.final), ...arms.flatMap((a) => [a.final.mean, ...within(a.final, ACCURACIES)])] },
      describe: `Final accuracy against ${inText(axis)} spent. On the Pareto front of the means: ${arms.filter((a) => a.front).map((a) => a.name).join("; ")}.`,
      empty: arms.length ? null : "No arm is shown, or none has this cost.",
      table: {
        columns: ["Run", axisLabel(axis), "Final top-1"],
        rows: [...arms.map((a) => [`${a.name}, mean`, spent(a.cost.mean, axis), percent(a.final.mean)]), ...runs.map((run) => [runName(run), spent(run.total[axis.key], axis), percent(run.final)])],
      },
    };
    return panels(spec, (own) => {
      const points = spec.points.filter((p) => own.has(p.index));
      return { ...spec, points: points.map((p) => ({ ...p, name: look(p.index).curve })), runs: spec.runs.filter((p) => own.has(p.index)), empty: points.length ? null : "" };
    });
  },
  differences() {
    const label = found().measures[state.measure];
    if (label === undefined) return { kind: "forest", rows: [], describe: "No such budget.", empty: "This cost has fewer budgets.", table: { columns: [], rows: [] } };
    const arms = shownArms().filter((arm) => arm.name !== DATA.baseline);
    const rows = arms.map((arm) => ({ name: arm.name, index: arm.index, ...arm.differences[state.measure] }));
    return {
      kind: "forest",
      rows: rows.map((r) => ({ ...r, text: [r.mean === null ? "" : `mean ${points(r.mean)} points${interval(r, points)}`] })),
      label: `${label}: points of accuracy over ${DATA.baseline}`,
      tick: pointTick,
      write: (v) => `${points(v)} points`,
      zero: true,
      describe: `${label}, minus that of ${DATA.baseline} with the same seed: ${rows.map((r) => (r.mean === null ? `${r.name} unknown` : `${r.name} ${points(r.mean)} points${interval(r, points)}`)).join("; ")}.`,
      empty: rows.some((r) => r.seeds.length) ? null : "No arm is shown beside the baseline.",
      table: {
        columns: ["Arm", "Seed", "Points"],
        rows: rows.flatMap((r) => [[`${r.name}, mean`, "", r.mean === null ? null : `${points(r.mean)}${interval(r, points)}`], ...r.seeds.map(([seed, value]) => [r.name, String(seed), points(value)])]),
      },
    };
  },
};
const TABLES = {};
const kept = (series, arms) => {
  const own = series.filter((s) => arms.has(s.index));
  return { series: own, empty: own.length ? null : "" };
};
// What tells curves apart, each look once.
const curveNames = (series) => [...new Map(series.map((s) => [look(s.index).curve, s.index]))];

// Charts that only a study has ------------------------------------------------------------------------------

DRAW.points = (host, spec) => {
  const { svg, x, y } = frame(host, spec, spec.x.span, spec.y.span);
  const marks = [];
  spec.series.forEach((list, row) => {
    // Marks at one x stand side by side: along a line its marks keep their distance, else those that are there share it.
    const beside = ({ x: at }) => spec.series.filter((s) => spec.lined || s.some((p) => p.x === at));
    const place = (p) => x(p.x) + (spec.lined ? 5 : 10) * (beside(p).indexOf(list) - (beside(p).length - 1) / 2);
    if (spec.lined) svgNode(svg, "path", { class: spec.grey ? "joint" : `line ${css(list[0].arm)}`, d: list.map((p, i) => `${i ? "L" : "M"}${place(p).toFixed(1)},${y(p.y.mean).toFixed(1)}`).join("") });
    for (const p of list) {
      const [low, high] = within(p.y, spec.possible);
      if (p.y.low !== null) svgNode(svg, "line", { class: `whisker ${css(p.arm)}`, x1: place(p), x2: place(p), y1: y(low), y2: y(high) });
      marker(svg, look(p.arm).colour, place(p), y(p.y.mean), 4.5, p.guess ? "hollow" : "");
      marks.push({ px: place(p), py: y(p.y.mean), row, text: p.text });
    }
  });
  return { svg, marks };
};

DRAW.bands = (host, spec) => {
  const all = spec.series.flatMap((s) => s.points);
  const { svg, x, y, box } = frame(host, spec, spec.x.span ?? all.map((p) => p.x), spec.y.span ?? all.flatMap((p) => [p.low, p.high]));
  for (const rule of spec.rules)
    svgNode(svg, "line", { class: "rule", x1: x(rule), x2: x(rule), y1: box.top, y2: box.bottom });
  const stairs = (list, key) => list.map((p, i) => (i ? `H${x(p.x).toFixed(1)}V${y(p[key]).toFixed(1)}` : `${x(p.x).toFixed(1)},${y(p[key]).toFixed(1)}`)).join("");
  const back = (list) => list.map((p, i) => (i ? `V${y(p.low).toFixed(1)}H${x(p.x).toFixed(1)}` : `L${x(p.x).toFixed(1)},${y(p.low).toFixed(1)}`)).join("");
  for (const { index, points: list } of spec.series)
    svgNode(svg, "path", { class: `band ${css(index)}`, d: `M${stairs(list, "high")}${back([...list].reverse())}z` });
  const marks = [];
  spec.series.forEach(({ name, index, points: list }, row) => {
    svgNode(svg, "path", { class: `line ${css(index)}`, d: `M${stairs(list, "y")}` });
    const seen = list.map((p) => ({ px: x(p.x), py: y(p.y), row, text: [name, p.text] }));
    const every = Math.max(1, Math.ceil((seen.length * 60) / (box.right - box.left)));
    seen.forEach((m, i) => ((seen.length - 1 - i) % every === 0) && marker(svg, look(index).colour, m.px, m.py));
    marks.push(...seen);
  });
  return { svg, marks };
};

// Arms as drawScatter draws them, on a ground of their runs.
DRAW.cloud = (host, spec) => {
  const both = [...spec.runs, ...spec.points];
  const { svg, x, y, box } = frame(host, spec, spec.x.span ?? both.map((p) => p.x), spec.y.span ?? both.map((p) => p.y));
  const arms = spec.points.map((p) => ({ ...p, px: x(p.x), py: y(p.y) }));
  const lines = drawFront(svg, arms);
  const reach = (cost) => (cost < x.min ? box.left : cost > x.max ? box.right : x(cost));
  for (const { index, px, py, across, along } of arms) {
    const bars = [];
    const [low, high] = within(along, ACCURACIES);
    if (across.low !== null && across.high !== null) bars.push([reach(across.low), py, reach(across.high), py]);
    if (along.low !== null && along.high !== null) bars.push([px, y(high), px, y(low)]);
    for (const [x1, y1, x2, y2] of bars) {
      svgNode(svg, "line", { class: `whisker ${css(index)}`, x1, x2, y1, y2 });
      lines.push([x1 - 1, y1 - 1, x2 + 1, y2 + 1]);
    }
  }
  spec.runs.forEach((p) => marker(svg, look(p.index).colour, x(p.x), y(p.y), 3, "faint"));
  arms.forEach((p) => marker(svg, look(p.index).colour, p.px, p.py, p.front ? 6 : 5, p.guess ? "hollow" : ""));
  placeNames(svg, box, arms, lines);
  // An arm's mean, then its runs: the arrow keys go along them, and from arm to arm.
  const place = (p) => ({ px: x(p.x), py: y(p.y), row: p.index, text: [p.name, p.text] });
  const marks = spec.points.flatMap((p) => [place(p), ...spec.runs.filter((run) => run.index === p.index).map(place)]);
  return { svg, marks };
};

// Arms below each other: a mean with its interval, and its seeds.
DRAW.forest = (host, spec) => {
  const width = widthOf(host);
  const wanted = 24 + 6.8 * Math.max(...spec.rows.map((r) => r.name.length));
  const beside = wanted <= width * 0.5; // else a name stands above its row
  const left = beside ? wanted : 14;
  const [top, step] = [18, (printing ? 15 : 38) + (beside ? 0 : 8)]; // so that a page holds forty arms
  const bottom = top + step * spec.rows.length;
  const svg = svgNode(host, "svg", { viewBox: `0 0 ${width} ${bottom + 46}`, "aria-hidden": "true", focusable: "false" });
  const values = spec.rows.flatMap((r) => [...within(r, spec.possible), r.mean, ...r.seeds.map(([, v]) => v)]).filter((v) => v !== null);
  const x = scale(withChance(spec.zero ? [...values, 0] : values, spec), { least: spec.least }, left, width - 26, (width - left) / 92);
  for (const t of x.ticks) {
    svgNode(svg, "line", { class: "grid", x1: x(t), x2: x(t), y1: top, y2: bottom });
    svgNode(svg, "text", { class: "tick", x: x(t), y: bottom + 17, "text-anchor": "middle" }, spec.tick(t));
  }
  if (spec.zero) svgNode(svg, "line", { class: "base", x1: x(0), x2: x(0), y1: top, y2: bottom });
  const { chance = null } = spec;
  if (chance !== null && chance >= x.min && chance <= x.max) {
    svgNode(svg, "line", { class: "chance", x1: x(chance), x2: x(chance), y1: top, y2: bottom });
    svgNode(svg, "text", { class: "tick", x: x(chance), y: top - 5, "text-anchor": "middle" }, chanceName(chance));
  }
  axisName(svg, { x: width - 14, y: bottom + 39, "text-anchor": "end" }, spec.label, width);
  const marks = [];
  spec.rows.forEach((r, row) => {
    const py = top + step * (row + (beside ? 0.5 : 0.75));
    fitted(svgNode(svg, "text", beside ? { class: "label", x: left - 14, y: py + 4, "text-anchor": "end" } : { class: "label", x: 2, y: py - 10 }, r.name), width - 4);
    if (r.mean === null) return;
    const [low, high] = within(r, spec.possible);
    if (r.low !== null) svgNode(svg, "line", { class: `whisker ${css(r.index)}`, x1: x(low), x2: x(high), y1: py, y2: py });
    for (const [, value] of r.seeds) marker(svg, look(r.index).colour, x(value), py, 3, "faint");
    marker(svg, look(r.index).colour, x(r.mean), py, 5.5, r.guess ? "hollow" : "");
    marks.push({ px: x(r.mean), py, row, text: [r.name, ...r.text] });
    for (const [seed, value] of r.seeds) marks.push({ px: x(value), py, row, text: [`${r.name}, seed ${seed}`, spec.write(value)] });
  });
  return { svg, marks };
};
