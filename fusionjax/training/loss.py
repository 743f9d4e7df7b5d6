"""The contract between a model's loss and the train step."""

from collections.abc import Mapping
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
