"""What clients run on: profiles, populations, traces, and the simulated time and energy of a round."""

from fedfmd.devices.population import available, device_of
from fedfmd.devices.profiles import PROFILES, Device, Rates, device_from
from fedfmd.devices.simulation import DeviceUse, use

__all__ = ["PROFILES", "Device", "DeviceUse", "Rates", "available", "device_from", "device_of", "use"]
