"""Packages as Flower's messages: they come back as they were, and nobody knows their parts beforehand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message, MessageType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from nodes import Nodes, as_one_task
from pictures import write_pictures

from fedfmd.config.experiment import parse_config
from fedfmd.data.prepared import open_prepared
from fedfmd.deployment.layout import PICTURES
from fedfmd.flower.messages import NO_TENSORS, from_record, to_record
from fedfmd.flower.real_clients import ClientExecutor
from fedfmd.rounds.lifecycle import resolve
from fedfmd.wire.packages import Package, pack

PACKAGES = [pack({"said": 1}, {}), pack({"said": 1}, {"vector": torch.arange(9.0)}), Package("x", b"\xff")]
CONFIG: dict[str, Any] = {
    "data": {"train_samples": 60, "test_samples": 10},
    "partition": {"scheme": "iid", "clients": 2},
}


@pytest.mark.parametrize("package", PACKAGES, ids=["no tensors", "tensors", "bytes"])
def test_a_package_comes_back_as_it_was(package: Package) -> None:
    assert from_record(to_record(package)) == package


def test_a_package_without_any_bytes_has_no_tensors() -> None:
    assert from_record(to_record(Package("{}", b""))) == Package("{}", NO_TENSORS)


def parts(package: Package) -> set[str]:
    """Give the names of a message's parts at the SuperLink."""
    message = Message(to_record(package), dst_node_id=7, message_type=MessageType.TRAIN)
    return set(get_all_nested_objects(message))


def test_two_answers_with_the_same_words_have_no_part_in_common(tmp_path: Path) -> None:
    """Whoever knows one, as its sender, could say of the other's parts that they are made of others."""
    with as_one_task(tmp_path):
        for package in (pack({"said": 1}, {}), Package("{}", b"")):
            assert not parts(package) & parts(package)


def test_an_order_that_goes_out_again_has_parts_that_nobody_has_seen(tmp_path: Path) -> None:
    """Of one exchange the clients share them: the SuperLink keeps the model once."""
    config, vector = resolve(parse_config(CONFIG)), torch.arange(1000.0)
    write_pictures(tmp_path / "data", config)
    grid: Any = Nodes(tmp_path, 2)
    executor = ClientExecutor(grid, config, "run", 2, open_prepared(tmp_path / "data" / "server" / PICTURES))
    with as_one_task(tmp_path / "cache"):
        first, again = (executor._broadcast(vector) for _ in range(2))
        assert len(parts(Package("1", first)) & parts(Package("2", first))) == 3  # record, array and chunk
        assert not parts(Package("1", first)) & parts(Package("1", again))
