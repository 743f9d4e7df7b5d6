"""Plain Flax as a contender: its own layers, as its documentation has them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from fusionjax.benchmarks.jax_framework import Forward, JaxFramework, nest
from fusionjax.benchmarks.workloads import Fusion, Workload
from fusionjax.benchmarks.workloads.fusion import CLASSES, FILTERS, WORDS


class FusionModel(nn.Module):
    """The fusion model; see `workloads.Fusion`.

    Attributes:
        workload: sizes and parts.
        dtype: of the computation.
    """

    workload: Fusion
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
        """Maps images and tokens to both branches joined, or to logits when it is trained."""
        parts = []
        if self.workload.has_image:
            parts.append(self._image(inputs["image"]))
        if self.workload.has_text:
            parts.append(self._text(inputs["text"]))
        joined = jnp.concatenate(parts, axis=-1)
        return nn.Dense(CLASSES, dtype=self.dtype, name="classes")(joined) if self.workload.train else joined

    def _image(self, grid: jax.Array) -> jax.Array:
        for stage, filters in enumerate(FILTERS):
            grid = nn.relu(nn.Conv(filters, (3, 3), padding="VALID", dtype=self.dtype, name=f"conv_{stage}")(grid))
            grid = nn.max_pool(grid, (2, 2), (2, 2))
        return grid.reshape(len(grid), -1)

    def _text(self, tokens: jax.Array) -> jax.Array:
        width = self.workload.features
        vectors = nn.Embed(self.workload.vocab_size, width, dtype=self.dtype, name="embedding")(tokens)
        states = nn.RNN(nn.OptimizedLSTMCell(width, dtype=self.dtype, name="lstm"))(vectors)
        weights = nn.softmax(jnp.einsum("bqd,bkd->bqk", states, states))
        attended = jnp.einsum("bqk,bkd->bqd", weights, states)
        hidden = nn.relu(nn.Dense(width, dtype=self.dtype, name="hidden")(attended))
        words = nn.softmax(nn.Dense(WORDS, dtype=self.dtype, name="words")(hidden))
        return words.reshape(len(tokens), -1)


class PlainFlax(JaxFramework):
    """Flax alone."""

    def forward_of(self, workload: Workload) -> tuple[Forward, Any]:
        """Returns the forward pass and its parameters; see `Framework.build`."""
        dtype = jnp.bfloat16 if workload.dtype == "bfloat16" else None
        weights = workload.weights()
        if isinstance(workload, Fusion):
            model = FusionModel(workload, dtype)
            if workload.has_text:
                weights |= _lstm_weights(weights, "text/lstm/", "lstm/")
            # Its layers have no branches.
            kept = {path.removeprefix("image/").removeprefix("text/"): array for path, array in weights.items()}
            return lambda parameters, inputs: model.apply({"params": parameters}, inputs), nest(kept)
        raise NotImplementedError(f"plain Flax has no workload {workload.name}")


def _lstm_weights(weights: dict[str, np.ndarray], source: str, target: str) -> dict[str, np.ndarray]:
    """Takes the weights of an LSTM out and returns them as the cell of Flax names them."""
    kernels = np.split(weights.pop(f"{source}input_kernel"), 4, axis=1)
    recurrent = np.split(weights.pop(f"{source}recurrent_kernel"), 4, axis=1)
    biases = np.split(weights.pop(f"{source}bias"), 4)
    cell = {}
    for gate, kernel, recurrent_kernel, bias in zip("ifgo", kernels, recurrent, biases, strict=True):
        cell[f"{target}i{gate}/kernel"] = kernel
        cell[f"{target}h{gate}/kernel"] = recurrent_kernel
        cell[f"{target}h{gate}/bias"] = bias
    return cell
