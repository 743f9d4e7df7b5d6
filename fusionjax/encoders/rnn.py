"""The recurrent text encoder."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from fusionjax.encoders.checks import check_mask
from fusionjax.encoders.features import Features
from fusionjax.encoders.pooling import PoolingKind, TokenPooling
from fusionjax.layers import RNN, MultiHeadAttention


class RNNEncoder(nn.Module):
    """Embedding, recurrent layers and, where asked for, self-attention over all their states.

    tokens -> E[tokens] -> RNN -> states [-> softmax(QK^T / sqrt(d_k)) V, multi-head, added to the states]. Token 0 is
    padding: it never changes what the other tokens give.

    Attributes:
        vocab_size: number of different tokens, padding included.
        features: of the recurrent states, each direction.
        cell: `"lstm"`, `"gru"` or `"elman"`.
        num_layers: of the recurrent network; 0 gives the word vectors as they are, `features` wide, for a fusion that
            reads them in order itself.
        bidirectional: reads both ways; the states of both are joined.
        self_attention: adds multi-head self-attention over the states, with a residual connection.
        num_heads: of the self-attention; divides the width of the states.
        embedding_features: of the embedding; None takes `features`.
        is_one_hot: each token is a vector with a one at its number, `vocab_size` wide, instead of an embedding that is
            learned: the mean of a text is its bag of words. For small vocabularies.
        embedding_init: draws the embedding; by default with variance one over its features. With variance one the words
            of short questions are told apart earlier.
        pooling: to one vector, as in `TokenPooling`; `flatten` fixes the length.
        dropout_rate: on embeddings, between recurrent layers and on the attention's result.
        dtype: of the computation.
        param_dtype: of the parameters.
        is_folded: the embedding holds E W_x + b of the first recurrent layer, for every direction, so that the layer
            projects nothing; see `fusionjax.compress.fold_embeddings`. For inference: dropout acts on E alone.

    Raises:
        ValueError: the tokens have not two axes, the mask has another shape, or the encoder is folded but has no
            recurrent layer, has no embedding or is to drop word vectors.
        TypeError: the tokens are not integers, or the mask is not boolean.

    Example:
        >>> tokens = jnp.array([[5, 6, 7, 0], [8, 0, 0, 0]])
        >>> encoder = RNNEncoder(vocab_size=11, features=6, cell="gru", pooling="last")
        >>> features, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), tokens)
        >>> features.tokens.shape, features.mask.shape, features.pooled.shape
        ((2, 4, 6), (2, 4), (2, 6))

    References:
        Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997. Cho et al., 2014, arXiv:1406.1078.
        Self-attention: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, eq. 1.
    """

    vocab_size: int
    features: int = 512
    cell: Literal["lstm", "gru", "elman"] = "lstm"
    num_layers: int = 1
    bidirectional: bool = False
    self_attention: bool = False
    num_heads: int = 8
    embedding_features: int | None = None
    is_one_hot: bool = False
    embedding_init: Initializer = nn.linear.default_embed_init
    pooling: PoolingKind = "flatten"
    dropout_rate: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    is_folded: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array | None = None, *, deterministic: bool = True) -> Features:
        """Encodes tokens.

        Args:
            tokens: `[batch, length]` integers; 0 = padding.
            mask: True = keep, `[batch, length]`; None keeps every token that is not padding.
            deterministic: switches dropout off.

        Returns:
            tokens `[batch, length, features]` (twice as wide when bidirectional), zero where masked; grid `(length,)`.
        """
        if tokens.ndim != 2:
            raise ValueError(f"text tokens must have shape [batch, length]; got {tokens.shape}. Pad and stack them.")
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(
                f"text tokens must be integers; got {tokens.dtype}. Encode the text with a tokenizer first."
            )
        check_mask(mask, tokens.shape, "text")
        self._check_folded(deterministic)
        mask = jnp.asarray(tokens != 0 if mask is None else mask)
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        drop = nn.Dropout(self.dropout_rate, deterministic=deterministic)
        rnn = RNN(
            self.features,
            cell=self.cell,
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            dropout_rate=self.dropout_rate,
            is_projected=self.is_folded,
            name="rnn",
            **kwargs,
        )
        width = self.embedding_features if self.embedding_features and self.num_layers else self.features
        width = rnn.projected_features if self.is_folded else width
        numbers = jnp.where(mask, tokens, 0)
        if self.is_one_hot:
            states = drop(jax.nn.one_hot(numbers, self.vocab_size, dtype=self.dtype or self.param_dtype))
        else:
            embed = nn.Embed(self.vocab_size, width, embedding_init=self.embedding_init, name="embedding", **kwargs)
            states = drop(embed(numbers))
        if self.num_layers:
            states = rnn(states, mask=mask, deterministic=deterministic).outputs
        states = jnp.where(mask[..., None], states, 0)
        if self.self_attention:
            attention = MultiHeadAttention(self.num_heads, name="self_attention", **kwargs)
            attended = drop(attention(states, mask=mask, deterministic=deterministic).values)
            states = jnp.where(mask[..., None], states + attended, 0)
        pooled = TokenPooling(self.pooling, name="pool", **kwargs)(states, mask)
        return Features(tokens=states, mask=mask, pooled=pooled, grid=(tokens.shape[1],))

    def _check_folded(self, deterministic: bool) -> None:
        if self.is_folded and self.is_one_hot:
            raise ValueError(
                "a folded encoder has a table of its tokens; got is_one_hot=True. Set one of the two alone."
            )
        if self.is_folded and not self.num_layers:
            raise ValueError(
                "a folded encoder needs a recurrent layer to fold; got num_layers=0. Pass is_folded=False."
            )
        if self.is_folded and self.dropout_rate and not deterministic:
            raise ValueError(
                f"a folded encoder cannot drop parts of word vectors; got dropout_rate={self.dropout_rate} and "
                "deterministic=False. Train the encoder before it is folded."
            )
