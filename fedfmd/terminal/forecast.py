"""What a run will cost, as tables for a terminal."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedfmd.planning.budget import Limits
from fedfmd.planning.demand import Demand
from fedfmd.records.documents import SpentPrivacy
from fedfmd.rounds.forecast import Forecast, ForecastTotals, PolicyForecast, TierForecast
from fedfmd.units import ABSENT, counted, number, percent, quantity

UNITS = {
    "macs": "MAC",
    "downlink_bytes": "B",
    "uplink_bytes": "B",
    "memory_bytes": "B",
    "device_seconds": "s",
    "joules": "J",
}
NAMES = {"macs": "compute", "downlink_bytes": "down", "uplink_bytes": "up", "memory_bytes": "memory"}
SHOWN_PLANS = 3
TIMES = ((3600, "h"), (60, "min"), (1, "s"))
FINER = 1.5
"""Below so many of a unit the next smaller one is written."""


def tiers_table(found: Forecast) -> Table:
    """Lay out what each tier may spend in a round, and what its full work would take."""
    table = Table(
        title="A client's round, by tier",
        caption="Of the client with the median number of images.",
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("Tier")
    for name in ("Clients", "Images", "Full work", "Each way", "Memory", "On its device"):
        table.add_column(name, justify="right")
    table.add_column("May spend", overflow="fold")
    for tier in found.tiers:
        full = tier.full
        table.add_row(
            tier.name,
            str(tier.clients),
            quantity(tier.examples),
            quantity(full.macs, "MAC"),
            quantity(full.downlink_bytes, "B"),
            quantity(full.memory_bytes, "B"),
            _on_device(full),
            _limits(tier.limits),
        )
    return table


def _on_device(full: Demand) -> str:
    """Write the seconds and joules of a device, as far as its profile tells them."""
    told = [
        quantity(v, unit) for v, unit in ((full.device_seconds, "s"), (full.joules, "J")) if v is not None
    ]
    return ", ".join(told) or ABSENT


def _limits(limits: Limits) -> str:
    found = (
        f"{NAMES.get(n, n.replace('_', ' '))} {quantity(v, UNITS[n])}" for n, v in limits.to_json().items()
    )
    return ", ".join(found) or "anything"


def policies_table(found: Forecast) -> Table:
    """Lay out what each policy would give each tier; the experiment's own policy comes first."""
    table = Table(title="What a policy would give them", caption="* is the policy of this experiment.")
    for name in ("Tier", "Policy", "Plans"):
        table.add_column(name, overflow="fold")
    for name in ("Left out", "Work done"):
        table.add_column(name, justify="right")
    for tier in found.tiers:
        for place, given in enumerate(tier.policies):
            mark = " *" if given.policy == found.config.policy.kind else ""
            table.add_row(
                tier.name if not place else "", f"{given.policy}{mark}", *_policy_cells(tier, given),
                end_section=place == len(tier.policies) - 1,
            )  # fmt: skip
    return table


def _policy_cells(tier: TierForecast, given: PolicyForecast) -> Sequence[str]:
    if given.refused:
        return (f"not here: {given.refused}", ABSENT, ABSENT)
    shown = [f"{count} x {words}" for words, count in given.plans[:SHOWN_PLANS]]
    more = len(given.plans) - SHOWN_PLANS
    shown += [f"{more} more plans"] if more > 0 else []
    return (", ".join(shown) or ABSENT, f"{given.left_out} of {tier.clients}", percent(given.macs_share))


def totals_table(found: Forecast, wall_seconds: tuple[float, float] | None) -> Table:
    """Lay out what the whole run will take."""
    totals = found.totals
    table = Table(title=f"The whole run, {counted(totals.rounds, 'round')}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, text in (
        ("Training compute", quantity(totals.macs, "MAC")),
        ("Evaluation's share of the compute", percent(totals.evaluation_share)),
        ("Bytes to clients", quantity(totals.downlink_bytes, "B")),
        ("Bytes from clients", quantity(totals.uplink_bytes, "B")),
        *(_secure_rows(totals) if totals.secure_macs else ()),
        ("Most memory of a client", quantity(totals.memory_bytes, "B")),
        ("Asked clients that are left out", f"{totals.left_out:.1f} of {number(totals.asked)} a round"),
        ("Simulated time of all devices", quantity(totals.device_seconds, "s")),
        ("Energy of all devices", quantity(totals.energy_joules, "J")),
        ("Simulated clock", quantity(totals.device_clock_seconds, "s")),
        ("Time on this machine", wall_text(wall_seconds)),
        *_promised(found),
    ):
        table.add_row(name, text)
    return table


def _promised(found: Forecast) -> Iterator[tuple[str, str]]:
    """Say what the run promises each client."""
    promise = found.promise
    if promise is None:
        return
    rounds, one = found.totals.rounds, promise.one
    spent = SpentPrivacy(epsilon=promise.after(rounds), delta=promise.delta, relation=one.relation)
    yield f"Privacy after {counted(rounds, 'round')}", spent.words
    yield "Noise on a round's sum", f"{one.noise_multiplier:g} x the clip"
    if (allowed := promise.rounds_left()) is not None:
        yield f"Rounds within epsilon {promise.budget:g}", f"{allowed:,} of {found.config.server.rounds:,}"


def _secure_rows(totals: ForecastTotals) -> Sequence[tuple[str, str]]:
    return (
        ("Keys, shares and masks, compute", quantity(totals.secure_macs, "MAC")),
        ("Keys and shares, bytes both ways", quantity(totals.secure_bytes, "B")),
    )


def wall_text(seconds: tuple[float, float] | None) -> str:
    """Write a range of time, no finer than it is known; a dash where nothing was measured."""
    if seconds is None:
        return ABSENT
    size, unit = next((s, u) for s, u in TIMES if seconds[1] >= FINER * s or s == 1)
    low, high = (f"{value:.0f}" if (value := x / size) >= 10 else f"{value:.1f}" for x in seconds)
    return f"{low.removesuffix('.0')} to {high.removesuffix('.0')} {unit}"
