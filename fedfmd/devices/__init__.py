"""What clients run on: profiles, populations, traces, and the simulated time and energy of a round."""

from fedfmd.devices.population import (
    available,
    check_devices,
    device_files,
    device_of,
    kinds_of,
    presence_of,
    shares_links,
)
from fedfmd.devices.presence import Presence
from fedfmd.devices.profiles import PROFILES, Device, Rates, device_from
from fedfmd.devices.simulation import DeviceUse, use

__all__ = ["PROFILES", "Device", "DeviceUse", "Presence", "Rates"]
__all__ += ["available", "check_devices", "device_files", "device_from", "device_of", "presence_of"]
__all__ += ["kinds_of", "shares_links", "use"]
