"""Centralised training, for the tables of the paper (`fedfmd train`)."""

from fedfmd.central.command import find_run, train_shown
from fedfmd.central.published import comparison_table, result_table
from fedfmd.central.run import TrainDirectory, open_training, start_training, train
from fedfmd.central.world import World, joined

__all__ = [
    "TrainDirectory",
    "World",
    "comparison_table",
    "find_run",
    "joined",
    "open_training",
    "result_table",
    "start_training",
    "train",
    "train_shown",
]
