"""Federated learning of dynamic-convolution networks under client resource limits."""

__version__ = "0.1.0"
