"use strict";
// The page of centralised runs: a line for each run and measure, by epoch.

const DATA = JSON.parse(document.getElementById("report-data").textContent);
const AXES = {};
const MANY = DATA.runs.length > 1;
const look = (index) => ({ colour: index });
const css = (index) => `s${index % 8}`;
const state = { run: 0, axis: "epoch", hidden: new Set() };
const known = (v) => v !== null && v !== undefined;

// Of several runs only the first measure is drawn, so that a colour is a run.
function byEpoch(measures, format, label, tick) {
  const shown = MANY ? measures.slice(0, 1) : measures;
  const series = DATA.runs.flatMap((run, r) => shown.map(([key, name], m) => ({
    name: MANY ? run.label : name,
    index: MANY ? r : m,
    points: run.epoch.flatMap((epoch, i) => (known(run[key][i]) ? [{ x: epoch, y: run[key][i], text: `${format(run[key][i])} in epoch ${epoch}` }] : [])),
  }))).filter((s) => s.points.length);
  return {
    kind: "lines",
    keyed: true,
    series,
    x: { label: "Epoch", format: (v) => quantity(v), whole: true },
    y: { label, format: tick, chance: format === percent ? DATA.chance : null },
    describe: `${label} by epoch: ${span(series, format)}.`,
    empty: series.length ? null : "Nothing was recorded for this figure.",
    table: epochTable([["epoch", "Epoch"], ...measures]),
  };
}

function epochTable(wanted) {
  const columns = [...(MANY ? ["Run"] : []), ...wanted.map(([, name]) => name)];
  const rows = DATA.runs.flatMap((run) => run.epoch.map((_, i) => [...(MANY ? [run.label] : []), ...wanted.map(([key, , unit]) => quantity(run[key][i], unit))]));
  return { columns, rows };
}

const FIGURES = {
  accuracy: () => byEpoch([["top1", "Top-1", UNITS.share], ["top5", "Top-5", UNITS.share]], percent, MANY ? "Top-1 on the test set" : "Accuracy on the test set", percentTick),
  loss: () => byEpoch([["test_loss", "Test"], ["train_loss", "Training"]], number, MANY ? "Loss on the test set" : "Cross-entropy loss", (v) => number(v)),
  seconds: () => {
    const spec = byEpoch([["train_seconds", "Training seconds", "s"]], (v) => quantity(v, "s"), "Seconds of training", (v) => number(v));
    spec.y.zero = true;
    return spec;
  },
};

const TABLES = {
  epochs: () => epochTable(DATA.epochColumns),
};
