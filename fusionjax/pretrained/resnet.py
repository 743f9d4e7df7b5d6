"""Residual networks as torchvision, timm and transformers name them."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fusionjax.encoders.resnet import EXPANSION, ResNet
from fusionjax.models import ImageClassifier
from fusionjax.pretrained.architecture import Architecture, ImagePreparation
from fusionjax.pretrained.counting import count_layers, is_batch_counter
from fusionjax.pretrained.rows import Row, Shapes, batch_norm_rows, conv_rows, dense_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetSizes:
    """The size of a residual network.

    Attributes:
        stage_sizes: blocks of each stage.
        features: of the convolutions 3x3 of each stage.
        stem_features: of the first convolution.
        is_bottleneck: three convolutions in a block, not two.
        num_classes: of the head.
    """

    stage_sizes: tuple[int, ...]
    features: tuple[int, ...]
    stem_features: int
    is_bottleneck: bool
    num_classes: int


class _Names(NamedTuple):
    """A convolution and its normalisation are `(conv, norm)`; the block takes a stage and a place, both from 0."""

    stem: tuple[str, str]
    head: str
    block: Callable[[Any, Any], str]
    layer: Callable[[int], tuple[str, str]]
    shortcut: tuple[str, str]


_TORCHVISION = _Names(
    stem=("conv1", "bn1"),
    head="fc",
    block=lambda stage, place: f"layer{stage + 1}.{place}",
    layer=lambda number: (f"conv{number + 1}", f"bn{number + 1}"),
    shortcut=("downsample.0", "downsample.1"),
)
_TRANSFORMERS = _Names(
    stem=("resnet.embedder.embedder.convolution", "resnet.embedder.embedder.normalization"),
    head="classifier.1",
    block=lambda stage, place: f"resnet.encoder.stages.{stage}.layers.{place}",
    layer=lambda number: (f"layer.{number}.convolution", f"layer.{number}.normalization"),
    shortcut=("shortcut.convolution", "shortcut.normalization"),
)
# What changes the computation but no name or shape, and the only value of it that there is a model for.
_REQUIRED = {"hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False}


def _recognise(names: _Names, shapes: Shapes, config: Mapping[str, Any]) -> ResNetSizes | None:
    stem, head = (shapes.get(f"{name}.weight", ()) for name in (names.stem[0], names.head))
    if len(stem) != 4 or stem[2:] != (7, 7) or len(head) != 2:
        return None
    if any(config.get(name, value) != value for name, value in _REQUIRED.items()):
        return None
    first, second = (f"{names.layer(number)[0]}.weight" for number in (0, 1))
    stages: list[int] = []
    while f"{names.block(len(stages), 0)}.{second}" in shapes:
        stages.append(count_layers(shapes, f"{names.block(len(stages), '{}')}.{first}"))
    kernels = [shapes[f"{names.block(stage, 0)}.{second}"] for stage in range(len(stages))]
    # A kernel that sees part of the channels is of groups (ResNeXt), and so is a width that is not a quarter (wide).
    if not kernels or any(len(kernel) != 4 or kernel[0] != kernel[1] for kernel in kernels):
        return None
    is_bottleneck = f"{names.block(0, 0)}.{names.layer(2)[0]}.weight" in shapes
    if head[1] != kernels[-1][0] * (EXPANSION if is_bottleneck else 1):
        return None
    return ResNetSizes(
        stage_sizes=tuple(stages),
        features=tuple(kernel[0] for kernel in kernels),
        stem_features=stem[0],
        is_bottleneck=is_bottleneck,
        num_classes=head[0],
    )


def _build(sizes: ResNetSizes) -> ImageClassifier:
    fields = dataclasses.asdict(sizes)
    num_classes = fields.pop("num_classes")
    return ImageClassifier(ResNet(**fields), num_classes)


def _rows(names: _Names, sizes: ResNetSizes) -> list[Row]:
    def conv_norm(ours: str, theirs: tuple[str, str]) -> list[Row]:
        return conv_rows(f"encoder/{ours}/conv", theirs[0]) + batch_norm_rows(f"encoder/{ours}/norm", theirs[1])

    def below(block: str, layer: tuple[str, str]) -> tuple[str, str]:
        return f"{block}.{layer[0]}", f"{block}.{layer[1]}"

    rows = conv_norm("stem", names.stem)
    channels = sizes.stem_features
    for stage, (size, features) in enumerate(zip(sizes.stage_sizes, sizes.features, strict=True)):
        width = features * (EXPANSION if sizes.is_bottleneck else 1)
        for place in range(size):
            ours, theirs = f"stage_{stage}_block_{place}", names.block(stage, place)
            for number in range(3 if sizes.is_bottleneck else 2):
                rows += conv_norm(f"{ours}/conv_{number}", below(theirs, names.layer(number)))
            if place == 0 and (stage > 0 or channels != width):
                rows += conv_norm(f"{ours}/shortcut", below(theirs, names.shortcut))
        channels = width
    return rows + dense_rows("head", names.head)


def _hub_config(sizes: ResNetSizes) -> dict[str, Any]:
    expansion = EXPANSION if sizes.is_bottleneck else 1
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": sizes.stem_features,
        "hidden_sizes": [features * expansion for features in sizes.features],
        "depths": list(sizes.stage_sizes),
        "layer_type": "bottleneck" if sizes.is_bottleneck else "basic",
        "num_labels": sizes.num_classes,
        **_REQUIRED,
    }


def _architecture(name: str, names: _Names, preparation: ImagePreparation, **fields: Any) -> Architecture:
    return Architecture(
        name=name,
        recognise=partial(_recognise, names),
        build=_build,
        rows=partial(_rows, names),
        example=lambda sizes: (np.zeros((1, 64, 64, 3), np.float32),),
        is_ignored=is_batch_counter,
        preparation=lambda sizes: preparation,
        **fields,
    )


RESNET_TORCHVISION = _architecture(
    "resnet-torchvision", _TORCHVISION, ImagePreparation(size=(224, 224), shorter_side=256)
)
RESNET_TRANSFORMERS = _architecture(
    "resnet-transformers",
    _TRANSFORMERS,
    ImagePreparation(size=(224, 224), shorter_side=256, interpolation="bicubic", rounding="down"),
    hub_config=_hub_config,
)
