"""Recurrent decoders: started from the image, or looking at it at every word."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax import ops
from fusionjax.encoders import Features
from fusionjax.layers import LSTM, AdditiveAttention
from fusionjax.models.words import DecoderOutput, WordTable, repeat_rows


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

    Raises:
        ValueError: the number of rows is no multiple of that of the images.

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

    def setup(self) -> None:
        """Makes the layers."""
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.words = WordTable(self.vocab_size, self.embedding_features, self.dropout_rate, **kwargs)
        self.image = nn.Dense(self.embedding_features, **kwargs)
        self.lstm = LSTM(self.features, **kwargs)

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

    Raises:
        ValueError: the number of rows is no multiple of that of the images.

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

    def setup(self) -> None:
        """Makes the layers."""
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.words = WordTable(self.vocab_size, self.embedding_features, self.dropout_rate, **kwargs)
        self.attend = AdditiveAttention(self.attention_features, **kwargs)
        self.start_cell = nn.Dense(self.features, **kwargs)
        self.start_hidden = nn.Dense(self.features, **kwargs)
        self.word_gates = nn.Dense(4 * self.features, bias_init=self._open_forget_gate, **kwargs)
        self.attended_gates = nn.Dense(4 * self.features, use_bias=False, **kwargs)
        shape = (self.features, 4 * self.features)
        self.recurrent_kernel = self.param("recurrent_kernel", nn.initializers.orthogonal(), shape, self.param_dtype)

    def __call__(self, features: Features, tokens: jax.Array, *, deterministic: bool = True) -> DecoderOutput:
        """Scores the next token at every position.

        Args:
            features: of `batch` images.
            tokens: `[rows, length]`; rows is a multiple of batch, those of one image after each other.
            deterministic: switches dropout off.

        Returns:
            logits `[rows, length, vocab_size]` and attention `[rows, length, cells]`.
        """
        memory, carry = self.prepare(features, tokens.shape[1])
        gates = self.word_gates(self.words(tokens, deterministic=deterministic))

        def body(module: "AttentionLSTMDecoder", carry: ops.LSTMState, gates: jax.Array) -> tuple[ops.LSTMState, Any]:
            carry, attended, weights = module._look_and_step(memory, carry, gates)
            return carry, (carry.hidden, attended, weights)

        scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        _, (hidden, attended, weights) = scan(self, repeat_rows(carry, tokens.shape[0]), gates)
        logits = self.words.logits(jnp.concatenate([hidden, attended], axis=-1), deterministic=deterministic)
        return DecoderOutput(logits=logits, attention=weights)

    def prepare(self, features: Features, max_length: int) -> tuple[Any, ops.LSTMState]:
        """Makes the attention's keys and the first state.

        Args:
            features: of `batch` images.
            max_length: without effect here; part of the interface.

        Returns:
            The memory (cells, their keys and mask) and the state `(cell, hidden)`, each `[batch, features]`.
        """
        cells, mask = features.kept_tokens, features.mask
        pooled = features.pooled
        carry = ops.LSTMState(jnp.tanh(self.start_cell(pooled)), jnp.tanh(self.start_hidden(pooled)))
        return (cells, self.attend.project(cells), mask), carry

    def step(self, memory: Any, carry: ops.LSTMState, tokens: jax.Array) -> tuple[ops.LSTMState, jax.Array]:
        """Reads one token of each row.

        Args:
            memory: of `prepare`, for `batch` images.
            carry: the state, two of `[rows, features]`.
            tokens: `[rows]`.

        Returns:
            The next state and the logits `[rows, vocab_size]`.
        """
        carry, attended, _ = self._look_and_step(memory, carry, self.word_gates(self.words(tokens)))
        return carry, self.words.logits(jnp.concatenate([carry.hidden, attended], axis=-1))

    @nn.nowrap
    def _open_forget_gate(self, key: jax.Array, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
        """Starts the forget gate's bias at 1, so that gradients pass (Jozefowicz et al., 2015)."""
        del key
        return jnp.zeros(shape, dtype).at[self.features : 2 * self.features].set(1)

    def _look_and_step(
        self, memory: Any, carry: ops.LSTMState, gates: jax.Array
    ) -> tuple[ops.LSTMState, jax.Array, jax.Array]:
        cells, keys, mask = memory
        rows, batch = gates.shape[0], cells.shape[0]
        # [batch, copies, features]
        query = carry.hidden.reshape(batch, rows // batch, -1)
        looked: Any = self.attend(query, cells, mask=mask, keys=keys)
        attended = looked.values.reshape(rows, -1)
        gates = gates + self.attended_gates(attended)
        carry = ops.lstm_update(carry, gates, self.recurrent_kernel.astype(gates.dtype))
        return carry, attended, looked.weights.reshape(rows, -1)
