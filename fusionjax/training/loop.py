"""The training loop."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

from fusionjax.errors import InputError
from fusionjax.parallel import batch_size_of
from fusionjax.training.checkpoints import Checkpoints
from fusionjax.training.interrupt import InterruptGuard
from fusionjax.training.progress import Progress
from fusionjax.training.state import TrainState
from fusionjax.training.step import TrainStep
from fusionjax.training.writer import MetricsWriter

# Steps that may be queued on the devices: enough to keep them busy, few enough for Ctrl-C to act soon.
_QUEUED_STEPS = 8


class BatchIterator(Protocol):
    """Batches in order, with a position that can be saved; `set_state` is the caller's, before the loop."""

    def __next__(self) -> Any:
        """Returns the next batch, a tree of arrays `[batch, ...]`."""
        ...

    def get_state(self) -> Any:
        """Returns the position after the last batch returned, as JSON."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitResult:
    """What `fit` returns.

    Attributes:
        state: the last state, in the plain layout.
        history: one row per log and per evaluation: `step` and the metrics, training ones as `train/...`.
        interrupted: whether Ctrl-C ended the loop; the state is saved then.
    """

    state: TrainState
    history: list[dict[str, float]]
    interrupted: bool


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: BatchIterator,
    *,
    total_steps: int,
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int | None = None,
    log_every: int = 50,
    evaluate_every: int | None = None,
    evaluate: Callable[[TrainState], Mapping[str, float] | None] | None = None,
    best_metric: str | None = None,
    schedule: Callable[[int], Any] | None = None,
    writer: MetricsWriter | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Trains from `state.step` to `total_steps`, logging, evaluating and saving on the way.

    To resume, restore a checkpoint, give its state here, and set `batches` to its data position: the run then
    equals the uninterrupted one bit for bit. The devices are not waited for, except to log. The last step is
    always logged, evaluated and saved.

    Args:
        state: where to start, in the plain layout; stays alive.
        train_step: from `make_train_step`.
        batches: iterator with `get_state`.
        total_steps: the step to stop at.
        checkpoints: where to save; None saves nothing.
        checkpoint_every: steps between checkpoints; None saves only at evaluations and at the end.
        log_every: steps between logs; the metrics logged are means over these steps.
        evaluate_every: steps between evaluations; None evaluates only at the end.
        evaluate: `state -> metrics`, given the state in the plain layout.
        best_metric: the name in `evaluate`'s metrics by which `checkpoints` keeps the best.
        schedule: learning rate of a step, to log it.
        writer: TensorBoard files.
        progress: bar or lines on standard error.

    Returns:
        The last state, the history, and whether Ctrl-C stopped the loop.

    Raises:
        ValueError: an interval below 1, `batches` ended too early, or `best_metric` is not among the metrics.
        InputError: the loss is not finite; nothing of it is saved.
        KeyboardInterrupt: a second Ctrl-C.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from fusionjax.training import LossOutput, make_train_step
        >>> class Ones:
        ...     __next__ = lambda self: {"x": jnp.ones(8)}
        ...     get_state = lambda self: {}
        >>> loss_fn = lambda params, model_state, batch, key: LossOutput(jnp.sum(batch["x"] * params), jnp.float32(8))
        >>> optimizer = optax.sgd(0.5)
        >>> state = TrainState.create(params=jnp.float32(0), optimizer=optimizer, key=jax.random.key(0))
        >>> float(fit(state, make_train_step(loss_fn, optimizer), Ones(), total_steps=4).state.params)
        -2.0
    """
    for name, value in {
        "checkpoint_every": checkpoint_every,
        "log_every": log_every,
        "evaluate_every": evaluate_every,
    }.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}. Leave it out for the default.")
    run = _Run(train_step, checkpoints, evaluate, best_metric, schedule, writer, progress)
    first_step = step = int(state.step)
    current = train_step.prepare(state)
    with InterruptGuard() as guard:
        while step < total_steps and not guard.requested:
            batch = _next_batch(batches, guard, step, total_steps)
            if batch is None:
                break
            current, metrics = train_step(current, batch)
            step += 1
            run.record(step, metrics, batch_size_of(batch))
            is_last = step == total_steps
            if is_last or step % log_every == 0:
                run.log(step)
            evaluates = evaluate is not None and (is_last or _is_due(step, evaluate_every))
            if evaluates or is_last or _is_due(step, checkpoint_every):
                run.evaluate_and_save(step, current, batches, evaluates=evaluates)
        # Ctrl-C during the last step still ends what the caller would do next.
        interrupted = step < total_steps or guard.requested
        if step < total_steps and step > first_step:
            run.evaluate_and_save(step, current, batches, evaluates=False)
        if checkpoints is not None:
            checkpoints.wait()
    return FitResult(state=train_step.unprepare(current), history=run.history, interrupted=interrupted)


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _next_batch(batches: BatchIterator, guard: InterruptGuard, step: int, total_steps: int) -> Any:
    """Returns the next batch, or None where Ctrl-C, which reaches worker processes too, has ended the iterator."""
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(
            f"batches must last until step {total_steps}; they ended after step {step}. Repeat the data."
        ) from None
    except Exception:
        if guard.requested:
            return None
        raise


@dataclasses.dataclass
class _Run:
    """What the loop remembers between steps, and its side effects."""

    train_step: TrainStep
    checkpoints: Checkpoints | None
    evaluate: Callable[[TrainState], Mapping[str, float] | None] | None
    best_metric: str | None
    schedule: Callable[[int], Any] | None
    writer: MetricsWriter | None
    progress: Progress | None
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    pending: list[tuple[int, dict[str, jax.Array]]] = dataclasses.field(default_factory=list)
    fetched: list[dict[str, float]] = dataclasses.field(default_factory=list)
    saved_step: int | None = None

    def record(self, step: int, metrics: dict[str, jax.Array], examples: int) -> None:
        """Keeps the metrics of a step on the devices, and waits for the step that was queued some steps ago."""
        self.pending.append((step, metrics))
        if len(self.pending) > _QUEUED_STEPS:
            jax.block_until_ready(self.pending[-_QUEUED_STEPS][1])
        if self.progress is not None:
            self.progress.update(step, examples)

    def fetch(self) -> None:
        """Brings the pending metrics to the host; raises InputError if a loss or gradient among them is not finite."""
        for step, metrics in jax.device_get(self.pending):
            row = {name: float(value) for name, value in metrics.items()}
            for name in ("loss", "grad_norm"):
                if not math.isfinite(row[name]):
                    raise InputError(self._explain(step, name, row[name]))
            self.fetched.append(row)
        self.pending.clear()

    def _explain(self, step: int, name: str, value: float) -> str:
        rate = "" if self.schedule is None else f" ({float(self.schedule(step - 1)):.3g} there)"
        saved = None if self.checkpoints is None else self.checkpoints.latest_step
        kept = "nothing was saved" if saved is None else f"the last checkpoint is of step {saved}"
        return (
            f"{name} must be finite; got {value} at step {step}. "
            f"Lower the learning rate{rate} or set clip_norm, and check the data; {kept}."
        )

    def log(self, step: int) -> None:
        """Adds the means of the metrics since the last log to the history, the files and the progress."""
        self.fetch()
        rows, self.fetched = self.fetched, []
        row = {f"train/{name}": sum(each[name] for each in rows) / len(rows) for name in rows[0]}
        if self.schedule is not None:
            row["train/learning_rate"] = float(self.schedule(step - 1))
        self._publish(step, row)

    def _publish(self, step: int, row: Mapping[str, float]) -> None:
        self.history.append({"step": step, **row})
        if self.writer is not None:
            self.writer.write(step, row)
        if self.progress is not None:
            self.progress.show(step, row)

    def evaluate_and_save(self, step: int, current: TrainState, batches: BatchIterator, *, evaluates: bool) -> None:
        """Evaluates, if asked to, and saves, unless the step is saved already."""
        self.fetch()
        if not evaluates and (self.checkpoints is None or self.saved_step == step):
            return
        state = self.train_step.unprepare(current)
        metric = self._evaluate(step, state) if evaluates else None
        if self.checkpoints is not None:
            self.checkpoints.save(step, state, batches.get_state(), metric)
            self.saved_step = step

    def _evaluate(self, step: int, state: TrainState) -> float | None:
        """Evaluates and returns the value by which the best is chosen."""
        metrics = self.evaluate(state) if self.evaluate is not None else None
        row = {name: float(value) for name, value in (metrics or {}).items()}
        if self.best_metric is not None and self.best_metric not in row:
            raise ValueError(
                f"best_metric must be one of the evaluation's metrics {sorted(row)}; got {self.best_metric!r}. "
                "Choose one of these."
            )
        self._publish(step, row)
        return None if self.best_metric is None else row[self.best_metric]
