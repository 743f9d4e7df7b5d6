"""EfficientNet-Lite as timm and efficientnet-lite-pytorch name it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusionjax.data.preparation import Interpolation
from fusionjax.encoders.efficientnet_lite import EfficientNetLite, efficientnet_lite
from fusionjax.models import ImageClassifier
from fusionjax.pretrained.architecture import Architecture, ImagePreparation
from fusionjax.pretrained.counting import count_layers, is_batch_counter
from fusionjax.pretrained.rows import Row, Shapes, batch_norm_rows, conv_rows, dense_rows

_KERNEL_SIZES, _STRIDES, _EXPANSIONS = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, 6, 6, 6, 6, 6, 6)
# By timm's settings and the original's: what photographs are scaled to, of which the centre is cut out.
_TIMM_SIZES = ((224, 256), (240, 272), (260, 292), (300, 331), (380, 413))
_TIMM_BILINEAR = (300, 380)  # of these sizes photographs are scaled bilinearly
_ORIGINAL_SIZES = ((224, 256), (240, 272), (260, 292), (280, 312), (300, 332))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientNetLiteSizes:
    """The size of an EfficientNet-Lite; see the fields of `fusionjax.encoders.EfficientNetLite`.

    Attributes:
        stage_sizes: blocks of each stage.
        features: of the result of each stage.
        stem_features: of the first convolution.
        head_features: of the last.
        num_classes: of the head.
    """

    stage_sizes: tuple[int, ...]
    features: tuple[int, ...]
    stem_features: int
    head_features: int
    num_classes: int


def _sizes_of(shapes: Shapes, stages: Sequence[Sequence[str]], names: Sequence[str]) -> EfficientNetLiteSizes | None:
    """Reads the sizes where the first and last layers and those of each block have these names."""
    stem, last, head = (shapes.get(f"{name}.weight", ()) for name in names)
    if [len(stem), len(last), len(head)] != [4, 4, 2] or not 0 < len(stages) <= len(_STRIDES):
        return None
    features, channels = [], stem[0]
    for blocks, kernel_size, expansion in zip(stages, _KERNEL_SIZES, _EXPANSIONS, strict=False):
        depthwise, project = _depthwise_and_project(shapes, blocks[0])
        # The names alone are also those of MobileNetV2, MnasNet and the EfficientNets with squeeze-and-excitation.
        has_squeeze = any(name.startswith((f"{blocks[0]}.se.", f"{blocks[0]}._se_")) for name in shapes)
        if depthwise != (channels * expansion, 1, kernel_size, kernel_size) or len(project) != 4 or has_squeeze:
            return None
        features.append(project[0])
        channels = project[0]
    if last[1] != channels or head[1] != last[0]:
        return None
    return EfficientNetLiteSizes(
        stage_sizes=tuple(len(blocks) for blocks in stages),
        features=tuple(features),
        stem_features=stem[0],
        head_features=last[0],
        num_classes=head[0],
    )


def _depthwise_and_project(shapes: Shapes, block: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    def first(*names: str) -> tuple[int, ...]:
        return next((shapes[f"{block}.{name}.weight"] for name in names if f"{block}.{name}.weight" in shapes), ())

    return first("conv_dw", "_depthwise_conv"), first("conv_pwl", "conv_pw", "_project_conv")


def _recognise_timm(shapes: Shapes, config: Mapping[str, Any]) -> EfficientNetLiteSizes | None:
    # timm's own efficientnet_lite0 has the same names and shapes, but other padding, means and epsilon.
    if not str(config.get("architecture", "tf_efficientnet_lite")).startswith("tf_efficientnet_lite"):
        return None
    stages: list[list[str]] = []
    while count := count_layers(shapes, f"blocks.{len(stages)}.{{}}.conv_dw.weight"):
        stages.append([f"blocks.{len(stages)}.{place}" for place in range(count)])
    return _sizes_of(shapes, stages, ("conv_stem", "conv_head", "classifier"))


def _recognise_original(shapes: Shapes, config: Mapping[str, Any]) -> EfficientNetLiteSizes | None:
    stages: list[list[str]] = []
    width = None
    for place in range(count_layers(shapes, "_blocks.{}._project_conv.weight")):
        # Blocks are numbered through; every stage has a width of its own.
        if shapes[f"_blocks.{place}._project_conv.weight"][0] != width:
            stages.append([])
        width = shapes[f"_blocks.{place}._project_conv.weight"][0]
        stages[-1].append(f"_blocks.{place}")
    return _sizes_of(shapes, stages, ("_conv_stem", "_conv_head", "_fc"))


def _rows_timm(sizes: EfficientNetLiteSizes) -> list[Row]:
    rows = _layer_rows("stem", "conv_stem", "bn1") + _layer_rows("head", "conv_head", "bn2")
    for stage, (size, expansion) in enumerate(zip(sizes.stage_sizes, _EXPANSIONS, strict=False)):
        layers = [("depthwise", "conv_dw"), ("project", "conv_pw")]
        if expansion > 1:
            layers = [("expand", "conv_pw"), ("depthwise", "conv_dw"), ("project", "conv_pwl")]
        for place in range(size):
            theirs = f"blocks.{stage}.{place}"
            for number, (our_layer, layer) in enumerate(layers, 1):
                rows += _layer_rows(
                    f"stage_{stage}_block_{place}/{our_layer}", f"{theirs}.{layer}", f"{theirs}.bn{number}"
                )
    return rows + dense_rows("head", "classifier")


def _rows_original(sizes: EfficientNetLiteSizes) -> list[Row]:
    rows = _layer_rows("stem", "_conv_stem", "_bn0") + _layer_rows("head", "_conv_head", "_bn1")
    number = 0
    for stage, (size, expansion) in enumerate(zip(sizes.stage_sizes, _EXPANSIONS, strict=False)):
        for place in range(size):
            ours, theirs = f"stage_{stage}_block_{place}", f"_blocks.{number}"
            if expansion > 1:
                rows += _layer_rows(f"{ours}/expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            rows += _layer_rows(f"{ours}/depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            rows += _layer_rows(f"{ours}/project", f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
    return rows + dense_rows("head", "_fc")


def _layer_rows(ours: str, conv: str, norm: str) -> list[Row]:
    return conv_rows(f"encoder/{ours}/conv", conv) + batch_norm_rows(f"encoder/{ours}/norm", norm)


def _build(sizes: EfficientNetLiteSizes) -> ImageClassifier:
    fields = dataclasses.asdict(sizes)
    num_classes = fields.pop("num_classes")
    stages = len(sizes.features)
    fields |= {"kernel_sizes": _KERNEL_SIZES[:stages], "strides": _STRIDES[:stages], "expansions": _EXPANSIONS[:stages]}
    return ImageClassifier(EfficientNetLite(**fields), num_classes)


def _preparation(
    sizes: EfficientNetLiteSizes, pixels: Sequence[tuple[int, int]], bilinear: Sequence[int] = ()
) -> ImagePreparation:
    known = [efficientnet_lite(variant) for variant in range(len(pixels))]
    published = {(one.stage_sizes, one.features): pair for one, pair in zip(known, pixels, strict=True)}
    size, shorter_side = published.get((sizes.stage_sizes, sizes.features), pixels[0])
    interpolation: Interpolation = "bilinear" if size in bilinear else "bicubic"
    return ImagePreparation(size=(size, size), shorter_side=shorter_side, interpolation=interpolation)


EFFICIENTNET_LITE_TIMM = Architecture(
    name="efficientnet-lite-timm",
    recognise=_recognise_timm,
    build=_build,
    rows=_rows_timm,
    example=lambda sizes: (np.zeros((1, 64, 64, 3), np.float32),),
    is_ignored=is_batch_counter,
    preparation=lambda sizes: _preparation(sizes, _TIMM_SIZES, _TIMM_BILINEAR),
)
EFFICIENTNET_LITE_ORIGINAL = Architecture(
    name="efficientnet-lite-pytorch",
    recognise=_recognise_original,
    build=_build,
    rows=_rows_original,
    example=lambda sizes: (np.zeros((1, 64, 64, 3), np.float32),),
    is_ignored=is_batch_counter,
    preparation=lambda sizes: _preparation(sizes, _ORIGINAL_SIZES),
)
