"""What the clients were asked to do, and how much of their limits it took."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from fedfmd.pages.run.parts import table, table_line
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Number
from fedfmd.results.clients import NO_TIER
from fedfmd.results.runs import Run, number, once_per_run
from fedfmd.results.summary import lookup
from fedfmd.units import percent, quantity

MOST_PLANS = 6
"""Different plans drawn apart; rarer ones are drawn together."""
MOST_GROUPS = 10
OTHERS = "others"
LEFT_OUT = "left out"

PLAN_TERMS = {"width": "width", "kernels": "K", "depth": "stages", "epochs": "epochs", "batch_size": "batch"}

LIMITS: tuple[tuple[str, str, str], ...] = (
    ("macs", "MACs", "MAC"),
    ("downlink_bytes", "Bytes down", "B"),
    ("uplink_bytes", "Bytes up", "B"),
    ("memory_bytes", "Memory", "B"),
    ("device_seconds", "Device seconds", "s"),
    ("joules", "Energy", "J"),
)
"""Key in `budget`, name and unit."""


@dataclass(frozen=True, kw_only=True)
class PlanCounts:
    """How often clients of each kind of device had each plan: ``counts[group][plan]``."""

    groups: tuple[str, ...]
    plans: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class LimitUse:
    """One kind of limit over a run: shares are of what was allowed."""

    key: str
    label: str
    unit: str
    times: int
    """Clients and rounds that had it, and did something."""
    least: Number
    most: Number
    """The tightest and the widest limit."""
    median_share: Number
    largest_share: Number
    broken: int


@once_per_run
def plan_counts(run: Run) -> PlanCounts | None:
    """Count plans by device; null when there was one plan for all and no device."""
    kinds = Counter(_Kind.of(row) for row in run.clients if row.plan)
    differing = [i for i, _ in enumerate(PLAN_TERMS) if len({kind.terms[i] for kind in kinds}) > 1]
    counted, by_group, by_plan = Counter[tuple[str, str]](), Counter[str](), Counter[str]()
    for kind, times in kinds.items():
        plan = kind.words(differing)
        counted[kind.group, plan] += times
        by_group[kind.group] += times
        by_plan[plan] += times
    groups, plans = _commonest(by_group, MOST_GROUPS), _commonest(by_plan, MOST_PLANS)
    if len(groups) < 2 and len(plans) < 2:
        return None
    drawn = Counter[tuple[str, str]]()
    for (group, plan), times in counted.items():
        drawn[group if group in groups else OTHERS, plan if plan in plans else OTHERS] += times
    order = sorted({group for group, _ in drawn}, key=_tier_order(run))
    shown = [*plans, OTHERS] if any(plan == OTHERS for _, plan in drawn) else plans
    counts = tuple(tuple(drawn[group, plan] for plan in shown) for group in order)
    return PlanCounts(groups=tuple(order), plans=tuple(shown), counts=counts)


@once_per_run
def limit_uses(run: Run) -> list[LimitUse]:
    """Compare what clients used with each kind of limit that they had, whether or not their work was used."""
    limited = [row for row in run.clients if row.budget]
    return [use for limit in LIMITS if (use := _limit_use(limited, *limit)) is not None]


def _limit_use(rows: Sequence[ClientRow], key: str, label: str, unit: str) -> LimitUse | None:
    limits = [(number(row.budget[key]), row.spent(key), row) for row in rows if key in row.budget]
    bound = [(limit, value, row) for limit, value, row in limits if limit]
    if not bound:
        return None
    shares = [value / limit for limit, value, row in bound if value is not None and row.downlink_bytes]
    return LimitUse(
        key=key,
        label=label,
        unit=unit,
        times=len(shares),
        least=min(limit for limit, _, _ in bound),
        most=max(limit for limit, _, _ in bound),
        median_share=median(shares) if shares else None,
        largest_share=max(shares, default=None),
        broken=sum(key in _violations(row) for _, _, row in bound),
    )


def violations(run: Run) -> int:
    """Count the limits that were broken, over all clients and rounds."""
    return sum(len(_violations(row)) for row in run.clients)


def budget_panels(runs: Sequence[Run]) -> str:
    """Return one HTML table of limits a run, or a sentence where there are none."""
    return "".join(f'<div data-run="{i}">{_panel(run)}</div>' for i, run in enumerate(runs))


def _panel(run: Run) -> str:
    uses = limit_uses(run)
    if not uses:
        return '<p class="note">The clients of this run had no limits.</p>'
    heads = ("Limit a client and round", "allowed", "applied", "median use", "largest use", "broken")
    verdict = _verdict(violations(run))
    return f"<p><strong>{verdict}</strong></p>\n{table('Use of the limits', heads, map(_line, uses))}"


def _line(use: LimitUse) -> str:
    allowed = quantity(use.least, use.unit)
    if use.most != use.least:
        allowed += f" to {quantity(use.most, use.unit)}"
    cells = (
        allowed,
        f"{use.times:,} times",
        percent(use.median_share),
        percent(use.largest_share),
        f"{use.broken:,}",
    )
    return table_line(use.label, cells)


def _verdict(broken: int) -> str:
    if not broken:
        return "No limit was broken."
    return "One limit was broken." if broken == 1 else f"{broken:,} limits were broken."


def _violations(row: ClientRow) -> list[Any]:
    found = row.budget.get("violations")
    return found if isinstance(found, list) else []


class _Kind(NamedTuple):
    """What tells the plans of a run apart; rows are many, kinds few."""

    group: str
    left_out: bool
    fewer_steps: bool
    terms: tuple[str, ...]
    """Values of ``PLAN_TERMS``, in their order."""

    @classmethod
    def of(cls, row: ClientRow) -> "_Kind":
        """Return the kind of a row's plan."""
        plan = row.plan
        return cls(
            str(plan.get("device") or row.budget.get("device") or NO_TIER),
            row.status == "dropped" and not row.downlink_bytes,
            plan.get("steps") is not None,
            tuple([str(plan.get(term, "all")) for term in PLAN_TERMS]),
        )

    def words(self, differing: Sequence[int]) -> str:
        """Name the plan by the ``differing`` ones of its terms."""
        if self.left_out:
            return LEFT_OUT
        names = tuple(PLAN_TERMS.values())
        words = [f"{names[i]} {self.terms[i]}" for i in differing]
        words += ["fewer steps"] if self.fewer_steps else []
        return ", ".join(words) or "the full plan"


def _commonest(counted: Counter[str], most: int) -> list[str]:
    return [name for name, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:most]]


def _tier_order(run: Run) -> Any:
    tiers = lookup(run.config, "devices.tiers")
    names = [str(tier.get("name")) for tier in tiers if isinstance(tier, dict)] if tiers else []
    return lambda name: (names.index(name) if name in names else len(names), name == OTHERS, name)
