"""The captioners of `workloads.Decode`, of the library's layers and searches."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax import decoding, layers
from fusionjax.benchmarks.jax_framework import Forward
from fusionjax.benchmarks.workloads.decode import END, HEADS, LAYERS, START, Decode


class LSTMCaptioner(nn.Module):
    """An LSTM with attention; see `workloads.Decode`.

    Attributes:
        workload: sizes.
        dtype: of the computation.
        is_folded: the embedding holds x W_x + b of the LSTM.
    """

    workload: Decode
    dtype: Dtype | None = None
    is_folded: bool = False

    def setup(self) -> None:
        """Makes the layers."""
        width, vocab_size = self.workload.width, self.workload.vocab_size
        self.words = nn.Embed(vocab_size, 4 * width if self.is_folded else width, dtype=self.dtype)
        self.lstm = layers.AttentionLSTM(width, width, dtype=self.dtype, is_projected=self.is_folded)
        self.logits = layers.Dense(vocab_size, dtype=self.dtype)

    def prepare(self, features: jax.Array) -> tuple[Any, Any]:
        """Projects the cells, and makes the first state of their mean."""
        return self.lstm.prepare(features, features.mean(1))

    def step(self, memory: Any, carry: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        """Reads a word of each row and scores the next."""
        carry, _ = self.lstm.step(memory, carry, self.words(tokens))
        return carry, self.logits(carry.hidden)


class TransformerCaptioner(nn.Module):
    """A Transformer with a cache; see `workloads.Decode`.

    Attributes:
        workload: sizes.
        dtype: of the computation.
    """

    workload: Decode
    dtype: Dtype | None = None

    def setup(self) -> None:
        """Makes the layers."""
        width, vocab_size = self.workload.width, self.workload.vocab_size
        self.words = nn.Embed(vocab_size, width, dtype=self.dtype)
        self.positions = self.param("positions", nn.initializers.normal(0.02), (self.workload.steps, width))
        self.block = [
            layers.TransformerBlock(HEADS, features=width, use_cross_attention=True, is_causal=True, dtype=self.dtype)
            for _ in range(LAYERS)
        ]
        self.norm = nn.LayerNorm(dtype=self.dtype)
        self.logits = layers.Dense(vocab_size, dtype=self.dtype)

    def prepare(self, features: jax.Array) -> tuple[Any, Any]:
        """Projects the cells for every block, and makes empty caches."""
        memory = [block.project_memory(features) for block in self.block]
        rows, steps = len(features), self.workload.steps
        return memory, [block.init_cache(rows, steps, is_uniform=True) for block in self.block]

    def step(self, memory: Any, carry: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        """Reads a word of each row and scores the next."""
        hidden = self.words(tokens) + self.positions[carry[0].index].astype(self.dtype or jnp.float32)
        hidden, caches = hidden[:, None], []
        for block, projected, cache in zip(self.block, memory, carry, strict=True):
            output = block(hidden, memory_projected=projected, cache=cache)
            hidden = output.tokens
            caches.append(output.cache)
        return caches, self.logits(self.norm(hidden[:, 0]))


def decode_captions(workload: Decode, dtype: Dtype | None, model: Any = None) -> Forward:
    """Makes the function from features to words.

    Args:
        workload: model, search and sizes.
        dtype: of the computation; None for that of the parameters.
        model: one of the captioners; None for that of the workload.

    Returns:
        `(parameters, inputs) -> words [batch, steps]`.
    """
    kind = LSTMCaptioner if workload.model == "lstm" else TransformerCaptioner
    model = kind(workload, dtype) if model is None else model
    settings: dict[str, Any] = {
        "batch": workload.batch_size,
        "max_length": workload.steps,
        "start_token": START,
        "end_token": END,
        "banned_tokens": (),
    }

    def forward(parameters: Any, inputs: dict[str, jax.Array]) -> jax.Array:
        features = inputs["features"].astype(dtype or jnp.float32)
        memory, carry = model.apply({"params": parameters}, features, method="prepare")

        def step(carry: Any, tokens: jax.Array) -> Any:
            return model.apply({"params": parameters}, memory, carry, tokens, method="step")

        if workload.num_beams == 1:
            return decoding.greedy_search(step, carry, **settings).tokens
        return decoding.beam_search(step, carry, num_beams=workload.num_beams, **settings).tokens

    return forward
