"""ConvNeXt as torchvision, timm and transformers name it."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fusionjax.encoders.convnext import EXPANSION, PATCH, ConvNeXt
from fusionjax.models import ImageClassifier
from fusionjax.pretrained.architecture import Architecture, ImagePreparation
from fusionjax.pretrained.counting import count_layers
from fusionjax.pretrained.layouts import SAME, Layout, reshaped
from fusionjax.pretrained.rows import Row, Shapes, conv_rows, dense_rows, norm_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNeXtSizes:
    """The size of a ConvNeXt.

    Attributes:
        stage_sizes: blocks of each stage.
        features: of each stage.
        pooled_epsilon: of the normalisation of the pooled vector.
        num_classes: of the head.
    """

    stage_sizes: tuple[int, ...]
    features: tuple[int, ...]
    pooled_epsilon: float
    num_classes: int


class _Names(NamedTuple):
    """The first of two downsamplings is a convolution and its normalisation, the others the reverse; see `block`."""

    stem: tuple[str, str]
    downsample: Callable[[int], tuple[str, str]]
    block: Callable[[Any, Any], str]
    layers: tuple[str, str, str, str, str]  # convolution, normalisation, two dense layers, scale
    scale: Callable[[int], Layout]
    norm: str
    head: str
    epsilon: float


_TORCHVISION = _Names(
    stem=("features.0.0", "features.0.1"),
    downsample=lambda stage: (f"features.{2 * stage}.0", f"features.{2 * stage}.1"),
    block=lambda stage, place: f"features.{2 * stage + 1}.{place}",
    layers=("block.0", "block.2", "block.3", "block.5", "layer_scale"),
    scale=lambda features: reshaped((features,), (features, 1, 1)),
    norm="classifier.0",
    head="classifier.2",
    epsilon=1e-6,
)
_TIMM = _Names(
    stem=("stem.0", "stem.1"),
    downsample=lambda stage: (f"stages.{stage}.downsample.0", f"stages.{stage}.downsample.1"),
    block=lambda stage, place: f"stages.{stage}.blocks.{place}",
    layers=("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma"),
    scale=lambda features: SAME,
    norm="head.norm",
    head="head.fc",
    epsilon=1e-6,
)
_TRANSFORMERS = _Names(
    stem=("convnext.embeddings.patch_embeddings", "convnext.embeddings.layernorm"),
    downsample=lambda stage: (
        f"convnext.encoder.stages.{stage}.downsampling_layer.0",
        f"convnext.encoder.stages.{stage}.downsampling_layer.1",
    ),
    block=lambda stage, place: f"convnext.encoder.stages.{stage}.layers.{place}",
    layers=("dwconv", "layernorm", "pwconv1", "pwconv2", "layer_scale_parameter"),
    scale=lambda features: SAME,
    norm="convnext.layernorm",
    head="classifier",
    epsilon=1e-12,
)


def _recognise(names: _Names, shapes: Shapes, config: Mapping[str, Any]) -> ConvNeXtSizes | None:
    conv, _, expand, _, scale = names.layers
    stem, head = (shapes.get(f"{name}.weight", ()) for name in (names.stem[0], names.head))
    if len(stem) != 4 or stem[2:] != (PATCH, PATCH) or len(head) != 2 or config.get("hidden_act", "gelu") != "gelu":
        return None
    stages: list[int] = []
    features: list[int] = []
    while count := count_layers(shapes, f"{names.block(len(stages), '{}')}.{scale}"):
        block = names.block(len(stages), 0)
        kernel, dense = shapes.get(f"{block}.{conv}.weight", ()), shapes.get(f"{block}.{expand}.weight", ())
        # What timm has more of under these names are dense layers as convolutions, and other kernels.
        if len(kernel) != 4 or kernel[1:] != (1, 7, 7) or dense != (EXPANSION * kernel[0], kernel[0]):
            return None
        stages.append(count)
        features.append(kernel[0])
    if not stages or head[1] != features[-1]:
        return None
    return ConvNeXtSizes(
        stage_sizes=tuple(stages),
        features=tuple(features),
        pooled_epsilon=float(config.get("layer_norm_eps", names.epsilon)),
        num_classes=head[0],
    )


def _build(sizes: ConvNeXtSizes) -> ImageClassifier:
    encoder = ConvNeXt(sizes.stage_sizes, sizes.features, pooled_epsilon=sizes.pooled_epsilon)
    return ImageClassifier(encoder, sizes.num_classes)


def _rows(names: _Names, sizes: ConvNeXtSizes) -> list[Row]:
    rows = []
    for stage, (size, features) in enumerate(zip(sizes.stage_sizes, sizes.features, strict=True)):
        conv, norm = names.downsample(stage)[::-1] if stage else names.stem
        rows += conv_rows(f"encoder/downsample_{stage}", conv, has_bias=True)
        rows += norm_rows(f"encoder/downsample_norm_{stage}", norm)
        for place in range(size):
            ours = f"encoder/stage_{stage}_block_{place}"
            conv, norm, expand, project, scale = (f"{names.block(stage, place)}.{layer}" for layer in names.layers)
            rows += conv_rows(f"{ours}/conv", conv, has_bias=True) + norm_rows(f"{ours}/norm", norm)
            rows += dense_rows(f"{ours}/expand", expand) + dense_rows(f"{ours}/project", project)
            rows.append(Row((f"params/{ours}/scale",), scale, names.scale(features)))
    return rows + norm_rows("encoder/norm", names.norm) + dense_rows("head", names.head)


def _hub_config(sizes: ConvNeXtSizes) -> dict[str, Any]:
    return {
        "architectures": ["ConvNextForImageClassification"],
        "model_type": "convnext",
        "num_channels": 3,
        "patch_size": PATCH,
        "num_stages": len(sizes.stage_sizes),
        "hidden_sizes": list(sizes.features),
        "depths": list(sizes.stage_sizes),
        "hidden_act": "gelu",
        "layer_norm_eps": sizes.pooled_epsilon,
        "num_labels": sizes.num_classes,
    }


def _prepare_torchvision(sizes: ConvNeXtSizes) -> ImagePreparation:
    # T and S were measured at other sizes than B and L.
    sides: dict[tuple[int, ...], int] = {(3, 3, 9, 3): 236, (3, 3, 27, 3): 230}
    side = sides.get(sizes.stage_sizes, 232) if sizes.features[0] == 96 else 232
    return ImagePreparation(size=(224, 224), shorter_side=side)


def _architecture(
    name: str, names: _Names, preparation: Callable[[Any], ImagePreparation], **fields: Any
) -> Architecture:
    return Architecture(
        name=name,
        recognise=partial(_recognise, names),
        build=_build,
        rows=partial(_rows, names),
        example=lambda sizes: (np.zeros((1, *(PATCH * 2 ** len(sizes.features),) * 2, 3), np.float32),),
        preparation=preparation,
        **fields,
    )


CONVNEXT_TORCHVISION = _architecture("convnext-torchvision", _TORCHVISION, _prepare_torchvision)
CONVNEXT_TIMM = _architecture(
    "convnext-timm",
    _TIMM,
    lambda sizes: ImagePreparation(size=(224, 224), shorter_side=256, interpolation="bicubic"),
)
CONVNEXT_TRANSFORMERS = _architecture(
    "convnext-transformers",
    _TRANSFORMERS,
    lambda sizes: ImagePreparation(size=(224, 224), shorter_side=256, interpolation="bicubic", rounding="down"),
    hub_config=_hub_config,
)
