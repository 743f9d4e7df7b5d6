"""ConvNeXt."""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders.convolutional import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_image_size,
    grid_features,
    masked_grid,
    normalize_images,
)
from fusionjax.encoders.features import Features
from fusionjax.encoders.pooling import mean_token
from fusionjax.layers import Conv, Dense

EXPANSION = 4  # of the dense layers within a block
PATCH = 4  # pixels

_KERNEL = 7
_EPSILON = 1e-6
_SIZES = {
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
}


class _Block(nn.Module):
    """x + scale * dense(gelu(dense(norm(conv(x))))), the convolution of each channel by itself."""

    scale_init: float | None
    dropout_rate: float
    dtype: Dtype | None
    param_dtype: Dtype

    @nn.compact
    def __call__(self, grid: jax.Array, *, deterministic: bool) -> jax.Array:
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        features = grid.shape[3]
        outputs = Conv(features, (_KERNEL, _KERNEL), groups=features, name="conv", **kwargs)(grid)
        outputs = _norm("norm", **kwargs)(outputs)
        outputs = Dense(EXPANSION * features, name="expand", **kwargs)(outputs)
        # The exact one, with the error function.
        outputs = Dense(features, name="project", **kwargs)(nn.gelu(outputs, approximate=False))
        if self.scale_init is not None:
            init = nn.initializers.constant(self.scale_init)
            outputs = outputs * self.param("scale", init, (features,), self.param_dtype).astype(outputs.dtype)
        # The whole block of an example is dropped.
        drop = nn.Dropout(self.dropout_rate, broadcast_dims=(1, 2, 3))
        return grid + drop(outputs, deterministic=deterministic)


class ConvNeXt(nn.Module):
    """Convolutions in the manner of a transformer: wide kernels for each channel, dense layers, layer normalisation.

    A block computes x + s * W2 gelu(W1 norm(conv7x7(x))) with a learned scale s of each feature, small at first.
    Patches of 4x4 pixels come first, and every later stage begins with a convolution 2x2 with stride 2, so that a
    224x224 image gives a 7x7 grid. The pooled vector is the mean of the cells, normalised; the tokens are the cells as
    they are.

    Attributes:
        stage_sizes: blocks of each stage.
        features: of each stage.
        scale_init: what the scales begin with; None for no scales.
        stochastic_depth_rate: how often the last block is left out for an example in training; the first never is, and
            the rate grows evenly between.
        pooled_epsilon: of the normalisation of the pooled vector; the published weights of the transformers library
            have 1e-12.
        is_frozen: computes as in evaluation and lets no gradient pass, neither to parameters nor to images.
        mean: of each channel, subtracted from the images in [0, 1].
        std: of each channel, divided by after that.
        dtype: of the computation; normalisation is in float32 at least.
        param_dtype: of the parameters.

    Raises:
        ValueError: there are not as many `features` as stages, the images are too small for the stages or have not as
            many channels as there are means, or the mask has another shape.
        TypeError: the images are neither uint8 nor floating point, or the mask is not boolean.

    Example:
        >>> images = jnp.zeros((2, 224, 224, 3))
        >>> features, _ = jax.eval_shape(convnext("tiny").init_with_output, jax.random.key(0), images)
        >>> features.tokens.shape, features.pooled.shape, features.grid
        ((2, 49, 768), (2, 768), (7, 7))

    References:
        Liu et al., "A ConvNet for the 2020s", 2022, arXiv:2201.03545, section 3.1 and figure 4.
        The scale: Touvron et al., "Going deeper with Image Transformers", 2021, arXiv:2103.17239.
        Leaving blocks out: Huang et al., "Deep Networks with Stochastic Depth", 2016, arXiv:1603.09382.
    """

    stage_sizes: Sequence[int] = (3, 3, 9, 3)
    features: Sequence[int] = (96, 192, 384, 768)
    scale_init: float | None = 1e-6
    stochastic_depth_rate: float = 0.0
    pooled_epsilon: float = _EPSILON
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
            deterministic: leaves no block out.

        Returns:
            tokens `[batch, rows * columns, features[-1]]`, zero where masked; pooled `[batch, features[-1]]`, the
            normalised mean of the kept tokens; grid `(rows, columns)`.
        """
        if len(self.stage_sizes) != len(self.features):
            raise ValueError(
                f"there must be features for each stage; got stage_sizes={tuple(self.stage_sizes)} and "
                f"features={tuple(self.features)}. Give as many of both."
            )
        grid = normalize_images(images, self.mean, self.std, self.dtype)
        stages = len(self.stage_sizes)
        check_image_size(grid.shape, PATCH * 2 ** (stages - 1), f"ConvNeXt of {stages} stages")
        deterministic = deterministic or self.is_frozen
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        number, last = 0, max(sum(self.stage_sizes) - 1, 1)
        for stage, (size, features) in enumerate(zip(self.stage_sizes, self.features, strict=True)):
            grid = _downsample(grid, features, stage, kwargs)
            for place in range(size):
                rate = self.stochastic_depth_rate * number / last
                block = _Block(self.scale_init, rate, name=f"stage_{stage}_block_{place}", **kwargs)
                grid = block(grid, deterministic=deterministic)
                number += 1
        tokens = masked_grid(grid, mask).reshape(grid.shape[0], -1, grid.shape[3])
        pooled = _norm("norm", self.pooled_epsilon, **kwargs)(mean_token(tokens, mask))
        return grid_features(grid, mask, pooled, is_frozen=self.is_frozen)


def _downsample(grid: jax.Array, features: int, stage: int, kwargs: dict[str, Any]) -> jax.Array:
    """Patches and their normalisation, or normalisation and then a convolution with stride 2."""
    size = 2 if stage else PATCH
    conv = Conv(features, (size, size), strides=(size, size), padding="VALID", name=f"downsample_{stage}", **kwargs)
    norm = _norm(f"downsample_norm_{stage}", **kwargs)
    return conv(norm(grid)) if stage else norm(conv(grid))


def _norm(name: str, epsilon: float = _EPSILON, **kwargs: Any) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name, **kwargs)


def convnext(size: Literal["tiny", "small", "base", "large"], **fields: Any) -> ConvNeXt:
    """Makes a ConvNeXt of a published size.

    Args:
        size: `"tiny"`, `"small"`, `"base"` or `"large"`.
        fields: others of `ConvNeXt`, such as `is_frozen`.

    Returns:
        The encoder.

    Raises:
        ValueError: there is no such size.

    Example:
        >>> convnext("base").stage_sizes, convnext("base").features
        ((3, 3, 27, 3), (128, 256, 512, 1024))

    References:
        Liu et al., "A ConvNet for the 2020s", 2022, arXiv:2201.03545, section 3.1.
    """
    if size not in _SIZES:
        raise ValueError(f"the size must be one of {', '.join(_SIZES)}; got {size!r}. Choose one.")
    stage_sizes, features = _SIZES[size]
    return ConvNeXt(stage_sizes=stage_sizes, features=features, **fields)
