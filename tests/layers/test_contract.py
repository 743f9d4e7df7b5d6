"""Every layer keeps the same contract."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fusionjax import layers

MASK = jnp.arange(7) < jnp.array([5, 2, 7, 1, 3, 7, 4, 6])[:, None]


@dataclass(frozen=True)
class Row:
    """A layer, the shapes that it takes, and the shapes of its parameters, joined names first."""

    name: str
    make: Callable[..., nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    params: dict[str, tuple[int, ...]]
    options: dict = field(default_factory=dict)

    def arrays(self):
        return tuple(jnp.asarray(np.random.default_rng(7).normal(size=shape), jnp.float32) for shape in self.inputs)


def dense(name, inputs, outputs):
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}


def heads(name, memory):
    return (
        dense(f"{name}query", 6, 6)
        | dense(f"{name}key", memory, 6)
        | dense(f"{name}value", memory, 6)
        | dense(f"{name}out", 6, 6)
    )


def norms(*names):
    return {f"{name}_norm/{leaf}": (6,) for name in names for leaf in ("scale", "bias")}


LSTM_PARAMS = {"input_kernel": (3, 20), "recurrent_kernel": (5, 20), "bias": (20,)}
ROWS = (
    Row("conv", partial(layers.Conv, 5), ((8, 7, 11, 3),), {"kernel": (3, 3, 3, 5), "bias": (5,)}),
    Row(
        "conv-plain",
        partial(layers.Conv, 5, (2, 1), (2, 3), "VALID", False),
        ((8, 7, 11, 3),),
        {"kernel": (2, 1, 3, 5)},
    ),
    Row("film", layers.FiLM, ((8, 7, 11, 3), (8, 5)), dense("dense", 5, 6)),
    Row("dense", partial(layers.Dense, 5), ((8, 7, 3),), {"kernel": (3, 5), "bias": (5,)}),
    Row("lstm", partial(layers.LSTM, 5), ((8, 7, 3),), LSTM_PARAMS, {"mask": MASK}),
    Row(
        "gru",
        partial(layers.GRU, 5),
        ((8, 7, 3),),
        {"input_kernel": (3, 15), "recurrent_kernel": (5, 15), "bias": (15,), "recurrent_bias": (15,)},
        {"reverse": True},
    ),
    Row(
        "elman",
        partial(layers.Elman, 5, output_features=2),
        ((8, 7, 3),),
        {"input_kernel": (3, 5), "recurrent_kernel": (5, 5), "bias": (5,), **dense("output", 5, 2)},
        {"mask": MASK},
    ),
    Row(
        "rnn",
        partial(layers.RNN, 5, num_layers=2, bidirectional=True, dropout_rate=0.5),
        ((8, 7, 3),),
        {
            f"layer_{layer}_{direction}/{name}": (10, 20) if layer and name == "input_kernel" else shape
            for layer in (0, 1)
            for direction in ("forward", "backward")
            for name, shape in LSTM_PARAMS.items()
        },
        {"mask": MASK},
    ),
    Row(
        "rnn-projected",
        partial(layers.RNN, 5, cell="gru", bidirectional=True, is_projected=True),
        ((8, 7, 30),),
        {
            f"layer_0_{direction}/{name}": shape
            for direction in ("forward", "backward")
            for name, shape in {"recurrent_kernel": (5, 15), "recurrent_bias": (15,)}.items()
        },
        {"mask": MASK},
    ),
    Row("multi_head_attention", partial(layers.MultiHeadAttention, 2), ((8, 7, 6),), heads("", 6), {"mask": MASK}),
    Row(
        "additive_attention",
        partial(layers.AdditiveAttention, 5),
        ((8, 2, 3), (8, 7, 11)),
        {"query/kernel": (3, 5), **dense("memory", 11, 5), "energy": (5,)},
        {"mask": MASK},
    ),
    Row(
        "transformer_block",
        partial(layers.TransformerBlock, 2, is_causal=True, use_cross_attention=True),
        ((8, 5, 6), (8, 7, 11)),
        heads("self_attention/", 6)
        | heads("cross_attention/", 11)
        | norms("self_attention", "cross_attention", "mlp")
        | dense("mlp_in", 6, 24)
        | dense("mlp_out", 24, 6),
        {"memory_mask": MASK},
    ),
)

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def first(outputs):
    return outputs if isinstance(outputs, jax.Array) else outputs[0]


@cache
def _prepare(name, dtype):
    row = next(row for row in ROWS if row.name == name)
    model, arrays = row.make() if dtype is None else row.make(dtype=dtype), row.arrays()
    return model, jax.jit(partial(model.init, **row.options))(jax.random.key(0), *arrays), arrays


def prepare(row, dtype=None):
    """Makes the layer, its variables and its inputs, once for all tests."""
    return _prepare(row.name, dtype)


@cache
def _compile(name, dtype, with_gradients):
    row, (model, _, _) = next(row for row in ROWS if row.name == name), _prepare(name, dtype)

    def compute(variables, *arrays):
        return first(model.apply(variables, *arrays, **row.options))

    def differentiate(variables, *arrays):
        values, pull_back = jax.vjp(lambda variables: compute(variables, *arrays), variables)
        weights = jnp.cos(jnp.arange(values.size, dtype=values.dtype)).reshape(values.shape)
        return values, pull_back(weights)[0]

    return jax.jit(differentiate if with_gradients else compute)


def values_of(row, dtype=None):
    """A compiled function from variables and inputs to the first of the outputs."""
    return _compile(row.name, dtype, False)


def values_and_gradients(row):
    """A compiled function from variables and inputs to the values and the gradients for the parameters."""
    return _compile(row.name, None, True)


def assert_close(actual, expected, tolerance=2e-5):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), actual, expected)


@every_row
def test_parameters_have_these_names_and_shapes(row):
    _, variables, _ = prepare(row)
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    assert {"/".join(entry.key for entry in path): leaf.shape for path, leaf in leaves} == row.params


@pytest.mark.slow
@every_row
def test_values_depend_on_every_parameter(row):
    _, variables, arrays = prepare(row)
    _, gradients = values_and_gradients(row)(variables, *arrays)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all()
        # softmax does not see what is added to all products, so that the bias of the keys counts for nothing
        assert (np.abs(leaf).max() > 1e-5) == ("key" not in jax.tree_util.keystr(path) or "bias" not in str(path))


@every_row
def test_sharded_jit_equals_one_device_and_eager(row):
    model, variables, arrays = prepare(row)
    run = values_and_gradients(row)
    expected = run(variables, *arrays)
    assert_close(first(model.apply(variables, *arrays, **row.options)), expected[0])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    placed = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("data")))
    variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    for _ in range(2):
        assert_close(run(variables, *placed), expected, 5e-5)


@pytest.mark.slow
@every_row
def test_bfloat16_computes_narrow_and_stores_wide(row):
    _, variables, arrays = prepare(row, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    narrow = [array.astype(jnp.bfloat16) for array in arrays]
    values = values_of(row, jnp.bfloat16)(variables, *narrow)
    assert values.dtype == jnp.bfloat16
    precise = values_of(row)(variables, *arrays)
    assert float(jnp.abs(values.astype(jnp.float32) - precise).max()) < 0.05 * float(jnp.abs(precise).max())


@pytest.mark.slow
@every_row
def test_vmap_over_parameters(row):
    _, variables, arrays = prepare(row)
    pair = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), variables)
    mapped = jax.jit(jax.vmap(values_of(row), in_axes=(0, *(None for _ in arrays))))(pair, *arrays)
    for index in range(2):
        single = jax.tree.map(lambda leaf, index=index: leaf[index], pair)
        assert_close(mapped[index], values_of(row)(single, *arrays))


@pytest.mark.slow
@every_row
def test_nnx_bridge(row):
    model, variables, arrays = prepare(row)
    bridged = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0))
    random_state = nnx.to_pure_dict(nnx.state(bridged))
    # Only the shapes of the initialisation, since compiling it takes long.
    bridged = nnx.eval_shape(lambda bridged: bridged.lazy_init(*arrays, **row.options), bridged)
    shapes = {leaf.shape for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(bridged, nnx.Param)))}
    assert shapes == set(row.params.values())
    state = nnx.state(bridged)
    nnx.replace_by_pure_dict(state, {**random_state, **variables["params"]})
    nnx.update(bridged, state)
    assert_close(first(bridged(*arrays, **row.options)), values_of(row)(variables, *arrays))
