"""What the published convolutional encoders share."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from fusionjax.encoders.checks import check_mask
from fusionjax.encoders.features import Features
from fusionjax.encoders.pooling import mean_token
from fusionjax.encoders.simple_cnn import as_unit_images
from fusionjax.layers import BatchNorm, Conv, Dense
from fusionjax.ops.convolution import Padding

# Of the photographs of ImageNet in [0, 1], red, green and blue.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize_images(
    images: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: Dtype | None = None
) -> jax.Array:
    """Computes (images in [0, 1] - mean) / std, channel by channel.

    Args:
        images: `[batch, height, width, channels]`, uint8 or floating point in [0, 1].
        mean: of each channel.
        std: of each channel.
        dtype: of the result; None keeps a floating dtype and makes float32 of uint8.

    Returns:
        The same shape, floating point.

    Raises:
        ValueError: the images have not four axes, or not as many channels as there are means and deviations.
        TypeError: they are neither uint8 nor floating point.

    Example:
        >>> normalize_images(jnp.array([[[[0.5, 1.0]]]]), mean=(0.5, 0.0), std=(1.0, 0.5)).tolist()
        [[[[0.0, 2.0]]]]
    """
    unit = as_unit_images(images)
    if not unit.shape[3] == len(mean) == len(std):
        raise ValueError(
            f"images must have a channel for each mean and deviation; got {unit.shape[3]} channels, {len(mean)} means "
            f"and {len(std)} deviations. Give the encoder as many as the images have channels."
        )
    normal = (unit - jnp.asarray(mean, unit.dtype)) / jnp.asarray(std, unit.dtype)
    return normal if dtype is None else normal.astype(dtype)


def check_image_size(shape: Sequence[int], least: int, name: str) -> None:
    """Checks that images are large enough for an architecture.

    Args:
        shape: of the images.
        least: height and width that leave one cell of the last grid.
        name: of the architecture.

    Raises:
        ValueError: they are smaller.
    """
    if min(shape[1:3]) < least:
        raise ValueError(
            f"images must be at least {least}x{least} for {name}; got {shape[1]}x{shape[2]}. Enlarge the images."
        )


def adaptive_average_pool(grid: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Averages a grid down, or spreads it out, to a fixed size.

    Of n cells along an axis, part i of m averages those from floor(i n / m) to ceil((i + 1) n / m), as PyTorch's
    adaptive pooling does; parts overlap where m does not divide n.

    Args:
        grid: `[batch, height, width, features]`.
        size: height and width of the result, in cells.

    Returns:
        `[batch, *size, features]`, in the dtype of the grid.

    Example:
        >>> adaptive_average_pool(jnp.arange(3.0).reshape(1, 3, 1, 1), (2, 1)).ravel().tolist()
        [0.5, 1.5]
    """
    if grid.shape[1:3] == tuple(size):
        return grid
    down, across = (jnp.asarray(_parts(have, want)) for have, want in zip(grid.shape[1:3], size, strict=True))
    # [batch, *size, features]
    pooled = jnp.einsum(
        "bhwf,rh,cw->brcf", grid.astype(jnp.promote_types(grid.dtype, jnp.float32)), down, across, precision="highest"
    )
    return pooled.astype(grid.dtype)


def _parts(have: int, want: int) -> np.ndarray:
    """The share of each of `have` cells in each of `want` parts, `[want, have]`."""
    parts = np.zeros((want, have), np.float32)
    for part in range(want):
        first, end = part * have // want, -(-(part + 1) * have // want)
        parts[part, first:end] = 1 / (end - first)
    return parts


def masked_grid(grid: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Puts zeros into masked cells.

    Args:
        grid: `[batch, rows, columns, features]`.
        mask: True for the cells to keep, `[batch, rows * columns]`; None keeps all.

    Returns:
        The same shape.

    Raises:
        ValueError: the mask has another shape.
        TypeError: the mask is not boolean.
    """
    check_mask(mask, (grid.shape[0], grid.shape[1] * grid.shape[2]), "image")
    return grid if mask is None else jnp.where(mask.reshape(*grid.shape[:3], 1), grid, 0)


def grid_features(
    grid: jax.Array, mask: jax.Array | None, pooled: jax.Array | None = None, *, is_frozen: bool = False
) -> Features:
    """Makes `Features` of the last grid.

    Args:
        grid: `[batch, rows, columns, features]`.
        mask: True for the cells to keep, `[batch, rows * columns]`; None keeps all.
        pooled: `[batch, pooled_features]`; None averages the kept cells.
        is_frozen: lets no gradient pass.

    Returns:
        tokens `[batch, rows * columns, features]`, zero where masked; grid `(rows, columns)`.

    Raises:
        ValueError: the mask has another shape.
        TypeError: the mask is not boolean.
    """
    batch, rows, columns, features = grid.shape
    tokens = masked_grid(grid, mask).reshape(batch, rows * columns, features)
    pooled = mean_token(tokens, mask) if pooled is None else pooled
    made = Features(tokens=tokens, mask=mask, pooled=pooled, grid=(rows, columns))
    return jax.lax.stop_gradient(made) if is_frozen else made


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation and an activation: f(norm(conv(x))).

    Attributes:
        features: of the result.
        kernel_size: height and width, in pixels.
        strides: in pixels, the same both ways.
        padding: as of `Conv`; None for half of the kernel on all sides, which is PyTorch's with odd kernels.
        groups: into which channels and features are cut.
        activation: None for none.
        momentum: how much of the stored statistics stays in a step of training.
        epsilon: added to the variance.
        dtype: of the computation; the statistics are float32 at least.
        param_dtype: of the parameters.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    padding: Padding | None = None
    groups: int = 1
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, grid: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Computes the layer.

        Args:
            grid: `[batch, height, width, channels]`.
            deterministic: takes the stored statistics.

        Returns:
            `[batch, out_height, out_width, features]`.
        """
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            strides=(self.strides, self.strides),
            padding=((self.kernel_size // 2,) * 2,) * 2 if self.padding is None else self.padding,
            groups=self.groups,
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            name="conv",
            **kwargs,
        )
        norm = BatchNorm(self.momentum, self.epsilon, name="norm", **kwargs)
        outputs = norm(conv(grid), deterministic=deterministic)
        return outputs if self.activation is None else self.activation(outputs)


class GridDense(nn.Module):
    """Averages a grid to a fixed size, flattens it, and applies dense layers with ReLU and dropout.

    Attributes:
        size: height and width that the grid is brought to, in cells.
        features: of each layer.
        dropout_rate: of every layer.
        dropout: before each layer or after it.
        dtype: of the computation.
        param_dtype: of the parameters.
    """

    size: tuple[int, int]
    features: Sequence[int]
    dropout_rate: float
    dropout: Literal["before", "after"]
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, grid: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Computes the layers.

        Args:
            grid: `[batch, rows, columns, features]`.
            deterministic: switches dropout off.

        Returns:
            `[batch, features of the last layer]`.
        """
        vector = adaptive_average_pool(grid, self.size).reshape(grid.shape[0], -1)
        drop = nn.Dropout(self.dropout_rate, deterministic=deterministic)
        for layer, features in enumerate(self.features):
            dense = Dense(features, dtype=self.dtype, param_dtype=self.param_dtype, name=f"layer_{layer}")
            vector = nn.relu(dense(drop(vector) if self.dropout == "before" else vector))
            vector = drop(vector) if self.dropout == "after" else vector
        return vector
