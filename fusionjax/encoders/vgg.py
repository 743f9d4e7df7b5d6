"""VGG networks."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype

from fusionjax import ops
from fusionjax.encoders.convolutional import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    GridDense,
    check_image_size,
    grid_features,
    masked_grid,
    normalize_images,
)
from fusionjax.encoders.features import Features
from fusionjax.layers import Conv

_WIDTHS = (64, 128, 256, 512, 512)
# Convolutions of each stage.
_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """Stages of convolutions 3x3 with ReLU, each followed by a maximum 2x2, and two dense layers.

    A 224x224 image and five stages give a 7x7 grid; other grids are averaged to 7x7 before the dense layers, whose
    result is the pooled vector. VGG-16 has 138,357,544 parameters including a head of 1,000 classes, 102,764,544 of
    them in the first dense layer.

    Attributes:
        stages: the features of each convolution, stage by stage.
        hidden_features: of the dense layers.
        pooled_grid: height and width of the grid that the dense layers read, in cells.
        dropout_rate: after each dense layer.
        is_frozen: computes as in evaluation and lets no gradient pass, neither to parameters nor to images.
        mean: of each channel, subtracted from the images in [0, 1].
        std: of each channel, divided by after that.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: a stage is empty, the images are too small for the stages or have not as many channels as there are
            means, or the mask has another shape.
        TypeError: the images are neither uint8 nor floating point, or the mask is not boolean.

    Example:
        >>> features, _ = jax.eval_shape(vgg(16).init_with_output, jax.random.key(0), jnp.zeros((2, 224, 224, 3)))
        >>> features.tokens.shape, features.pooled.shape, features.grid
        ((2, 49, 512), (2, 4096), (7, 7))

    References:
        Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015,
        arXiv:1409.1556, table 1.
    """

    stages: Sequence[Sequence[int]] = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
    hidden_features: Sequence[int] = (4096, 4096)
    pooled_grid: tuple[int, int] = (7, 7)
    dropout_rate: float = 0.5
    is_frozen: bool = False
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, mask: jax.Array | None = None, *, deterministic: bool = True) -> Features:
        """Encodes images.

        Args:
            images: `[batch, height, width, channels]`, uint8 or floating point in [0, 1].
            mask: True for the tokens to keep, `[batch, length]`; None keeps all.
            deterministic: switches dropout off.

        Returns:
            tokens `[batch, rows * columns, stages[-1][-1]]`, zero where masked; pooled `[batch, hidden_features[-1]]`,
            of the grid with zeros where masked; grid `(rows, columns)`.
        """
        if not all(self.stages):
            raise ValueError(
                f"each stage must have a convolution; got stages={tuple(map(tuple, self.stages))}. "
                "Leave out empty ones."
            )
        grid = normalize_images(images, self.mean, self.std, self.dtype)
        check_image_size(grid.shape, 2 ** len(self.stages), f"VGG of {len(self.stages)} stages")
        deterministic = deterministic or self.is_frozen
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for stage, widths in enumerate(self.stages):
            convs = [
                Conv(features, kernel_init=nn.initializers.he_normal(), name=f"conv_{stage}_{place}", **kwargs)
                for place, features in enumerate(widths)
            ]
            for conv in convs[:-1]:
                grid = nn.relu(conv(grid))
            grid, kernel, bias = promote_dtype(grid, *convs[-1].parameters(grid.shape[3]), dtype=self.dtype)
            grid = ops.conv2d_relu_max_pool(grid, kernel, bias, padding="SAME")
        dense = GridDense(self.pooled_grid, self.hidden_features, self.dropout_rate, "after", name="dense", **kwargs)
        pooled = dense(masked_grid(grid, mask), deterministic=deterministic)
        return grid_features(grid, mask, pooled, is_frozen=self.is_frozen)


def vgg(depth: int, **fields: Any) -> VGG:
    """Makes a VGG network of a published depth.

    Args:
        depth: 11, 13, 16 or 19 layers with parameters, the head's one included.
        fields: others of `VGG`, such as `is_frozen`.

    Returns:
        The encoder.

    Raises:
        ValueError: there is no such depth.

    Example:
        >>> vgg(11).stages
        ((64,), (128,), (256, 256), (512, 512), (512, 512))

    References:
        Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015,
        arXiv:1409.1556, table 1, columns A, B, D and E.
    """
    if depth not in _STAGES:
        raise ValueError(f"the depth must be one of {', '.join(map(str, _STAGES))}; got {depth}. Choose one.")
    return VGG(stages=tuple((width,) * size for size, width in zip(_STAGES[depth], _WIDTHS, strict=True)), **fields)
