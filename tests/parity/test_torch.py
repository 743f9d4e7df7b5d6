"""Values and gradients equal PyTorch's, for all weights and inputs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import layers, ops, pretrained
from tests.parity.reference import reference
from tests.parity.torch_models import LENGTHS, MODELS

MASK = jnp.arange(7) < jnp.array(LENGTHS)[:, None]


def part(arrays, prefix):
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def assert_close(actual, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), actual, expected)


def assert_equals_torch(name, forward, convert, convert_gradients=None):
    """Checks `forward(params, **inputs)` against PyTorch; `convert` makes our parameters of its weights."""
    arrays = reference(name, MODELS[name])
    params, inputs = convert(part(arrays, "weight/")), part(arrays, "input/")
    outputs, pull_back = jax.vjp(lambda params, inputs: forward(params, **inputs), params, inputs)
    assert_close(outputs, part(arrays, "output/"))
    cosines = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape), outputs)
    param_gradients, input_gradients = jax.jit(pull_back)(cosines)
    assert_close(input_gradients, part(arrays, "input_gradient/"))
    assert_close(param_gradients, (convert_gradients or convert)(part(arrays, "weight_gradient/")))


@pytest.mark.parametrize("cell", ["lstm", "gru", "elman"])
def test_recurrent_layers_both_directions_with_masks(cell):
    model = layers.RNN(5, cell=cell, num_layers=2, bidirectional=True)

    def forward(params, inputs, **states):
        pairs = list(states["hidden"])
        if cell == "lstm":
            pairs = [ops.LSTMState(*pair) for pair in zip(states["cell"], states["hidden"], strict=True)]
        output = model.apply({"params": params}, inputs, mask=MASK, initial_state=[pairs[:2], pairs[2:]])
        final = [state for layer in output.final_state for state in layer]
        if cell == "lstm":
            cells, hiddens = zip(*final, strict=True)
            return {"outputs": output.outputs, "hidden": jnp.stack(hiddens), "cell": jnp.stack(cells)}
        return {"outputs": output.outputs, "hidden": jnp.stack(final)}

    def convert_gradients(weights):
        # two biases that are added have the same gradient, which is that of the sum
        kept = {name: value for name, value in weights.items() if cell == "gru" or "bias_hh" not in name}
        return pretrained.rnn_from_torch(kept, cell)

    assert_equals_torch(cell, forward, partial(pretrained.rnn_from_torch, cell=cell), convert_gradients)


def test_multi_head_attention():
    model = layers.MultiHeadAttention(3)

    def forward(params, queries, keys_values):
        output = model.apply({"params": params}, queries, keys_values, mask=MASK, return_weights=True)
        return {"values": output.values, "weights": output.weights}

    def convert(weights):
        biases = np.split(weights["in_proj_bias"], 3)
        params = {
            name: {"kernel": weights[f"{name[0]}_proj_weight"].T, "bias": bias}
            for name, bias in zip(("query", "key", "value"), biases, strict=True)
        }
        return params | {"out": {"kernel": weights["out_proj.weight"].T, "bias": weights["out_proj.bias"]}}

    assert_equals_torch("multi_head_attention", forward, convert)


def test_additive_attention():
    model = layers.AdditiveAttention(5)

    def forward(params, query, memory):
        return model.apply({"params": params}, query, memory, MASK)._asdict()

    def convert(weights):
        return {
            "query": {"kernel": weights["query.weight"].T},
            "memory": {"kernel": weights["memory.weight"].T, "bias": weights["memory.bias"]},
            "energy": weights["energy.weight"][0],
        }

    assert_equals_torch("additive_attention", forward, convert)


@pytest.mark.parametrize("implementations", [("xla", "xla"), ("taps", "codes")])
def test_cnn(implementations):
    convolution, pooling = implementations

    def forward(params, images):
        for name, padding in (("0", "VALID"), ("3", "SAME")):
            layer = layers.Conv(params[name]["bias"].shape[0], padding=padding, implementation=convolution)
            images = jax.nn.relu(layer.apply({"params": params[name]}, images))
            images = ops.max_pool2d(images, implementation=pooling)
        return {"outputs": images}

    def convert(weights):
        return {
            name: {"kernel": weights[f"{name}.weight"].transpose(2, 3, 1, 0), "bias": weights[f"{name}.bias"]}
            for name in ("0", "3")
        }

    assert_equals_torch("cnn", forward, convert)
