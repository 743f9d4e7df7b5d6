"""Fusion by residual blocks that the other modalities modulate."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features, PoolingKind, TokenPooling
from fusionjax.encoders.places import grid_places
from fusionjax.fusion.checks import check_modalities
from fusionjax.layers import FiLM


class FiLMBlocks(nn.Module):
    """Transforms the tokens of one modality in residual blocks whose features the others scale and shift.

    c: the pooled vectors of the others. The tokens of `modulated`, with their places (coordinates from -1 to 1 along
    each axis of the grid), are projected to `features`; then in each block x += relu(FiLM(norm(C relu(D x)), c)), with
    D a layer for each token and C one of 3x3 neighbours, or of 3, by the grid; the norm, over the features of a token
    and without parameters, stands for the paper's batch normalisation. Masked tokens count as zeros. `SimpleCNN` takes
    a condition too, and is then modulated inside.

    Cost: (O + A + 1) F + K (F^2 + F + 3^A F^2 + 2 (Q + 1) F) parameters; 2 (L F (O + A) + K (L F^2 (1 + 3^A) + 2 Q F))
    operations an example, for L tokens of size O on a grid of A axes, Q numbers of the others, F features, K blocks.

    Attributes:
        modulated: the modality whose tokens are transformed.
        features: width.
        num_layers: blocks.
        pooling: of the tokens to one vector, as in `TokenPooling`.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: `modulated` is missing or alone, or batch sizes differ.

    Example:
        >>> text = Features(jnp.ones((2, 3, 5)), jnp.ones((2, 3), bool), jnp.ones((2, 5)), (3,))
        >>> image = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = FiLMBlocks(features=6), {"image": image, "text": text}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.tokens.shape, fused.pooled.shape, fused.grid
        ((2, 4, 6), (2, 6), (2, 2))

    References:
        Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", 2018, arXiv:1709.07871, equation 2 and
        figure 3.
    """

    modulated: str = "image"
    features: int = 128
    num_layers: int = 2
    pooling: PoolingKind = "max"
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Mapping[str, Features], *, deterministic: bool = True) -> Features:
        """Fuses the modalities.

        Args:
            features: of each modality, by name; one is `modulated`.
            deterministic: without effect here; part of the contract.

        Returns:
            tokens `[batch, length of the modulated, features]`, zero where masked; mask and grid are those of the
            modulated.
        """
        check_modalities(features, needed=self.modulated, least=2)
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        modulated = features[self.modulated]
        others = [features[name].kept_pooled for name in sorted(features) if name != self.modulated]
        condition, axes = jnp.concatenate(others, axis=-1), len(modulated.grid)
        places = jnp.broadcast_to(grid_places(modulated.grid), (*modulated.tokens.shape[:2], axes))
        tokens = jnp.concatenate([modulated.kept_tokens, places.astype(modulated.tokens.dtype)], axis=-1)
        tokens = nn.Dense(self.features, name="tokens", **kwargs)(tokens)
        batch = tokens.shape[0]
        for layer in range(self.num_layers):
            hidden = self._keep(nn.relu(nn.Dense(self.features, name=f"dense_{layer}", **kwargs)(tokens)), modulated)
            # [batch, *grid, features]
            hidden = hidden.reshape(batch, *modulated.grid, self.features)
            hidden = nn.Conv(self.features, (3,) * axes, use_bias=False, name=f"conv_{layer}", **kwargs)(hidden)
            norm = nn.LayerNorm(use_bias=False, use_scale=False, name=f"norm_{layer}", dtype=self.dtype)
            hidden = norm(hidden.reshape(tokens.shape))
            tokens = tokens + nn.relu(FiLM(name=f"film_{layer}", **kwargs)(hidden, condition))
        tokens = self._keep(tokens, modulated)
        pool = TokenPooling(self.pooling, name="pool", **kwargs)
        return Features(tokens, modulated.mask, pool(tokens, modulated.mask), modulated.grid)

    def _keep(self, tokens: jax.Array, modulated: Features) -> jax.Array:
        return tokens if modulated.mask is None else jnp.where(modulated.mask[..., None], tokens, 0)
