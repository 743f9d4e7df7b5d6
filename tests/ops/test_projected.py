"""Recurrences over inputs that are projected already equal those that project them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import ops
from fusionjax.ops.lstm_cudnn import find_cudnn_obstacle
from tests.contracts.parameters import fast_jit

GATES = {"lstm": 4, "gru": 3, "elman": 1}
MASK = jnp.arange(10) < jnp.array([[10], [3], [0]])


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def run(name, inputs, input_kernel, bias, rest, implementation):
    recurrent_kernel, *recurrent_bias = rest
    operation = partial(getattr(ops, name), mask=MASK, reverse=True, implementation=implementation)
    return operation(inputs, input_kernel, recurrent_kernel, bias, *recurrent_bias)


@pytest.mark.parametrize(("name", "implementation"), [("lstm", "chunked"), ("gru", "chunked"), ("elman", "xla")])
def test_values_and_gradients(name, implementation):
    width = GATES[name] * 5
    rest = (random(0, 5, width) / 2, *[random(1, width)] * (name == "gru"))
    arguments = random(2, 3, 10, 7), random(3, 7, width) / 2, random(4, width), rest

    def plain(inputs, kernel, bias, rest):
        return run(name, inputs, kernel, bias, rest, "xla")

    def projected(inputs, kernel, bias, rest):
        return run(name, inputs @ kernel + bias, None, None, rest, implementation)

    def with_bias(inputs, kernel, bias, rest):
        return run(name, inputs @ kernel, None, bias, rest, implementation)

    @partial(fast_jit, static_argnums=0)
    def differentiate(function, arguments):
        values, pull_back = jax.vjp(function, *arguments)
        return values, pull_back(jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)), values))

    expected = differentiate(plain, arguments)
    for function in (projected, with_bias) if name == "elman" else (projected,):
        found = differentiate(function, arguments)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5), found, expected)


@pytest.mark.parametrize(("name", "gates"), GATES.items())
def test_inputs_of_another_width(name, gates):
    rest = (jnp.ones((5, gates * 5)), *[jnp.ones(gates * 5)] * (name == "gru"))
    message = (
        rf"{name} without an input_kernel takes inputs that are projected to {gates} \* features = {gates * 5}; "
        r"got \(3, 10, 7\). Project them, or pass the input_kernel."
    )
    with pytest.raises(ValueError, match=message):
        run(name, jnp.ones((3, 10, 7)), None, None, rest, None)


def test_cudnn_projects_itself(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert find_cudnn_obstacle((jnp.ones(3), None), None) == "cuDNN needs an input_kernel and a bias"
