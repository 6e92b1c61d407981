"""What parts of each kind are called with, and what has to come of it.

A part is anybody's class or function. Its signature is held against the call when a config is read, so that
a name of something else is refused before any work; what it makes is looked at where it is made.
"""

import inspect
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedfmd.errors import DISK, FAULTS, RunError, UserError, told
from fedfmd.registry import Origin, built_in, chosen, find, names, said

Attributes = Mapping[str, tuple[str, ...] | None]
"""Attributes that something must have; of a method, what it is called with by place."""
FLOWERS = ("flwr", "flwr_datasets")
"""Packages whose strategies and partitioners people name first, and which are called otherwise."""
MODULE: Attributes = {"forward": ("images",), "parameters": ()}
PARTITION_OPTIONS = (
    "alpha",
    "min_size",
    "self_balancing",
    "shards_per_client",
    "labels_per_client",
    "samples_per_client",
)
"""Keys of the config that a scheme is given if it takes them, and that ``partition.json`` repeats."""
_PACKAGE = f"{Path(__file__).parent}/"
"""Where what fails is ours, and not whose part is called."""
NEAR = 0.82
"""How alike two names are, 0 to 1, of which one is taken for the other misspelt: "gradeint", but not "shape",
which is no "share"."""


@dataclass(frozen=True)
class Contract:
    """How parts of a kind are used."""

    key: str
    """Of the config, which names the part."""
    places: tuple[str, ...] = ()
    """What it is given by place."""
    always: tuple[str, ...] = ()
    """What it is given by name, whether or not its signature has that name."""
    offered: tuple[str, ...] = ()
    """What it is given by name if it takes it, beside its options."""
    makes: Attributes = field(default_factory=dict)
    """What it returns must have."""
    has: Attributes = field(default_factory=dict)
    """What it must have itself."""
    states: tuple[str, ...] = ()
    """What it may say of itself, as an attribute or beside its name; of an algorithm, what its base has."""

    def known(self, options: Iterable[str]) -> str:
        """Say what there is to be called with."""
        taken = ", ".join([*self.offered, *options])
        by_name = f"what it takes of {taken}" if taken else ""
        return " and ".join(filter(None, [", ".join([*self.places, *self.always]), by_name]))


CONTRACTS: Mapping[str, Contract] = MappingProxyType(
    {
        "conv": Contract(
            "model.conv",
            places=("in_channels", "out_channels", "kernel_size", "stride", "padding"),
            offered=(
                "bias",
                "kernels",
                "attention_norm",
                "cell_num_ratio",
                "cell_inplane_ratio",
                "cell_outplane_ratio",
            ),
            makes=MODULE,
            states=(
                "macs",
                "slices",
                "smallest_batch",
                "block_bias",
                "excitation",
                "share",
                "dynamic",
                "tempered",
                "assigns",
            ),
        ),
        "norm": Contract(
            "model.norm", places=("channels",), makes=MODULE, states=("over_batch", "local", "freezes")
        ),
        "network": Contract(
            "model.name",
            always=("num_classes",),
            offered=(
                "in_channels",
                "image_size",
                "width",
                "conv",
                "norm",
                "excitation",
                "share",
                "stem",
                "exits",
                "stages",
            ),
            makes=MODULE,
            states=("slices", "stages"),
        ),
        "data": Contract(
            "data.name",
            offered=("root", "train", "split", "request", "progress"),
            states=("classes",),
        ),
        "partition": Contract(
            "partition.scheme",
            places=("labels",),
            offered=("clients", "seed", "rng", "owners", *PARTITION_OPTIONS),
            makes={"__iter__": ()},
            states=("virtual",),
        ),
        "policy": Contract("policy.kind", places=("request",), states=("axes",)),
        "selection": Contract(
            "selection.kind",
            places=("drawing",),
            offered=("wanted", "history", "profiles"),
            states=("timed", "judges", "looks_at_losses", "tiered", "independent", "learns"),
        ),
        "aggregation": Contract(
            "server.aggregation",
            places=("updates",),
            offered=("clients", "examples", "trim", "hostile", "krum_keep"),
        ),
        "strategy": Contract(
            "server.strategy",
            offered=("learning_rate", "momentum", "beta2", "tau"),
            makes={"step": ("weights", "mean_update"), "state": None},
            states=("step_size",),
        ),
        "optimizer": Contract(
            "client.optimizer",
            places=("parameters",),
            offered=("config", "lr", "momentum", "weight_decay", "nesterov"),
            makes={"step": ()},
        ),
        "compression": Contract(
            "compression.uplink",
            offered=("topk_fraction",),
            makes={
                "form": ("elements",),
                "compress": ("update", "rng"),
                "restore": ("tensors", "elements"),
            },
        ),
        "logger": Contract(
            "logging.loggers",
            offered=("folder", "name", "config", "last_round"),
            makes={"write": ("round", "figures"), "close": ()},
        ),
        "algorithm": Contract(
            "algorithms",
            places=("config",),
            has={
                "Options": None,
                "active": ("config",),
                "allows": ("self",),
                "client": ("self", "visit"),
                "mean": ("self", "mean", "mean_extra", "collected"),
                "server_step": ("self", "extra", "mean_extra", "collected"),
            },
        ),
    }
)
"""By kind; ``docs/extend.md`` tells what each argument is."""


def check_part(kind: str, name: str, options: Iterable[str] = ()) -> None:
    """Raise ``UserError``, to be read after the name, for a part that cannot be called as its kind is.

    ``options`` are the names of further arguments that are given. A part of C may have no signature; it is
    found out when it is called.
    """
    outline = built_in(kind).get(name)
    if outline is None or not outline.fits or options:
        check_itself(kind, name, options)


def check_itself(kind: str, name: str, options: Iterable[str] = ()) -> None:
    """Do what ``check_part`` does by importing the part."""
    part, contract = find(kind, name), CONTRACTS[kind]
    if str(getattr(part, "__module__", "")).partition(".")[0] in FLOWERS:
        raise UserError(
            f"is Flower's, and no {kind} here; allowed: {', '.join(map(repr, names(kind)))}, or "
            "MODULE:NAME of your own; docs/flower.md says what takes the place of what"
        )
    if fault := _fault(part, contract.has):
        raise UserError(f"is no {kind}: {fault}")
    given = chosen(part, dict.fromkeys([*contract.offered, *options]))
    if fault := _misfit(part, contract.places, dict.fromkeys(contract.always) | given):
        raise UserError(f"cannot be called with {contract.known(options)}: {fault}")
    if other := [key for key in said(kind, name) if key not in contract.states]:
        allowed = ", ".join(contract.states) or "nothing"
        raise UserError(f"is registered with {other[0]}; of a {kind} can be said: {allowed}")
    if fault := _misspelt(getattr(part, "__dict__", {}), contract.states):
        raise UserError(fault)


def check_spelling(kind: type, base: type) -> None:
    """Raise ``UserError`` for what a new class ``kind`` has in place of something that ``base`` knows.

    Nobody would call it, and what was written there would silently not happen.
    """
    if fault := _misspelt(own_names(kind, base), vars(base)):
        raise UserError(f"class {kind.__qualname__} {fault}")


def own_names(kind: type, base: type) -> list[str]:
    """Return the names of what a class has and its ``base`` is not made of, its own first."""
    return list({name: None for one in kind.__mro__ if one not in base.__mro__ for name in vars(one)})


def _misspelt(own: Collection[str], known: Collection[str]) -> str:
    """Say which public name of ``own`` is all but one of ``known``, which is not there; nothing for none."""
    missing = [name for name in known if name not in own]
    for name in own:
        if name[0] != "_" and name not in known and (near := get_close_matches(name, missing, 1, NEAR)):
            return (
                f"has {name}, which nobody looks at; did you mean {near[0]}? What is only for itself begins "
                "with an underscore"
            )
    return ""


def make(kind: str, name: str, /, *places: Any, **given: Any) -> Any:
    """Call a part with ``places``, and with what its kind always gets and it takes of ``given``.

    Raises ``UserError`` as ``call`` does.
    """
    part = find(kind, name)
    always = {key: given[key] for key in CONTRACTS[kind].always}
    return call(kind, name, *places, **always | chosen(part, given))


def call(kind: str, name: str, /, *places: Any, **given: Any) -> Any:
    """Call a part with all that is given.

    Raises ``UserError``, which names the key, when it fails, and when what it returns is nothing of its kind.
    """
    contract = CONTRACTS[kind]
    what = f"{contract.key} = {name!r}"
    with blamed(f"{what}: fails when it is called"):
        made = find(kind, name)(*places, **given)
    if fault := _fault(made, contract.makes):
        named = "None" if made is None else type(made).__name__
        raise UserError(f"{what}: makes {named}, which is no {kind}: {fault}")
    return made


@contextmanager
def blamed(what: str, error: type[UserError] | type[RunError] = UserError) -> Iterator[None]:
    """Raise what another's code raises as an ``error`` of one line: ``what``, the reason and the place.

    What is for the user already, and what memory and disk refuse, goes on as it is.
    """
    try:
        yield
    except (UserError, RunError, MemoryError):
        raise
    except FAULTS as reason:  # whatever another's code does
        if isinstance(reason, OSError) and reason.errno in DISK:
            raise
        raised = traceback.extract_tb(reason.__traceback__)
        frames = [frame for frame in raised if not frame.filename.startswith(_PACKAGE)]
        raise error(f"{what}: {told(reason)}{_place(frames)}") from reason


def blame(error: BaseException, parts: Iterable[Origin], *, seen: bool = False) -> str:
    """Say in one line which of another's ``parts`` an error comes from, and where; nothing without any.

    That is a part in whose file it was raised, or else one of them: what they return, nobody else made. Only
    the first where it has to be ``seen``.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = _files(parts)
    if not own:
        return ""
    raised = [frame for frame in frames if frame.filename in own.values()]
    if seen and not raised:
        return ""
    guilty = [part.words for part, file in own.items() if not raised or file == raised[-1].filename]
    named = guilty[0] if len(guilty) == 1 else f"one of {', '.join(guilty)}"
    verb = "fails" if raised else "has returned something of no use"
    return f"{named} {verb}: {told(error)}{_place(raised or frames)}"


def raised_in(error: BaseException, parts: Iterable[Origin]) -> str:
    """Return the end of a message: where in another's ``parts`` an error was raised, or nothing."""
    files = _files(parts).values()
    return _place([frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files])


def _files(parts: Iterable[Origin]) -> dict[Origin, str]:
    return {part: str(getattr(sys.modules.get(part.module), "__file__", None)) for part in parts}


def _place(frames: Sequence[traceback.FrameSummary]) -> str:
    """Return the end of a message: the file and line of the last of the frames, or nothing."""
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _fault(thing: Any, wanted: Attributes) -> str:
    """Say what a thing lacks; nothing where it has all attributes, and they can be called."""
    if lacks := [attribute for attribute in wanted if not hasattr(thing, attribute)]:
        return f"it has no {', '.join(lacks)}"
    faults = (
        f"its {attribute} is called with ({', '.join(places)}): {fault}"
        for attribute, places in wanted.items()
        if places is not None and (fault := _misfit(getattr(thing, attribute), places))
    )
    return next(faults, "")


def _bare(signature: inspect.Signature) -> inspect.Signature:
    """Return a signature without its types, which may be longer than all else that is said."""
    places = [place.replace(annotation=place.empty) for place in signature.parameters.values()]
    return signature.replace(parameters=places, return_annotation=signature.empty)


def _misfit(function: Any, places: Iterable[str], given: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Say why a call does not fit a signature; nothing where it does, or where there is none to tell."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "cannot be called" if not callable(function) else ""
    try:
        signature.bind(*places, **given)
    except TypeError as error:
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return f"it is {name}{_bare(signature)} ({error})"
    return ""
