// What each client got: figures of the chosen run, and a table that is sorted, filtered and saved.

const MODEL_NAMES = { affordable: "Affordable", global: "Global", finetuned: "Fine-tuned", local: "Trained alone" };
const nothingGot = (kind) => ({ kind, parts: [], points: [], empty: "No client of this run has measured.", describe: "Nothing was measured on clients.", table: { columns: [], rows: [] } });
const gotValues = (got) => (state.got === "gain" ? got.clients.gain : got.clients[`top1_${state.got}`]) || [];
const gotLabel = () => (state.got === "gain" ? "Gain over training alone" : `Top-1, ${(MODEL_NAMES[state.got] || "").toLowerCase()}`);
const knownClients = (got) => gotValues(got).flatMap((v, i) => (v === null || v === undefined ? [] : [i]));
const gotText = (got, i) => `${percent(gotValues(got)[i])}${got.clients.tier[i] ? `, ${got.clients.tier[i]}` : ""}, ${quantity(got.clients.examples[i])} images`;

Object.assign(state, { got: "affordable", group: "tier", paid: "macs", sort: { key: "client", down: false }, filter: "" });

Object.assign(FIGURES, {
  got() {
    const { got, label } = oneRun();
    if (!got) return nothingGot("bars");
    const values = gotValues(got);
    const order = knownClients(got).sort((a, b) => values[a] - values[b]);
    const tenth = Math.ceil(order.length / 10);
    const drawn = order.filter((_, rank) => rank % Math.ceil(order.length / 600) === 0 || rank < tenth);
    const rankOf = new Map(order.map((i, rank) => [i, rank]));
    const shown = (v) => Math.max(v, 0);
    return {
      kind: "bars",
      parts: ["all others", "worst tenth"],
      bars: drawn.map((i, rank) => ({ tick: tickAt(oneRun(), got.clients.client[i], rankOf.get(i), drawn.length), parts: rank < tenth ? [0, shown(values[i])] : [shown(values[i]), 0], text: [called(oneRun(), got.clients.client[i]), gotText(got, i)] })),
      x: { label: "Clients, the worst first", room: tickRoom(drawn.map((i) => tickAt(oneRun(), got.clients.client[i], rankOf.get(i), drawn.length))) },
      y: { label: gotLabel(), format: percentTick },
      describe: `${gotLabel()} of ${order.length} clients of ${label} after round ${got.round}, sorted${order.length ? `, from ${percent(values[order[0]])} to ${percent(values[order.at(-1)])}` : ""}.${state.got === "gain" ? " Losses are drawn as 0." : ""}`,
      empty: order.length ? null : "No client has measured this model.",
      table: { columns: ["Client", gotLabel(), "Worst tenth"], rows: order.map((i, rank) => [got.clients.client[i], percent(values[i]), rank < tenth ? "yes" : "no"]) },
    };
  },
  gotgroups() {
    const { got, label } = oneRun();
    const groups = got && (got.groups[state.group] || []);
    if (!got || !groups.length) return nothingGot("bars");
    const name = { tier: "Kind of device", examples: "Training images", labels: "Labels of a client" }[state.group];
    const about = MODEL_NAMES[got.model].toLowerCase();
    return {
      kind: "bars",
      parts: ["mean", "worst tenth"],
      beside: percent,
      bars: groups.map((g) => ({ tick: g.name, parts: [g.top1.mean || 0, g.top1.worst10 || 0], text: [g.name, `${percent(g.top1.mean)} on average, ${percent(g.top1.worst10)} for the worst tenth of ${g.clients} clients${g.gain === null ? "" : `; gain ${percent(g.gain)}`}`] })),
      x: { label: name, room: tickRoom(groups.map((g) => g.name)) },
      y: { label: `Top-1, ${about}`, format: percentTick },
      describe: `Top-1 of the ${about} model of ${label} by ${name.toLowerCase()}: ${groups.map((g) => `${g.name} ${percent(g.top1.mean)}`).join("; ")}.`,
      table: { columns: [name, "Clients", "Mean top-1", "Deviation", "Worst tenth", "Jain", "Mean gain", "Clients with a gain"], rows: groups.map((g) => [g.name, g.clients, percent(g.top1.mean), percent(g.top1.std), percent(g.top1.worst10), g.top1.jain === null ? ABSENT : g.top1.jain.toFixed(3), percent(g.gain), g.gained]) },
    };
  },
  gotpaid() {
    const { got, label } = oneRun();
    if (!got) return nothingGot("scatter");
    const unit = { macs: "MAC", bytes: "B", asked: "" }[state.paid];
    const tiers = [...new Set(got.clients.tier)];
    const values = gotValues(got);
    const points = knownClients(got).map((i) => ({ x: got.clients[state.paid][i], y: values[i], index: tiers.indexOf(got.clients.tier[i]) % 8, name: "", title: called(oneRun(), got.clients.client[i]), text: `${gotText(got, i)}, for ${quantity(got.clients[state.paid][i], unit)}` }));
    const paid = { macs: "Training compute", bytes: "Bytes both ways", asked: "Times asked" }[state.paid];
    return {
      kind: "scatter",
      keys: tiers.length > 1 ? tiers.map((name, index) => ({ name: String(name), index: index % 8 })) : [],
      points,
      x: { label: `${paid} of a client in the whole run`, format: (v) => (v ? quantity(v, unit) : "0"), whole: !unit, inset: 12 },
      y: { label: gotLabel(), format: percentTick },
      describe: `${gotLabel()} of the clients of ${label} against what each paid: ${points.length} clients.`,
      empty: points.length ? null : "No client has measured this model.",
      table: { columns: ["Client", paid, gotLabel()], rows: points.map((p) => [p.title, quantity(p.x, unit), percent(p.y)]) },
    };
  },
});

// The table of clients: exact values are sorted and saved, short ones are shown.
const GRID = [
  ["client", "Client"], ["name", "Name"], ["tier", "Device"], ["worst", "Worst tenth"], ["examples", "Training images"], ["held", "Held out"], ["label_count", "Labels"],
  ["top1_global", "Global", "%"], ["top1_affordable", "Affordable", "%"], ["top1_finetuned", "Fine-tuned", "%"], ["top1_local", "Alone", "%"], ["gain", "Gain", "%"],
  ["asked", "Asked"], ["completed", "Used"], ["late", "Late or lost"], ["macs", "MACs", "MAC"], ["bytes", "Bytes", "B"],
];
const gridText = (value, unit) => (value === null || value === undefined ? ABSENT : value === true ? "worst" : value === false ? "" : unit ? quantity(value, unit) : String(value));

function gridRows() {
  const { got } = oneRun();
  if (!got) return { columns: [], rows: [] };
  const columns = GRID.filter(([key]) => got.clients[key].some((v) => v !== null && v !== false));
  const wanted = state.filter.trim().toLowerCase();
  const rows = got.clients.client
    .map((_, i) => columns.map(([key, , unit]) => ({ value: got.clients[key][i], text: gridText(got.clients[key][i], unit) })))
    .filter((row) => !wanted || row.some(({ text }) => text.toLowerCase().includes(wanted)));
  const place = Math.max(0, columns.findIndex(([key]) => key === state.sort.key));
  const rank = ({ value }) => (value === null || value === undefined ? Infinity : typeof value === "string" ? value : Number(value));
  const compare = (a, b) => (typeof a === "string" && typeof b === "string" ? a.localeCompare(b) : a < b ? -1 : a > b ? 1 : 0);
  rows.sort((a, b) => (state.sort.down ? -1 : 1) * compare(rank(a[place]), rank(b[place])));
  return { columns, rows };
}

function fillGrid(details) {
  const { columns, rows } = gridRows();
  const holder = details.querySelector(".scroll");
  holder.replaceChildren();
  const table = htmlNode(holder, "table");
  const head = htmlNode(htmlNode(table, "thead"), "tr");
  columns.forEach(([key, name]) => {
    const sorted = key === state.sort.key;
    const cell = htmlNode(head, "th", { scope: "col", ...(sorted && { "aria-sort": state.sort.down ? "descending" : "ascending" }) });
    htmlNode(cell, "button", { type: "button", class: "sort", "data-sort": key }, name);
  });
  const body = htmlNode(table, "tbody");
  rows.forEach((row) => {
    const line = htmlNode(body, "tr");
    row.forEach(({ text }, i) => htmlNode(line, i ? "td" : "th", i ? {} : { scope: "row" }, text));
  });
  details.querySelector("[data-count]").textContent = `${rows.length} of ${(oneRun().got || { clients: { client: [] } }).clients.client.length} clients`;
}

const fillGrids = () => { for (const details of document.querySelectorAll("details[data-grid]")) if (details.open) fillGrid(details); };
function saveGrid() {
  const { columns, rows } = gridRows();
  const lines = [columns.map(([key]) => key), ...rows.map((row) => row.map(({ value }) => value))].map((line) => line.map(csvCell).join(","));
  saveCsv(`${lines.join("\n")}\n`, "clients-got.csv");
}

document.addEventListener("click", ({ target }) => {
  if (target.dataset && target.dataset.sort) {
    state.sort = { key: target.dataset.sort, down: state.sort.key === target.dataset.sort && !state.sort.down };
    fillGrids();
    const again = document.querySelector(`[data-sort="${state.sort.key}"]`);
    if (again) again.focus();
  }
  if (target.dataset && target.dataset.export) saveGrid();
});
document.addEventListener("input", ({ target }) => {
  if (target.dataset && target.dataset.filter) { state.filter = target.value; fillGrids(); }
});
document.addEventListener("toggle", ({ target }) => { if (target.dataset && target.dataset.grid) fillGrids(); }, true);
document.addEventListener("change", ({ target }) => { if (target.dataset && target.dataset.set === "run") fillGrids(); });
