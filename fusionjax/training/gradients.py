"""Summed losses and gradients of a batch, at once or over micro-batches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from fusionjax.training.loss import LossFunction


class Sums(NamedTuple):
    """Sums over examples that may be added over micro-batches and devices.

    Attributes:
        gradients: gradient of `total`, float32 or wider.
        total: sum of the loss.
        weight: sum of the weights.
        metrics: pairs `(total, weight)` by name.
    """

    gradients: Any
    total: jax.Array
    weight: jax.Array
    metrics: dict[str, tuple[jax.Array, jax.Array]]


def sum_gradients(loss_fn: LossFunction, params: Any, model_state: Any, batch: Any, key: jax.Array) -> tuple[Sums, Any]:
    """Computes the sums of one batch and the model's new variables."""

    def objective(params: Any) -> tuple[jax.Array, Any]:
        output = loss_fn(params, model_state, batch, key)
        return output.total, output

    gradients, output = jax.grad(objective, has_aux=True)(params)
    sums = Sums(gradients, output.total, output.weight, dict(output.metrics))
    sums = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), sums)
    return sums, model_state if output.model_state is None else output.model_state


def split_batch(batch: Any, accumulate: int, sharding: NamedSharding | None) -> Any:
    """Splits `[batch, ...]` into `[accumulate, batch / accumulate, ...]`; micro-batch `i` has examples `i::accumulate`.

    Taking every n-th example, not runs of neighbours, leaves each example on the device that holds it.
    """

    def split(leaf: jax.Array) -> jax.Array:
        # [batch / accumulate, accumulate, ...] -> [accumulate, batch / accumulate, ...]
        parts = leaf.reshape(-1, accumulate, *leaf.shape[1:]).swapaxes(0, 1)
        return parts if sharding is None else jax.lax.with_sharding_constraint(parts, sharding)

    return jax.tree.map(split, batch)


def accumulate_gradients(
    loss_fn: LossFunction,
    params: Any,
    model_state: Any,
    batch: Any,
    key: jax.Array,
    *,
    accumulate: int,
    sharding: NamedSharding | None = None,
) -> tuple[Sums, Any]:
    """Adds up the sums of `accumulate` micro-batches one after the other, at the memory of one.

    Args:
        loss_fn: the loss function.
        params: parameters.
        model_state: the model's other variables; each micro-batch starts from what the one before left.
        batch: tree of arrays `[batch, ...]`.
        key: the step's key; micro-batch `i` draws from `fold_in(key, i)`.
        accumulate: number of micro-batches; 1 takes the batch whole, with `key` itself.
        sharding: how to lay out the micro-batches `[accumulate, batch / accumulate, ...]`.

    Returns:
        The sums of the whole batch, and the model's new variables.
    """
    if accumulate == 1:
        return sum_gradients(loss_fn, params, model_state, batch, key)
    micro_batches = split_batch(batch, accumulate, sharding)

    def add(carry: tuple[Sums, Any], part: tuple[Any, jax.Array]) -> tuple[tuple[Sums, Any], None]:
        sums, state = carry
        micro_batch, index = part
        new, state = sum_gradients(loss_fn, params, state, micro_batch, jax.random.fold_in(key, index))
        return (jax.tree.map(jnp.add, sums, new), state), None

    first = jax.tree.map(lambda leaf: leaf[0], micro_batches)
    shapes, _ = jax.eval_shape(sum_gradients, jax.tree_util.Partial(loss_fn), params, model_state, first, key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (sums, model_state), _ = jax.lax.scan(add, (zeros, model_state), (micro_batches, jnp.arange(accumulate)))
    return sums, model_state
