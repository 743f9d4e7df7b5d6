"""Tests of `fusionjax.training.average` and the average in the train step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fusionjax.parallel import make_mesh
from fusionjax.training import make_train_step, start_average, update_average
from tests.training.small import loss_fn, make_batch, make_state


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_step_keeps_the_average_that_numpy_computes(decay: float) -> None:
    optimizer = optax.sgd(0.5)
    state = make_state(optimizer, decay)
    step = make_train_step(loss_fn, optimizer, mesh=make_mesh(1), ema_decay=decay)
    expected = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.params)
    current = step.prepare(state)
    for index in range(5):
        current, _ = step(current, make_batch(index))
        weight = min(decay, (1 + index) / (10 + index))
        params = step.unprepare(current).params
        expected = jax.tree.map(lambda old, new: weight * old + (1 - weight) * np.asarray(new), expected, params)  # noqa: B023
    plain = step.unprepare(current)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7), plain.ema_params, expected
    )
    np.testing.assert_array_equal(plain.eval_params["out"]["bias"], plain.ema_params["out"]["bias"])
    assert np.abs(plain.params["out"]["bias"] - plain.ema_params["out"]["bias"]).max() > 1e-3


def test_first_steps_count_more() -> None:
    average = update_average({"bias": jnp.zeros(1)}, {"bias": jnp.full(1, 10.0)}, decay=0.999, step=jnp.int32(0))
    assert float(average["bias"][0]) == pytest.approx(9.0)


def test_bfloat16_average_moves_by_less_than_its_last_bit() -> None:
    params = {"bias": jnp.full(1, 256.0, jnp.bfloat16)}
    average = start_average(params)
    assert average["bias"].dtype == jnp.float32
    moved = update_average(average, {"bias": jnp.full(1, 258.0, jnp.bfloat16)}, decay=0.999, step=jnp.int32(10**6))
    assert float(moved["bias"][0]) == pytest.approx(256.002, abs=1e-4)
