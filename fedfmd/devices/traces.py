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

The last two say nothing of computing. What a row of these has in our columns, as ``like``, counts, too.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from fedfmd.config.documents import explained, read_json, read_text, shown, shown_error
from fedfmd.config.sections.devices import DeviceConfig
from fedfmd.devices.profiles import Device, Rates, device_from
from fedfmd.errors import UserError

Row = tuple[str, Mapping[str, Any]]
"""Where a device stands in its file, and what is said of it."""
BEYOND = "\0beyond"
"""Key of the cells for which a table has no column."""
TEXTS = ("name", "like", "watts_source")
"""Columns whose cells are texts, though one may look like a number."""
KILO = 1000
MOBILENET_TRAINING_MACS = 3 * 300_000_000
"""MobileNetV2, 224 px: what FedScale's milliseconds are of."""


def read_sections(path: Path) -> tuple[DeviceConfig, ...]:
    """Read the devices of a file as a config has them; raises ``UserError`` that names file, row and key."""
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)
    if not rows:
        raise UserError(f"{path}: holds no devices")
    return tuple(
        _section(row, f"{path}, {place}", number) for number, (place, row) in enumerate(rows, start=1)
    )


def read_trace(path: Path) -> tuple[Device, ...]:
    """Read the devices of a file; raises ``UserError`` as ``read_sections`` does."""
    return tuple(map(device_from, read_sections(path)))


def _json_rows(path: Path) -> list[Row]:
    document = read_json(path, "trace of devices (devices.trace)")
    if isinstance(document, dict):
        document = [{"name": name, **row} if isinstance(row, dict) else row for name, row in document.items()]
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise UserError(f"{path}: must be a list of devices, or a mapping of names to devices")
    return [(f"device {number}", row) for number, row in enumerate(document, start=1)]


def _csv_rows(path: Path) -> list[Row]:
    """Read the rows under a header; rows without any content are none, as spreadsheets leave them."""
    reader = csv.DictReader(
        io.StringIO(read_text(path, "trace of devices (devices.trace)")), restkey=BEYOND, strict=True
    )
    rows: list[Row] = []
    try:
        for row in reader:
            beyond = [cell for cell in row.pop(BEYOND, None) or () if cell.strip()]
            if beyond:
                raise UserError(
                    f"{path}, line {reader.line_num}: {shown(beyond[0])}: beyond the columns "
                    f"{shown(reader.fieldnames)}"
                )
            cells = {key.strip(): value.strip() for key, value in row.items() if value and value.strip()}
            if cells:
                read = {key: value if key in TEXTS else _number(value) for key, value in cells.items()}
                rows.append((f"line {reader.line_num}", read))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from None
    return rows


def _number(value: str) -> Any:
    try:
        return float(value)
    except ValueError:
        return value


def _section(row: Mapping[str, Any], place: str, number: int) -> DeviceConfig:
    document = _published(row, place)
    document["name"] = str(document.get("name", f"device-{number}"))
    if "share" in document:
        raise UserError(f"{place}: share: the devices of a trace are all as frequent; repeat a row instead")
    try:
        return DeviceConfig.model_validate(document)
    except ValidationError as error:
        raise explained(error, DeviceConfig, place) from None


def _published(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the row of a published trace in our columns, those that it has itself among them, and another as
    it is.
    """
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
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{place}: {key} and what goes with it: {shown_error(error)}") from None
        return {**document, **{key: row[key] for key in row if key in DeviceConfig.model_fields}}
    return dict(row)


def _from_fedscale(row: Mapping[str, Any]) -> dict[str, float]:
    milliseconds = float(row["computation"])
    if milliseconds <= 0:
        raise ValueError("must be above 0")
    rate = MOBILENET_TRAINING_MACS / (milliseconds / 1000)
    bandwidth = float(row["communication"]) * KILO
    return {
        **{f"{kind}_macs_per_second": value for kind, value in asdict(Rates.of_cpu(rate)).items()},
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
