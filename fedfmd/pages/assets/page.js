"use strict";
// The page: what each figure shows for the chosen cost, run and filter, and the table behind it.

const DATA = JSON.parse(document.getElementById("report-data").textContent);
const AXES = Object.fromEntries(DATA.axes.map((a) => [a.key, a]));
const MANY = DATA.runs.length > 1;
const look = (index) => ({ colour: index });
const css = (index) => `s${index % 8}`;
const state = { axis: MANY && AXES.macs ? "macs" : "round", score: "macs", client: "macs", run: 0, hidden: new Set() };

const shownRuns = () => DATA.runs.map((run, index) => ({ run, index })).filter(({ index }) => !state.hidden.has(index));
const oneRun = () => DATA.runs[state.run];
const axisFormat = (axis) => (v) => (v ? quantity(v, axis.unit) : "0");

// One line per run and measure; in a comparison a run keeps its colour and mark in every figure.
function linesOver(measures, axis, format, table) {
  const runs = shownRuns();
  const series = runs.flatMap(({ run, index }) => measures.map((measure, m) => ({
    name: MANY ? (measures.length > 1 ? `${run.label}, ${measure.name.toLowerCase()}` : run.label) : measure.name,
    index: MANY ? index : m,
    points: run.rounds.round.flatMap((round, i) => {
      const [x, y] = [run.x[axis.key][i], measure.values(run)[i]];
      if (x === null || x === undefined || y === null || y === undefined) return [];
      return [{ x, y, text: `${format(y)} after round ${round}${axis.key === "round" ? "" : `, ${quantity(x, axis.unit)}`}` }];
    }),
  }))).filter((s) => s.points.length);
  return { kind: "lines", series, empty: series.length ? null : "Nothing was recorded for this figure.", table: table || roundsTable(measures, axis, runs, format) };
}

function roundsTable(measures, axis, runs, format) {
  const columns = [...(MANY ? ["Run"] : []), "Round", ...(axis.key === "round" ? [] : [axisLabel(axis)]), ...measures.map((m) => m.name)];
  const rows = runs.flatMap(({ run }) => run.rounds.round.map((round, i) => [
    ...(MANY ? [run.label] : []), round, ...(axis.key === "round" ? [] : [quantity(run.x[axis.key][i], axis.unit)]),
    ...measures.map((m) => (m.values(run)[i] === null || m.values(run)[i] === undefined ? ABSENT : m.percent ? percent(m.values(run)[i]) : format(m.values(run)[i]))),
  ]));
  return { columns, rows };
}

const called = (run, client) => (run.names[client] ? `${run.names[client]}, client ${client}` : `Client ${client}`);
const column = (key, name, isPercent = false) => ({ name, percent: isPercent, values: (run) => run.rounds[key] });
// Of many clients the ranks are marked: a few of their numbers would look like an axis without an order.
const tickAt = (run, client, place, count, every = 1) => (count > 60 ? 1 + place * every : tickOf(run, client));
const tickOf = (run, client) => run.names[client] || client;
const tickRoom = (ticks) => 12 + 6.6 * Math.max(1, ...ticks.map((tick) => String(tick).length));
const recorded = (key) => DATA.runs.some((run) => run.rounds[key].some((v) => v !== null));

const FIGURES = {
  accuracy() {
    const axis = AXES[state.axis];
    const measures = [column("top1", "Top-1", true)];
    // Of five classes or fewer top-5 is always 100%, and would only squeeze the other curves.
    if (!MANY && recorded("top5") && DATA.runs[0].rounds.top5.some((v) => v !== null && v < 1)) measures.push(column("top5", "Top-5", true));
    if (!recorded("top1") && recorded("client_top1_global_mean")) measures.splice(0, 1, column("client_top1_global_mean", "Mean over clients", true));
    if (!MANY && recorded("client_top1")) measures.push(column("client_top1", "Training top-1 on the clients' own images", true));
    const spec = linesOver(measures, axis, percent);
    spec.x = { label: axisLabel(axis), unit: axis.unit, whole: axis.key === "round" };
    spec.y = { label: recorded("top1") ? "Accuracy on the test set" : "Accuracy on the clients' own images", format: percentTick, least: 0.08, chance: DATA.chance };
    spec.describe = `Accuracy by ${inText(axis)}: ${span(spec.series, percent)}.`;
    return spec;
  },
  loss() {
    const axis = AXES[state.axis];
    const spec = linesOver(MANY ? [column("test_loss", "Test")] : [column("test_loss", "Test"), column("train_loss", "Training")], axis, number);
    spec.x = { label: axisLabel(axis), unit: axis.unit, whole: axis.key === "round" };
    spec.y = { label: "Cross-entropy loss", format: (v) => number(v), zero: true };
    spec.describe = `Loss by ${inText(axis)}: ${span(spec.series, number)}.`;
    return spec;
  },
  ies: () => scoreFigure("ies", "IES", (axis) => `${axis.label} per unit of accuracy`),
  rcs: () => scoreFigure("rcs", "RCS", (axis) => `correct answers per ${axis.unit}`),
  duration() {
    const run = oneRun();
    const worked = run.rounds.round.map((round, i) => ({ round, i })).filter(({ round }) => round > 0);
    return {
      kind: "bars",
      parts: ["Host seconds"],
      bars: worked.map(({ round, i }) => ({ tick: round, parts: [run.rounds.host_seconds[i] || 0], text: [`Round ${round}`, `${quantity(run.rounds.host_seconds[i], "s")} measured here`] })),
      x: { label: "Round" },
      y: { label: "Seconds per round, measured here", format: (v) => number(v) },
      describe: `Measured seconds of each of ${worked.length} rounds.`,
      empty: worked.length ? null : "No round of training was recorded.",
      table: columnsTable(run.rounds, [["round", "Round"], ["host_seconds", "Host clock", "s"], ["client_train_seconds", "Client seconds", "s"], ["device_clock_seconds", "Device clock", "s"]]),
    };
  },
  outcomes() {
    const run = oneRun();
    const kinds = ["completed", "partial", "dropped", "failed"];
    const worked = run.rounds.round.map((round, i) => ({ round, i })).filter(({ round }) => round > 0);
    return {
      kind: "bars",
      parts: kinds,
      bars: worked.map(({ round, i }) => ({ tick: round, parts: kinds.map((k) => run.rounds[k][i] || 0), text: [`Round ${round}`, kinds.map((k) => `${run.rounds[k][i] ?? ABSENT} ${k}`).join(", ")] })),
      x: { label: "Round" },
      y: { label: "Clients", format: (v) => number(v), whole: true },
      describe: `Clients a round by outcome. ${kinds.map((k) => `${run.rounds[k].reduce((a, b) => a + (b || 0), 0)} ${k}`).join(", ")} in all.`,
      empty: worked.length ? null : "No round of training was recorded.",
      table: columnsTable(run.rounds, [["round", "Round"], ["cohort", "Cohort"], ...kinds.map((k) => [k, k[0].toUpperCase() + k.slice(1)])]),
    };
  },
  clients() {
    const run = oneRun();
    const choice = DATA.clientCosts.find((c) => c.key === state.client);
    const wasted = run.clients[choice.wasted];
    const order = run.clients.client.map((_, i) => i).sort((a, b) => (run.clients[choice.key][b] || 0) - (run.clients[choice.key][a] || 0));
    const every = Math.ceil(order.length / 600);
    const drawn = order.filter((_, rank) => rank % every === 0);
    return {
      kind: "bars",
      parts: ["used", "wasted"],
      bars: drawn.map((i, place) => {
        const [total, lost] = [run.clients[choice.key][i] || 0, (wasted && wasted[i]) || 0];
        return { tick: tickAt(run, run.clients.client[i], place, drawn.length, every), parts: [total - lost, lost], text: [called(run, run.clients.client[i]), `${quantity(total, choice.unit)}${lost ? `, of it ${quantity(lost, choice.unit)} wasted` : ""}; ${run.clients.participations[i]} rounds, ${quantity(run.clients.examples[i])} images`] };
      }),
      x: { label: every > 1 ? `Clients, from the most to the least loaded, 1 in ${every} drawn` : "Clients, from the most to the least loaded", room: tickRoom(drawn.map((i, place) => tickAt(run, run.clients.client[i], place, drawn.length, every))) },
      y: { label: choice.label, format: axisFormat(choice), whole: !choice.unit },
      describe: `${choice.label} of ${order.length} clients, sorted; the highest is ${quantity(run.clients[choice.key][order[0]], choice.unit)}.`,
      empty: order.length ? null : "No client was recorded.",
      table: columnsTable(run.clients, [["client", "Client"], ["examples", "Images"], ["participations", "Rounds"], ["unused", "Unused rounds"], ["macs", "MACs", "MAC"], ["bytes", "Bytes", "B"], ["train_seconds", "Client seconds", "s"], ["wasted_macs", "Wasted MACs", "MAC"], ["wasted_bytes", "Wasted bytes", "B"]]),
    };
  },
  partition() {
    const { picture, label } = oneRun();
    if (!picture) return { kind: "heat", empty: "The run records no counts per client and class.", describe: "No partition picture.", table: { columns: [], rows: [] } };
    const most = Math.max(...picture.counts.flat(), 1);
    return {
      kind: "heat",
      rows: picture.classes.map((name) => (name.length > 18 ? `${name.slice(0, 17)}…` : name)),
      columns: picture.clients,
      values: picture.counts,
      // The square root keeps the small holdings of a skewed partition visible.
      level: (v) => (v ? Math.max(1, Math.ceil(Math.sqrt(v / most) * HEAT_LEVELS)) : 0),
      key: [["0", 0], ["few", 2], ["most images of a class", HEAT_LEVELS]],
      text: (r, c) => [`Client ${picture.clients[c]}`, `${quantity(picture.counts[r][c])} images of ${picture.classes[r]}`],
      x: { label: "Client" },
      y: { label: "Class" },
      describe: `Training images of each class at each client of ${label}.`,
      table: { columns: ["Client", ...picture.classes], rows: picture.clients.map((client, c) => [client, ...picture.counts.map((row) => row[c])]) },
    };
  },
  pareto() {
    const axis = AXES[state.axis];
    const found = DATA.comparisons[axis.key];
    const points = shownRuns().flatMap(({ run, index }) => {
      const row = found[index];
      if (row.cost === null || row.final_top1 === null) return [];
      return [{ x: row.cost, y: row.final_top1, index, name: run.label, front: row.on_front, text: `${percent(row.final_top1)} for ${quantity(row.cost, axis.unit)}${row.on_front ? ", on the front" : ""}` }];
    });
    const values = points.map((p) => p.x);
    return {
      kind: "scatter",
      points,
      x: { label: `${axis.label} of the whole run`, unit: axis.unit, whole: axis.key === "round", inset: 24, log: Math.min(...values) > 0 && Math.max(...values) > 8 * Math.min(...values) },
      y: { label: "Final top-1", format: percentTick, least: 0.08, chance: DATA.chance },
      describe: `Final accuracy against ${inText(axis)} spent. On the Pareto front: ${points.filter((p) => p.front).map((p) => p.name).join("; ")}.`,
      empty: points.length ? null : "No run has both figures.",
      table: { columns: ["Run", axisLabel(axis), "Final top-1", "On the front"], rows: points.map((p) => [p.name, quantity(p.x, axis.unit), percent(p.y), p.front ? "yes" : "no"]) },
    };
  },
};

function scoreFigure(kind, name, meaning) {
  const axis = AXES[state.score];
  const values = (key) => (run) => run[key][axis.key] || [];
  const measures = [{ name: `${name} of the run so far`, values: values(kind) }];
  if (!MANY) measures.push({ name: `${name} of the round alone`, values: values(`${kind}_round`) });
  const format = (v) => (kind === "ies" ? quantity : rate)(v, axis.unit);
  const spec = linesOver(measures, AXES.round, format);
  // The first rounds' rates are orders of magnitude above the rest, on a linear scale they hide it.
  const all = spec.series.flatMap((s) => s.points.map((p) => p.y)).filter((v) => v > 0);
  spec.series.forEach((s) => { s.points = s.points.filter((p) => p.y > 0); });
  spec.series = spec.series.filter((s) => s.points.length);
  if (!all.length) spec.empty = `No ${name} is defined for this cost.`;
  spec.x = { label: "Round", format: (v) => quantity(v), whole: true };
  spec.y = { label: `${name}: ${meaning(axis)}`, format, log: all.length > 0 && Math.max(...all) > 20 * Math.min(...all) };
  spec.describe = `${name}, ${meaning(axis)}: ${span(spec.series, format)}.`;
  return spec;
}

function columnsTable(columns, wanted) {
  const present = wanted.filter(([key]) => columns[key] && columns[key].some((v) => v !== null));
  const length = columns[wanted[0][0]].length;
  return { columns: present.map(([, name]) => name), rows: Array.from({ length }, (_, i) => present.map(([key, , unit]) => quantity(columns[key][i], unit))) };
}

const TABLES = {
  rounds: () => columnsTable(oneRun().rounds, DATA.roundColumns),
};
