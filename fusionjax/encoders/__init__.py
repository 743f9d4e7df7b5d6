"""Encoders: image and text to `Features`.

An encoder is a Linen module `(inputs, mask=None, *, deterministic=True) -> Features`.
"""

from fusionjax.encoders.alexnet import AlexNet
from fusionjax.encoders.convnext import ConvNeXt, convnext
from fusionjax.encoders.efficientnet_lite import EfficientNetLite, efficientnet_lite
from fusionjax.encoders.features import Features
from fusionjax.encoders.pooling import PoolingKind, TokenPooling
from fusionjax.encoders.resnet import ResNet, resnet
from fusionjax.encoders.rnn import RNNEncoder
from fusionjax.encoders.simple_cnn import SimpleCNN, as_unit_images
from fusionjax.encoders.vgg import VGG, vgg

__all__ = [
    "VGG",
    "AlexNet",
    "ConvNeXt",
    "EfficientNetLite",
    "Features",
    "PoolingKind",
    "RNNEncoder",
    "ResNet",
    "SimpleCNN",
    "TokenPooling",
    "as_unit_images",
    "convnext",
    "efficientnet_lite",
    "resnet",
    "vgg",
]
