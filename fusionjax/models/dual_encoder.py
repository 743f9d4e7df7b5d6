"""Two towers that bring images and texts into one space."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.typing import Dtype


@flax.struct.dataclass
class DualEncoderOutput:
    """What two towers give.

    Attributes:
        image: `[batch, features]`, of length 1; float32.
        text: `[batch, (texts,) features]`, of length 1; float32.
        scale: 1 / temperature, float32 scalar.
        bias: of the similarities, float32 scalar; None where the model has none.
    """

    image: jax.Array
    text: jax.Array
    scale: jax.Array
    bias: jax.Array | None


class DualEncoder(nn.Module):
    """Encodes images and texts apart from each other, into vectors whose products tell what belongs together.

    image = normalise(W_image encoder(image).pooled), text = normalise(W_text encoder(text).pooled), and the similarity
    of two is scale image . text (+ bias), with scale = min(exp(log_scale), max_scale) learned. Trained with
    `losses.info_nce` (CLIP) or, with a bias, `losses.sigmoid_contrastive` (SigLIP).

    Attributes:
        image_encoder: images to `Features`.
        text_encoder: tokens to `Features`.
        features: of the common space.
        scale: at the start; 1 / 0.07 in CLIP, 10 in SigLIP.
        max_scale: at most; 100 in CLIP, infinite in SigLIP.
        bias: at the start, -10 in SigLIP; None for no bias, as in CLIP.
        use_image_projection: projects the images' pooled features; otherwise these are the vectors, as in SigLIP.
        use_text_projection: the same of texts.
        use_projection_bias: the projections have biases, as in SigLIP.
        dropout_rate: on the pooled features.
        dtype: of the projections.
        param_dtype: of the parameters.

    Raises:
        ValueError: the batch lacks image or text, tokens have neither two nor three axes, or the pooled features of a
            tower without projection are not `features` wide.

    Example:
        >>> from fusionjax import encoders
        >>> image, text = encoders.SimpleCNN(features=(5, 7)), encoders.RNNEncoder(vocab_size=11, features=6)
        >>> model = DualEncoder(image, text, features=8)
        >>> batch = {"image": jnp.zeros((2, 30, 30, 3)), "text": jnp.ones((2, 5, 4), int)}
        >>> output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), batch)
        >>> output.image.shape, output.text.shape
        ((2, 8), (2, 5, 8))

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
        arXiv:2103.00020, section 2.3 and figure 3.
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023, arXiv:2303.15343, algorithm 1.
    """

    image_encoder: nn.Module
    text_encoder: nn.Module
    features: int = 256
    scale: float = 1 / 0.07
    max_scale: float = 100.0
    bias: float | None = None
    use_image_projection: bool = True
    use_text_projection: bool = True
    use_projection_bias: bool = False
    dropout_rate: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Makes the projections and the learned scalars."""
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.use_image_projection:
            self.image_projection = nn.Dense(self.features, self.use_projection_bias, **kwargs)
        if self.use_text_projection:
            self.text_projection = nn.Dense(self.features, self.use_projection_bias, **kwargs)
        self.dropout = nn.Dropout(self.dropout_rate)
        self.log_scale = self.param("log_scale", nn.initializers.constant(math.log(self.scale)), (), jnp.float32)
        if self.bias is not None:
            self.similarity_bias = self.param("bias", nn.initializers.constant(self.bias), (), jnp.float32)

    def __call__(
        self,
        batch: Mapping[str, jax.Array],
        *,
        masks: Mapping[str, jax.Array] | None = None,
        deterministic: bool = True,
    ) -> DualEncoderOutput:
        """Encodes both sides of a batch.

        Args:
            batch: `"image"` `[batch, height, width, channels]` and `"text"`, tokens `[batch, length]` or
                `[batch, texts, length]`.
            masks: True = keep, of the image's tokens `[batch, cells]` and of the texts, in their shape.
            deterministic: switches dropout off.

        Returns:
            The vectors of both, and the learned scalars.
        """
        missing = [name for name in ("image", "text") if name not in batch]
        if missing:
            raise ValueError(
                f"the batch of two towers must hold image and text; {', '.join(missing)} is missing from "
                f"{', '.join(sorted(batch)) or 'an empty batch'}. Add it, or call encode_image or encode_text."
            )
        masks = masks or {}
        scale, bias = self.scalars()
        return DualEncoderOutput(
            self.encode_image(batch["image"], masks.get("image"), deterministic=deterministic),
            self.encode_text(batch["text"], masks.get("text"), deterministic=deterministic),
            scale,
            bias,
        )

    def encode_image(
        self, images: jax.Array, mask: jax.Array | None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Encodes images.

        Args:
            images: `[batch, height, width, channels]`.
            mask: True = keep, of the image's tokens `[batch, cells]`.
            deterministic: switches dropout off.

        Returns:
            `[batch, features]` of length 1, float32.
        """
        pooled = self.image_encoder(images, mask, deterministic=deterministic).kept_pooled
        pooled = self.dropout(pooled, deterministic=deterministic)
        return _normalise(
            self.image_projection(pooled) if self.use_image_projection else self._as_wide(pooled, "image")
        )

    def encode_text(self, tokens: jax.Array, mask: jax.Array | None = None, *, deterministic: bool = True) -> jax.Array:
        """Encodes texts.

        Args:
            tokens: `[batch, length]` or `[batch, texts, length]`; 0 = padding.
            mask: True = keep, in their shape.
            deterministic: switches dropout off.

        Returns:
            `[batch, (texts,) features]` of length 1, float32.
        """
        if tokens.ndim not in (2, 3):
            raise ValueError(
                f"tokens must have shape [batch, length] or [batch, texts, length]; got {tokens.shape}. Add the axis."
            )
        flat = tokens.reshape(-1, tokens.shape[-1])
        mask = None if mask is None else mask.reshape(flat.shape)
        pooled = self.text_encoder(flat, mask, deterministic=deterministic).kept_pooled
        pooled = self.dropout(pooled, deterministic=deterministic)
        vectors = _normalise(
            self.text_projection(pooled) if self.use_text_projection else self._as_wide(pooled, "text")
        )
        return vectors.reshape(*tokens.shape[:-1], self.features)

    def scalars(self) -> tuple[jax.Array, jax.Array | None]:
        """The learned scale, held at `max_scale` or below, and the bias where there is one."""
        scale = jnp.minimum(jnp.exp(self.log_scale), self.max_scale)
        return scale, None if self.bias is None else self.similarity_bias

    def _as_wide(self, pooled: jax.Array, name: str) -> jax.Array:
        if pooled.shape[-1] != self.features:
            raise ValueError(
                f"without a projection the {name} encoder's pooled features must be as wide as the common space, "
                f"{self.features}; got {pooled.shape[-1]}. Set features, or use_{name}_projection=True."
            )
        return pooled


def _normalise(vectors: jax.Array) -> jax.Array:
    """To length 1; what is 0 stays so, with a finite gradient."""
    vectors = vectors.astype(jnp.float32)
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.square(vectors).sum(-1, keepdims=True), 1e-12))
