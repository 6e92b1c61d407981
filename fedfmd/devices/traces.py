"""Devices from a file: CSV or JSON with our own columns, or the shape of a published trace.

Our columns are the keys of a device in a config: ``name``, ``like``, ``conv_macs_per_second``,
``uplink_bits_per_second`` and so on; what a row lacks is its profile's. Published, as JSON:

- FedScale's ``client_device_capacity``: clients to ``computation`` (milliseconds to train one sample of
  MobileNet) and ``communication`` (kbit/s). Export it to JSON first: a pickle may run any code, and is never
  read here.
- FLASH's ``speed_distri``: devices to the mean speeds ``down_u`` and ``up_u``, in kbit/s as FLHetBench reads
  such speeds (FLASH's own code divides kilobytes by them).
- FLHetBench's sampled devices, which are MobiPerf's measurements: a list with ``tcp_speed_results`` (kbit/s),
  whose mean serves both ways.

The last two say nothing of computing.
"""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from fedfmd.devices.profiles import Device, device_from
from fedfmd.errors import UserError
from fedfmd.sections import DeviceConfig

KILO = 1000
MOBILENET_TRAINING_MACS = 3 * 300_000_000
"""MobileNetV2, 224 px: what FedScale's milliseconds are of."""


def read_trace(path: Path) -> tuple[Device, ...]:
    """Read the devices of a file; raises ``UserError`` that names the file, the row and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"devices.trace = {str(path)!r}: cannot be read as text: {error}") from None
    rows = _json_rows(text, path) if path.suffix == ".json" else _csv_rows(text)
    if not rows:
        raise UserError(f"{path}: holds no devices")
    return tuple(_device(row, number, path) for number, row in enumerate(rows, start=1))


def _json_rows(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if isinstance(document, dict):
        document = [{"name": name, **row} if isinstance(row, dict) else row for name, row in document.items()]
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise UserError(f"{path}: must be a list of devices, or a mapping of names to devices")
    return document


def _csv_rows(text: str) -> list[dict[str, Any]]:
    return [
        {key: _number(value) for key, value in row.items() if value not in (None, "")}
        for row in csv.DictReader(io.StringIO(text))
    ]


def _number(value: str) -> Any:
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() else number


def _device(row: Mapping[str, Any], number: int, path: Path) -> Device:
    document = _published(row, number, path)
    document["name"] = str(document.get("name", f"device-{number}"))
    try:
        return device_from(DeviceConfig.model_validate(document))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        given = f" = {first['input']!r}" if first["type"] != "extra_forbidden" else ""
        allowed = f" (allowed: {', '.join(DeviceConfig.model_fields)})" if not given else ""
        raise UserError(f"{path}, device {number}: {key}{given}: {first['msg']}{allowed}") from None


def _published(row: Mapping[str, Any], number: int, path: Path) -> dict[str, Any]:
    """Give the row of a published trace in our columns, and another as it is."""
    for key, convert in (
        ("computation", _from_fedscale),
        ("down_u", _from_flash),
        ("tcp_speed_results", _from_mobiperf),
    ):
        if key not in row:
            continue
        try:
            document = convert(row)
            if not all(value > 0 for value in document.values()):
                raise ValueError("must be above 0")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}, device {number}: {key} and what goes with it: {error}") from None
        return {"name": row.get("name", f"device-{number}"), **document}
    return dict(row)


def _from_fedscale(row: Mapping[str, Any]) -> dict[str, float]:
    milliseconds = float(row["computation"])
    if milliseconds <= 0:
        raise ValueError("must be above 0")
    rate = MOBILENET_TRAINING_MACS / (milliseconds / 1000)
    bandwidth = float(row["communication"]) * KILO
    return {
        "conv_macs_per_second": rate,
        "aggregation_macs_per_second": rate / 8,
        "attention_macs_per_second": rate / 16,
        "linear_macs_per_second": rate / 4,
        "downlink_bits_per_second": bandwidth,
        "uplink_bits_per_second": bandwidth,
    }


def _from_flash(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        "downlink_bits_per_second": float(row["down_u"]) * KILO,
        "uplink_bits_per_second": float(row["up_u"]) * KILO,
    }


def _from_mobiperf(row: Mapping[str, Any]) -> dict[str, float]:
    bandwidth = fmean(map(float, row["tcp_speed_results"])) * KILO
    return {"downlink_bits_per_second": bandwidth, "uplink_bits_per_second": bandwidth}
