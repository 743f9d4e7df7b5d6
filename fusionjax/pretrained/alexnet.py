"""AlexNet as torchvision names it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusionjax.encoders.alexnet import AlexNet
from fusionjax.models import ImageClassifier
from fusionjax.pretrained.architecture import Architecture, ImagePreparation
from fusionjax.pretrained.layouts import after_flatten
from fusionjax.pretrained.rows import Row, Shapes, conv_rows, dense_rows

_CONVS = (0, 3, 6, 8, 10)  # places among the layers; between them lie ReLU and maxima
_DENSE = (1, 4)
_HEAD = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlexNetSizes:
    """The size of an AlexNet.

    Attributes:
        features: of the five convolutions.
        hidden_features: of the two dense layers.
        pooled_side: height and width of the grid that the dense layers read, in cells.
        num_classes: of the head.
    """

    features: tuple[int, ...]
    hidden_features: tuple[int, ...]
    pooled_side: int
    num_classes: int


def _recognise(shapes: Shapes, config: Mapping[str, Any]) -> AlexNetSizes | None:
    convs = [shapes.get(f"features.{place}.weight", ()) for place in _CONVS]
    dense = [shapes.get(f"classifier.{place}.weight", ()) for place in (*_DENSE, _HEAD)]
    if any(len(shape) != 4 for shape in convs) or any(len(shape) != 2 for shape in dense):
        return None
    if [shape[2] for shape in convs] != [11, 5, 3, 3, 3]:
        return None
    return AlexNetSizes(
        features=tuple(shape[0] for shape in convs),
        hidden_features=tuple(shape[0] for shape in dense[:-1]),
        pooled_side=math.isqrt(dense[0][1] // convs[-1][0]),
        num_classes=dense[-1][0],
    )


def _build(sizes: AlexNetSizes) -> ImageClassifier:
    side = sizes.pooled_side
    encoder = AlexNet(sizes.features, sizes.hidden_features, pooled_grid=(side, side))
    return ImageClassifier(encoder, sizes.num_classes)


def _rows(sizes: AlexNetSizes) -> list[Row]:
    rows = []
    for place, theirs in enumerate(_CONVS):
        rows += conv_rows(f"encoder/conv_{place}", f"features.{theirs}", has_bias=True)
    first = after_flatten(sizes.features[-1], sizes.pooled_side, sizes.pooled_side)
    rows += dense_rows("encoder/dense/layer_0", f"classifier.{_DENSE[0]}", layout=first)
    rows += dense_rows("encoder/dense/layer_1", f"classifier.{_DENSE[1]}")
    return rows + dense_rows("head", f"classifier.{_HEAD}")


ALEXNET_TORCHVISION = Architecture(
    name="alexnet-torchvision",
    recognise=_recognise,
    build=_build,
    rows=_rows,
    example=lambda sizes: (np.zeros((1, 64, 64, 3), np.float32),),
    preparation=lambda sizes: ImagePreparation(size=(224, 224), shorter_side=256),
)
