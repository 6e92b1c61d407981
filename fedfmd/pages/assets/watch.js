"use strict";
// Keeps a served page up to date: a panel that says what goes on now, and the report itself as rounds end.

const panel = document.getElementById("live");
const STEPS = { federated: "Round", central: "Epoch", study: "Run" };
const WORDS = { finished: "Finished", running: "Running", interrupted: "Interrupted", stopped: "Stopped", damaged: "Damaged" };

function duration(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

function drawProgress(parent, run) {
  const line = htmlNode(parent, "p", { class: "eyebrow" });
  htmlNode(line, "span", { class: `status ${run.status === "running" || run.status === "finished" ? "finished" : "unfinished"}` }, WORDS[run.status]);
  const done = run.kind === "study" ? `${run.done} of ${run.wanted ?? "?"} runs` : `${STEPS[run.kind]} ${run.done} of ${run.wanted ?? "?"}`;
  if (run.wanted) htmlNode(line, "progress", { max: run.wanted, value: run.done, "aria-label": done });
  htmlNode(line, "span", {}, done);
  if (run.left_seconds) htmlNode(line, "span", {}, `about ${duration(run.left_seconds)} left`);
}

function drawSpent(parent, run) {
  const spent = [["top-1", run.top1, "%"], ["MACs", run.macs, "MAC"], ["up and down", run.bytes, "B"], ["device seconds", run.device_seconds, "s"], ["host clock", run.host_seconds, "s"]];
  const known = spent.filter(([, value]) => value !== null).map(([name, value, unit]) => `${name} ${quantity(value, unit)}`);
  htmlNode(parent, "p", { class: "note" }, known.join(" \u00b7 "));
}

// A bar per client of the last round: its time on the simulated clock, or its compute where no device is simulated.
function drawCohort(parent, run) {
  if (!run.cohort || !run.cohort.length) return;
  const timed = run.cohort.some((one) => one.device_seconds !== null);
  const [key, unit, what] = timed ? ["device_seconds", "s", "on the simulated clock"] : ["macs", "MAC", "by their compute"];
  const more = run.cohort_size > run.cohort.length ? `, the first ${run.cohort.length}` : "";
  htmlNode(parent, "h2", { class: "small" }, `Round ${run.cohort_round}: ${run.cohort_size} clients ${what}${more}`);
  const longest = Math.max(...run.cohort.map((one) => one[key] ?? 0)) || 1;
  const list = htmlNode(parent, "ul", { class: "cohort" });
  for (const one of run.cohort) {
    const item = htmlNode(list, "li");
    htmlNode(item, "span", {}, `client ${one.client}`);
    const bar = htmlNode(htmlNode(item, "span", { class: "track", "aria-hidden": "true" }), "span", { class: `fill ${one.status}` });
    bar.style.width = `${(100 * (one[key] ?? 0)) / longest}%`;
    const share = one.spent === null ? "" : `, ${percent(one.spent)} of its limit`;
    const why = one.status === "completed" ? "" : `, ${one.status}${one.reason ? `: ${one.reason}` : ""}`;
    htmlNode(item, "span", { class: "note" }, `${quantity(one[key], unit)}${share}${why}`);
  }
}

function drawReasons(parent, run) {
  if (run.reason) htmlNode(parent, "p", { class: "notes" }, `Stopped: ${run.reason}`);
  if (!run.unused) return;
  htmlNode(parent, "p", { class: "note" }, `Not completed so far, ${number(run.unused)} times: ${run.reasons.map(([why, times]) => `${why} (${number(times)})`).join("; ")}`);
}

function drawRun(run) {
  panel.replaceChildren();
  drawProgress(panel, run);
  drawSpent(panel, run);
  drawReasons(panel, run);
  drawCohort(panel, run);
}

function drawList(runs) {
  panel.replaceChildren();
  const root = location.pathname.includes("/run/") ? "" : "run/";
  for (const [name, run] of Object.entries(runs)) {
    const card = htmlNode(panel, "article");
    htmlNode(htmlNode(card, "h2", { class: "small" }), "a", { href: root + name }, run.name);
    drawProgress(card, run);
    drawSpent(card, run);
    if (run.reason) htmlNode(card, "p", { class: "notes" }, `Stopped: ${run.reason}`);
    htmlNode(card, "p", { class: "note" }, run.folder);
  }
  document.querySelector(".empty").hidden = Object.keys(runs).length > 0;
}

async function refresh() {
  const answer = await fetch(location.href, { cache: "no-store" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const named = (details) => details.dataset.table || details.closest("figure")?.dataset.figure || details.id;
  const open = new Set([...document.querySelectorAll("#results details[open]")].map(named));
  for (const part of ["header.top", "#results"]) document.querySelector(part).replaceWith(document.adoptNode(fresh.querySelector(part)));
  for (const details of document.querySelectorAll("#results details")) details.open = open.has(named(details));
  document.title = fresh.title;
  adopt(JSON.parse(fresh.getElementById("report-data").textContent));
}

let reported = panel.dataset.reported;
let asked = 0;
const source = new EventSource(panel.dataset.events);
source.onopen = () => panel.classList.remove("lost");
source.onerror = () => panel.classList.add("lost");
source.onmessage = ({ data }) => {
  const runs = JSON.parse(data);
  if (panel.classList.contains("list")) return drawList(runs);
  const [run] = Object.values(runs);
  drawRun(run);
  const now = `${run.done} ${run.status}`;
  if (now === reported) return;
  reported = now;
  // At most one refresh waits at a time: rounds may be shorter than the making of a report.
  clearTimeout(asked);
  asked = setTimeout(refresh, 300);
};
document.documentElement.dataset.live = "true";
