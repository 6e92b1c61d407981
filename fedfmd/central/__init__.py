"""Centralised training, for the tables of the paper (`fedfmd train`)."""

from fedfmd.central.run import TrainDirectory, open_training, start_training, train
from fedfmd.central.world import World, joined

__all__ = ["TrainDirectory", "World", "joined", "open_training", "start_training", "train"]
