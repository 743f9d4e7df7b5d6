"""Plain Flax as a contender: its own layers, as its documentation has them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from fusionjax.benchmarks.jax_framework import Forward, JaxFramework, nest
from fusionjax.benchmarks.workloads import Depthwise, Fusion, Recurrent, VitBlock, Workload
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


class VitBlockModel(nn.Module):
    """A Transformer block; see `workloads.VitBlock`.

    Attributes:
        num_heads: of the attention.
        dtype: of the computation.
    """

    num_heads: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
        """Maps `[batch, length, width]` to the same shape."""
        tokens, dtype = inputs["tokens"], self.dtype
        normalised = nn.LayerNorm(dtype=dtype, name="self_attention_norm")(tokens)
        tokens = tokens + nn.MultiHeadAttention(self.num_heads, dtype=dtype, name="self_attention")(normalised)
        normalised = nn.LayerNorm(dtype=dtype, name="mlp_norm")(tokens)
        hidden = nn.gelu(nn.Dense(4 * tokens.shape[-1], dtype=dtype, name="mlp_in")(normalised))
        return tokens + nn.Dense(tokens.shape[-1], dtype=dtype, name="mlp_out")(hidden)


class RecurrentModel(nn.Module):
    """A recurrent layer; see `workloads.Recurrent`.

    Attributes:
        workload: the cell and its size.
        dtype: of the computation.
    """

    workload: Recurrent
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
        """Maps `[batch, length, features]` to the states."""
        cells = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}
        cell: Any = cells[self.workload.cell]
        layer: Any = nn.RNN(cell(self.workload.features, dtype=self.dtype, name=self.workload.cell))
        return layer(inputs["inputs"])


class DepthwiseModel(nn.Module):
    """A depthwise convolution; see `workloads.Depthwise`.

    Attributes:
        kernel_size: side of the kernel.
        dtype: of the computation.
    """

    kernel_size: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
        """Maps `[batch, height, width, channels]` to the same shape."""
        images = inputs["images"]
        channels, sides = images.shape[-1], (self.kernel_size, self.kernel_size)
        settings: dict[str, Any] = {"feature_group_count": channels, "use_bias": False, "dtype": self.dtype}
        return nn.Conv(channels, sides, name="depthwise", **settings)(images)


class PlainFlax(JaxFramework):
    """Flax alone."""

    def forward_of(self, workload: Workload) -> tuple[Forward, Any]:
        """Returns the forward pass and its parameters; see `Framework.build`."""
        dtype = jnp.bfloat16 if workload.dtype == "bfloat16" else None
        model, weights = self._model(workload, dtype)
        return lambda parameters, inputs: model.apply({"params": parameters}, inputs), nest(weights)

    def _model(self, workload: Workload, dtype: Any) -> tuple[nn.Module, dict[str, np.ndarray]]:
        weights = workload.weights()
        if isinstance(workload, Fusion):
            if workload.has_text:
                weights |= _lstm_weights(weights, "text/lstm/", "lstm/")
            # Its layers have no branches.
            kept = {path.removeprefix("image/").removeprefix("text/"): array for path, array in weights.items()}
            return FusionModel(workload, dtype), kept
        if isinstance(workload, Recurrent):
            convert = {"lstm": _lstm_weights, "gru": _gru_weights, "elman": _elman_weights}[workload.cell]
            return RecurrentModel(workload, dtype), convert(weights, f"{workload.cell}/", f"{workload.cell}/")
        if isinstance(workload, VitBlock):
            heads = workload.num_heads
            return VitBlockModel(heads, dtype), {path: _split_heads(path, weights[path], heads) for path in weights}
        if isinstance(workload, Depthwise):
            return DepthwiseModel(workload.kernel_size, dtype), weights
        raise NotImplementedError(f"plain Flax has no workload {workload.name}")


def _split_heads(path: str, array: np.ndarray, num_heads: int) -> np.ndarray:
    """Splits the axis of the heads, as Flax's attention has its kernels."""
    _, _, part = path.rpartition("self_attention/")
    if path == part or part == "out/bias":
        return array
    if part == "out/kernel":
        return array.reshape(num_heads, -1, array.shape[-1])
    return array.reshape(*array.shape[:-1], num_heads, -1)


def _gru_weights(weights: dict[str, np.ndarray], source: str, target: str) -> dict[str, np.ndarray]:
    bias, recurrent_bias = (np.split(weights[f"{source}{name}"], 3) for name in ("bias", "recurrent_bias"))
    kernels, recurrent = (np.split(weights[f"{source}{name}_kernel"], 3, axis=1) for name in ("input", "recurrent"))
    cell = {f"{target}hn/bias": recurrent_bias[2]}
    for index, gate in enumerate("rzn"):
        cell[f"{target}i{gate}/kernel"], cell[f"{target}h{gate}/kernel"] = kernels[index], recurrent[index]
        # Only the candidate has a bias within the reset gate.
        cell[f"{target}i{gate}/bias"] = bias[index] + (recurrent_bias[index] if gate != "n" else 0)
    return cell


def _elman_weights(weights: dict[str, np.ndarray], source: str, target: str) -> dict[str, np.ndarray]:
    names = {"i/kernel": "input_kernel", "h/kernel": "recurrent_kernel", "i/bias": "bias"}
    return {f"{target}{name}": weights[f"{source}{original}"] for name, original in names.items()}


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
