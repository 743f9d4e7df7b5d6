"""The library itself as a contender: each workload built of its own parts."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax import compress, encoders, layers, ops, pretrained
from fusionjax._version import __version__
from fusionjax.benchmarks.captioners import decode_captions
from fusionjax.benchmarks.jax_framework import Forward, JaxFramework, TrainedForward, nest
from fusionjax.benchmarks.workloads import Decode, Depthwise, Encoder, Fusion, Recurrent, VitBlock, Workload
from fusionjax.benchmarks.workloads.fusion import CLASSES, WORDS
from fusionjax.parallel import keep_host_memory

_CELLS: dict[str, Any] = {"lstm": layers.LSTM, "gru": layers.GRU, "elman": layers.Elman}


class FusionText(nn.Module):
    """Embedding, LSTM, self-attention without scaling, dense layers; see `workloads.Fusion`.

    Attributes:
        vocab_size: different tokens.
        features: of the embedding, the LSTM and the dense layer.
        dtype: of the computation.
        is_folded: the embedding holds x W_x + b of the LSTM.
    """

    vocab_size: int
    features: int
    dtype: Dtype | None = None
    is_folded: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens `[batch, length]` to `[batch, length * 100]`."""
        width = layers.LSTM.num_gates * self.features if self.is_folded else self.features
        vectors = nn.Embed(self.vocab_size, width, dtype=self.dtype, name="embedding")(tokens)
        lstm = layers.LSTM(self.features, is_projected=self.is_folded, dtype=self.dtype, name="lstm")
        states = lstm(vectors).outputs
        # [batch, length, heads = 1, features]
        head = states[:, :, None]
        attended = ops.attention(head, head, head, scale=1.0).values[:, :, 0]
        hidden = nn.relu(layers.Dense(self.features, dtype=self.dtype, name="hidden")(attended))
        words = nn.softmax(layers.Dense(WORDS, dtype=self.dtype, name="words")(hidden))
        return words.reshape(len(tokens), -1)


class FusionModel(nn.Module):
    """The fusion model; see `workloads.Fusion`.

    Attributes:
        workload: sizes and parts.
        dtype: of the computation.
        text: the branch of the tokens; None for the plain one.
    """

    workload: Fusion
    dtype: Dtype | None = None
    text: FusionText | None = None

    @nn.compact
    def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
        """Maps images and tokens to both branches joined, or to logits when it is trained."""
        parts = []
        if self.workload.has_image:
            encoder = encoders.SimpleCNN(pooling="flatten", dtype=self.dtype, name="image")
            parts.append(encoder(inputs["image"]).pooled)
        if self.workload.has_text:
            sizes = self.workload.vocab_size, self.workload.features
            text = FusionText(*sizes, self.dtype, name="text") if self.text is None else self.text
            parts.append(text(inputs["text"]))
        joined = jnp.concatenate(parts, axis=-1)
        return layers.Dense(CLASSES, dtype=self.dtype, name="classes")(joined) if self.workload.train else joined


class Ours(JaxFramework):
    """The library, with the implementations that it chooses itself."""

    packages = ("jax", "jaxlib", "flax", "optax")

    def __init__(self) -> None:
        keep_host_memory()

    def versions(self) -> dict[str, str]:
        """Returns the versions of its packages."""
        return {"fusionjax": __version__, **super().versions()}

    def forward_of(self, workload: Workload) -> tuple[Forward, Any]:
        """Returns the forward pass and its parameters; see `Framework.build`."""
        dtype = jnp.bfloat16 if workload.dtype == "bfloat16" else None
        if isinstance(workload, Encoder):
            return _encoder(workload)
        parameters = nest(workload.weights())
        if isinstance(workload, Fusion):
            model = FusionModel(workload, dtype)
            return lambda parameters, inputs: model.apply({"params": parameters}, inputs), parameters
        if isinstance(workload, Recurrent):
            layer = _CELLS[workload.cell](workload.features, dtype=dtype)
            parameters = {"params": parameters[workload.cell]}
            return lambda parameters, inputs: layer.apply(parameters, inputs["inputs"]).outputs, parameters
        if isinstance(workload, VitBlock):
            block: Any = layers.TransformerBlock(workload.num_heads, dtype=dtype)
            return lambda parameters, inputs: block.apply(parameters, inputs["tokens"]).tokens, {"params": parameters}
        if isinstance(workload, Depthwise):
            return _depthwise(workload.channels, dtype), parameters["depthwise"]["kernel"]
        if isinstance(workload, Decode):
            return decode_captions(workload, dtype), parameters
        raise NotImplementedError(f"fusionjax has no workload {workload.name}")

    def training_of(self, workload: Workload) -> tuple[TrainedForward, Any, Any]:
        """Returns the forward pass in training, its parameters and its running statistics; see `Framework.build`."""
        if not isinstance(workload, Encoder):
            return super().training_of(workload)
        model, variables = _load(workload)
        statistics = {name: tree for name, tree in variables.items() if name != "params"}

        def forward(parameters: Any, statistics: Any, inputs: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
            variables = {"params": parameters, **statistics}
            output, changed = model.apply(variables, inputs["image"], deterministic=False, mutable=list(statistics))
            return output.logits, changed

        return forward, variables["params"], statistics


def _load(workload: Encoder) -> tuple[Any, Any]:
    """The model in the workload's dtype, and its variables."""
    loaded = pretrained.load(workload.folder)
    if workload.dtype == "float32":
        return loaded.model, loaded.variables
    return compress.to_bfloat16(loaded.model, loaded.variables)[0], loaded.variables


def _encoder(workload: Encoder) -> tuple[Forward, Any]:
    model, variables = _load(workload)
    if not workload.length:
        return lambda variables, inputs: model.apply(variables, inputs["image"]).logits, variables

    def forward(variables: Any, inputs: dict[str, jax.Array]) -> jax.Array:
        vectors = model.apply(variables, inputs)
        return vectors.scale * vectors.image @ vectors.text.T + (0 if vectors.bias is None else vectors.bias)

    return forward, variables


def _depthwise(channels: int, dtype: Any) -> Forward:
    options: dict[str, Any] = {"padding": "SAME", "groups": channels}

    def forward(kernel: jax.Array, inputs: dict[str, jax.Array]) -> jax.Array:
        images = inputs["images"]
        return ops.conv2d(images.astype(dtype or images.dtype), kernel.astype(dtype or kernel.dtype), **options)

    return forward
