"""Tests of `fusionjax.training.loop`; resuming is in `test_resume.py`."""

import io
import os
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fusionjax.errors import InputError
from fusionjax.parallel import make_mesh
from fusionjax.training import (
    Checkpoints,
    FitResult,
    LossOutput,
    Progress,
    TrainState,
    TrainStep,
    fit,
    make_train_step,
)
from tests.training.small import Batches, assert_same, loss_fn, make_batch, make_state

OPTIMIZER = optax.adam(0.01)
STEP = make_train_step(loss_fn, OPTIMIZER, mesh=make_mesh(1))


def count_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> LossOutput:
    """loss = params, whose gradient is 1, so that sgd(1) gives params = -step; not finite where the batch says so."""
    return LossOutput(params * jnp.sum(batch["x"]), jnp.float32(batch["x"].size))


class Ones(Batches):
    """Batches of ones; from `bad_step` on, of something else."""

    bad_step, bad_value = 10**9, np.nan

    def __next__(self) -> dict[str, np.ndarray]:
        self.position += 1
        return {"x": np.full(2, 1.0 if self.position < self.bad_step else self.bad_value, np.float32)}


def count(batches: Any, **settings: Any) -> FitResult:
    """Runs the counting loss."""
    optimizer = optax.sgd(1.0)
    step = make_train_step(count_fn, optimizer, mesh=make_mesh(1))
    state = TrainState.create(params=jnp.float32(0), optimizer=optimizer, key=jax.random.key(0))
    return fit(state, step, batches, **settings)


def by_hand(step: TrainStep, steps: int) -> TrainState:
    current = step.prepare(make_state(OPTIMIZER))
    for index in range(steps):
        current, _ = step(current, make_batch(index))
    return step.unprepare(current)


def test_loop_is_the_step_repeated() -> None:
    start = make_state(OPTIMIZER)
    result = fit(start, STEP, Batches(), total_steps=5)
    assert_same(result.state, by_hand(STEP, 5))
    assert not result.interrupted
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(start))


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_evaluation_and_checkpoints_get_the_plain_state(tmp_path: Path, strategy: str) -> None:
    step, shapes = make_train_step(loss_fn, OPTIMIZER, strategy=strategy, mesh=make_mesh(8)), []

    def evaluate(state: TrainState) -> dict[str, float]:
        shapes.append(state.params["out"]["kernel"].shape)
        return {"validation/loss": float(state.step)}

    with Checkpoints(tmp_path) as checkpoints:
        result = fit(
            make_state(OPTIMIZER), step, Batches(), total_steps=3, evaluate=evaluate, evaluate_every=2,
            best_metric="validation/loss", checkpoints=checkpoints,
        )  # fmt: skip
        assert (checkpoints.steps, checkpoints.best_step) == ([2, 3], 2)
        restored, data_state, _ = checkpoints.restore(make_state(OPTIMIZER))
    assert shapes == [(7, 3), (7, 3)]
    assert_same(restored, result.state)
    assert data_state == {"position": 3}


def test_history_has_the_means_between_logs_and_every_evaluation() -> None:
    """params is -step before the step's update, so the losses are 0, -1, -2, ..."""
    result = count(
        Ones(), total_steps=5, log_every=2, schedule=lambda step: step / 10, evaluate_every=3,
        evaluate=lambda state: {"validation/params": float(state.params)},
    )  # fmt: skip
    train = {"train/grad_norm": 1.0}
    assert result.history == [
        {"step": 2, "train/loss": -0.5, "train/learning_rate": 0.1, **train},
        {"step": 3, "validation/params": -3.0},
        {"step": 4, "train/loss": -2.5, "train/learning_rate": 0.3, **train},
        {"step": 5, "train/loss": -4.0, "train/learning_rate": 0.4, **train},
        {"step": 5, "validation/params": -5.0},
    ]
    assert int(result.state.step) == 5


def test_writer_and_progress_get_every_row() -> None:
    written, stream = [], io.StringIO()

    class Writer:
        def write(self, step: int, metrics: dict[str, float]) -> None:
            written.append((step, sorted(metrics)))

    progress = Progress(4, stream=stream, plain_every_s=0.0)
    count(Ones(), total_steps=4, log_every=2, writer=Writer(), progress=progress, evaluate=lambda state: {"e": 1})
    names = ["train/grad_norm", "train/loss"]
    assert written == [(2, names), (4, names), (4, ["e"])]
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()] == ["step 2/4", "step 4/4"]


def test_checkpoints_at_their_interval_and_the_end(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep_latest=99) as checkpoints:
        count(Ones(), total_steps=11, checkpoints=checkpoints, checkpoint_every=4)
        assert checkpoints.steps == [4, 8, 11]
        assert checkpoints.best_step is None
        for step in checkpoints.steps:
            template = TrainState.create(params=jnp.float32(0), optimizer=optax.sgd(1.0), key=jax.random.key(0))
            state, data_state, _ = checkpoints.restore(template, step)
            assert (float(state.params), data_state) == (-step, {"position": step})


@pytest.mark.parametrize(("bad_value", "name"), [(np.nan, "loss must be finite; got nan"), (np.inf, "got -?(inf|nan)")])
def test_loss_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path: Path, bad_value: float, name: str) -> None:
    batches = Ones()
    batches.bad_step, batches.bad_value = 6, bad_value
    with Checkpoints(tmp_path, keep_latest=99) as checkpoints:
        message = (
            rf"{name} at step 6. Lower the learning rate \(0.5 there\) or set clip_norm.*; the last .* of step 4\.$"
        )
        with pytest.raises(InputError, match=message):
            count(
                batches, total_steps=20, checkpoints=checkpoints, checkpoint_every=4, log_every=10,
                schedule=lambda step: 0.1 * step,
            )  # fmt: skip
        assert checkpoints.steps == [4]
    batches = Ones()
    batches.bad_step = 1
    with pytest.raises(InputError, match=r"at step 1. .* and check the data; nothing was saved\.$"):
        count(batches, total_steps=3)


def test_ctrl_c_finishes_the_step_saves_and_returns(tmp_path: Path) -> None:
    class Pressed(Ones):
        def __next__(self) -> dict[str, np.ndarray]:
            if self.position == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__next__()

    before = signal.getsignal(signal.SIGINT)
    with Checkpoints(tmp_path / "middle") as checkpoints:
        result = count(Pressed(), total_steps=9, checkpoints=checkpoints)
        assert result.interrupted and float(result.state.params) == -3.0
        assert checkpoints.steps == [3]
    with Checkpoints(tmp_path / "end") as checkpoints:
        result = count(Pressed(), total_steps=3, checkpoints=checkpoints)
        assert result.interrupted and checkpoints.steps == [3]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_ends_the_workers_of_the_data_is_an_interrupt_too(tmp_path: Path) -> None:
    class Broken(Ones):
        is_pressed = True

        def __next__(self) -> dict[str, np.ndarray]:
            if self.position == 2:
                if self.is_pressed:
                    os.kill(os.getpid(), signal.SIGINT)
                raise BrokenPipeError("worker died")
            return super().__next__()

    with Checkpoints(tmp_path) as checkpoints:
        result = count(Broken(), total_steps=9, checkpoints=checkpoints)
        assert result.interrupted and checkpoints.steps == [2]
    batches = Broken()
    batches.is_pressed = False
    with pytest.raises(BrokenPipeError, match="worker died"):
        count(batches, total_steps=9)


def test_data_that_ends_too_early_is_said() -> None:
    with pytest.raises(ValueError, match=r"batches must last until step 5; they ended after step 3. Repeat the data"):
        fit(make_state(OPTIMIZER), STEP, Batches(end=3), total_steps=5)


@pytest.mark.parametrize("name", ["log_every", "checkpoint_every", "evaluate_every"])
def test_bad_intervals_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0. Leave it out for the default"):
        fit(make_state(OPTIMIZER), STEP, Batches(), total_steps=5, **{name: 0})


def test_unknown_best_metric_is_refused() -> None:
    with pytest.raises(ValueError, match=r"best_metric must be one of .* \['a'\]; got 'b'. Choose one of these"):
        count(Ones(), total_steps=1, evaluate=lambda state: {"a": 1.0}, best_metric="b")
