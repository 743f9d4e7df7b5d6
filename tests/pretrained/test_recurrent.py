"""Parameters go to other libraries and back, and the other library computes the same."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import layers, pretrained

CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}


def make_rnn(cell, **options):
    """An RNN whose every parameter is random, biases too."""
    model = layers.RNN(5, cell=cell, **options)
    params = model.init(jax.random.key(0), jnp.ones((2, 3, 7)))["params"]
    generator = np.random.default_rng(2)
    return model, jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), params)


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_linen_computes_the_same_with_the_same_gradients(cell):
    model, params = make_rnn(cell)
    inputs = jnp.asarray(np.random.default_rng(3).normal(size=(2, 11, 7)), jnp.float32)
    linen = nn.RNN(CELLS[cell](5))
    theirs = {"params": {"cell": pretrained.rnn_to_linen(params, cell)["layer_0_forward"]}}
    weights = jnp.cos(jnp.arange(2 * 11 * 5, dtype=jnp.float32)).reshape(2, 11, 5)
    ours_of = jax.value_and_grad(lambda inputs: jnp.sum(weights * model.apply({"params": params}, inputs).outputs))
    theirs_of = jax.value_and_grad(lambda inputs: jnp.sum(weights * linen.apply(theirs, inputs)))
    for actual, expected in zip(ours_of(inputs), theirs_of(inputs), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_linen_and_back_changes_nothing_that_counts(cell):
    _, params = make_rnn(cell, num_layers=2, bidirectional=True)
    if cell == "gru":  # linen has one bias for each of the first two gates, so the second cannot come back
        for layer in params.values():
            layer["recurrent_bias"][:10] = 0
    assert_equal(pretrained.rnn_from_linen(pretrained.rnn_to_linen(params, cell), cell), params)


def test_both_linen_lstm_cells_have_the_same_names():
    inputs = jnp.ones((2, 7))
    names = [
        jax.tree.map(jnp.shape, cell(5).init(jax.random.key(0), (jnp.ones((2, 5)), jnp.ones((2, 5))), inputs))
        for cell in (nn.LSTMCell, nn.OptimizedLSTMCell)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize("cell", CELLS)
def test_torch_and_back_changes_nothing(cell):
    _, params = make_rnn(cell, num_layers=2, bidirectional=True)
    assert_equal(pretrained.rnn_from_torch(pretrained.rnn_to_torch(params, cell), cell), params)


def test_torch_without_biases_has_zero_biases():
    params = pretrained.rnn_from_torch({"weight_ih_l0": np.ones((20, 3)), "weight_hh_l0": np.ones((20, 5))})
    assert_equal(params["layer_0_forward"]["bias"], np.zeros(20))


def test_torch_loads_what_is_written():
    torch = pytest.importorskip("torch")
    _, params = make_rnn("gru", num_layers=2, bidirectional=True)
    module = torch.nn.GRU(7, 5, num_layers=2, bidirectional=True)
    weights = {name: torch.tensor(value) for name, value in pretrained.rnn_to_torch(params, "gru").items()}
    assert str(module.load_state_dict(weights)) == "<All keys matched successfully>"


LAYER = {"input_kernel": np.ones((3, 20)), "recurrent_kernel": np.ones((5, 20)), "bias": np.ones(20)}
WEIGHTS = {"weight_ih_l0": np.ones((20, 3)), "weight_hh_l0": np.ones((20, 5))}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: pretrained.rnn_from_torch(WEIGHTS, "LSTM"), "cell must be one of lstm, gru, elman; got 'LSTM'"),
        (lambda: pretrained.rnn_from_torch({}), "weights must be .*got none beside"),
        (lambda: pretrained.rnn_from_torch(WEIGHTS | {"weight_hr_l0": np.ones(2)}), "got weight_hr_l0 beside"),
        (lambda: pretrained.rnn_from_torch({"weight_ih_l0": np.ones((20, 3))}), "needs weight_hh_l0 beside it"),
        (lambda: pretrained.rnn_from_torch(WEIGHTS, "gru"), r"must have 3 \* 5 rows; got \(20, 3\)"),
        (lambda: pretrained.rnn_to_torch({"layer_0": LAYER}), "layers must be named .*got 'layer_0'"),
        (
            lambda: pretrained.rnn_to_linen({"layer_0_forward": LAYER}, "gru"),
            "must hold input_kernel, .*recurrent_bias",
        ),
        (lambda: pretrained.rnn_from_linen({"layer_0_forward": {"ii": {}}}), "without if, ig, io, hi, hf, hg, ho"),
    ],
)
def test_errors_say_what_is_wrong(call, match):
    with pytest.raises(ValueError, match=match):
        call()
