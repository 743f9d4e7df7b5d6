"""The engine: steps counted, stages that have ended left alone, batches filled up."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import data, training
from fusionjax.errors import InputError
from fusionjax.recipes import engine
from fusionjax.recipes.config import TrainingConfig
from fusionjax.recipes.curves import read_curves
from fusionjax.recipes.run import Run


def transform(example: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": np.full((2,), example, np.float32)}


def loss_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> training.LossOutput:
    """Falls until `weight` is the mean of the examples."""
    loss = (batch["x"][:, 0] - params["weight"]) ** 2
    return training.LossOutput(loss.sum(), jnp.float32(loss.size), model_state=model_state)


@pytest.fixture
def job(tmp_path: Path) -> engine.Job:
    examples = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    return engine.Job(
        run=Run(tmp_path, "captioning", {}),
        training=TrainingConfig(epochs=2, batch_size=2, log_every=1, use_best=True),
        optimizer=training.OptimizerConfig(name="sgd", learning_rate=0.1, warmup_steps=50),
        strategy="jit",
        seed=0,
        variables={"params": {"weight": jnp.float32(0)}},
        loss_fn=loss_fn,
        loader=data.make_loader(examples, transform, batch_size=2, shuffle=True, seed=0),
        epoch_examples=len(examples),
        quiet=True,
    )


def test_steps_of_all_epochs(job: engine.Job) -> None:
    assert engine.total_steps(job) == 6
    assert engine.total_steps(dataclasses.replace(job, epochs=0.5)) == 2
    assert engine.total_steps(dataclasses.replace(job, batch_size=12)) == 1
    assert engine.total_steps(dataclasses.replace(job, epochs=0.01)) == 1


def test_two_stages_and_again(job: engine.Job) -> None:
    """The best parameters are used, and the second time neither stage runs nor forgets its curves."""
    seen: list[float] = []

    def validate(variables: dict[str, Any]) -> dict[str, float]:
        seen.append(float(variables["params"]["weight"]))
        return {"loss": -float(len(seen) == 1)}  # The first is the best.

    job = dataclasses.replace(job, validate=validate)
    outcome = engine.run_training(job)
    assert (outcome.step, outcome.interrupted, len(seen)) == (6, False, 2)
    assert float(outcome.variables["params"]["weight"]) == seen[0] != seen[1]
    second = dataclasses.replace(
        job, stage="reward", first_step=outcome.step, epochs=1, variables=outcome.variables, validate=None
    )
    both = engine.run_training(second).after(outcome)
    assert both.step == 9
    assert both.effort()["train/steps"] == 9.0
    rows = [row["step"] for row in both.history if "train/loss" in row or "reward/train/loss" in row]
    assert rows == list(range(1, 10))
    for stage, before in ((job, outcome), (second, both)):
        again = engine.run_training(stage)
        assert again.variables == before.variables
        assert again.history == both.history == read_curves(job.run)
    assert len(seen) == 2


def test_restored_variables_are_those_of_the_training(job: engine.Job) -> None:
    outcome = engine.run_training(job)
    shapes = jax.eval_shape(lambda: job.variables)
    assert engine.restore_variables(job.run, shapes, job.training, job.optimizer) == outcome.variables
    with pytest.raises(InputError, match=r"no checkpoints in .*reward: the folder does not exist"):
        engine.restore_variables(job.run, shapes, job.training, job.optimizer, "reward")


def test_says_that_devices_are_idle(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fusionjax"):
        assert engine.mesh_of(6).size == 6
    assert "batches of 6 do not divide over 8 devices; 6 are used" in caplog.text


def test_bad_settings_are_input_errors(job: engine.Job) -> None:
    with pytest.raises(InputError, match=r"strategy must be .*; got 'magic'"):
        engine.run_training(dataclasses.replace(job, strategy="magic"))


def test_last_batch_is_filled_up() -> None:
    batches = [batch["x"].tolist() for batch in engine.whole_batches([1.0, 2.0, 3.0, 4.0, 5.0], transform, 3)]
    assert batches == [[[1, 1], [2, 2], [3, 3]], [[4, 4], [5, 5], [0, 0]]]
    assert [batch["x"].shape for batch in engine.whole_batches([1.0, 2.0], transform, 9)] == [(2, 2)]


def test_empty_part() -> None:
    assert engine.not_empty([3], "test") == [3]
    with pytest.raises(InputError, match=r"the part 'test' of the data must not be empty; it has no example\. Choose"):
        engine.not_empty([], "test")


def test_model_that_cannot_be_built() -> None:
    engine.check_model(lambda: jnp.ones((2, 3)) @ jnp.ones((3, 2)))
    with pytest.raises(InputError, match=r"the model must be one that can be built; got: .* Change its settings"):
        engine.check_model(lambda: jnp.ones((2, 3)) @ jnp.ones((2, 3)))


def test_precision() -> None:
    assert engine.compute_dtype(TrainingConfig()) is None
    assert engine.compute_dtype(TrainingConfig(precision="bfloat16")) == jnp.bfloat16
