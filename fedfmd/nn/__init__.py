"""Dynamic-convolution layers and networks."""

from fedfmd.nn.dynamic_conv import (
    Attention,
    CondConv2d,
    DyConv2d,
    DynamicConv2d,
    FMDConv2d,
    ODConv2d,
    dynamic_layers,
    kernel_state_names,
    record_attention,
    set_temperature,
)
from fedfmd.nn.norm import freeze_statistics, local_state_names
from fedfmd.nn.resnet import ResNet, build_model
from fedfmd.nn.temperature import Temperatures, TemperatureSchedule

__all__ = [
    "Attention",
    "CondConv2d",
    "DyConv2d",
    "DynamicConv2d",
    "FMDConv2d",
    "ODConv2d",
    "ResNet",
    "TemperatureSchedule",
    "Temperatures",
    "build_model",
    "dynamic_layers",
    "freeze_statistics",
    "kernel_state_names",
    "local_state_names",
    "record_attention",
    "set_temperature",
]
