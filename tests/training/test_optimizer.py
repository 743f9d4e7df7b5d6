"""Tests of `fusionjax.training.optimizer`, against numbers worked out by hand."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.training import OptimizerConfig, is_kernel, make_optimizer, make_schedule


def update(config: OptimizerConfig, gradients: Any, params: Any, steps: int = 1) -> Any:
    """The parameters after some steps with the same gradients."""
    optimizer, _ = make_optimizer(config, 1000)
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, [2.0] * 9),
        ({"schedule": "constant", "warmup_steps": 4}, [0, 0.5, 1, 1.5, 2, 2, 2, 2, 2]),
        ({"schedule": "linear"}, [2, 1.75, 1.5, 1.25, 1, 0.75, 0.5, 0.25, 0]),
        ({"schedule": "linear", "warmup_steps": 4, "end_fraction": 0.5}, [0, 0.5, 1, 1.5, 2, 1.75, 1.5, 1.25, 1]),
        ({"schedule": "linear", "decay_share": 0.5}, [2, 2, 2, 2, 2, 1.5, 1, 0.5, 0]),
        ({"schedule": "linear", "warmup_steps": 2, "decay_share": 1 / 3}, [0, 1, 2, 2, 2, 2, 2, 1, 0]),
        ({"schedule": "cosine", "warmup_steps": 4, "decay_share": 0.5}, [0, 0.5, 1, 1.5, 2, 2, 2, 1, 0]),
        # half of the cosine: 1, (1 + sqrt(1/2)) / 2, 1/2, (1 - sqrt(1/2)) / 2, 0
        ({"warmup_steps": 4}, [0, 0.5, 1, 1.5, 2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0]),
        ({"warmup_steps": 4, "end_fraction": 0.25}, [0, 0.5, 1, 1.5, 2, 1.780330, 1.25, 0.719670, 0.5]),
    ],
)
def test_schedules(settings: dict[str, Any], expected: list[float]) -> None:
    schedule = make_schedule(OptimizerConfig(learning_rate=2.0, **settings), 8)
    np.testing.assert_allclose([float(schedule(step)) for step in range(9)], expected, atol=1e-6)


def test_schedule_of_the_optimizer_is_the_one_returned() -> None:
    config = OptimizerConfig(name="sgd", b1=0.0, learning_rate=2.0, schedule="linear", warmup_steps=2)
    optimizer, schedule = make_optimizer(config, 4)
    params = jnp.zeros(1)
    state, steps = optimizer.init(params), []
    for _ in range(4):
        updates, state = optimizer.update(jnp.ones(1), state, params)
        steps.append(-float(updates[0]))
    assert steps == [0, 1, 2, 1] == [float(schedule(step)) for step in range(4)]


def test_adam_by_hand() -> None:
    """Two steps, gradient 3 then 3: both moments are exact after bias correction, so each step is rate * sign."""
    config = OptimizerConfig(name="adam", learning_rate=0.1, schedule="constant")
    assert float(update(config, jnp.full(1, 3.0), jnp.ones(1), 2)[0]) == pytest.approx(0.8, abs=1e-5)


def test_sgd_with_momentum_by_hand() -> None:
    """Velocity 1, 1.5, 1.75 at momentum 0.5; the sum is 4.25."""
    config = OptimizerConfig(name="sgd", b1=0.5, learning_rate=0.1, schedule="constant")
    assert float(update(config, jnp.ones(1), jnp.ones(1), 3)[0]) == pytest.approx(1 - 0.425)


def test_lion_takes_the_sign() -> None:
    config = OptimizerConfig(name="lion", learning_rate=0.1, schedule="constant")
    np.testing.assert_allclose(update(config, jnp.array([5.0, -0.01]), jnp.ones(2)), [0.9, 1.1], rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_only_kernels_decay(name: str) -> None:
    """With gradients of zero only the decay is left: 1 - rate * decay."""
    params = {
        "dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "lstm": {"input_kernel": jnp.ones((2, 3)), "recurrent_kernel": jnp.ones((2, 3))},
        "norm": {"scale": jnp.ones(3), "kernel": jnp.ones(3)},
        "embed": {"embedding": jnp.ones((5, 2))},
    }
    config = OptimizerConfig(name=name, learning_rate=0.5, weight_decay=0.1, schedule="constant")
    after = update(config, jax.tree.map(jnp.zeros_like, params), params)
    decayed = jax.tree.map(lambda leaf: bool(jnp.all(leaf == 0.95)), after)
    expected = {
        "dense": {"kernel": True, "bias": False},
        "lstm": {"input_kernel": True, "recurrent_kernel": True},
        "norm": {"scale": False, "kernel": False},
        "embed": {"embedding": False},
    }
    assert decayed == expected == is_kernel(params)
    assert all(float(leaf.min()) == 1.0 for leaf in (after["norm"]["scale"], after["embed"]["embedding"]))


@pytest.mark.parametrize(("clip_norm", "expected"), [(None, [-3, -4]), (10.0, [-3, -4]), (1.0, [-0.6, -0.8])])
def test_clipping_scales_to_the_global_norm(clip_norm: float | None, expected: list[float]) -> None:
    config = OptimizerConfig(name="sgd", b1=0.0, learning_rate=1.0, schedule="constant", clip_norm=clip_norm)
    after = update(config, {"a": jnp.full(1, 3.0), "b": jnp.full(1, 4.0)}, {"a": jnp.zeros(1), "b": jnp.zeros(1)})
    np.testing.assert_allclose([after["a"][0], after["b"][0]], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "rmsprop"}, r"name must be one of adamw, adam, lion, sgd; got 'rmsprop'. Choose one"),
        ({"schedule": "step"}, r"schedule must be one of constant, cosine, linear; got 'step'. Choose one"),
        ({"learning_rate": -1.0}, r"learning_rate must be between 0.0 and inf; got -1.0. Change learning_rate"),
        ({"learning_rate": float("nan")}, r"learning_rate must be between 0.0 and inf; got nan"),
        ({"warmup_steps": -1}, r"warmup_steps must be between 0 and inf; got -1"),
        ({"decay_share": 2.0}, r"decay_share must be between 0.0 and 1.0; got 2.0"),
        ({"end_fraction": 1.5}, r"end_fraction must be between 0.0 and 1.0; got 1.5"),
        ({"weight_decay": -0.1}, r"weight_decay must be between 0.0 and inf; got -0.1"),
        ({"b1": 1.1}, r"b1 must be between 0.0 and 1.0; got 1.1"),
        ({"b2": -1.0}, r"b2 must be between 0.0 and 1.0; got -1.0"),
        ({"clip_norm": 0.0}, r"clip_norm must be above 0; got 0.0. None leaves gradients"),
        ({"name": "adam", "weight_decay": 0.1}, r'"adam" has no weight decay; got weight_decay 0.1. Use name "adamw"'),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**settings)


def test_warm_up_must_be_shorter_than_the_run() -> None:
    with pytest.raises(ValueError, match=r"warmup_steps must be below the run's total_steps = 5; got 5. Shorten"):
        make_optimizer(OptimizerConfig(warmup_steps=5), 5)


def test_a_kernel_is_known_by_the_end_of_a_path_that_is_one_name() -> None:
    params = {"tuned": {"head/kernel": jnp.ones((2, 3)), "head/bias": jnp.ones(3)}, "kernel/x": jnp.ones((2, 3))}
    assert is_kernel(params) == {"tuned": {"head/kernel": True, "head/bias": False}, "kernel/x": False}
