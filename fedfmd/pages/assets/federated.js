// Plans by device, and what the dynamic convolutions did: figures of the chosen run.

const rangeOf = (values) => {
  const known = values.flat().filter((v) => v !== null && v !== undefined);
  return [Math.min(...known), Math.max(...known)];
};
// Nine shades between the smallest and the largest value; one shade where all are alike.
const between = ([low, high]) => (v) => (high > low ? Math.round(((v - low) / (high - low)) * HEAT_LEVELS) : HEAT_LEVELS);
// As many digits as tell the shades apart.
const digitsFor = ([low, high]) => Math.min(6, Math.max(2, 1 - Math.floor(Math.log10(high - low))));
const heatKey = ([low, high]) => (high > low ? [[low, 0], [(low + high) / 2, HEAT_LEVELS / 2], [high, HEAT_LEVELS]].map(([v, level]) => [v.toFixed(digitsFor([low, high])), level]) : [[number(high), HEAT_LEVELS]]);
const noDynamics = (kind) => ({ kind, empty: "This run measured no diagnostics.", describe: "No diagnostics.", table: { columns: [], rows: [] } });

Object.assign(FIGURES, {
  plans() {
    const { plans, label } = oneRun();
    if (!plans) return { kind: "bars", parts: [], empty: "One plan for all clients.", describe: "One plan for all clients.", table: { columns: [], rows: [] } };
    return {
      kind: "bars",
      parts: plans.plans,
      bars: plans.groups.map((group, g) => ({
        tick: group,
        parts: plans.counts[g],
        text: [group, plans.plans.flatMap((plan, p) => (plans.counts[g][p] ? [`${quantity(plans.counts[g][p])} times ${plan}`] : [])).join("; ")],
      })),
      x: { label: "Kind of device", room: 12 + 6.6 * Math.max(...plans.groups.map((g) => g.length)) },
      y: { label: "Clients asked, over all rounds", format: (v) => number(v), whole: true },
      describe: `Plans of ${label} by kind of device: ${plans.groups.map((group, g) => `${group} mostly ${plans.plans[plans.counts[g].indexOf(Math.max(...plans.counts[g]))]}`).join("; ")}.`,
      table: { columns: ["Kind of device", ...plans.plans], rows: plans.groups.map((group, g) => [group, ...plans.counts[g]]) },
    };
  },
  entropy() {
    const { dynamics, label } = oneRun();
    if (!dynamics) return noDynamics("heat");
    const range = rangeOf(dynamics.entropy);
    return {
      kind: "heat",
      rows: dynamics.layers,
      columns: dynamics.rounds.map(String),
      values: dynamics.entropy,
      level: between(range),
      key: heatKey(range),
      text: (r, c) => [dynamics.layers[r], `${number(dynamics.entropy[r][c])} of log K in round ${dynamics.rounds[c]}`],
      x: { label: "Round" },
      y: { label: "Layer" },
      describe: `Attention entropy of each dynamic layer of ${label} by round, as a share of log K, from ${number(range[0])} to ${number(range[1])}.`,
      empty: Number.isFinite(range[0]) ? null : "A single kernel has no entropy.",
      table: { columns: ["Layer", ...dynamics.rounds.map((r) => `Round ${r}`)], rows: dynamics.layers.map((layer, i) => [layer, ...dynamics.entropy[i]]) },
    };
  },
  usage() {
    const { dynamics, label } = oneRun();
    if (!dynamics) return noDynamics("heat");
    const kernels = Array.from({ length: Math.max(...dynamics.usage.map((u) => u.length), 0) }, (_, k) => String(k));
    const range = rangeOf(dynamics.usage);
    return {
      kind: "heat",
      rows: dynamics.layers,
      columns: kernels,
      values: dynamics.usage,
      level: between(range),
      key: heatKey(range),
      text: (r, c) => [dynamics.layers[r], `kernel ${c} gets ${percent(dynamics.usage[r][c])} of the attention`],
      x: { label: "Kernel" },
      y: { label: "Layer" },
      describe: `Mean attention of each kernel in each layer of ${label} after round ${dynamics.last}, from ${percent(range[0])} to ${percent(range[1])}.`,
      empty: kernels.length ? null : "No usage was recorded.",
      table: { columns: ["Layer", ...kernels.map((k) => `Kernel ${k}`)], rows: dynamics.layers.map((layer, i) => [layer, ...dynamics.usage[i]]) },
    };
  },
  cosine() {
    const { dynamics, label } = oneRun();
    if (!dynamics) return noDynamics("lines");
    const known = dynamics.rounds.map((round, i) => ({ round, values: dynamics.cosine.map((row) => row[i]).filter((v) => v !== null) })).filter(({ values }) => values.length);
    const measures = [
      ["Highest layer", (v) => Math.max(...v)],
      ["Mean of the layers", (v) => v.reduce((a, b) => a + b, 0) / v.length],
      ["Lowest layer", (v) => Math.min(...v)],
    ];
    const series = measures.map(([name, of], index) => ({
      name, index, points: known.map(({ round, values }) => ({ x: round, y: of(values), text: `${number(of(values))} in round ${round}` })),
    }));
    return {
      kind: "lines",
      keyed: true,
      series,
      x: { label: "Round", format: (v) => quantity(v), whole: true },
      y: { label: "Mean cosine between clients", format: (v) => number(v) },
      describe: `Mean cosine between the kernel updates of the clients of ${label}: ${known.length ? span(series, number) : "none"}.`,
      empty: known.length ? null : "No round had two clients that moved.",
      table: { columns: ["Layer", ...dynamics.rounds.map((r) => `Round ${r}`)], rows: dynamics.layers.map((layer, i) => [layer, ...dynamics.cosine[i]]) },
    };
  },
});
