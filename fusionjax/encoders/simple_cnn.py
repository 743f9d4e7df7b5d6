"""The classic convolutional image encoder."""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype

from fusionjax import ops
from fusionjax.encoders.checks import check_mask
from fusionjax.encoders.features import Features
from fusionjax.encoders.places import grid_places
from fusionjax.encoders.pooling import PoolingKind, TokenPooling
from fusionjax.layers import BatchNorm, Conv, FiLM


def as_unit_images(images: jax.Array, dtype: Dtype | None = None) -> jax.Array:
    """Brings images to floating point in [0, 1].

    Args:
        images: `[batch, height, width, channels]`; uint8 in 0..255 is divided by 255, floating point stays.
        dtype: of the result; None keeps a floating dtype and makes float32 of uint8.

    Returns:
        The same shape, floating point.

    Raises:
        ValueError: the images have not four axes.
        TypeError: they are neither uint8 nor floating point.

    Example:
        >>> as_unit_images(jnp.array([[[[0], [255]]]], jnp.uint8)).tolist()
        [[[[0.0], [1.0]]]]
    """
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ValueError(
            f"images must have shape [batch, height, width, channels]; got {images.shape}. "
            "Add the missing axes, or stack."
        )
    if images.dtype == jnp.uint8:
        return images.astype(dtype or jnp.float32) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images must be uint8 in 0..255 or floating point in [0, 1]; got {images.dtype}. Convert them."
        )
    return images if dtype is None else images.astype(dtype)


def _with_coordinates(grid: jax.Array) -> jax.Array:
    shape = grid.shape[1:3]
    places = grid_places(shape).reshape(*shape, 2).astype(grid.dtype)
    return jnp.concatenate([grid, jnp.broadcast_to(places, (*grid.shape[:3], 2))], axis=-1)


class SimpleCNN(nn.Module):
    """Repeated convolution 3x3, ReLU, max-pooling 2x2 (or strides of 2 in its place); the last grid as tokens.

    Each stage computes `maxpool(relu(conv(x)))`; since ReLU keeps order it is taken after the pooling, on a quarter of
    the numbers, with the same result. Normalisation comes between the two, which differs slightly from the common order
    and costs a quarter. A 224x224 image and the defaults give a 26x26 grid of 128 features, flattened 86,528 numbers.

    Attributes:
        features: of each stage.
        kernel_size: of the convolutions, odd numbers.
        padding: `"VALID"` (the classic form) or `"SAME"`.
        normalization: None, `"group"` (groups of 16 features) or `"batch"` (needs the collection `batch_stats`).
        downsampling: `"pool"`, or `"strides"`: convolutions with stride 2 instead, a quarter of the work.
        pooling: of the grid to one vector, as in `TokenPooling`.
        hidden_features: of fully connected layers with ReLU after the pooling.
        use_positions: adds a learned vector to each cell, so that attention over cells can tell where they are; fixes
            the size of the images.
        condition_from: the first stage that a condition modulates, from 0.
        coordinates_from: the first stage, from 0, that also reads where each of its inputs lies: two features more,
            from -1 to 1 down and across. Else a convolution sees no place but the border's. None: no stage does.
        dropout_rate: on the tokens and on the fully connected layers.
        mean: subtracted from the images in [0, 1].
        std: divided by, after that.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: the image is too small for the stages, an option is unknown, or the mask has another shape.
        TypeError: the images are neither uint8 nor floating point, or the mask is not boolean.

    Example:
        >>> images = jnp.zeros((2, 30, 30, 3))
        >>> encoder = SimpleCNN(features=(5, 7))
        >>> features, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
        >>> features.tokens.shape, features.pooled.shape, features.grid
        ((2, 36, 7), (2, 252), (6, 6))

    References:
        LeCun et al., "Gradient-based learning applied to document recognition", 1998.
        A condition: Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", 2018, arXiv:1709.07871.
        Coordinates: Liu et al., "An Intriguing Failing of Convolutional Neural Networks and the CoordConv Solution",
        2018, arXiv:1807.03247.
        Group normalisation: Wu and He, "Group Normalization", 2018, arXiv:1803.08494.
    """

    features: Sequence[int] = (32, 64, 128)
    kernel_size: tuple[int, int] = (3, 3)
    padding: Literal["VALID", "SAME"] = "VALID"
    normalization: Literal["group", "batch"] | None = None
    downsampling: Literal["pool", "strides"] = "pool"
    pooling: PoolingKind = "flatten"
    hidden_features: Sequence[int] = ()
    use_positions: bool = False
    condition_from: int = 1
    coordinates_from: int | None = None
    dropout_rate: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        mask: jax.Array | None = None,
        *,
        condition: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Features:
        """Encodes images.

        Args:
            images: `[batch, height, width, channels]`, uint8 or floating point in [0, 1].
            mask: True for the tokens to keep, `[batch, length]`; None keeps all.
            condition: `[batch * conditions, condition_features]`, modulates the normalised features of every stage from
                `condition_from` on (`FiLM`); what comes before is computed once for all conditions of an image. None
                modulates nothing.
            deterministic: switches dropout off and batch statistics to the stored ones.

        Returns:
            tokens `[batch (* conditions), rows * columns, features[-1]]`, zero where masked; pooled as `pooling` says;
            grid `(rows, columns)`.
        """
        grid = (as_unit_images(images, self.dtype) - self.mean) / self.std
        if self.normalization not in (None, "group", "batch"):
            raise ValueError(f"normalization must be None, 'group' or 'batch'; got {self.normalization!r}. Choose one.")
        self._check_size(images.shape)
        self._check_condition(images, condition)
        if self.downsampling not in ("pool", "strides"):
            raise ValueError(f"downsampling must be 'pool' or 'strides'; got {self.downsampling!r}. Choose one.")
        if self.normalization is None and self.downsampling == "pool" and self.coordinates_from is None:
            grid = self._stages(grid)
        else:
            for stage, features in enumerate(self.features):
                if self.coordinates_from is not None and stage >= self.coordinates_from:
                    grid = _with_coordinates(grid)
                modulating = condition if stage >= self.condition_from else None
                grid = self._normalized_stage(grid, features, stage, deterministic, modulating)
        if mask is not None and len(mask) < len(grid):
            mask = jnp.repeat(mask, len(grid) // len(mask), axis=0)
        batch, rows, columns, features = grid.shape
        tokens = grid.reshape(batch, rows * columns, features)
        check_mask(mask, tokens.shape[:2], "image")
        if self.use_positions:
            init = nn.initializers.normal(0.1)
            tokens = tokens + self.param("positions", init, tokens.shape[1:], self.param_dtype).astype(tokens.dtype)
        tokens = nn.Dropout(self.dropout_rate, name="dropout")(tokens, deterministic=deterministic)
        tokens = tokens if mask is None else jnp.where(mask[..., None], tokens, 0)
        pooled = TokenPooling(self.pooling, dtype=self.dtype, param_dtype=self.param_dtype, name="pool")(tokens, mask)
        for layer, hidden in enumerate(self.hidden_features):
            dense = nn.Dense(hidden, dtype=self.dtype, param_dtype=self.param_dtype, name=f"dense_{layer}")
            pooled = nn.Dropout(self.dropout_rate)(nn.relu(dense(pooled)), deterministic=deterministic)
        return Features(tokens=tokens, mask=mask, pooled=pooled, grid=(rows, columns))

    def _stages(self, grid: jax.Array) -> jax.Array:
        parameters: list[Any] = []
        for stage, features in enumerate(self.features):
            channels = self.features[stage - 1] if stage else grid.shape[3]
            parameters += self._conv(features, stage).parameters(channels)
        grid, *parameters = promote_dtype(grid, *parameters, dtype=self.dtype)
        return ops.conv2d_relu_max_pool_stages(grid, parameters[::2], parameters[1::2], padding=self.padding)

    def _normalized_stage(
        self, grid: jax.Array, features: int, stage: int, deterministic: bool, condition: jax.Array | None
    ) -> jax.Array:
        outputs = self._conv(features, stage)(grid)
        pooled = ops.max_pool2d(outputs) if self.downsampling == "pool" else outputs
        if self.normalization is None:
            return nn.relu(pooled)
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # What a condition scales and shifts needs no scale and shift of its own.
        own = {"name": f"norm_{stage}", "use_scale": condition is None, "use_bias": condition is None, **kwargs}
        if self.normalization == "group":
            size = 16 if features % 16 == 0 else features
            pooled = nn.GroupNorm(None, size, **own)(pooled)
        else:
            pooled = BatchNorm(**own)(pooled, deterministic=deterministic)
        if condition is not None:
            if len(pooled) < len(condition):
                pooled = jnp.repeat(pooled, len(condition) // len(pooled), axis=0)
            pooled = FiLM(name=f"film_{stage}", **kwargs)(pooled, condition)
        return nn.relu(pooled)

    def _check_condition(self, images: jax.Array, condition: jax.Array | None) -> None:
        if condition is None:
            return
        if self.normalization is None or self.condition_from >= len(self.features):
            raise ValueError(
                "a condition modulates normalised stages; got normalization="
                f"{self.normalization!r}, {len(self.features)} stages and condition_from={self.condition_from}. Set "
                "normalization, and a stage to begin with."
            )
        if condition.shape[0] % images.shape[0]:
            raise ValueError(
                f"conditions must be a multiple of the {images.shape[0]} images; got {condition.shape[0]}. "
                "Give every image the same number of them."
            )

    def _conv(self, features: int, stage: int) -> Conv:
        return Conv(
            features,
            self.kernel_size,
            strides=(1, 1) if self.downsampling == "pool" else (2, 2),
            padding=self.padding,
            use_bias=self.normalization is None,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=f"conv_{stage}",
        )

    def _check_size(self, images: tuple[int, ...]) -> None:
        height, width = images[1:3]
        lost = [size - 1 if self.padding == "VALID" else 0 for size in self.kernel_size]
        for stage in range(len(self.features)):
            if height < 2 + lost[0] or width < 2 + lost[1]:
                raise ValueError(
                    f"images must be large enough for {len(self.features)} stages; got {images[1]}x{images[2]}, of "
                    f"which {height}x{width} is left at stage {stage}. Enlarge the images, pad ('SAME') or use fewer "
                    "stages."
                )
            # A stride keeps the last row of an odd number.
            rest = 0 if self.downsampling == "pool" else 1
            height, width = (height - lost[0] + rest) // 2, (width - lost[1] + rest) // 2
