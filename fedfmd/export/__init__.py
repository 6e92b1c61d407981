"""Trained networks for the machines that will run them: a run's network, or a part of it, as ONNX."""

from fedfmd.export.written import Exported, Wanted, export_models

__all__ = ["Exported", "Wanted", "export_models"]
