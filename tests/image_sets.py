"""Sets of images in memory, by the fields of a request."""

from pathlib import Path
from typing import Any

from fedfmd.data.dataset import Dataset
from fedfmd.data.datasets import read_dataset
from fedfmd.data.requests import DataRequest


def load_dataset(name: str, *, root: Path, **wanted: Any) -> Dataset:
    """Read, or draw, a set."""
    return read_dataset(DataRequest(name=name, root=root, **wanted))
