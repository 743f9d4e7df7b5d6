"""The Transformer as image encoder."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders.convolutional import check_image_size, masked_grid, normalize_images
from fusionjax.encoders.features import Features
from fusionjax.encoders.pooling import mean_token
from fusionjax.encoders.positions import Interpolation, resize_positions
from fusionjax.layers import Dense, MultiHeadAttention, TransformerBlock
from fusionjax.layers.activations import ActivationKind, activate

ImagePooling = Literal["class", "mean", "attention"]

_SIZES = {  # features, layers, heads, side of a patch
    "tiny": (192, 12, 3, 16),
    "small": (384, 12, 6, 16),
    "base": (768, 12, 12, 16),
    "large": (1024, 24, 16, 16),
    "huge": (1280, 32, 16, 14),
}


class _AttentionPooling(nn.Module):
    """A learned query reads the tokens: read + MLP(Norm(read)) for read = Attention(query, tokens)."""

    num_heads: int
    mlp_features: int
    norm_epsilon: float
    activation: ActivationKind
    dtype: Dtype | None
    param_dtype: Dtype

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array | None) -> jax.Array:
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        batch, _, features = tokens.shape
        query = self.param("query", nn.initializers.normal(features**-0.5), (features,), self.param_dtype)
        query = jnp.broadcast_to(query.astype(tokens.dtype), (batch, 1, features))
        read = MultiHeadAttention(self.num_heads, name="attention", **kwargs)(query, tokens, mask=mask).values[:, 0]
        hidden = Dense(self.mlp_features, name="mlp_in", **kwargs)(_norm("norm", self.norm_epsilon, kwargs)(read))
        return read + Dense(features, name="mlp_out", **kwargs)(activate(hidden, self.activation))


class VisionTransformer(nn.Module):
    """Cuts images into patches and lets a Transformer read them; one token for each patch.

    tokens = W patch + position; after the blocks they are normalised. A patch is `patch_size` pixels high and wide; the
    pixels that make no whole patch, at the bottom and on the right, are cut off. A class token is read together with
    the patches and gives the pooled vector, but is none of the tokens.

    Images may have any size: the embeddings of positions, learned for `image_size`, are interpolated. Images of
    different sizes make one batch when they are padded at the bottom and on the right and the mask keeps their patches:
    positions are then interpolated for each image to the rows and columns that it has, so that it gives what it gives
    alone.

    Attributes:
        features: size of the tokens.
        num_layers: number of blocks.
        num_heads: of each block.
        patch_size: height and width of a patch, in pixels.
        image_size: height and width for which the positions are learned, in pixels.
        mlp_features: hidden size of the perceptrons; None for 4 * `features`.
        pooling: `"class"`, the class token; `"mean"` of the kept tokens; or `"attention"`, by a learned query over
            them and a perceptron, as SigLIP does.
        use_class_token: reads one together with the patches.
        use_patch_bias: the patches' projection has a bias; CLIP's has none.
        use_pre_norm: normalises before the first block too, as CLIP does.
        norm_epsilon: added to the variance of every normalisation.
        activation: of the perceptrons, see `fusionjax.layers.activations.activate`.
        scale_init: what the learned factors of the blocks' outputs begin with; None for no factors.
        interpolation: of the positions, see `resize_positions`.
        resize_to_kept: interpolates positions to the rows and columns of each image that the mask keeps, counted to the
            last kept patch; otherwise to those of the batch. It makes padding invisible, but is wrong for masks that
            leave patches out at random.
        dropout_rate: on the tokens before the blocks, and in them.
        is_frozen: computes as in evaluation and lets no gradient pass, neither to parameters nor to images.
        mean: of each channel, subtracted from the images in [0, 1].
        std: of each channel, divided by after that.
        dtype: of the computation; normalisation and softmax are in float32 at least.
        param_dtype: of the parameters.

    Raises:
        ValueError: the pooling is unknown or lacks a class token, the image is smaller than a patch or has not as many
            channels as there are means, the positions would have no patch, or the mask has another shape.
        TypeError: the images are neither uint8 nor floating point, or the mask is not boolean.

    Example:
        >>> images = jnp.zeros((2, 224, 160, 3))
        >>> encoder = vision_transformer("small")
        >>> features, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
        >>> features.tokens.shape, features.pooled.shape, features.grid
        ((2, 140, 384), (2, 384), (14, 10))

    References:
        Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", 2021,
        arXiv:2010.11929, section 3.1.
        Normalisation first: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
        2021, arXiv:2103.00020, section 2.4.
        Attention as pooling: Zhai et al., "Scaling Vision Transformers", 2022, arXiv:2106.04560, section 3.2.
        Padding: Dehghani et al., "Patch n' Pack: NaViT", 2023, arXiv:2307.06304.
    """

    features: int = 768
    num_layers: int = 12
    num_heads: int = 12
    patch_size: int = 16
    image_size: tuple[int, int] = (224, 224)
    mlp_features: int | None = None
    pooling: ImagePooling = "class"
    use_class_token: bool = True
    use_patch_bias: bool = True
    use_pre_norm: bool = False
    norm_epsilon: float = 1e-6
    activation: ActivationKind = "gelu_exact"
    scale_init: float | None = None
    interpolation: Interpolation = "bicubic"
    resize_to_kept: bool = True
    dropout_rate: float = 0.0
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
            mask: True for the patches to keep, `[batch, rows * columns]`; None keeps all.
            deterministic: switches dropout off.

        Returns:
            tokens `[batch, rows * columns, features]`, one for each patch, zero where masked; pooled
            `[batch, features]`; grid `(rows, columns)`.
        """
        self._check_pooling()
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        deterministic = deterministic or self.is_frozen
        images = normalize_images(images, self.mean, self.std, self.dtype)
        check_image_size(images.shape, self.patch_size, f"patches of {self.patch_size} pixels")
        # Zeros under the mask before the product, so that nothing there reaches the gradient of the kernel.
        patches = masked_grid(_cut_patches(images, self.patch_size), mask)
        mask = None if mask is None else jnp.asarray(mask)
        batch, rows, columns, _ = patches.shape
        project = Dense(self.features, use_bias=self.use_patch_bias, name="patches", **kwargs)
        tokens = project(patches.reshape(batch, rows * columns, -1))
        tokens = self._add_positions(tokens, (rows, columns), mask)
        keep = mask
        if mask is not None and self.use_class_token:
            keep = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        tokens = nn.Dropout(self.dropout_rate, name="dropout")(tokens, deterministic=deterministic)
        if self.use_pre_norm:
            tokens = _norm("pre_norm", self.norm_epsilon, kwargs)(tokens)
        for layer in range(self.num_layers):
            block = TransformerBlock(
                self.num_heads,
                self.mlp_features,
                self.dropout_rate,
                norm_epsilon=self.norm_epsilon,
                activation=self.activation,
                scale_init=self.scale_init,
                name=f"block_{layer}",
                **kwargs,
            )
            tokens = block(tokens, mask=keep, deterministic=deterministic).tokens
        tokens = _norm("norm", self.norm_epsilon, kwargs)(tokens)
        pooled = tokens[:, 0]
        tokens = tokens[:, 1:] if self.use_class_token else tokens
        tokens = tokens if mask is None else jnp.where(mask[..., None], tokens, 0)
        if self.pooling == "mean":
            pooled = mean_token(tokens, mask)
        elif self.pooling == "attention":
            hidden = self.mlp_features or 4 * self.features
            pool = _AttentionPooling(self.num_heads, hidden, self.norm_epsilon, self.activation, name="pool", **kwargs)
            pooled = pool(tokens, mask)
        made = Features(tokens=tokens, mask=mask, pooled=pooled, grid=(rows, columns))
        return jax.lax.stop_gradient(made) if self.is_frozen else made

    def _add_positions(self, tokens: jax.Array, grid: tuple[int, int], mask: jax.Array | None) -> jax.Array:
        """Adds the embeddings of the positions, and puts the class token first."""
        learned = (self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size)
        if not min(learned):
            raise ValueError(
                f"image_size must hold a patch of {self.patch_size} pixels; got {self.image_size}. Enlarge it."
            )
        init, prefix = nn.initializers.normal(0.02), int(self.use_class_token)
        shape = (prefix + learned[0] * learned[1], self.features)
        positions = self.param("positions", init, shape, self.param_dtype)
        kept = None if mask is None or not self.resize_to_kept else _kept_sizes(mask, grid)
        places = resize_positions(positions[prefix:].reshape(*learned, -1), grid, kept, self.interpolation)
        tokens = tokens + places.astype(tokens.dtype).reshape(-1, *tokens.shape[1:])
        if not self.use_class_token:
            return tokens
        first = self.param("class_token", init, (self.features,), self.param_dtype) + positions[0]
        first = jnp.broadcast_to(first.astype(tokens.dtype), (len(tokens), 1, self.features))
        return jnp.concatenate([first, tokens], axis=1)

    def _check_pooling(self) -> None:
        if self.pooling not in get_args(ImagePooling):
            raise ValueError(
                f"pooling must be one of {', '.join(get_args(ImagePooling))}; got {self.pooling!r}. Choose one."
            )
        if self.pooling == "class" and not self.use_class_token:
            raise ValueError(
                "pooling='class' needs a class token; got use_class_token=False. Use one, or choose another pooling."
            )


def _cut_patches(images: jax.Array, size: int) -> jax.Array:
    """Gives `[batch, rows, columns, size * size * channels]` of the whole patches."""
    batch, height, width, channels = images.shape
    rows, columns = height // size, width // size
    whole = images[:, : rows * size, : columns * size]
    # [batch, rows, size, columns, size, channels]
    split = whole.reshape(batch, rows, size, columns, size, channels)
    return split.swapaxes(2, 3).reshape(batch, rows, columns, size * size * channels)


def _kept_sizes(mask: jax.Array, grid: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Rows and columns up to the last kept patch of each image, 1 where none is kept."""
    kept = mask.reshape(-1, *grid)

    def count(axis: int, length: int) -> jax.Array:
        return jnp.maximum(jnp.where(kept.any(axis), jnp.arange(1, length + 1), 0).max(-1), 1)

    return count(2, grid[0]), count(1, grid[1])


def _norm(name: str, epsilon: float, kwargs: dict[str, Any]) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon, name=name, **kwargs)


def vision_transformer(size: Literal["tiny", "small", "base", "large", "huge"], **fields: Any) -> VisionTransformer:
    """Makes a Vision Transformer of a published size.

    Patches are 16 pixels high and wide, and 14 in the huge one.

    Args:
        size: `"tiny"`, `"small"`, `"base"`, `"large"` or `"huge"`.
        fields: others of `VisionTransformer`, such as `patch_size` or `is_frozen`.

    Returns:
        The encoder.

    Raises:
        ValueError: there is no such size.

    Example:
        >>> encoder = vision_transformer("large", patch_size=14)
        >>> encoder.features, encoder.num_layers, encoder.num_heads, encoder.patch_size
        (1024, 24, 16, 14)

    References:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, arXiv:2010.11929, table 1.
        Tiny and small: Touvron et al., "Training data-efficient image transformers", 2021, arXiv:2012.12877, table 1.
    """
    if size not in _SIZES:
        raise ValueError(f"the size must be one of {', '.join(_SIZES)}; got {size!r}. Choose one.")
    features, num_layers, num_heads, patch_size = _SIZES[size]
    sizes: dict[str, Any] = {"num_layers": num_layers, "num_heads": num_heads, "patch_size": patch_size}
    return VisionTransformer(features, **{**sizes, **fields})
