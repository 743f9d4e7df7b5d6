"""AlexNet."""

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
    GridDense,
    check_image_size,
    grid_features,
    masked_grid,
    normalize_images,
)
from fusionjax.encoders.features import Features
from fusionjax.layers import Conv

# Kernel, stride and padding in pixels, and whether a maximum 3x3 with stride 2 follows.
_LAYERS = ((11, 4, 2, True), (5, 1, 2, True), (3, 1, 1, False), (3, 1, 1, False), (3, 1, 1, True))
_LEAST = 63  # pixels that leave one cell


class AlexNet(nn.Module):
    """Five convolutions with ReLU, three of them followed by a maximum 3x3, and two dense layers.

    A 224x224 image gives a 6x6 grid; other grids are averaged to 6x6 before the dense layers, whose result is the
    pooled vector. It is the one tower of the second paper, as torchvision has it, with 61,100,840 parameters including
    a head of 1,000 classes; that of the first is in two halves and normalises responses locally. The default fields are
    the published sizes.

    Attributes:
        features: of the five convolutions.
        hidden_features: of the dense layers.
        pooled_grid: height and width of the grid that the dense layers read, in cells.
        dropout_rate: before each dense layer.
        is_frozen: computes as in evaluation and lets no gradient pass, neither to parameters nor to images.
        mean: of each channel, subtracted from the images in [0, 1].
        std: of each channel, divided by after that.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: there are not five `features`, the images are smaller than 63x63 or have not as many channels as
            there are means, or the mask has another shape.
        TypeError: the images are neither uint8 nor floating point, or the mask is not boolean.

    Example:
        >>> images = jnp.zeros((2, 224, 224, 3))
        >>> features, _ = jax.eval_shape(AlexNet().init_with_output, jax.random.key(0), images)
        >>> features.tokens.shape, features.pooled.shape, features.grid
        ((2, 36, 256), (2, 4096), (6, 6))

    References:
        Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, arXiv:1404.5997; Krizhevsky
        et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012.
    """

    features: Sequence[int] = (64, 192, 384, 256, 256)
    hidden_features: Sequence[int] = (4096, 4096)
    pooled_grid: tuple[int, int] = (6, 6)
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
            tokens `[batch, rows * columns, features[-1]]`, zero where masked; pooled `[batch, hidden_features[-1]]`, of
            the grid with zeros where masked; grid `(rows, columns)`.
        """
        if len(self.features) != len(_LAYERS):
            raise ValueError(
                f"features must be those of {len(_LAYERS)} convolutions; got {tuple(self.features)}. "
                f"Give {len(_LAYERS)} numbers."
            )
        grid = normalize_images(images, self.mean, self.std, self.dtype)
        check_image_size(grid.shape, _LEAST, "AlexNet")
        deterministic = deterministic or self.is_frozen
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for place, (features, layer) in enumerate(zip(self.features, _LAYERS, strict=True)):
            kernel_size, strides, padding, is_pooled = layer
            conv = Conv(
                features,
                (kernel_size, kernel_size),
                strides=(strides, strides),
                padding=((padding, padding), (padding, padding)),
                kernel_init=nn.initializers.he_normal(),
                name=f"conv_{place}",
                **kwargs,
            )
            grid = conv(grid)
            # ReLU keeps order, so it may follow the maximum, on a quarter of the numbers.
            grid = nn.relu(ops.max_pool2d(grid, (3, 3), strides=(2, 2)) if is_pooled else grid)
        dense = GridDense(self.pooled_grid, self.hidden_features, self.dropout_rate, "before", name="dense", **kwargs)
        pooled = dense(masked_grid(grid, mask), deterministic=deterministic)
        return grid_features(grid, mask, pooled, is_frozen=self.is_frozen)
