"""Several recurrent layers, in one or both directions."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from fusionjax.layers.elman import Elman
from fusionjax.layers.gru import GRU
from fusionjax.layers.lstm import LSTM
from fusionjax.ops import RecurrentOutput

_CELLS: dict[str, type[LSTM | GRU | Elman]] = {"lstm": LSTM, "gru": GRU, "elman": Elman}


class RNN(nn.Module):
    """Stacks recurrent layers, in one or both directions, with dropout between them.

    A layer in both directions joins the outputs of the two along the features: forward, then backward. Padding, said by
    the mask, changes neither the outputs at real tokens nor the final states.

    Attributes:
        features: size of the hidden state of each layer and direction.
        cell: `"lstm"`, `"gru"` or `"elman"`.
        num_layers: number of layers.
        bidirectional: run every layer in both directions.
        dropout_rate: share of the features dropped between layers.
        time_major: inputs and outputs have time first.
        dtype: dtype of the computation; None for the common one of inputs and parameters.
        param_dtype: dtype of the parameters.
        implementation: see the cell's operation, such as `fusionjax.ops.lstm`.
        is_projected: the inputs are x W_x + b of the first layer already, those of both directions joined,
            `projected_features` wide; it has no input kernels and no biases.

    Example:
        >>> layer, inputs = RNN(features=4, num_layers=2, bidirectional=True), jnp.ones((2, 5, 3))
        >>> output = layer.apply(layer.init(jax.random.key(0), inputs), inputs)
        >>> output.outputs.shape, len(output.final_state), output.final_state[1][0].hidden.shape
        ((2, 5, 8), 2, (2, 4))
    """

    features: int
    cell: str = "lstm"
    num_layers: int = 1
    bidirectional: bool = False
    dropout_rate: float = 0.0
    time_major: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    implementation: str | None = None
    is_projected: bool = False

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "first second inputs"],
        *,
        mask: Bool[Array, "mask_batch mask_length"] | None = None,
        initial_state: Sequence[Sequence[Any]] | None = None,
        deterministic: bool = True,
    ) -> RecurrentOutput:
        """Runs over sequences.

        Args:
            inputs: `[batch, length, inputs]`, or `[length, batch, inputs]` if time-major.
            mask: `[batch, length]`; masked steps keep the state and put out zeros.
            initial_state: for every layer, for every direction, the state before the first step; None for zeros.
            deterministic: switch dropout off; otherwise the random key `"dropout"` is needed.

        Returns:
            A `RecurrentOutput`: outputs with features * directions, final states like `initial_state`.

        Raises:
            ValueError: there is no cell of that name, or the initial states or the projected inputs do not fit.
        """
        directions = ("forward", "backward") if self.bidirectional else ("forward",)
        self._check(inputs.shape, initial_state, len(directions))
        final_states = []
        outputs = inputs
        for layer in range(self.num_layers):
            if layer > 0:
                outputs = nn.Dropout(self.dropout_rate)(outputs, deterministic=deterministic)
            # Only projected inputs are others for each direction.
            is_projected = self.is_projected and layer == 0
            entering = jnp.split(outputs, len(directions), axis=-1) if is_projected else [outputs] * len(directions)
            results = [
                _CELLS[self.cell](
                    self.features,
                    dtype=self.dtype,
                    param_dtype=self.param_dtype,
                    implementation=self.implementation,
                    is_projected=is_projected,
                    name=f"layer_{layer}_{direction}",
                )(
                    entering[index],
                    initial_state=None if initial_state is None else initial_state[layer][index],
                    mask=mask,
                    reverse=direction == "backward",
                    time_major=self.time_major,
                )
                for index, direction in enumerate(directions)
            ]
            outputs = jnp.concatenate([result.outputs for result in results], axis=-1)
            final_states.append(tuple(result.final_state for result in results))
        return RecurrentOutput(outputs, tuple(final_states))

    @property
    def projected_features(self) -> int:
        """The width of inputs that are projected already: gates * features, of each direction."""
        self._check_cell()
        return (2 if self.bidirectional else 1) * _CELLS[self.cell].num_gates * self.features

    @nn.nowrap
    def _check_cell(self) -> None:
        if self.cell not in _CELLS:
            raise ValueError(f"cell must be one of {', '.join(_CELLS)}; got {self.cell!r}. Name one of them.")

    @nn.nowrap
    def _check(self, inputs: tuple[int, ...], initial_state: Sequence[Sequence[Any]] | None, directions: int) -> None:
        self._check_cell()
        if self.is_projected and inputs[-1] != self.projected_features:
            raise ValueError(
                f"projected inputs must be {self.projected_features} wide, gates * features of each direction; "
                f"got {inputs}. Project them for every direction, or pass is_projected=False."
            )
        if initial_state is None:
            return
        given = [len(layer) for layer in initial_state]
        if given != [directions] * self.num_layers:
            raise ValueError(
                f"initial_state must hold {self.num_layers} layers of {directions} states each; got layers of {given}. "
                "Pass the final_state of a call, or None for zeros."
            )
