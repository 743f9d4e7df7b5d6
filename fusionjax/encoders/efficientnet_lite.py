"""EfficientNet-Lite."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders.convolutional import ConvNorm, check_image_size, grid_features, normalize_images
from fusionjax.encoders.features import Features

_STAGE_SIZES = (1, 2, 2, 3, 3, 4, 1)
_FEATURES = (16, 24, 40, 80, 112, 192, 320)
# Multipliers of width and depth.
_VARIANTS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))
_DIVISOR = 8


class _Block(nn.Module):
    """Expansion 1x1, convolution of each channel by itself, projection 1x1; added to its input where sizes agree."""

    features: int
    kernel_size: int
    strides: int
    expansion: int
    dropout_rate: float
    dtype: Dtype | None
    param_dtype: Dtype

    @nn.compact
    def __call__(self, grid: jax.Array, *, deterministic: bool) -> jax.Array:
        layer = partial(_layer, dtype=self.dtype, param_dtype=self.param_dtype)
        channels = grid.shape[3]
        outputs, width = grid, channels * self.expansion
        if self.expansion > 1:
            outputs = layer(width, 1, name="expand")(outputs, deterministic=deterministic)
        depthwise = layer(width, self.kernel_size, self.strides, groups=width, name="depthwise")
        outputs = depthwise(outputs, deterministic=deterministic)
        outputs = layer(self.features, 1, activation=None, name="project")(outputs, deterministic=deterministic)
        if self.strides > 1 or channels != self.features:
            return outputs
        # The whole block of an example is dropped.
        drop = nn.Dropout(self.dropout_rate, broadcast_dims=(1, 2, 3))
        return grid + drop(outputs, deterministic=deterministic)


class EfficientNetLite(nn.Module):
    """Inverted bottlenecks without squeeze-and-excitation, with ReLU6: fast on small devices, easily quantised.

    A block widens its input by a convolution 1x1, convolves each channel by itself, and projects back. Larger variants
    have more features and blocks, but the same first and last convolutions and the same first and last number of
    blocks. Padding is TensorFlow's (`"SAME"`: more at the bottom and the right with strides), as in the published
    weights. A 224x224 image gives a 7x7 grid, the mean of its cells is the pooled vector. Training needs the collection
    `batch_stats`.

    Attributes:
        stage_sizes: blocks of each stage.
        features: of the result of each stage.
        kernel_sizes: of each stage's convolution of single channels.
        strides: of the first block of each stage.
        expansions: by how much the blocks of each stage widen their input; 1 for not at all.
        stem_features: of the first convolution.
        head_features: of the last convolution, and so of the tokens.
        stochastic_depth_rate: how often the last block is left out for an example in training; the first never is, and
            the rate grows evenly between.
        is_frozen: computes as in evaluation and lets no gradient pass, neither to parameters nor to images.
        mean: of each channel, subtracted from the images in [0, 1].
        std: of each channel, divided by after that.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: the fields of stages differ in length, the images are empty or have not as many channels as there
            are means, or the mask has another shape.
        TypeError: the images are neither uint8 nor floating point, or the mask is not boolean.

    Example:
        >>> images = jnp.zeros((2, 224, 224, 3))
        >>> features, _ = jax.eval_shape(efficientnet_lite(0).init_with_output, jax.random.key(0), images)
        >>> features.tokens.shape, features.pooled.shape, features.grid
        ((2, 49, 1280), (2, 1280), (7, 7))

    References:
        Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, arXiv:1905.11946,
        table 1; Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog, 2020.
        Leaving blocks out: Huang et al., "Deep Networks with Stochastic Depth", 2016, arXiv:1603.09382.
    """

    stage_sizes: Sequence[int] = _STAGE_SIZES
    features: Sequence[int] = _FEATURES
    kernel_sizes: Sequence[int] = (3, 3, 5, 3, 5, 5, 3)
    strides: Sequence[int] = (1, 2, 2, 2, 1, 2, 1)
    expansions: Sequence[int] = (1, 6, 6, 6, 6, 6, 6)
    stem_features: int = 32
    head_features: int = 1280
    stochastic_depth_rate: float = 0.0
    is_frozen: bool = False
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, mask: jax.Array | None = None, *, deterministic: bool = True) -> Features:
        """Encodes images.

        Args:
            images: `[batch, height, width, channels]`, uint8 or floating point in [0, 1].
            mask: True for the tokens to keep, `[batch, length]`; None keeps all.
            deterministic: takes the stored batch statistics and leaves no block out.

        Returns:
            tokens `[batch, rows * columns, head_features]`, zero where masked; pooled `[batch, head_features]`, the
            mean of the kept tokens; grid `(rows, columns)`.
        """
        stages = (self.stage_sizes, self.features, self.kernel_sizes, self.strides, self.expansions)
        if len({len(field) for field in stages}) > 1:
            raise ValueError(
                "stage_sizes, features, kernel_sizes, strides and expansions must have an entry for each stage; got "
                f"{', '.join(str(len(field)) for field in stages)} entries. Give as many of each."
            )
        grid = normalize_images(images, self.mean, self.std, self.dtype)
        check_image_size(grid.shape, 1, "EfficientNet-Lite")
        deterministic = deterministic or self.is_frozen
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        grid = _layer(self.stem_features, 3, 2, name="stem", **kwargs)(grid, deterministic=deterministic)
        number, total = 0, sum(self.stage_sizes)
        for stage, (size, features, kernel_size, strides, expansion) in enumerate(zip(*stages, strict=True)):
            for place in range(size):
                block = _Block(
                    features,
                    kernel_size,
                    1 if place else strides,
                    expansion,
                    self.stochastic_depth_rate * number / total,
                    name=f"stage_{stage}_block_{place}",
                    **kwargs,
                )
                grid = block(grid, deterministic=deterministic)
                number += 1
        grid = _layer(self.head_features, 1, name="head", **kwargs)(grid, deterministic=deterministic)
        return grid_features(grid, mask, is_frozen=self.is_frozen)


def _layer(features: int, kernel_size: int, strides: int = 1, **fields: Any) -> ConvNorm:
    """Normalised as TensorFlow does by default."""
    fields = {"activation": nn.relu6, "padding": "SAME", "momentum": 0.99, "epsilon": 1e-3, **fields}
    return ConvNorm(features, kernel_size, strides, **fields)


def efficientnet_lite(variant: int, **fields: Any) -> EfficientNetLite:
    """Makes EfficientNet-Lite0 to Lite4.

    Widths are multiplied by 1, 1, 1.1, 1.2 or 1.4 and rounded to multiples of eight, never down by more than a tenth;
    numbers of blocks by 1, 1.1, 1.2, 1.4 or 1.8 and rounded up. The first and last convolutions and the numbers of
    blocks of the first and last stages stay. The weights were trained with 224, 240, 260, 280 and 300 pixels.

    Args:
        variant: 0 to 4.
        fields: others of `EfficientNetLite`, such as `is_frozen`.

    Returns:
        The encoder.

    Raises:
        ValueError: there is no such variant.

    Example:
        >>> efficientnet_lite(4).stage_sizes, efficientnet_lite(4).features
        ((1, 4, 4, 6, 6, 8, 1), (24, 32, 56, 112, 160, 272, 448))

    References:
        Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, arXiv:1905.11946,
        section 3.3; Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog, 2020.
    """
    if variant not in range(len(_VARIANTS)):
        raise ValueError(f"the variant must be 0 to {len(_VARIANTS) - 1}; got {variant}. Choose one.")
    width, depth = _VARIANTS[variant]
    inner = tuple(math.ceil(depth * size) for size in _STAGE_SIZES[1:-1])
    return EfficientNetLite(
        stage_sizes=(_STAGE_SIZES[0], *inner, _STAGE_SIZES[-1]),
        features=tuple(_round_features(width * features) for features in _FEATURES),
        **fields,
    )


def _round_features(features: float) -> int:
    rounded = max(_DIVISOR, int(features + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return rounded + _DIVISOR if rounded < 0.9 * features else rounded
