"""What a config has switched on, as far as keys of several sections depend on it."""

from fedfmd.config.conditions import Condition, none_of, one_of, states, takes, value_of

DEVICES = none_of("devices.kind", "none")
SYNCHRONOUS = one_of("server.mode", "sync")
LAYERED = takes("model.name", "network", "conv")
DYNAMIC = LAYERED & states(
    "model.conv", "dynamic", "model.dynamic", "condconv", "dyconv", "odconv", "fmdconv"
)


def chosen_along(axis: str, *built_in: str) -> Condition:
    """Return the condition that the policy chooses along an axis."""
    named = f"{one_of('policy.kind', *built_in).words} or one of your own along the axis {axis!r}"
    return Condition(named, ("policy.kind",), lambda config: axis in value_of(config, "policy.axes"))


WIDTHS = chosen_along("width", "width", "smallest", "auto")
WHOLE_MODELS = Condition(
    "clients that hold the whole model, for each element to have a value from each of them",
    ("policy.kind",),
    lambda c: not value_of(c, "parts"),
)
UNBUFFERED_ATTENTION = Condition(
    "model.attention_norm other than 'bn', whose running statistics have no narrower part",
    ("model.attention_norm", "model.conv"),
    lambda c: not value_of(c, "model.attention_needs_pairs"),
)
