"""The ServerApp of ``flwr run .``."""

from fedfmd.flower.server import app

__all__ = ["app"]
