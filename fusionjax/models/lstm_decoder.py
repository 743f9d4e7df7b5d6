"""Recurrent decoders: started from the image, or looking at it at every word."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax import ops
from fusionjax.encoders import Features
from fusionjax.layers import LSTM, AttentionLSTM, AttentionMemory
from fusionjax.models.words import DecoderOutput, WordTable, check_rows, repeat_rows


class LSTMDecoder(nn.Module):
    """An LSTM that reads the image as its first word.

    x_{-1} = V pooled, x_t = E[w_t], h_t = LSTM(x_t, h_{t-1}), logits_t = WordTable(h_t). The smallest of the decoders;
    it sees the image once. The paper's decoder has an output matrix of its own; here it is the table of the words.

    Attributes:
        vocab_size: number of tokens.
        features: of the LSTM.
        embedding_features: of a word.
        dropout_rate: on words in, and on states out.
        dtype: of the computation.
        param_dtype: of the parameters.
        is_folded: the words come in through a table of x W_x + b of the LSTM; see
            `fusionjax.compress.fold_embeddings`. For inference.

    Raises:
        ValueError: the number of rows is no multiple of that of the images, or words of a folded decoder are to be
            dropped.

    Example:
        >>> decoder = LSTMDecoder(vocab_size=11, features=8, embedding_features=6)
        >>> image = Features(jnp.ones((2, 4, 5)), None, jnp.ones((2, 5)), (2, 2))
        >>> output, _ = jax.eval_shape(decoder.init_with_output, jax.random.key(0), image, jnp.ones((2, 3), int))
        >>> output.logits.shape, output.attention is None
        ((2, 3, 11), True)

    References:
        Vinyals et al., "Show and Tell: A Neural Image Caption Generator", 2015, arXiv:1411.4555, eq. 10 to 12.
    """

    vocab_size: int
    features: int = 512
    embedding_features: int = 256
    dropout_rate: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    is_folded: bool = False

    def setup(self) -> None:
        """Makes the layers."""
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        gates = LSTM.num_gates * self.features if self.is_folded else None
        self.words = WordTable(
            self.vocab_size, self.embedding_features, self.dropout_rate, projected_features=gates, **kwargs
        )
        self.image = nn.Dense(gates or self.embedding_features, **kwargs)
        self.lstm = LSTM(self.features, is_projected=self.is_folded, **kwargs)

    def __call__(self, features: Features, tokens: jax.Array, *, deterministic: bool = True) -> DecoderOutput:
        """Scores the next token at every position.

        Args:
            features: of `batch` images.
            tokens: `[rows, length]`; rows is a multiple of batch, those of one image after each other.
            deterministic: switches dropout off.

        Returns:
            logits `[rows, length, vocab_size]`; no attention.
        """
        _, carry = self.prepare(features, tokens.shape[1])
        vectors = self.words(tokens, deterministic=deterministic)
        states = self.lstm(vectors, initial_state=repeat_rows(carry, tokens.shape[0])).outputs
        return DecoderOutput(logits=self.words.logits(states, deterministic=deterministic), attention=None)

    def prepare(self, features: Features, max_length: int) -> tuple[None, ops.LSTMState]:
        """Makes the first state.

        Args:
            features: of `batch` images.
            max_length: without effect here; part of the interface.

        Returns:
            No memory, and the state `(cell, hidden)`, each `[batch, features]`, after reading the image.
        """
        vector = self.image(features.pooled)[:, None]
        return None, self.lstm(vector).final_state

    def step(self, memory: None, carry: ops.LSTMState, tokens: jax.Array) -> tuple[ops.LSTMState, jax.Array]:
        """Reads one token of each row.

        Args:
            memory: of `prepare`.
            carry: the state, two of `[rows, features]`.
            tokens: `[rows]`.

        Returns:
            The next state and the logits `[rows, vocab_size]`.
        """
        carry = self.lstm.step(self.words(tokens), carry)
        return carry, self.words.logits(carry.hidden)


class AttentionLSTMDecoder(nn.Module):
    """An LSTM that looks at the image's cells before each word.

    a_t = softmax_i(v . tanh(K f_i + Q h_{t-1})), z_t = sum_i a_ti f_i, h_t = LSTM([E[w_t]; z_t], h_{t-1}),
    logits_t = WordTable([h_t; z_t]). The first state comes from the encoder's pooled vector: the paper's mean cell if
    it pools by the mean, or one that knows where things are if it flattens. Differs from the paper (its soft attention)
    in the tied output, and has neither its gate on z_t nor its doubly stochastic penalty.

    Attributes:
        vocab_size: number of tokens.
        features: of the LSTM.
        embedding_features: of a word.
        attention_features: of the additive attention.
        dropout_rate: on words in, and on states out.
        dtype: of the computation.
        param_dtype: of the parameters.
        is_folded: the words come in through a table of x W_x + b of the LSTM; see
            `fusionjax.compress.fold_embeddings`. For inference.

    Raises:
        ValueError: the number of rows is no multiple of that of the images, or words of a folded decoder are to be
            dropped.

    Example:
        >>> decoder = AttentionLSTMDecoder(vocab_size=11, features=8, embedding_features=6, attention_features=7)
        >>> image = Features(jnp.ones((2, 4, 5)), None, jnp.ones((2, 5)), (2, 2))
        >>> output, _ = jax.eval_shape(decoder.init_with_output, jax.random.key(0), image, jnp.ones((6, 3), int))
        >>> output.logits.shape, output.attention.shape
        ((6, 3, 11), (6, 3, 4))

    References:
        Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention", 2015,
        arXiv:1502.03044, eq. 1 to 7 and 13. Bahdanau et al., 2015, arXiv:1409.0473, for the attention.
    """

    vocab_size: int
    features: int = 384
    embedding_features: int = 256
    attention_features: int = 128
    dropout_rate: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    is_folded: bool = False

    def setup(self) -> None:
        """Makes the layers."""
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        gates = LSTM.num_gates * self.features if self.is_folded else None
        self.words = WordTable(
            self.vocab_size, self.embedding_features, self.dropout_rate, projected_features=gates, **kwargs
        )
        self.lstm = AttentionLSTM(self.features, self.attention_features, is_projected=self.is_folded, **kwargs)

    def __call__(self, features: Features, tokens: jax.Array, *, deterministic: bool = True) -> DecoderOutput:
        """Scores the next token at every position.

        Args:
            features: of `batch` images.
            tokens: `[rows, length]`; rows is a multiple of batch, those of one image after each other.
            deterministic: switches dropout off.

        Returns:
            logits `[rows, length, vocab_size]` and attention `[rows, length, cells]`.
        """
        check_rows(features.tokens.shape[0], tokens.shape[0])
        vectors = self.words(tokens, deterministic=deterministic)
        read = self.lstm(vectors, features.kept_tokens, features.pooled, memory_mask=features.mask)
        joined = jnp.concatenate([read.hidden, read.attended], axis=-1)
        return DecoderOutput(logits=self.words.logits(joined, deterministic=deterministic), attention=read.weights)

    def prepare(self, features: Features, max_length: int) -> tuple[AttentionMemory, ops.LSTMState]:
        """Makes the attention's keys and the first state.

        Args:
            features: of `batch` images.
            max_length: without effect here; part of the interface.

        Returns:
            The memory (cells, their keys and mask) and the state `(cell, hidden)`, each `[batch, features]`.
        """
        return self.lstm.prepare(features.kept_tokens, features.pooled, memory_mask=features.mask)

    def step(self, memory: AttentionMemory, carry: ops.LSTMState, tokens: jax.Array) -> tuple[ops.LSTMState, jax.Array]:
        """Reads one token of each row.

        Args:
            memory: of `prepare`, for `batch` images.
            carry: the state, two of `[rows, features]`.
            tokens: `[rows]`.

        Returns:
            The next state and the logits `[rows, vocab_size]`.
        """
        carry, attended = self.lstm.step(memory, carry, self.words(tokens))
        return carry, self.words.logits(jnp.concatenate([carry.hidden, attended], axis=-1))
