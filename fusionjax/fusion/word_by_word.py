"""Fusion by reading one modality while looking at the others."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features, TokenPooling
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.tokens import TokenProjection, joined_mask
from fusionjax.layers import AttentionLSTM


class WordByWord(nn.Module):
    """Reads the tokens of one modality in order, and looks at all others before each of them.

    An LSTM starts from the pooled vectors of the others and runs over the query's tokens; before each it attends
    (additively) to the others' tokens, each modality projected to `features` and marked as by `TokenProjection`. The
    result is the state beside what was read. A token's result depends on the query's tokens up to it, never on later
    ones, so it can be asked to predict the next.

    Cost: beside the others' projections 2 (F + 1) A + 2 (P + 1) F + 4 (O + 1) F + 8 F^2 parameters; 2 (2 P F + L F A +
    l (4 O F + 8 F^2 + F A + L A + L F)) operations an example, for a query of l tokens of size O, L other tokens, P
    numbers of the others' pooled vectors, F features and A attention features.

    Attributes:
        query: the modality that is read.
        features: of the LSTM, and of the projected tokens.
        attention_features: of the attention.
        dropout_rate: on the tokens read and put out.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: the query's modality is missing, or it is alone, or batch sizes differ.

    Example:
        >>> import jax
        >>> text = Features(jnp.ones((2, 3, 5)), jnp.ones((2, 3), bool), jnp.ones((2, 5)), (3,))
        >>> image = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = WordByWord(features=8), {"image": image, "text": text}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.tokens.shape, fused.pooled.shape, fused.grid
        ((2, 3, 16), (2, 16), (3,))

    References:
        Rocktaeschel et al., "Reasoning about Entailment with Neural Attention", 2016, arXiv:1509.06664, section 2.3.
        Wang and Jiang, "Learning Natural Language Inference with LSTM", 2016, arXiv:1512.08849, section 3.
    """

    query: str = "text"
    features: int = 256
    attention_features: int = 128
    dropout_rate: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Mapping[str, Features], *, deterministic: bool = True) -> Features:
        """Fuses the modalities.

        Args:
            features: of each modality, by name; one is `query`.
            deterministic: switches dropout off.

        Returns:
            tokens `[batch, length of the query, 2 * features]`, zero where masked; pooled is what the last kept token
            gave; their mask and grid are the query's.
        """
        check_modalities(features, needed=self.query, least=2)
        query, others = features[self.query], [name for name in sorted(features) if name != self.query]
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        drop = nn.Dropout(self.dropout_rate, deterministic=deterministic)
        tokens = [TokenProjection(self.features, name=f"tokens_{name}", **kwargs)(features[name]) for name in others]
        read = AttentionLSTM(self.features, self.attention_features, name="lstm", **kwargs)(
            drop(query.kept_tokens),
            jnp.concatenate(tokens, axis=1),
            jnp.concatenate([features[name].kept_pooled for name in others], axis=-1),
            mask=query.mask,
            memory_mask=joined_mask([features[name] for name in others]),
        )
        # [batch, length, 2 * features]
        fused = drop(jnp.concatenate([read.hidden, read.attended], axis=-1))
        pool = TokenPooling("last", name="pool", **kwargs)
        return Features(tokens=fused, mask=query.mask, pooled=pool(fused, query.mask), grid=query.grid)
