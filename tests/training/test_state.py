"""Tests of `fusionjax.training.state`."""

import jax
import jax.numpy as jnp
import optax
import pytest

from fusionjax.training import TrainState
from tests.training.small import assert_same, make_state


def test_fresh_state_starts_at_zero_with_an_average_of_its_own() -> None:
    state = make_state(optax.adam(0.1), ema_decay=0.9)
    assert int(state.step) == 0 and state.step.dtype == jnp.int32 and state.model_state == {}
    assert_same(state.ema_params, state.params)
    assert state.ema_params["out"]["bias"] is not state.params["out"]["bias"]
    assert make_state(optax.adam(0.1)).ema_params is None


def test_without_an_average_the_parameters_are_evaluated() -> None:
    state = make_state(optax.adam(0.1))
    assert state.eval_params is state.params


@pytest.mark.parametrize("key", [None, 3, jnp.zeros(2, jnp.uint32)])
def test_old_style_key_is_refused(key: object) -> None:
    with pytest.raises(TypeError, match=r"key must be a typed random key; got .* Make it with jax.random.key"):
        TrainState.create(params={}, optimizer=optax.adam(0.1), key=key)


def test_is_a_tree() -> None:
    state = make_state(optax.adam(0.1))
    assert_same(jax.jit(lambda state: state)(state), state)
