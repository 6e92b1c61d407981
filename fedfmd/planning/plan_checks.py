"""What a policy may ask of a client: a part that the network has, and an amount of work that ends."""

from collections.abc import Iterator
from itertools import chain
from math import isfinite
from typing import Any

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.nn.submodel import Share
from fedfmd.records.schema import LONGEST_TEXT
from fedfmd.wire.plan import ClientPlan

MOST_BATCH_SIZE = 10**6
"""As ``client.batch_size`` has it."""
MOST_STEPS = 10**12


def plan_fault(plan: ClientPlan, config: ExperimentConfig) -> str:
    """Say what of a plan no client can be asked for; nothing where it can be done."""
    faults = chain(_unbounded_work(plan, config), _absent_part(plan.share, config), _unfit(plan.why))
    return next(faults, "")


def reason_fault(reason: object) -> str:
    """Say why a reason cannot stand in a client's row; nothing where it can."""
    return next(_unfit(reason, "a reason"), "")


def _unbounded_work(plan: ClientPlan, config: ExperimentConfig) -> Iterator[str]:
    most_epochs = config.client.epochs
    for name, count, most, limit in (
        ("epochs", plan.epochs, most_epochs, f"client.epochs = {most_epochs}"),
        ("batch_size", plan.batch_size, MOST_BATCH_SIZE, f"{MOST_BATCH_SIZE}"),
        ("steps", 1 if plan.steps is None else plan.steps, MOST_STEPS, f"{MOST_STEPS}"),
    ):
        if not _whole(count, 1):
            yield f"{name} = {count!r}, where whole numbers of 1 or more are possible"
        elif count > most:
            yield f"{name} = {count}, which is more than {limit}"


def _absent_part(share: Any, config: ExperimentConfig) -> Iterator[str]:
    """Say what of a share is no part of the network that ``model`` describes."""
    if not isinstance(share, Share):
        yield f"share = {share!r:.50}, where a Share is asked for"
        return
    model = config.model
    width, kernels = share.width, share.kernels
    if type(width) not in (int, float) or not isfinite(width) or not 0 < width <= 1:
        yield f"width = {width!r}, where a number above 0 to 1 is possible"
    if not isinstance(kernels, tuple) or not all(_whole(k, 0) and k < model.kernels for k in kernels):
        yield f"kernels = {kernels!r:.50}, where a tuple of numbers from 0 to {model.kernels - 1} is possible"
    elif list(kernels) != sorted(set(kernels)):
        yield f"kernels = {kernels}, where each stands once, ascending"
    if not _whole(share.depth, 0) or share.depth >= model.stages:
        yield f"depth = {share.depth!r}, where 0, for all stages, to {model.stages - 1} is possible"
    if not _whole(share.rotation, 0):
        yield f"rotation = {share.rotation!r}, where whole numbers from 0 are possible"
    held = {"width": width != 1, "kernels": bool(kernels), "depth": bool(share.depth)}
    for axis in (axis for axis, some in held.items() if some and axis not in model.slices):
        yield f"{axis} = {getattr(share, axis)}, a part that model.name = {model.name!r} has not"
    if share.depth and not model.exits:
        yield f"depth = {share.depth}, which needs model.exits = true"


def _unfit(text: object, what: str = "why") -> Iterator[str]:
    if not isinstance(text, str) or not text.isprintable() or len(text) > LONGEST_TEXT:
        yield f"{what} = {text!r:.50}, where a line of up to {LONGEST_TEXT} printable characters is possible"


def _whole(value: object, least: int) -> bool:
    return type(value) is int and value >= least
