"""What a figure of a study may have on y: one number of a finished run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from fedfmd.records.cost import Cost
from fedfmd.records.quality import ClientQuality, Quality
from fedfmd.records.schema import Number
from fedfmd.results.summary import final_round, share
from fedfmd.results.trials import Trial
from fedfmd.units import SHARE

GAIN = "client_gain_mean"
"""The one figure of quality that is a difference."""


@dataclass(frozen=True)
class Metric:
    """One number of a run."""

    key: str
    label: str
    unit: str
    of: Callable[[Trial], Number]
    tested: bool = False
    """Whether it is a top-1 on the test set, beside which chance means something."""
    signed: bool = False
    """Whether it is a difference, which may be below zero."""

    @property
    def possible(self) -> tuple[float, float] | None:
        """The least and the greatest value of a share, or of a difference of shares; null for others."""
        if self.unit != SHARE:
            return None
        return (-1.0, 1.0) if self.signed else (0.0, 1.0)


@cache
def metrics() -> Mapping[str, Metric]:
    """Return what there is, by key: figures of the last evaluated round, totals of the run, and shares."""
    found = [TOP1, Metric("best_top1", "Best top-1", SHARE, lambda trial: trial.best, True), MET, WASTED]
    found.append(
        Metric("wasted_bytes_share", "Wasted bytes", SHARE, lambda t: share("wasted_bytes", "bytes", t.run))
    )
    known = {metric.key: metric for metric in found}
    for record, read in ((Quality, _final), (ClientQuality, _last), (Cost, _spent)):
        for key, column in record.columns().items():
            if column.label and key not in known:
                label, signed = column.label.replace(" [s]", ""), key == GAIN
                known[key] = Metric(key, label, column.unit, read(key), signed=signed)
    known["bytes"] = Metric("bytes", "Bytes", "B", _spent("bytes"))
    return known


def _final(key: str) -> Callable[[Trial], Number]:
    """Read a figure of the last evaluated round: a loss that has gone beyond all bounds is absent there."""
    if key == "client_top1":  # which some evaluations leave out
        return _last(key)

    def read(trial: Trial) -> Number:
        row = final_round(trial.run)
        return getattr(row, key) if row else None

    return read


def _last(key: str) -> Callable[[Trial], Number]:
    """Read what clients measured: its last value."""

    def read(trial: Trial) -> Number:
        values = (getattr(row, key) for row in reversed(trial.run.rounds))
        return next((value for value in values if value is not None), None)

    return read


def _spent(key: str) -> Callable[[Trial], Number]:
    """Read a cost: what the whole run had spent."""

    def read(trial: Trial) -> Number:
        return trial.run.rounds[-1].cumulative.get(key) if trial.run.rounds else None

    return read


def _met(trial: Trial) -> Number:
    rows = trial.run.clients
    if not rows:
        return None
    return sum(row.used and not row.budget.get("violations") for row in rows) / len(rows)


TOP1 = Metric("top1", "Final top-1", SHARE, lambda trial: trial.final, True)
MET = Metric("budget_met", "Clients used within their budget", SHARE, _met)
"""Of all clients that were asked, counted once a round."""
WASTED = Metric("wasted_share", "Wasted MACs", SHARE, lambda t: share("wasted_macs", "macs", t.run))
"""Training compute of clients that are not in the average, as a share of all."""
