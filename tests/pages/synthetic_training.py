"""Write run directories of centralised training with made-up figures."""

import json
from pathlib import Path

from fedfmd.config.experiment import dump_config, parse_config


def write_training(folder: Path, epochs: int, *, finished: bool = True) -> Path:
    folder.mkdir(parents=True)
    config = parse_config({"name": "made-up", "data": {"name": "cifar10"}, "model": {"name": "resnet18"}})
    (folder / "config.toml").write_text(dump_config(config))
    (folder / "environment.json").write_text(
        json.dumps({"processor": "<b>P</b>", "packages": {"torch": "2"}})
    )
    rows = [_epoch(number) for number in range(1, epochs + 1)]
    (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        (folder / "summary.json").write_text(json.dumps(_summary(rows)))
    return folder


def _epoch(number: int) -> dict:
    top1 = round(0.9 - 0.6 / number, 4)
    return {
        "epoch": number,
        "train_loss": 2.3 / number,
        "test_loss": 2.4 / number,
        "top1": None if number == 2 else top1,
        "top5": None if number == 2 else (1 + top1) / 2,
        "train_seconds": 10.0 + number,
        "test_seconds": 1.0,
        "samples": 50_000,
        "steps": 782,
        "samples_per_second": 50_000 / (10 + number),
        "macs": 90_000_000_000_000,
        "learning_rate": 0.1,
        "temperature_kernel": 34.0,
        "temperature_channel": 34.0,
    }


def _summary(rows: list[dict]) -> dict:
    seconds = sum(row["train_seconds"] for row in rows)
    return {
        "kind": "train",
        "status": "finished",
        "name": "made-up",
        "epochs": len(rows),
        "final_top1": rows[-1]["top1"],
        "final_top5": rows[-1]["top5"],
        "seconds_per_epoch": seconds / len(rows),
        "ies_epoch_seconds": seconds / len(rows) / rows[-1]["top1"],
        "ies_total_seconds": seconds / rows[-1]["top1"],
        "inference_seconds": 2.0,
        "rcs": 10_000 * rows[-1]["top1"] / 2.0,
        "num_classes": 10,
        "train_samples": 50_000,
        "test_samples": 10_000,
        "parameters": 44_690_000,
        "forward_macs": 601_000_000,
        "device": "a made-up GPU",
        "processes": 1,
        "threads": 4,
    }
