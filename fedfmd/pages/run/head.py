"""The top of a page: what ran, whether it finished, and the figures one looks for first."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from fedfmd.config.annealing import unfinished
from fedfmd.contracts import PARTITION_OPTIONS
from fedfmd.costs.scores import NO_VALIDATION
from fedfmd.pages.run.parts import card, guess_notes
from fedfmd.records.documents import DECLARED, Environment, SpentPrivacy
from fedfmd.records.schema import Number
from fedfmd.results.runs import Run
from fedfmd.results.summary import best_round, chance, final_round, lookup, spent
from fedfmd.units import counted, percent, quantity, rate

ON_CLIENTS = (
    "Final accuracy, IES, RCS and comparisons stand on the clients' figure: the mean over clients of the "
    "global model with their own parts, each on its own held-out images."
)


def run_head(run: Run) -> str:
    """Return the head of a page about one run."""
    status = "finished" if run.finished else "unfinished"
    word = "stopped" if run.summary.status == "stopped" else status
    return f"""<header class="top">
<p class="eyebrow"><span>Federated run</span><span class="status {status}">{word.capitalize()}</span>
<span>{_date(run)}</span></p>
<h1>{escape(run.name)}</h1>
<p class="lead">{escape(_sentence(run))}</p>
{_notes([(None, note) for note in _remarks(run)])}
{_cards(run)}
{facts_list(run_facts(run))}
</header>"""


def comparison_head(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """Return the head of a page that compares runs."""
    notes = [(label, note) for run, label in zip(runs, labels, strict=True) for note in _remarks(run)]
    return f"""<header class="top">
<p class="eyebrow"><span>Comparison</span><span>{_date(runs[0])}</span></p>
<h1>{len(runs)} federated runs side by side</h1>
<p class="lead">Final and best accuracy, what each run spent, and what it would have reached on the budget of
the cheapest one.</p>
{_notes(notes)}
</header>"""


def _date(run: Run) -> str:
    """Date of the newest file of the run: its end if it is finished."""
    written = (path for path in run.folder.iterdir() if path.suffix in (".toml", ".jsonl", ".json"))
    newest = max(path.stat().st_mtime for path in written if path.is_file())
    return datetime.fromtimestamp(newest, UTC).strftime("%-d %B %Y, %H:%M UTC")


def _remarks(run: Run) -> list[str]:
    """What a reader has to know before any figure: damage, and an accuracy that is none."""
    final = final_round(run)
    said = guess_notes(chance(run), finished=run.finished)
    control = run.summary.control
    said += [f"Control: {control.remark}"] if control else []
    untested = run.summary.top1_reason
    diverged = run.summary.diverged_round
    said += [f"No accuracy on the test set: {untested}."] if untested else []
    said += [ON_CLIENTS] if final and final.scored_on == "clients" else []
    said += [f"Ended early: {run.summary.ended_early}."] if run.summary.ended_early else []
    said += [f"The run diverged in round {diverged}: lower server.learning_rate."] if diverged else []
    if run.finished and final and final.temperature_kernel is not None:
        last = (final.temperature_kernel, final.temperature_channel or 0.0, final.temperature_tau or 0.0)
        said += filter(None, [unfinished(run.config, *last)])
    return [*run.notes, *said]


def _notes(notes: Sequence[tuple[str | None, str]]) -> str:
    lines = (f"<p>{escape(f'{label}: {note}' if label else note)}</p>" for label, note in notes)
    return f'<div class="notes" role="note">{"".join(lines)}</div>' if notes else ""


def _sentence(run: Run) -> str:
    def find(key: str) -> Any:
        return lookup(run.config, key)

    kernels = f" (K = {find('model.kernels')})" if find("model.conv") not in (None, "static") else ""
    rounds = run.rounds[-1].round if run.rounds else 0
    planned = find("server.rounds")
    done = (
        counted(rounds, "round") if planned in (None, rounds) else f"{rounds} of {counted(planned, 'round')}"
    )
    return (
        f"{find('model.name') or 'A network'} with {find('model.conv') or 'its'} convolutions{kernels} on "
        f"{find('data.name') or 'its data'}: {_population(run)}, {find('server.cohort') or 'some'} of them a "
        f"round, {done}."
    )


def _population(run: Run) -> str:
    clients = run.partition.clients or lookup(run.config, "partition.clients")
    return counted(clients, "client") if isinstance(clients, int) else "its clients"


def run_facts(run: Run) -> dict[str, Any]:
    """Return what ran, by name; what the run directory does not know is ``None`` or empty."""
    config, environment, packages = run.config, run.environment, run.environment.packages
    scheme = run.partition.scheme or lookup(config, "partition.scheme")
    scheme = "each client's own images" if scheme == DECLARED else scheme
    known = {name: getattr(run.partition, name) for name in PARTITION_OPTIONS}
    parameters = {name: value for name, value in known.items() if value not in (None, False)}
    versions = [f"fedfmd {environment.fedfmd}"] if environment.fedfmd else []
    versions += [f"{n} {v}" for n, v in packages.items() if n in ("torch", "flwr", "ray") and v]
    return {
        "Model": _joined(lookup(config, "model.name"), lookup(config, "model.conv"), _width(config)),
        "Parameters": _count(run.summary.parameters),
        "Forward MACs per image": _count(run.summary.forward_macs),
        "Dataset": lookup(config, "data.name"),
        "Partition": _joined(
            scheme, *(f"{k} {v}" for k, v in {**parameters, **run.partition.parameters}.items())
        ),
        "Clients, cohort": f"{_population(run)}, {lookup(config, 'server.cohort')} a round",
        "Strategy": lookup(config, "server.strategy"),
        "Privacy": _privacy(run),
        "Seed": config.get("seed"),
        "Versions": _joined(*versions),
        "Commit": (environment.commit or "")[:12],
        "Machine": _joined(environment.processor, _cores(environment)),
        "Run directory": run.folder.resolve().name,
    }


def _privacy(run: Run) -> str:
    """Say what the models so far promise of one client; empty where that is not asked for."""
    last = run.rounds[-1] if run.rounds else None
    if last is None or last.delta is None or last.privacy_relation is None:
        return ""
    return SpentPrivacy(epsilon=last.epsilon, delta=last.delta, relation=last.privacy_relation).words


def facts_list(facts: Mapping[str, Any]) -> str:
    """Return facts as a list of terms; absent ones are left out."""
    shown = (
        f"<div><dt>{k}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts.items() if v not in (None, "")
    )
    return f'<dl class="facts">{"".join(shown)}</dl>'


def _joined(*parts: Any) -> str:
    return ", ".join(str(part) for part in parts if part not in (None, ""))


def _width(config: Mapping[str, Any]) -> str:
    width = lookup(config, "model.width")
    return f"width {width:g}" if isinstance(width, int | float) else ""


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _cores(environment: Environment) -> str:
    return counted(environment.cores, "core") if environment.cores else ""


def _share(totals: Mapping[str, Number], part: str, whole: str) -> Number:
    value = totals.get(whole)
    return (totals.get(part) or 0) / value if value else None


def _cards(run: Run) -> str:
    """The figures one looks for first."""
    final, best = final_round(run), best_round(run)
    totals = spent(run.summary, run.rounds[-1] if run.rounds else None)
    ies, rcs = (final.ies, final.rcs) if final else ({}, {})
    chosen = (
        f"of round {best.round}, chosen by validation" if best else run.summary.best_reason or NO_VALIDATION
    )
    after = [f"after round {final.round}" if final else None, chance(run)]
    cards = [
        (
            "Final top-1" if run.finished else "Top-1 so far",
            percent(final.accuracy if final else None),
            _joined(*after),
        ),
        ("Best top-1", percent(best.accuracy if best else None), chosen),
        ("Training compute", quantity(totals.get("macs"), "MAC"), "analytic, all clients"),
        (
            "Client seconds",
            quantity(totals.get("client_train_seconds"), "s"),
            f"host clock {quantity(totals.get('host_seconds'), 's')}",
        ),
        (
            "Sent up and down",
            quantity(totals.get("bytes"), "B"),
            f"{quantity(totals.get('uplink_bytes'), 'B')} up, "
            f"{quantity(totals.get('downlink_bytes'), 'B')} down",
        ),
        (
            "Wasted compute",
            percent(_share(totals, "wasted_macs", "macs")),
            f"and {percent(_share(totals, 'wasted_bytes', 'bytes'))} of the bytes",
        ),
        ("IES", quantity(ies.get("macs"), "MAC"), f"per accuracy; {quantity(ies.get('bytes'), 'B')}"),
        ("RCS", rate(rcs.get("macs"), "MAC"), f"correct answers; {rate(rcs.get('bytes'), 'B')}"),
    ]
    return '<dl class="cards">' + "".join(card(*each) for each in cards) + "</dl>"
