"""Simulated time and energy of a client's round, on an idle network.

t = T(bytes_down) + sum over kinds of MACs / rate + overhead + T(bytes_up), with T(b) = RTT + b / BW for
b > 0, where BW is the link's bandwidth, or its trace's mean, or what TCP reaches at the link's loss if that
is less (``fedfmd.devices.links``), and with the overhead of norms, activations and calls where a device
states them; the energy is each phase's power times its time. What other clients, jitter and traces make of
it is the clock's (``fedfmd.devices.traffic``). Simulated figures are never added to measured ones.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedfmd.costs.conventions import FLOAT32_BYTES, TRAINING_MACS_PER_FORWARD
from fedfmd.devices.bandwidth import Bandwidth
from fedfmd.devices.links import BITS_PER_BYTE, Link
from fedfmd.devices.profiles import Device

if TYPE_CHECKING:  # brings PyTorch, which who only looks at devices does not need
    from fedfmd.costs.macs import Macs, ModelCost


@dataclass(frozen=True, kw_only=True)
class DeviceUse:
    """Time by phase, and energy."""

    download_seconds: float
    compute_seconds: float
    upload_seconds: float
    joules: float

    @property
    def seconds(self) -> float:
        """All phases, one after another."""
        return self.download_seconds + self.compute_seconds + self.upload_seconds


def use(
    device: Device, macs: "Macs", downlink_bytes: int, uplink_bytes: int, *, overhead_seconds: float = 0.0
) -> DeviceUse:
    """Return what receiving, the training MACs with what they do not count, and sending take on a device."""
    download = transfer_seconds(device.link, device.downlink, downlink_bytes)
    compute = device.rates.seconds(macs) + overhead_seconds
    upload = transfer_seconds(device.link, device.uplink, uplink_bytes)
    joules = device.receive_watts * download + device.compute_watts * compute + device.send_watts * upload
    return DeviceUse(download_seconds=download, compute_seconds=compute, upload_seconds=upload, joules=joules)


def overhead_seconds(device: Device, macs: "Macs", cost: "ModelCost", images_per_step: float) -> float:
    """Return what norms, activations and the calls of layers take beside some MACs of a network.

    They go with the training steps that the MACs come to, of so many images in the mean: the last batch of a
    pass is as many calls as any other. A forward pass is a third of a step.
    """
    rate = device.activation_bytes_per_second
    moving = 0.0 if rate is None else cost.activation_elements * FLOAT32_BYTES / rate
    an_image = moving + len(cost.layers) * device.layer_seconds / images_per_step
    return an_image * macs.total / max(1, TRAINING_MACS_PER_FORWARD * cost.forward_macs)


def transfer_seconds(link: Link, bandwidth: Bandwidth, payload_bytes: int) -> float:
    """Return what a transfer takes on an idle network; one of nothing does not happen."""
    if not payload_bytes:
        return 0.0
    bits_per_second = bandwidth.limited(link.ceiling_bits_per_second).mean
    return link.round_trip_seconds + BITS_PER_BYTE * payload_bytes / bits_per_second
