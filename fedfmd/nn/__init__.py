"""Dynamic-convolution layers and networks."""

from fedfmd.nn.cnn import SmallCNN
from fedfmd.nn.condconv import CondConv2d
from fedfmd.nn.dyconv import DyConv2d
from fedfmd.nn.dynamic import (
    Attention,
    DynamicConv2d,
    dynamic_layers,
    kernel_state_names,
    record_attention,
    set_temperature,
)
from fedfmd.nn.excitation import SqueezeExcitation
from fedfmd.nn.fmdconv import FMDConv2d
from fedfmd.nn.kernelwarehouse import KernelWarehouse2d, Warehouse
from fedfmd.nn.macs import Macs
from fedfmd.nn.networks import build_model
from fedfmd.nn.norm import freeze_statistics, local_state_names
from fedfmd.nn.odconv import ODConv2d
from fedfmd.nn.resnet import ResNet
from fedfmd.nn.temperature import Temperatures, TemperatureSchedule, Tempered

__all__ = [
    "Attention",
    "CondConv2d",
    "DyConv2d",
    "DynamicConv2d",
    "FMDConv2d",
    "KernelWarehouse2d",
    "Macs",
    "ODConv2d",
    "ResNet",
    "SmallCNN",
    "SqueezeExcitation",
    "TemperatureSchedule",
    "Temperatures",
    "Tempered",
    "Warehouse",
    "build_model",
    "dynamic_layers",
    "freeze_statistics",
    "kernel_state_names",
    "local_state_names",
    "record_attention",
    "set_temperature",
]
