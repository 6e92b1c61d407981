"""Simulated time and energy of a client's round.

t = bytes_down / BW_down + sum over kinds of MACs / rate + bytes_up / BW_up; the energy is each phase's power
times its time. Simulated figures are never added to measured ones.
"""

from dataclasses import dataclass

from fedfmd.costs.macs import Macs
from fedfmd.devices.profiles import Device

BITS_PER_BYTE = 8


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


def use(device: Device, macs: Macs, downlink_bytes: int, uplink_bytes: int) -> DeviceUse:
    """Give what receiving, the training MACs and sending take on a device."""
    download = BITS_PER_BYTE * downlink_bytes / device.downlink_bits_per_second
    compute = device.rates.seconds(macs)
    upload = BITS_PER_BYTE * uplink_bytes / device.uplink_bits_per_second
    joules = device.receive_watts * download + device.compute_watts * compute + device.send_watts * upload
    return DeviceUse(download_seconds=download, compute_seconds=compute, upload_seconds=upload, joules=joules)
