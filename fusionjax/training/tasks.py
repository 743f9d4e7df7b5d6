"""Several losses of one model, each on examples of its own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fusionjax.training.loss import LossFunction, LossOutput


@dataclasses.dataclass(frozen=True)
class TaskLosses:
    """The losses of several tasks that share parameters; a batch holds one of its own for each task.

    A train step of it has a gradient for each task, each exact over micro-batches and devices like that of a single
    loss, and hands them on side by side, `[tasks, ...]`, with `losses` as an extra argument, to an optimiser that
    begins with `combine_tasks`. A batch may leave tasks out, to alternate between them: these have no part in the step.

    Attributes:
        tasks: the losses by name; each is called with its own part of the batch, `batch[name]`. One may be a
            `BatchLoss`.

    Raises:
        ValueError: there is no task, or a batch has none of them or others.

    Example:
        >>> def squared(params, model_state, batch, key):
        ...     return LossOutput(jnp.square(batch["x"] * params["w"]).sum(), jnp.float32(len(batch["x"])))
        >>> loss_fn = TaskLosses({"one": squared, "other": squared})
        >>> batch = {"one": {"x": jnp.ones(2)}, "other": {"x": jnp.ones(3)}}
        >>> output = loss_fn({"w": 2.0}, {}, batch, jax.random.key(0))
        >>> output.total.tolist(), output.weight.tolist()
        ([8.0, 12.0], [2.0, 3.0])
    """

    tasks: Mapping[str, LossFunction]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("a model needs a task to learn; got none. Give one loss or more by name.")

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks, in the order of all vectors `[tasks]`."""
        return tuple(self.tasks)

    def present(self, batch: Mapping[str, Any]) -> tuple[str, ...]:
        """The tasks that a batch has examples of.

        Args:
            batch: one for each task.

        Returns:
            Their names, in order.
        """
        unknown = sorted(set(batch) - set(self.tasks))
        if unknown or not batch:
            raise ValueError(
                f"a batch must hold one for each task or for some of them, {', '.join(self.tasks)}; got "
                f"{', '.join(unknown) or 'none'}. Name them alike."
            )
        return tuple(name for name in self.tasks if name in batch)

    def __call__(self, params: Any, model_state: Any, batch: Any, key: jax.Array, /) -> LossOutput:
        """Computes the sums of each task, vectors `[tasks]`; the state goes from task to task."""
        totals: dict[str, jax.Array] = {}
        weights: dict[str, jax.Array] = {}
        metrics: dict[str, tuple[jax.Array, jax.Array]] = {}
        for place, name in enumerate(self.present(batch)):
            output = self.tasks[name](params, model_state, batch[name], jax.random.fold_in(key, place))
            totals[name], weights[name] = output.total, output.weight
            metrics |= {f"{name}/{metric}": value for metric, value in output.metrics.items()}
            model_state = model_state if output.model_state is None else output.model_state
        zero = jnp.zeros((), jnp.float32)
        return LossOutput(
            jnp.stack([totals.get(name, zero) for name in self.tasks]),
            jnp.stack([weights.get(name, zero) for name in self.tasks]),
            metrics,
            model_state,
        )
