"""Centralised runs (`fedfmd train`): epochs in; a page, figures and tables out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from fedfmd.config.annealing import unfinished
from fedfmd.config.conditions import applied
from fedfmd.config.experiment import ExperimentConfig, config_in
from fedfmd.costs.scores import Chance, best_row
from fedfmd.files import make_folder
from fedfmd.pages.run.head import facts_list
from fedfmd.pages.run.page import asset, html_document
from fedfmd.pages.run.parts import figure_box, guess_notes, table, table_line
from fedfmd.pages.run.payload import columns, unique_labels
from fedfmd.pages.run.tables import write_csv
from fedfmd.records import filenames
from fedfmd.records.documents import Environment, TrainSummary, figures_of
from fedfmd.records.rows import EpochRow
from fedfmd.records.schema import Number, headings
from fedfmd.results.published import HEADINGS, caption, comparison_rows
from fedfmd.results.runs import (
    changed_files,
    changed_notes,
    edited_notes,
    read_chance,
    read_environment,
    read_notes,
    read_toml,
    salvaged_document,
    salvaged_rows,
)
from fedfmd.results.summary import common_chance
from fedfmd.units import ABSENT, counted, percent, quantity, rate

FOOTER = """Accuracies are fractions of the test set; seconds are measured on the machine named above. IES is
training seconds over top-1, RCS correct test answers a second of inference. Figures for print are in
<code>figures</code>, all data in <code>tables</code>, beside this page."""
RESULTS = (
    "Run",
    "Parameters",
    "Final top-1",
    "Final top-5",
    "Best top-1",
    "An epoch",
    "Training",
    "IES, an epoch",
    "IES, in all",
    "Inference",
    "RCS",
)


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """A centralised run's directory in memory."""

    folder: Path
    name: str
    config: ExperimentConfig
    """What the epochs were computed with."""
    epochs: tuple[EpochRow, ...]
    summary: TrainSummary
    chance: Chance | None
    """What guessing scores on the test set; null where the run does not say it."""
    environment: Environment
    notes: tuple[str, ...]
    changed: tuple[str, ...] = ()
    """Names of files that are not what they were when the run ended: the ledger, the summary."""

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end."""
        return self.summary.finished


def load_training(folder: Path) -> TrainRun:
    """Read a centralised run, finished or not; raises ``UserError`` for a damaged one."""
    notes: list[str] = []
    epochs = salvaged_rows(folder / filenames.EPOCHS, EpochRow, notes)
    summary = salvaged_document(folder / filenames.SUMMARY, TrainSummary, notes)
    environment = read_environment(folder, notes)
    changed = changed_files(folder, summary)
    file = filenames.computed_config(folder)
    config = read_toml(file)[1]
    notes += [*edited_notes(folder, config), *changed_notes(changed), *read_notes(folder)]
    if not summary.finished:
        notes.insert(0, f"This run is unfinished: {counted(len(epochs), 'epoch')} recorded.")
    made = config_in(file, config)
    return TrainRun(
        folder=folder,
        name=made.name,
        config=made,
        epochs=epochs,
        summary=summary,
        chance=read_chance(folder, summary),
        environment=environment,
        notes=tuple(notes),
        changed=tuple(changed),
    )


def render_training(runs: Sequence[TrainRun], live: str = "") -> str:
    """Return the page of one centralised run, or of several; ``live`` is the panel of a served page."""
    labels = unique_labels(runs)
    title = f"{runs[0].name}: centralised run" if len(runs) == 1 else f"{len(runs)} centralised runs compared"
    pages = [_columns(run, label) for run, label in zip(runs, labels, strict=True)]
    chance = common_chance(run.chance for run in runs)
    data = {"runs": pages, "axes": [], "chance": chance, "epochColumns": headings(EpochRow)}
    main = "\n".join(
        (_results_section(runs, labels), _FIGURES, *map(_published_section, range(len(runs)), runs, labels))
    )
    return html_document(
        title, live + _head(runs, title), main, FOOTER, data, asset("train.js"), live=bool(live)
    )


def write_training_tables(runs: Sequence[TrainRun], folder: Path) -> None:
    """Write ``epochs`` and ``summary`` as CSV."""
    make_folder(folder)
    pairs = list(zip(unique_labels(runs), runs, strict=True))
    write_csv(folder / "epochs.csv", [{"run": n} | asdict(row) for n, run in pairs for row in run.epochs])
    write_csv(folder / "summary.csv", [{"run": n} | figures_of(run.summary.to_json()) for n, run in pairs])


def _columns(run: TrainRun, label: str) -> dict[str, Any]:
    return {"label": label} | columns(run.epochs, EpochRow.columns())


def _head(runs: Sequence[TrainRun], title: str) -> str:
    status = "finished" if all(run.finished for run in runs) else "unfinished"
    notes = "".join(f"<p>{escape(f'{run.name}: {note}')}</p>" for run in runs for note in _remarks(run))
    machine = runs[0].environment
    facts = {
        "Forward MACs per image": _count(runs[0].summary.forward_macs),
        "Device": runs[0].summary.device or machine.processor,
        "Software": ", ".join(f"{n} {v}" for n, v in machine.packages.items() if n == "torch"),
    }
    return f"""<header class="top"><p class="eyebrow"><span>Centralised training</span>
<span class="status {status}">{status.capitalize()}</span></p><h1>{escape(title)}</h1>
{f'<div class="notes" role="note">{notes}</div>' if notes else ""}
{facts_list(facts) if len(runs) == 1 else ""}</header>"""


def _remarks(run: TrainRun) -> list[str]:
    """What a reader has to know before any figure: damage, an accuracy that is none, what is absent."""
    found = run.summary
    notes = [*run.notes, *([f"Best top-1 {found.best_reason}."] if found.best_reason else [])]
    if run.chance:
        notes += guess_notes(run.chance.remark(_last_top1(run)), finished=run.finished)
    if run.finished and run.epochs and (last := run.epochs[-1]).temperature_kernel is not None:
        ended = (last.temperature_kernel, last.temperature_channel or 0.0, last.temperature_tau or 0.0)
        notes += filter(None, [unfinished(applied(run.config), *ended, unit="epoch")])
    return notes


def _last_top1(run: TrainRun) -> Number:
    return next((row.top1 for row in reversed(run.epochs) if row.top1 is not None), None)


def _results_section(runs: Sequence[TrainRun], labels: Sequence[str]) -> str:
    lines = (table_line(n, _results(run)) for n, run in zip(labels, runs, strict=True))
    return f"""<section aria-labelledby="h-results"><h2 id="h-results">Results</h2>
{table("Results, table", RESULTS, lines)}</section>"""


def _results(run: TrainRun) -> list[str]:
    found = run.summary
    known = [row for row in run.epochs if row.top1 is not None]
    best = best_row(run.epochs)
    seconds = [row.train_seconds for row in run.epochs if row.train_seconds is not None]
    return [
        _count(found.parameters),
        percent(known[-1].top1 if known else None),
        percent(known[-1].top5 if known else None),
        f"{percent(best.top1)} (epoch {best.epoch})" if best else percent(None),
        quantity(sum(seconds) / len(seconds) if seconds else None, "s"),
        quantity(sum(seconds), "s"),
        quantity(found.ies_epoch_seconds, "s"),
        quantity(found.ies_total_seconds, "s"),
        quantity(found.inference_seconds, "s"),
        rate(found.rcs, "s"),
    ]


_FIGURES = f"""<section aria-labelledby="h-epochs"><h2 id="h-epochs">Epoch by epoch</h2>
{figure_box("accuracy", "Accuracy")}
<div class="pair">{figure_box("loss", "Loss")}{figure_box("seconds", "Training seconds an epoch")}</div>
<details data-table="epochs" class="block"><summary>Table of epochs</summary>
<div class="scroll" tabindex="0" role="region" aria-label="Table of epochs"></div></details></section>"""


def _published_section(index: int, run: TrainRun, label: str) -> str:
    if not run.finished:
        return ""
    name = f"h-published-{index}"
    lines = (table_line(first, rest) for first, *rest in comparison_rows(run.config, run.summary))
    return f"""<section aria-labelledby="{name}"><h2 id="{name}">{escape(label)} beside published results</h2>
{table(f"{label} beside published results, table", HEADINGS, lines)}
<p class="note">{escape(caption(run.summary))}</p></section>"""


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ABSENT
