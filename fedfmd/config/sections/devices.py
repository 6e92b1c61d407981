"""The devices that clients are simulated on, and their links."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedfmd.config.conditions import Needs, OnlyIf, given, one_of
from fedfmd.config.sections.budget import BudgetConfig
from fedfmd.config.sections.switches import DEVICES
from fedfmd.config.values import CARD, HERE, Count, Physical, Section, Title


class LinkConfig(Section):
    """What is between a device and the server beside bandwidth; see `fedfmd.devices.links`.

    Absent keys are those of the card that `like` names, and else 0, or no trace.
    """

    round_trip_seconds: Annotated[float, Field(ge=0, le=3600)] | None = None
    """Time for a packet to the server and back; every transfer waits for it once."""
    jitter_seconds: Annotated[float, Field(ge=0, le=3600)] | None = None
    """Standard deviation of the round trip from transfer to transfer, drawn by the seed, never below 0; it
    counts on the simulated clock, not in plans and bills."""
    loss: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Share of the segments that are lost, which slows TCP down by the formula of Mathis et al. (1997)."""
    downlink_trace: Annotated[str | None, HERE] = None
    """File of the bandwidth of receiving over time: a Mahimahi trace, seconds and Mbit/s, or an HSDPA log, as
    in `fedfmd.devices.bandwidth`. It repeats, each client beginning somewhere by the seed. Plans and bills
    take its mean, the simulated clock what it is at the time."""
    uplink_trace: Annotated[str | None, HERE] = None
    """The same of sending."""


class ServerLinkConfig(Section):
    """The server's own link, which the clients at work share max-min fairly; see `fedfmd.devices.traffic`."""

    uplink_bits_per_second: Annotated[Physical | None, OnlyIf(DEVICES)] = None
    """Speed of sending to all clients together; absent is without limit."""
    downlink_bits_per_second: Annotated[Physical | None, OnlyIf(DEVICES)] = None
    """Speed of receiving from all clients together; absent is without limit."""


def is_card(like: str) -> bool:
    """Return whether a device is like a card, which is a file, and not like a built-in profile."""
    return like.endswith(".toml")


class DeviceConfig(Section):
    """One kind of device. Absent fields are those of the profile that `like` names."""

    name: Title
    """What the client rows call it."""
    share: Annotated[Physical, OnlyIf(one_of("devices.kind", "tiers"))] = 1.0
    """Its part of the population, relative to the others'."""
    like: Annotated[str, CARD] = "phone-mid"
    """A built-in profile: `server`, `laptop`, `phone-high`, `phone-mid`, `phone-low`, `raspberry-pi`; or a
    device card, the file NAME.toml that `fedfmd profile --device-card` wrote."""
    conv_macs_per_second: Physical | None = None
    """Effective rate of convolutions, in training."""
    aggregation_macs_per_second: Physical | None = None
    """Effective rate of mixing kernels."""
    attention_macs_per_second: Physical | None = None
    """Effective rate of the attention branches."""
    linear_macs_per_second: Physical | None = None
    """Effective rate of linear layers."""
    activation_bytes_per_second: Physical | None = None
    """Rate at which norms, activations and additions, which are no MACs, go over what layers put out; if
    absent, the rates of MACs make up for them, as those of the built-in profiles do."""
    layer_seconds: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Time that a training step takes for each layer, however small."""
    memory_bytes: Count | None = None
    """Memory that training may use."""
    downlink_bits_per_second: Physical | None = None
    """Speed of receiving."""
    uplink_bits_per_second: Physical | None = None
    """Speed of sending."""
    compute_watts: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Power while computing."""
    receive_watts: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Power while receiving."""
    send_watts: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Power while sending."""
    watts_source: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """What measured the watts set here, in words; cards say it, and `joules_source` of the rows has it."""
    availability: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None, OnlyIf(one_of("selection.availability", True))
    ] = None
    """Chance that a client is there in a round."""
    link: LinkConfig = LinkConfig()
    """Latency, loss and traces of its link."""
    budget: BudgetConfig = BudgetConfig()
    """Limits of this kind of device; its keys go before those of a card, and these before the section
    `budget`."""

    @model_validator(mode="after")
    def _a_source_is_of_watts(self) -> Self:
        if self.watts_source and self.compute_watts is self.receive_watts is self.send_watts is None:
            raise ValueError(
                f"watts_source = {self.watts_source!r}: counts only with compute_watts, receive_watts or "
                "send_watts; set one, or leave watts_source out"
            )
        return self


Sigma = Annotated[float, Field(ge=0, le=5)]


class DevicesConfig(Section):
    """What the clients' devices are. Who has which is drawn by the seed."""

    kind: Annotated[
        Literal["none", "tiers", "lognormal", "trace"],
        Needs(given("devices.tiers"), ("tiers",)),
        Needs(given("devices.trace"), ("trace",)),
    ] = "none"
    """`tiers`: kinds with shares; `lognormal`: spread around one profile; `trace`: rows of a file."""
    tiers: Annotated[list[DeviceConfig], OnlyIf(one_of("devices.kind", "tiers"))] = []
    """`tiers`: the kinds of devices."""
    median: Annotated[DeviceConfig, OnlyIf(one_of("devices.kind", "lognormal"))] = DeviceConfig(name="device")
    """`lognormal`: the middle device."""
    compute_sigma: Annotated[Sigma, OnlyIf(one_of("devices.kind", "lognormal"))] = 0.5
    """`lognormal`: standard deviation of the natural logarithm of the compute rates."""
    network_sigma: Annotated[Sigma, OnlyIf(one_of("devices.kind", "lognormal"))] = 0.7
    """`lognormal`: the same of the bandwidths."""
    memory_sigma: Annotated[Sigma, OnlyIf(one_of("devices.kind", "lognormal"))] = 0.4
    """`lognormal`: the same of the memory."""
    trace: Annotated[str | None, HERE, OnlyIf(one_of("devices.kind", "trace"))] = None
    """`trace`: CSV or JSON file of devices; see `fedfmd.devices.traces`."""
    server_link: ServerLinkConfig = ServerLinkConfig()
    """The server's link, which all clients share; it counts on the simulated clock, not in plans, bills."""
    states: Annotated[str | None, HERE, Needs(DEVICES)] = None
    """JSON file of when devices are there, in the shape of FLASH's or FedScale's traces; who has which is
    drawn by the seed. On the simulated clock a client then works only while it is there; see
    `fedfmd.devices.states`."""
    calibration: Annotated[str | None, HERE, OnlyIf(DEVICES)] = None
    """JSON file of `fedfmd profile --calibrate`, whose ratios between operators replace the profiles'."""
