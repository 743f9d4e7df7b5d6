"""An LSTM that looks at a memory before each of its steps."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from fusionjax import ops
from fusionjax.layers.additive_attention import AdditiveAttention
from fusionjax.layers.dense import Dense


class AttentionMemory(NamedTuple):
    """What an `AttentionLSTM` looks at; constant over its steps, with the batch as leading axis.

    Attributes:
        values: `[batch, cells, cell_features]`.
        keys: the values projected for the attention, `[batch, cells, attention_features]`.
        mask: True = keep, `[batch, cells]`; None keeps all.
    """

    values: Any
    keys: Any
    mask: Any


class AttentionLSTMOutput(NamedTuple):
    """What an `AttentionLSTM` gives.

    Attributes:
        hidden: the states, `[rows, length, features]`, zero at masked steps.
        attended: what was read before each of them, `[rows, length, cell_features]`, zero at masked steps.
        weights: where it looked, `[rows, length, cells]`.
        final_state: after the last step that the mask keeps.
    """

    hidden: Array
    attended: Array
    weights: Array
    final_state: ops.LSTMState


class AttentionLSTM(nn.Module):
    """An LSTM over a sequence that reads a memory before each step.

    a_t = softmax_i(v . tanh(K m_i + Q h_{t-1})), z_t = sum_i a_ti m_i, h_t = LSTM([x_t; z_t], h_{t-1}); the first state
    is tanh of two projections of a vector. Several sequences may look at one memory.

    Attributes:
        features: of the state.
        attention_features: of the additive attention.
        dtype: of the computation.
        param_dtype: of the parameters.
        is_projected: the inputs are x W_x + b already, `[rows, length, 4 * features]`; there are no input gates.

    Example:
        >>> layer = AttentionLSTM(features=8, attention_features=7)
        >>> inputs, memory, start = jnp.ones((6, 3, 4)), jnp.ones((2, 5, 9)), jnp.ones((2, 11))
        >>> output, _ = jax.eval_shape(layer.init_with_output, jax.random.key(0), inputs, memory, start)
        >>> output.hidden.shape, output.attended.shape, output.weights.shape
        ((6, 3, 8), (6, 3, 9), (6, 3, 5))

    References:
        Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention", 2015,
        arXiv:1502.03044, eq. 1 to 6. Bahdanau et al., 2015, arXiv:1409.0473, for the attention.
    """

    features: int
    attention_features: int = 128
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    is_projected: bool = False

    def setup(self) -> None:
        """Makes the layers."""
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        gates = partial(Dense, 4 * self.features, **kwargs)
        self.attend = AdditiveAttention(self.attention_features, **kwargs)
        self.start_cell = Dense(self.features, **kwargs)
        self.start_hidden = Dense(self.features, **kwargs)
        if not self.is_projected:
            self.input_gates = gates(bias_init=self._open_forget_gate)
        self.attended_gates = gates(use_bias=False)
        shape = (self.features, 4 * self.features)
        self.recurrent_kernel = self.param("recurrent_kernel", nn.initializers.orthogonal(), shape, self.param_dtype)

    def __call__(
        self,
        inputs: Float[Array, "rows length inputs"],
        memory: Float[Array, "batch cells cell_features"],
        start: Float[Array, "batch start_features"],
        *,
        mask: Bool[Array, "rows length"] | None = None,
        memory_mask: Bool[Array, "batch cells"] | None = None,
    ) -> AttentionLSTMOutput:
        """Reads sequences.

        Args:
            inputs: `[rows, length, inputs]`; rows is a multiple of batch, those of one memory after each other.
            memory: `[batch, cells, cell_features]`.
            start: what the first state is made of, `[batch, start_features]`.
            mask: of the inputs, `[rows, length]`; masked steps keep the state.
            memory_mask: `[batch, cells]`.

        Returns:
            An `AttentionLSTMOutput`.
        """
        looked, carry = self.prepare(memory, start, memory_mask=memory_mask)
        rows = inputs.shape[0]
        carry = jax.tree.map(lambda leaf: jnp.repeat(leaf, rows // leaf.shape[0], axis=0), carry)

        def body(module: "AttentionLSTM", carry: ops.LSTMState, step: Any) -> tuple[ops.LSTMState, Any]:
            gates, keep = step
            new, attended, weights = module._look_and_step(looked, carry, gates)
            if keep is None:
                return new, (new.hidden, attended, weights)
            keep = keep[:, None]
            kept = jax.tree.map(partial(jnp.where, keep), new, carry)
            return kept, (jnp.where(keep, new.hidden, 0), jnp.where(keep, attended, 0), weights)

        scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        final_state, (hidden, attended, weights) = scan(self, carry, (self._project(inputs), mask))
        return AttentionLSTMOutput(hidden, attended, weights, final_state)

    def prepare(
        self,
        memory: Float[Array, "batch cells cell_features"],
        start: Float[Array, "batch start_features"],
        *,
        memory_mask: Bool[Array, "batch cells"] | None = None,
    ) -> tuple[AttentionMemory, ops.LSTMState]:
        """Projects the memory and makes the first state.

        Args:
            memory: `[batch, cells, cell_features]`.
            start: `[batch, start_features]`.
            memory_mask: `[batch, cells]`.

        Returns:
            The memory to look at, and the state, two of `[batch, features]`.
        """
        carry = ops.LSTMState(jnp.tanh(self.start_cell(start)), jnp.tanh(self.start_hidden(start)))
        return AttentionMemory(memory, self.attend.project(memory), memory_mask), carry

    def step(
        self, memory: AttentionMemory, state: ops.LSTMState, inputs: Float[Array, "rows inputs"]
    ) -> tuple[ops.LSTMState, Array]:
        """Reads one element of each sequence.

        Args:
            memory: of `prepare`.
            state: two of `[rows, features]`.
            inputs: `[rows, inputs]`.

        Returns:
            The next state, and what was read of the memory, `[rows, cell_features]`.
        """
        state, attended, _ = self._look_and_step(memory, state, self._project(inputs))
        return state, attended

    def _project(self, inputs: Array) -> Array:
        return inputs if self.is_projected else self.input_gates(inputs)

    @nn.nowrap
    def _open_forget_gate(self, key: jax.Array, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
        """Starts the forget gate's bias at 1, so that gradients pass (Jozefowicz et al., 2015)."""
        del key
        return jnp.zeros(shape, dtype).at[self.features : 2 * self.features].set(1)

    def _look_and_step(
        self, memory: AttentionMemory, state: ops.LSTMState, gates: jax.Array
    ) -> tuple[ops.LSTMState, jax.Array, jax.Array]:
        rows, batch = gates.shape[0], memory.values.shape[0]
        # [batch, copies, features]
        query = state.hidden.reshape(batch, rows // batch, -1)
        looked: Any = self.attend(query, memory.values, mask=memory.mask, keys=memory.keys)
        attended = looked.values.reshape(rows, -1)
        gates = gates + self.attended_gates(attended)
        state = ops.lstm_update(state, gates, self.recurrent_kernel.astype(gates.dtype))
        return state, attended, looked.weights.reshape(rows, -1)
