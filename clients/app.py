"""The ClientApp of ``flwr run .``."""

from fedfmd.flower.client import app

__all__ = ["app"]
