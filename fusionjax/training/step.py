"""One step of training, compiled, over one or many devices."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fusionjax.parallel import (
    DATA_AXIS,
    check_divisible,
    make_mesh,
    replicate,
    shard_batch,
    stack_batch,
    stack_replicas,
    unreplicate,
    unstack_replicas,
)
from fusionjax.training.average import update_average
from fusionjax.training.gradients import Sums, accumulate_gradients
from fusionjax.training.lora import FROZEN
from fusionjax.training.loss import LossFunction
from fusionjax.training.state import TrainState
from fusionjax.training.tasks import TaskLosses

STRATEGIES = ("jit", "pmap")


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A compiled train step: `state, metrics = step(state, batch)`. Made by `make_train_step`.

    The state given to a call is donated: its memory is reused and it cannot be read again.

    Attributes:
        mesh: the devices.
        strategy: `"jit"` or `"pmap"`.
        accumulate: micro-batches per step.
        compiled: the compiled function of a prepared state and a placed batch.
        is_multi_task: whether a batch holds one for each task.
    """

    mesh: Mesh
    strategy: str
    accumulate: int
    compiled: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]
    is_multi_task: bool = False

    def prepare(self, state: TrainState) -> TrainState:
        """Copies a state to the devices in the layout of the strategy; the given one stays alive."""
        return stack_replicas(state, self.mesh) if self.strategy == "pmap" else replicate(state, self.mesh)

    def unprepare(self, state: TrainState) -> TrainState:
        """Copies a prepared state back to one device in the plain layout, to evaluate or save it."""
        return unstack_replicas(state) if self.strategy == "pmap" else unreplicate(state)

    def place(self, batch: Any) -> Any:
        """Splits a batch of arrays `[batch, ...]` over the devices; raises ValueError if it does not divide.

        Of several tasks each has a batch of its own, which divides on its own.
        """
        if self.is_multi_task:
            return {name: self._place(part) for name, part in batch.items()}
        return self._place(batch)

    def _place(self, batch: Any) -> Any:
        check_divisible(batch, self.mesh, self.accumulate)
        return stack_batch(batch, self.mesh) if self.strategy == "pmap" else shard_batch(batch, self.mesh)

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        """Runs one step on a batch of arrays `[batch, ...]`, from a prepared state, which is donated."""
        return self.compiled(state, self.place(batch))


def make_train_step(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    strategy: str = "jit",
    mesh: Mesh | None = None,
    accumulate: int = 1,
    ema_decay: float | None = None,
) -> TrainStep:
    """Compiles a data-parallel train step whose result does not depend on how the batch is split.

    gradient = grad(sum of total) / (sum of weight), summed over micro-batches and devices, so `"jit"` and
    `"pmap"`, one device and eight, and any `accumulate` agree up to rounding. They do not where the model mixes
    examples (batch normalisation) or draws random numbers (dropout): `"pmap"` devices draw from their own keys.

    Args:
        loss_fn: `(params, model_state, batch, key) -> LossOutput` of sums; or `TaskLosses`.
        optimizer: optax transformation, from `make_optimizer`.
        strategy: `"jit"` (batch sharded over the mesh, state replicated) or `"pmap"` (one program per device).
        mesh: the devices, from `make_mesh`; `None` takes all local ones.
        accumulate: micro-batches per step, one after the other, to fit a large batch into memory.
        ema_decay: keeps an average of the parameters; give the same to `TrainState.create`.

    Returns:
        A `TrainStep`: `(state, batch) -> (state, metrics)`; metrics are float32 scalars: `loss`, `grad_norm`
        (before clipping), and the loss function's own, each total / weight (0 where the weight is 0).

    Raises:
        ValueError: unknown strategy, `accumulate` below 1, or `ema_decay` outside [0, 1).

    Example:
        >>> def loss_fn(params, model_state, batch, key):
        ...     return LossOutput(jnp.sum((batch["x"] * params["w"] - 1) ** 2), jnp.float32(batch["x"].size))
        >>> from fusionjax.training import LossOutput
        >>> optimizer = optax.sgd(0.5)
        >>> step = make_train_step(loss_fn, optimizer, mesh=make_mesh(1))
        >>> state = TrainState.create(params={"w": jnp.float32(0)}, optimizer=optimizer, key=jax.random.key(0))
        >>> state, metrics = step(step.prepare(state), {"x": jnp.ones(2)})
        >>> float(state.params["w"]), float(metrics["loss"])
        (1.0, 1.0)
    """
    if strategy not in STRATEGIES:
        raise ValueError(f'strategy must be "jit" or "pmap"; got {strategy!r}. "jit" is the default.')
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1; got {accumulate}. 1 takes each batch whole.")
    if ema_decay is not None and not 0.0 <= ema_decay < 1.0:
        raise ValueError(f"ema_decay must be in [0, 1); got {ema_decay}. 0.999 is usual; None keeps no average.")
    mesh = make_mesh() if mesh is None else mesh
    over_devices = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    replicated = NamedSharding(mesh, PartitionSpec())
    is_multi_task = isinstance(loss_fn, TaskLosses)
    micro = NamedSharding(mesh, PartitionSpec(None, DATA_AXIS))

    def jit_step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.step)
        sums, model_state = accumulate_gradients(
            loss_fn, state.params, state.model_state, batch, key, accumulate=accumulate, sharding=micro
        )
        return _update(state, sums, model_state, optimizer, ema_decay)

    def pmap_step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), jax.lax.axis_index(DATA_AXIS))
        sums, model_state = accumulate_gradients(
            loss_fn, state.params, state.model_state, batch, key, accumulate=accumulate
        )
        sums = jax.lax.psum(sums, DATA_AXIS)
        return _update(state, sums, _mean_over_devices(model_state), optimizer, ema_decay)

    if strategy == "jit":
        compiled = jax.jit(
            jit_step, donate_argnums=0, in_shardings=(replicated, over_devices), out_shardings=replicated
        )
        return TrainStep(mesh, strategy, accumulate, compiled, is_multi_task)
    devices = list(mesh.devices.flat)
    compiled = jax.pmap(pmap_step, DATA_AXIS, devices=devices, donate_argnums=0, out_axes=(0, None))
    return TrainStep(mesh, strategy, accumulate, compiled, is_multi_task)


def _mean_over_devices(model_state: Any) -> Any:
    """Averages running statistics; counters, keys and what is not learned are equal on all devices already."""

    def average(leaf: jax.Array) -> jax.Array:
        return jax.lax.pmean(leaf, DATA_AXIS) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    if not isinstance(model_state, Mapping):
        return jax.tree.map(average, model_state)
    return {name: tree if name == FROZEN else jax.tree.map(average, tree) for name, tree in model_state.items()}


def _update(
    state: TrainState,
    sums: Sums,
    model_state: Any,
    optimizer: optax.GradientTransformation,
    ema_decay: float | None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Applies the optimiser to summed gradients and turns the sums into metrics."""
    if (ema_decay is None) != (state.ema_params is None):
        has = "no average" if state.ema_params is None else "an average"
        raise ValueError(
            f"the state must keep an average of the parameters if, and only if, the step does; got ema_decay "
            f"{ema_decay} and a state with {has}. Give the same ema_decay to both."
        )
    inverse, losses = _inverse(sums.weight), sums.total * _inverse(sums.weight)
    # Of several tasks: [tasks, ...] x [tasks]
    gradients = jax.tree.map(
        lambda leaf: leaf * inverse.reshape(inverse.shape + (1,) * (leaf.ndim - inverse.ndim)), sums.gradients
    )
    metrics = {name: total * _inverse(weight) for name, (total, weight) in sums.metrics.items()}
    metrics |= {"loss": losses.sum(), "grad_norm": optax.tree.norm(gradients)}
    # The optimiser's state keeps the parameters' dtypes, so that every step has the same types.
    gradients = jax.tree.map(lambda leaf, param: leaf.astype(param.dtype), gradients, state.params)
    if losses.ndim:
        # What a batch leaves out has no loss.
        extra = {"losses": jnp.where(sums.weight == 0, jnp.nan, losses)}
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, **extra)
    else:
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = state.ema_params
    if ema_decay is not None:
        ema_params = update_average(ema_params, params, decay=ema_decay, step=state.step)
    new_state = dataclasses.replace(
        state, step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state, ema_params=ema_params
    )
    return new_state, metrics


def _inverse(weight: jax.Array) -> jax.Array:
    """1 / weight; 0 for a batch in which everything is masked, whose gradient is 0 too."""
    return jnp.where(weight == 0, 0.0, 1.0 / jnp.where(weight == 0, 1.0, weight))
