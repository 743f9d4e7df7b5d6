"""Residual networks."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax import ops
from fusionjax.encoders.convolutional import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ConvNorm,
    check_image_size,
    grid_features,
    normalize_images,
)
from fusionjax.encoders.features import Features

EXPANSION = 4  # features of a bottleneck's result over those within

_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class _Block(nn.Module):
    """relu(x + f(x)): two convolutions 3x3, or 1x1, 3x3 and 1x1; a stride is in the first 3x3."""

    features: int
    strides: int
    is_bottleneck: bool
    dtype: Dtype | None
    param_dtype: Dtype

    @nn.compact
    def __call__(self, grid: jax.Array, *, deterministic: bool) -> jax.Array:
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = self.features * EXPANSION if self.is_bottleneck else self.features
        # Features, size of the kernel and stride of each.
        layers = [(self.features, 3, self.strides), (self.features, 3, 1)]
        if self.is_bottleneck:
            layers = [(self.features, 1, 1), (self.features, 3, self.strides), (width, 1, 1)]
        outputs, last = grid, len(layers) - 1
        for place, (features, size, strides) in enumerate(layers):
            activation = None if place == last else nn.relu
            conv = ConvNorm(features, size, strides, activation=activation, name=f"conv_{place}", **kwargs)
            outputs = conv(outputs, deterministic=deterministic)
        if self.strides > 1 or grid.shape[3] != width:
            shortcut = ConvNorm(width, 1, self.strides, activation=None, name="shortcut", **kwargs)
            grid = shortcut(grid, deterministic=deterministic)
        return nn.relu(outputs + grid)


class ResNet(nn.Module):
    """Convolutions that learn what to add to their input: relu(x + f(x)), stage after stage at half the size.

    A convolution 7x7 and a maximum 3x3, both with stride 2, come first; every stage but the first begins with stride 2,
    so that a 224x224 image gives a 7x7 grid, and the mean of its cells is the pooled vector. A bottleneck has its
    stride in the convolution 3x3, as in torchvision, not in the first 1x1 as in the paper. Training needs the
    collection `batch_stats`; as everywhere in Flax the stored variances are those of the batch, without PyTorch's
    n / (n - 1).

    Attributes:
        stage_sizes: blocks of each stage.
        features: of the convolutions 3x3 of each stage; the result of a bottleneck has four times as many.
        stem_features: of the first convolution.
        is_bottleneck: blocks of convolutions 1x1, 3x3 and 1x1, instead of two of 3x3.
        is_frozen: uses the stored statistics and lets no gradient pass, neither to parameters nor to images.
        mean: of each channel, subtracted from the images in [0, 1].
        std: of each channel, divided by after that.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: there are not as many `features` as stages, the images are empty or have not as many channels as
            there are means, or the mask has another shape.
        TypeError: the images are neither uint8 nor floating point, or the mask is not boolean.

    Example:
        >>> features, _ = jax.eval_shape(resnet(50).init_with_output, jax.random.key(0), jnp.zeros((2, 224, 224, 3)))
        >>> features.tokens.shape, features.pooled.shape, features.grid
        ((2, 49, 2048), (2, 2048), (7, 7))

    References:
        He et al., "Deep Residual Learning for Image Recognition", 2016, arXiv:1512.03385, table 1.
    """

    stage_sizes: Sequence[int] = (3, 4, 6, 3)
    features: Sequence[int] = (64, 128, 256, 512)
    stem_features: int = 64
    is_bottleneck: bool = True
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
            deterministic: takes the stored batch statistics.

        Returns:
            tokens `[batch, rows * columns, features]`, zero where masked; pooled `[batch, features]`, the mean of the
            kept tokens; grid `(rows, columns)`.
        """
        if len(self.stage_sizes) != len(self.features):
            raise ValueError(
                f"there must be features for each stage; got stage_sizes={tuple(self.stage_sizes)} and "
                f"features={tuple(self.features)}. Give as many of both."
            )
        grid = normalize_images(images, self.mean, self.std, self.dtype)
        check_image_size(grid.shape, 1, "ResNet")
        deterministic = deterministic or self.is_frozen
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        grid = ConvNorm(self.stem_features, 7, 2, name="stem", **kwargs)(grid, deterministic=deterministic)
        # After ReLU nothing is below zero, so that zeros around it are never the only largest.
        grid = ops.max_pool2d(jnp.pad(grid, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), strides=(2, 2))
        for stage, (size, features) in enumerate(zip(self.stage_sizes, self.features, strict=True)):
            for place in range(size):
                strides = 2 if stage and not place else 1
                block = _Block(features, strides, self.is_bottleneck, name=f"stage_{stage}_block_{place}", **kwargs)
                grid = block(grid, deterministic=deterministic)
        return grid_features(grid, mask, is_frozen=self.is_frozen)


def resnet(depth: int, **fields: Any) -> ResNet:
    """Makes a residual network of a published depth.

    Args:
        depth: 18 or 34 with basic blocks, 50, 101 or 152 with bottlenecks.
        fields: others of `ResNet`, such as `is_frozen`.

    Returns:
        The encoder.

    Raises:
        ValueError: there is no such depth.

    Example:
        >>> resnet(18).stage_sizes, resnet(18).is_bottleneck
        ((2, 2, 2, 2), False)

    References:
        He et al., "Deep Residual Learning for Image Recognition", 2016, arXiv:1512.03385, table 1.
    """
    if depth not in _STAGES:
        raise ValueError(f"the depth must be one of {', '.join(map(str, _STAGES))}; got {depth}. Choose one.")
    return ResNet(stage_sizes=_STAGES[depth], is_bottleneck=depth >= 50, **fields)
