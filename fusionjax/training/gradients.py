"""Summed losses and gradients of a batch, at once or over micro-batches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from fusionjax.ops.implementations import inside_loop
from fusionjax.training.loss import BatchLoss, LossFunction
from fusionjax.training.tasks import TaskLosses


class Sums(NamedTuple):
    """Sums over examples that may be added over micro-batches and devices.

    Attributes:
        gradients: gradient of `total`, float32 or wider; of several tasks one for each, `[tasks, ...]`.
        total: sum of the loss; of several tasks `[tasks]`.
        weight: sum of the weights; of several tasks `[tasks]`.
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
    sums = _wide(Sums(gradients, output.total, output.weight, dict(output.metrics)))
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

    A `BatchLoss` is that of the whole batch all the same: its features are computed for one micro-batch after the
    other and kept, their gradients likewise, and each micro-batch is then encoded once more to hand them on.

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

    References:
        Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021, arXiv:2101.06983,
        section 3, for the cached features.
    """
    if isinstance(loss_fn, TaskLosses):
        return _task_by_task(loss_fn, params, model_state, batch, key, accumulate, sharding)
    if accumulate == 1:
        return sum_gradients(loss_fn, params, model_state, batch, key)
    if isinstance(loss_fn, BatchLoss):
        return _through_features(loss_fn, params, model_state, batch, key, accumulate, sharding)
    micro_batches = split_batch(batch, accumulate, sharding)

    def add(carry: tuple[Sums, Any], part: tuple[Any, jax.Array]) -> tuple[tuple[Sums, Any], None]:
        sums, state = carry
        micro_batch, index = part
        new, state = sum_gradients(loss_fn, params, state, micro_batch, jax.random.fold_in(key, index))
        return (jax.tree.map(jnp.add, sums, new), state), None

    first = jax.tree.map(lambda leaf: leaf[0], micro_batches)
    with inside_loop():
        shapes, _ = jax.eval_shape(sum_gradients, jax.tree_util.Partial(loss_fn), params, model_state, first, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (sums, model_state), _ = jax.lax.scan(add, (zeros, model_state), (micro_batches, jnp.arange(accumulate)))
    return sums, model_state


def _through_features(
    loss_fn: BatchLoss,
    params: Any,
    model_state: Any,
    batch: Any,
    key: jax.Array,
    accumulate: int,
    sharding: NamedSharding | None,
) -> tuple[Sums, Any]:
    micro_batches, indices = split_batch(batch, accumulate, sharding), jnp.arange(accumulate)

    def encode(state: Any, part: tuple[Any, jax.Array]) -> tuple[Any, Any]:
        features, state = loss_fn.encode(params, state, part[0], jax.random.fold_in(key, part[1]))
        return state, features

    with inside_loop():
        new_state, parts = jax.lax.scan(encode, model_state, (micro_batches, indices))
    # [accumulate, batch / accumulate, ...] -> [batch, ...], in the order of the batch
    features = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]), parts)

    def objective(params: Any, features: Any) -> tuple[jax.Array, Any]:
        output = loss_fn.compare(params, features, batch)
        return output.total, output

    (gradients, slopes), output = jax.grad(objective, argnums=(0, 1), has_aux=True)(params, features)

    def hand_on(carry: tuple[Any, Any], part: tuple[Any, jax.Array, Any]) -> tuple[tuple[Any, Any], None]:
        gradients, state = carry
        micro_batch, index, slopes = part

        def again(params: Any) -> tuple[Any, Any]:
            return loss_fn.encode(params, state, micro_batch, jax.random.fold_in(key, index))

        _, pull_back, state = jax.vjp(again, params, has_aux=True)
        return (jax.tree.map(jnp.add, gradients, _wide(pull_back(slopes)[0])), state), None

    carry = (_wide(gradients), model_state)
    with inside_loop():
        (gradients, _), _ = jax.lax.scan(
            hand_on, carry, (micro_batches, indices, split_batch(slopes, accumulate, sharding))
        )
    return Sums(gradients, *_wide((output.total, output.weight, dict(output.metrics)))), new_state


def _task_by_task(
    loss_fn: TaskLosses,
    params: Any,
    model_state: Any,
    batch: Any,
    key: jax.Array,
    accumulate: int,
    sharding: NamedSharding | None,
) -> tuple[Sums, Any]:
    """The sums of each task from its own part of the batch, side by side; zeros for a task that the batch leaves out.

    Each task has its own forward pass, so that its gradient costs no more than its part of the sum's.
    """
    found: dict[str, Sums] = {}
    metrics: dict[str, tuple[jax.Array, jax.Array]] = {}
    for place, name in enumerate(loss_fn.present(batch)):
        sums, model_state = accumulate_gradients(
            loss_fn.tasks[name],
            params,
            model_state,
            batch[name],
            jax.random.fold_in(key, place),
            accumulate=accumulate,
            sharding=sharding,
        )
        metrics |= {f"{name}/loss": (sums.total, sums.weight)}
        metrics |= {f"{name}/{metric}": value for metric, value in sums.metrics.items()}
        found[name] = sums._replace(metrics={})
    empty = jax.tree.map(jnp.zeros_like, next(iter(found.values())))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(found.get(name, empty) for name in loss_fn.tasks))
    return stacked._replace(metrics=metrics), model_state


def _wide(tree: Any) -> Any:
    """In float32 or wider."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree)
