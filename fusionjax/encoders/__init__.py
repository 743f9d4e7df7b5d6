"""Encoders: image and text to `Features`.

An encoder is a Linen module `(inputs, mask=None, *, deterministic=True) -> Features`.
"""

from fusionjax.encoders.alexnet import AlexNet
from fusionjax.encoders.convnext import ConvNeXt, convnext
from fusionjax.encoders.efficientnet_lite import EfficientNetLite, efficientnet_lite
from fusionjax.encoders.features import Features
from fusionjax.encoders.pooling import PoolingKind, TokenPooling
from fusionjax.encoders.projected import Projected
from fusionjax.encoders.resnet import ResNet, resnet
from fusionjax.encoders.rnn import RNNEncoder
from fusionjax.encoders.simple_cnn import SimpleCNN, as_unit_images
from fusionjax.encoders.stored import FeatureLayout, StoredFeatures
from fusionjax.encoders.text_transformer import TextPooling, TextTransformer
from fusionjax.encoders.vgg import VGG, vgg
from fusionjax.encoders.vision_transformer import ImagePooling, VisionTransformer, vision_transformer

__all__ = [
    "VGG",
    "AlexNet",
    "ConvNeXt",
    "EfficientNetLite",
    "FeatureLayout",
    "Features",
    "ImagePooling",
    "PoolingKind",
    "Projected",
    "RNNEncoder",
    "ResNet",
    "SimpleCNN",
    "StoredFeatures",
    "TextPooling",
    "TextTransformer",
    "TokenPooling",
    "VisionTransformer",
    "as_unit_images",
    "convnext",
    "efficientnet_lite",
    "resnet",
    "vgg",
    "vision_transformer",
]
