"""Stacks of recurrent layers and the single step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import layers
from tests.contracts.parameters import draw_variables, run

CELLS = ("lstm", "gru", "elman")


def random(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def assert_close(actual, expected):
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5), actual, expected)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_neither_outputs_nor_final_states(cell):
    model, inputs = layers.RNN(5, cell=cell, num_layers=2, bidirectional=True), random(2, 7, 3)
    variables = draw_variables(model, inputs)
    lengths = (4, 7)
    padded = run(model, variables, inputs, mask=jnp.arange(7) < jnp.array(lengths)[:, None])
    for row, length in enumerate(lengths):
        alone = run(model, variables, inputs[row : row + 1, :length])
        assert_close(padded.outputs[row : row + 1, :length], alone.outputs)
        assert_close(jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], padded.final_state), alone.final_state)
        assert not padded.outputs[row, length:].any()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.slow
def test_time_major_is_a_transposition(cell):
    inputs, mask = random(2, 7, 3), jnp.arange(7) < jnp.array([[4], [6]])
    batch_major = layers.RNN(5, cell=cell, bidirectional=True)
    variables = draw_variables(batch_major, inputs)
    expected = run(batch_major, variables, inputs, mask=mask)
    time_major = layers.RNN(5, cell=cell, bidirectional=True, time_major=True)
    actual = run(time_major, variables, inputs.swapaxes(0, 1), mask=mask)
    assert_close(actual.outputs.swapaxes(0, 1), expected.outputs)
    assert_close(actual.final_state, expected.final_state)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.slow
def test_final_states_continue_a_sequence(cell):
    model, inputs = layers.RNN(5, cell=cell, num_layers=2), random(2, 7, 3)
    variables = draw_variables(model, inputs)
    whole = run(model, variables, inputs)
    first = run(model, variables, inputs[:, :3])
    second = run(model, variables, inputs[:, 3:], initial_state=first.final_state)
    assert_close(second.outputs, whole.outputs[:, 3:])


@pytest.mark.parametrize("cell", CELLS)
def test_the_implementation_reaches_the_operation(cell):
    inputs = random(2, 11, 3)
    plain, chunked, unknown = (
        layers.RNN(5, cell=cell, bidirectional=True, implementation=name) for name in ("xla", "chunked", "fast")
    )
    variables = draw_variables(plain, inputs)
    assert_close(run(chunked, variables, inputs), run(plain, variables, inputs))
    assert "custom_vjp" in str(jax.make_jaxpr(chunked.apply)(variables, inputs))
    assert "custom_vjp" not in str(jax.make_jaxpr(plain.apply)(variables, inputs))
    with pytest.raises(ValueError, match=f"{cell} has the implementations 'xla', 'chunked'.*; got 'fast'"):
        run(unknown, variables, inputs)


def test_dropout_is_between_layers_only():
    inputs, keys = random(2, 7, 3), {"dropout": jax.random.key(1)}
    for num_layers, changes in ((1, False), (2, True)):
        model = layers.RNN(5, num_layers=num_layers, dropout_rate=0.5)
        variables = draw_variables(model, inputs)
        dropped = run(model, variables, inputs, deterministic=False, rngs=keys).outputs
        assert bool(jnp.any(dropped != run(model, variables, inputs).outputs)) == changes


def test_lstm_steps_give_the_scan():
    model, inputs = layers.LSTM(5), random(2, 7, 3)
    variables = draw_variables(model, inputs)
    state = model.initial_state(2)
    for index in range(7):
        state = run(model, variables, inputs[:, index], state, method="step")
    assert_close(state, run(model, variables, inputs).final_state)
    assert jax.tree.map(
        jnp.shape, jax.eval_shape(functools.partial(model.init, method="step"), jax.random.key(0), inputs[:, 0], state)
    ) == jax.tree.map(jnp.shape, variables)


def test_lstm_starts_with_orthogonal_gates_and_an_open_forget_gate():
    params = jax.jit(layers.LSTM(5, forget_bias=2.0).init)(jax.random.key(0), random(2, 7, 3))["params"]
    for gate in jnp.split(params["recurrent_kernel"], 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, jnp.eye(5), atol=1e-5)
    np.testing.assert_array_equal(params["bias"], [0.0] * 5 + [2.0] * 5 + [0.0] * 10)


def test_elman_output_by_hand():
    params = {
        "input_kernel": jnp.array([[2.0]]),
        "recurrent_kernel": jnp.array([[3.0]]),
        "bias": jnp.array([1.0]),
        "output": {"kernel": jnp.array([[10.0, -1.0]]), "bias": jnp.array([0.0, 7.0])},
    }
    model = layers.Elman(1, activation="relu", output_features=2)
    inputs = jnp.array([1.0, -2.0, 5.0]).reshape(1, 3, 1)
    output = run(model, {"params": params}, inputs, mask=jnp.array([[True, True, False]]))
    np.testing.assert_array_equal(output.outputs[0], [[30.0, 4.0], [60.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(output.final_state, [[6.0]])


@pytest.mark.parametrize(
    ("options", "initial_state", "match"),
    [
        ({"cell": "LSTM"}, None, "cell must be one of lstm, gru, elman; got 'LSTM'"),
        ({"bidirectional": True}, [[None]], r"1 layers of 2 states each; got layers of \[1\]"),
        ({"num_layers": 2}, [[None]], r"2 layers of 1 states each; got layers of \[1\]"),
    ],
)
def test_errors_say_what_is_wrong(options, initial_state, match):
    with pytest.raises(ValueError, match=match):
        draw_variables(layers.RNN(5, **options), random(2, 7, 3), initial_state=initial_state)
