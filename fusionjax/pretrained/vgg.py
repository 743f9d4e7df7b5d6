"""VGG networks as torchvision names them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusionjax.encoders.vgg import VGG
from fusionjax.models import ImageClassifier
from fusionjax.pretrained.architecture import Architecture, ImagePreparation
from fusionjax.pretrained.layouts import after_flatten
from fusionjax.pretrained.rows import Row, Shapes, conv_rows, dense_rows

_DENSE = (0, 3)  # places among the layers; between them lie ReLU and dropout
_HEAD = 6
_NEXT = 2  # from a convolution to that after its ReLU; one more where a maximum lies between


@dataclasses.dataclass(frozen=True, kw_only=True)
class VGGSizes:
    """The size of a VGG network.

    Attributes:
        stages: the features of each convolution, stage by stage.
        hidden_features: of the two dense layers.
        pooled_side: height and width of the grid that the dense layers read, in cells.
        num_classes: of the head.
    """

    stages: tuple[tuple[int, ...], ...]
    hidden_features: tuple[int, ...]
    pooled_side: int
    num_classes: int


def _recognise(shapes: Shapes, config: Mapping[str, Any]) -> VGGSizes | None:
    dense = [shapes.get(f"classifier.{place}.weight", ()) for place in (*_DENSE, _HEAD)]
    if any(len(shape) != 2 for shape in dense):
        return None
    stages: list[list[int]] = [[]]
    place = 0
    while f"features.{place}.weight" in shapes or f"features.{place + 1}.weight" in shapes:
        if f"features.{place}.weight" not in shapes:
            stages.append([])
            place += 1
        shape = shapes[f"features.{place}.weight"]
        # One axis is batch normalisation's.
        if len(shape) != 4 or shape[2:] != (3, 3) or f"features.{place + 1}.weight" in shapes:
            return None
        stages[-1].append(shape[0])
        place += _NEXT
    if not all(stages):
        return None
    return VGGSizes(
        stages=tuple(map(tuple, stages)),
        hidden_features=tuple(shape[0] for shape in dense[:-1]),
        pooled_side=math.isqrt(dense[0][1] // stages[-1][-1]),
        num_classes=dense[-1][0],
    )


def _build(sizes: VGGSizes) -> ImageClassifier:
    side = sizes.pooled_side
    return ImageClassifier(VGG(sizes.stages, sizes.hidden_features, pooled_grid=(side, side)), sizes.num_classes)


def _rows(sizes: VGGSizes) -> list[Row]:
    rows, theirs = [], 0
    for stage, widths in enumerate(sizes.stages):
        for place in range(len(widths)):
            rows += conv_rows(f"encoder/conv_{stage}_{place}", f"features.{theirs}", has_bias=True)
            theirs += _NEXT
        theirs += 1
    first = after_flatten(sizes.stages[-1][-1], sizes.pooled_side, sizes.pooled_side)
    rows += dense_rows("encoder/dense/layer_0", f"classifier.{_DENSE[0]}", layout=first)
    rows += dense_rows("encoder/dense/layer_1", f"classifier.{_DENSE[1]}")
    return rows + dense_rows("head", f"classifier.{_HEAD}")


VGG_TORCHVISION = Architecture(
    name="vgg-torchvision",
    recognise=_recognise,
    build=_build,
    rows=_rows,
    example=lambda sizes: (np.zeros((1, *(2 ** len(sizes.stages),) * 2, 3), np.float32),),
    preparation=lambda sizes: ImagePreparation(size=(224, 224), shorter_side=256),
)
