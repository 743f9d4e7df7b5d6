"""What stands between a pretrained encoder and the model that reads it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders.features import Features
from fusionjax.encoders.pooling import PoolingKind, TokenPooling
from fusionjax.layers import Dense


class Projected(nn.Module):
    """Brings the features of another encoder, its backbone, to a model: normalised, dropped in part, projected.

    tokens = W drop(norm(backbone tokens)) (+ position), and pooled likewise by a projection of its own, or pooled anew
    from the tokens. The backbone always computes as in evaluation, with the batch statistics that it came with, whether
    it is trained further or not.

    Attributes:
        backbone: an encoder, or `StoredFeatures` of one.
        features: of the tokens and of the pooled vector; None projects neither.
        use_norm: normalises tokens and pooled vector, each over its features, before the projection.
        pooling: of the projected tokens, as in `TokenPooling`; None projects the backbone's own pooled vector.
        use_positions: adds a learned vector to each token, so that attention can tell where they are; fixes their
            number.
        has_tokens: whether the tokens are projected too; else the pooled vector is the one token of the result.
        dropout_rate: on what is projected.
        dtype: of the computation; normalisation is in float32 at least.
        param_dtype: of the parameters.

    Raises:
        ValueError, TypeError: as the backbone.

    Example:
        >>> from fusionjax import encoders
        >>> encoder = Projected(encoders.SimpleCNN(features=(5, 7)), features=11)
        >>> images = jnp.zeros((2, 30, 30, 3))
        >>> features, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
        >>> features.tokens.shape, features.pooled.shape
        ((2, 36, 11), (2, 11))
    """

    backbone: nn.Module
    features: int | None = None
    use_norm: bool = True
    pooling: PoolingKind | None = None
    use_positions: bool = False
    has_tokens: bool = True
    dropout_rate: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array | None = None, *, deterministic: bool = True) -> Features:
        """Encodes inputs.

        Args:
            inputs: of the backbone.
            mask: True = keep, `[batch, length]`; None as the backbone has it.
            deterministic: switches dropout off.

        Returns:
            tokens `[batch, length, features]`, zero where masked; pooled `[batch, features]`, or as `pooling` says;
            without tokens one in place of them.
        """
        found = self.backbone(inputs, mask, deterministic=True)
        if not self.has_tokens:
            pooled = self._project("pooled", found.kept_pooled, deterministic)
            present = None if found.mask is None else found.present[:, None]
            return Features(tokens=pooled[:, None], mask=present, pooled=pooled, grid=(1,) * len(found.grid))
        tokens = self._project("token", found.kept_tokens, deterministic)
        if self.use_positions:
            init = nn.initializers.normal(0.1)
            tokens = tokens + self.param("positions", init, tokens.shape[1:], self.param_dtype).astype(tokens.dtype)
        tokens = tokens if found.mask is None else jnp.where(found.mask[..., None], tokens, 0)
        if self.pooling is None:
            pooled = self._project("pooled", found.kept_pooled, deterministic)
        else:
            pool = TokenPooling(self.pooling, dtype=self.dtype, param_dtype=self.param_dtype, name="pool")
            pooled = pool(tokens, found.mask)
        return Features(tokens=tokens, mask=found.mask, pooled=pooled, grid=found.grid)

    def _project(self, name: str, vectors: jax.Array, deterministic: bool) -> jax.Array:
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.use_norm:
            vectors = nn.LayerNorm(name=f"{name}_norm", **kwargs)(vectors)
        vectors = nn.Dropout(self.dropout_rate, name=f"{name}_dropout")(vectors, deterministic=deterministic)
        return vectors if self.features is None else Dense(self.features, name=f"{name}_projection", **kwargs)(vectors)
