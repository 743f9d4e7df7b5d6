"""The contract between a model's loss and the train step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax


class LossOutput(NamedTuple):
    """What a loss function returns: sums over the examples, never means.

    Sums make every way of splitting a batch exact: the gradient of a batch is
    `grad(sum of total) / (sum of weight)`, whether the sum runs over one device, eight, or micro-batches.
    A term that does not come from examples (a penalty on the parameters) is added to `total` times `weight`.

    Attributes:
        total: sum of the loss; float32 scalar.
        weight: what to divide it by, such as the number of words; float32 scalar, no gradient.
        metrics: further sums by name, each a pair `(total, weight)` of float32 scalars.
        model_state: the model's other variables after this batch; `None` leaves them as they are.

    Example:
        >>> import jax.numpy as jnp
        >>> LossOutput(total=jnp.float32(6), weight=jnp.float32(3)).metrics
        {}
    """

    total: jax.Array
    weight: jax.Array
    metrics: Mapping[str, tuple[jax.Array, jax.Array]] = {}
    model_state: Any = None


class LossFunction(Protocol):
    """A function `(params, model_state, batch, key) -> LossOutput`, called once per (micro-)batch.

    `batch` is a tree of arrays `[batch, ...]`, `key` a typed random key of this step.
    """

    def __call__(self, params: Any, model_state: Any, batch: Any, key: jax.Array, /) -> LossOutput:
        """Computes the sums of one batch."""
        ...


@dataclasses.dataclass(frozen=True)
class BatchLoss:
    """A `LossFunction` in two parts, for a loss that compares the examples of a batch with each other.

    Such a loss of a batch is not the sum of those of its parts: a contrastive one has fewer wrong answers in each.
    Told apart from the encoding, it is computed of the features of the whole batch even where `accumulate` encodes it
    in parts, so that the effective batch grows and the gradient stays that of the whole. Encoders that mix examples
    (batch normalisation) see the parts.

    Attributes:
        encode: `(params, model_state, batch, key) -> (features, model_state)`; a tree of arrays `[batch, ...]`, each
            row of its own example alone.
        compare: `(params, features, batch) -> LossOutput` of the whole batch; it may use parameters such as a
            temperature. Its `model_state` is not read.

    Example:
        >>> import jax.numpy as jnp
        >>> def encode(params, model_state, batch, key):
        ...     return batch["x"] * params["w"], model_state
        >>> def compare(params, features, batch):
        ...     return LossOutput(jnp.square(features - features.mean()).sum(), jnp.float32(len(features)))
        >>> loss_fn = BatchLoss(encode, compare)
        >>> float(loss_fn({"w": 2.0}, {}, {"x": jnp.array([1.0, 3.0])}, jax.random.key(0)).total)
        8.0
    """

    encode: Callable[[Any, Any, Any, jax.Array], tuple[Any, Any]]
    compare: Callable[[Any, Any, Any], LossOutput]

    def __call__(self, params: Any, model_state: Any, batch: Any, key: jax.Array, /) -> LossOutput:
        """Computes the sums of one batch."""
        features, model_state = self.encode(params, model_state, batch, key)
        return self.compare(params, features, batch)._replace(model_state=model_state)
