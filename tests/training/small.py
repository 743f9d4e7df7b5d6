"""A small model, its data and its loss, for the tests of training."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fusionjax.training import LossOutput, TrainState

VOCAB_SIZE, LENGTH, BATCH = 11, 5, 16


class Tagger(nn.Module):
    """Embeds tokens, mixes them with a layer of 7 units and names each one; `[batch, length, 3]`."""

    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        hidden = nn.Embed(VOCAB_SIZE, 6, name="embed")(tokens)
        hidden = nn.LayerNorm(name="norm")(nn.tanh(nn.Dense(7, name="hidden")(hidden)))
        hidden = nn.Dropout(self.dropout_rate, deterministic=self.dropout_rate == 0)(hidden)
        return nn.Dense(3, name="out")(hidden)


def loss_fn(params: Any, model_state: Any, batch: Any, key: jax.Array, dropout_rate: float = 0.0) -> LossOutput:
    """Cross-entropy of the kept words: rows keep different numbers of them, so weights differ by device."""
    logits = Tagger(dropout_rate).apply({"params": params}, batch["text"], rngs={"dropout": key})
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    keep = batch["mask"].astype(jnp.float32)
    correct = jnp.argmax(logits, -1) == batch["label"]
    accuracy = (jnp.sum(correct * keep), jnp.sum(keep))
    return LossOutput(jnp.sum(losses * keep), jnp.sum(keep), {"accuracy": accuracy}, model_state)


def dropout_loss_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> LossOutput:
    """The same with random numbers, whose key must be right for a resumed run to be equal."""
    return loss_fn(params, model_state, batch, key, dropout_rate=0.3)


def make_batch(index: int, batch: int = BATCH) -> dict[str, np.ndarray]:
    """The batch of a position, always the same."""
    rng = np.random.default_rng([13, index])
    text = rng.integers(1, VOCAB_SIZE, (batch, LENGTH)).astype(np.int32)
    lengths = rng.integers(0, LENGTH + 1, batch)
    return {"text": text, "label": text % 3, "mask": np.arange(LENGTH) < lengths[:, None]}


class Batches:
    """An iterator over `make_batch` whose position can be saved."""

    def __init__(self, position: int = 0, end: int | None = None) -> None:
        self.position, self.end = position, end

    def __next__(self) -> dict[str, np.ndarray]:
        if self.position == self.end:
            raise StopIteration
        self.position += 1
        return make_batch(self.position - 1)

    def get_state(self) -> dict[str, int]:
        return {"position": self.position}

    def set_state(self, state: dict[str, int]) -> None:
        self.position = state["position"]


@functools.cache
def init_params(seed: int) -> Any:
    return jax.jit(Tagger().init)(jax.random.key(seed), jnp.zeros((1, LENGTH), jnp.int32))["params"]


def make_state(optimizer: optax.GradientTransformation, ema_decay: float | None = None, seed: int = 3) -> TrainState:
    """The state of step 0."""
    key = jax.random.key(seed + 1)
    return TrainState.create(params=init_params(seed), optimizer=optimizer, key=key, ema_decay=ema_decay)


def assert_same(left: Any, right: Any) -> None:
    """Two trees are equal bit for bit, in structure, dtypes and values, typed random keys included."""

    def check(one: Any, other: Any) -> None:
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()

    jax.tree.map(check, left, right)
