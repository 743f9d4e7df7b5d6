"""Recurrent kernels that keep their weights on chip: interpreted, and compiled as far as it goes without a GPU."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from fusionjax import ops
from fusionjax.ops.recurrent_block import Split, find_most_features, split_units
from fusionjax.ops.recurrent_cell import RecurrentWeights
from fusionjax.ops.recurrent_persistent import find_pallas_obstacle
from tests.ops.recurrences import GATES, assert_close, draw, every_cell, make_mask, run, values_and_gradients

has_interpreter = pytest.mark.skipif(
    jax.__version_info__ < (0, 11), reason="the kernels, and the interpreter of clusters, need jax 0.11"
)
# Whose padding makes the units of several blocks, and by how many
SEVERAL_BLOCKS = {"lstm": (37, 2), "gru": (67, 4), "elman": (131, 2)}


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


@pytest.fixture
def interpreted(on_gpu, request):
    """Runs kernels on the CPU, their blocks as threads; of elman, an access that no barrier orders fails."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    finds_races = "elman" in request.node.name
    with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=finds_races, inline_mgpu="ignore")):
        yield


@has_interpreter
@every_cell
@pytest.mark.usefixtures("interpreted")
def test_a_cluster_of_blocks_equals_the_scan(name):
    features, blocks = SEVERAL_BLOCKS[name]
    assert split_units(GATES[name], features, "float32").blocks == blocks
    arguments, cotangents = draw(name, 3, 2, 7, features)
    options = {"mask": make_mask("scattered", 3, 2), "reverse": True, "time_major": True}
    expected = values_and_gradients(name, arguments, cotangents, implementation="xla", **options)
    assert_close(values_and_gradients(name, arguments, cotangents, implementation="pallas", **options), expected)


@has_interpreter
@pytest.mark.usefixtures("interpreted")
def test_more_rows_than_a_block_takes_with_relu_and_no_initial_state_in_elman():
    (weights, inputs, _), cotangents = draw("elman", 67, 3, 7, 5)
    options = {"activation": "relu"}
    expected = values_and_gradients("elman", (weights, inputs, None), cotangents, implementation="xla", **options)
    actual = values_and_gradients("elman", (weights, inputs, None), cotangents, implementation="pallas", **options)
    assert_close(actual, expected)


@has_interpreter
@pytest.mark.usefixtures("interpreted")
def test_bfloat16_adds_up_in_float32():
    arguments, cotangents = draw("lstm", 3, 5, 7, 2)
    narrow, narrow_cotangents = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (arguments, cotangents))
    actual = values_and_gradients("lstm", narrow, narrow_cotangents, implementation="pallas")
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype(jnp.bfloat16)}
    wide, wide_cotangents = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (narrow, narrow_cotangents))
    assert_close(actual, values_and_gradients("lstm", wide, wide_cotangents, implementation="xla"), 2e-2)


@has_interpreter
@pytest.mark.usefixtures("interpreted")
def test_vmap_over_weights_and_masks():
    pairs = [draw("gru", 3, 2, 7, 5, seed) for seed in (0, 1)]
    masks = jnp.stack([make_mask("scattered", 3, 2), jnp.ones((3, 2), bool)])

    def differentiate(arguments, cotangents, mask):
        call = partial(run, "gru", mask=mask, implementation="pallas")
        values, pull_back = jax.vjp(lambda arguments: call(*arguments), arguments)
        return values, pull_back(cotangents)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    mapped = jax.jit(jax.vmap(differentiate))(*stacked, masks)
    for index, pair in enumerate(pairs):
        expected = values_and_gradients("gru", *pair, mask=masks[index], implementation="xla")
        assert_close(jax.tree.map(lambda leaf, index=index: leaf[index], mapped), expected)


@has_interpreter
@pytest.mark.usefixtures("interpreted")
def test_second_derivatives_equal_the_scans():
    arguments, cotangents = draw("gru", 3, 2, 7, 5)
    options = {"mask": make_mask("scattered", 3, 2)}

    def penalty(pair, implementation):
        gradients = values_and_gradients("gru", *pair, implementation=implementation, **options)[1]
        return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradients))

    actual, expected = (
        jax.jit(jax.grad(penalty), static_argnums=1)((arguments, cotangents), name) for name in ("pallas", "xla")
    )
    assert_close(actual, expected)


@has_interpreter
@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.usefixtures("on_gpu")
def test_one_kernel_each_way_and_no_loop_lowers_for_cuda(name):
    arguments, cotangents = jax.eval_shape(
        lambda: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), draw(name, 32, 100, 512, 512))
    )

    def differentiate(arguments, cotangents, mask):
        call = partial(run, name, mask=mask, implementation="pallas")
        return jax.vjp(lambda arguments: call(*arguments), arguments)[1](cotangents)

    mask = jax.ShapeDtypeStruct((32, 100), bool)
    traced = jax.jit(differentiate).trace(arguments, cotangents, mask)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@mosaic_gpu") == 2
    assert "stablehlo.while" not in text


@pytest.mark.parametrize(
    ("gates", "features", "dtype", "blocks", "padded"),
    [
        (4, 512, "bfloat16", 16, 512),
        (4, 500, "bfloat16", 16, 512),
        (4, 5, "bfloat16", 2, 64),
        (4, 5, "float32", 1, 32),
        (3, 640, "bfloat16", None, None),
        (1, 96, "float32", 1, 96),
        (1, 896, "bfloat16", 16, 896),
    ],
)
def test_units_are_split_over_the_fewest_blocks_that_hold_them(gates, features, dtype, blocks, padded):
    if blocks is not None:
        assert split_units(gates, features, dtype) == Split(blocks, padded)
        return
    message = rf"3 gates in bfloat16 must have few enough features .* 16 blocks; got {features}"
    with pytest.raises(ValueError, match=message):
        split_units(gates, features, dtype)


def test_the_most_features_are_the_last_that_can_be_split():
    for gates in (1, 3, 4):
        most = find_most_features(gates, "bfloat16")
        assert split_units(gates, most, "bfloat16").features == most
        with pytest.raises(ValueError, match="must have few enough features"):
            split_units(gates, most + 1, "bfloat16")


def find_obstacle(features=5, dtype=jnp.float32):
    shapes = ((7, 4 * features), (features, 4 * features), (4 * features,))
    return find_pallas_obstacle(jnp.ones((3, 2, 7), dtype), RecurrentWeights(*(jnp.ones(one, dtype) for one in shapes)))


def test_what_the_kernels_cannot_do(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 9))
    monkeypatch.setattr(jax, "__version__", "0.10.9")
    assert find_obstacle() == "its kernel needs jax 0.11 or newer; got 0.10.9"
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    assert find_obstacle() == "its kernel needs an NVIDIA GPU; JAX's backend is 'cpu'"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert find_obstacle() is None
    assert find_obstacle(dtype=jnp.bfloat16) is None
    assert find_obstacle(dtype=jnp.float16) == "its kernel takes float32 and bfloat16; got float16"
    assert find_obstacle(513, jnp.bfloat16) == (
        "its kernel keeps the weights of at most 512 features on chip in bfloat16; got 513"
    )
    device = type("Device", (), {"compute_capability": "10.0"})()
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert find_obstacle() == "its kernel needs a Hopper GPU, compute capability 9.0; got 10.0"


def test_inside_shard_map_the_check_of_varying_axes_must_be_off(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, same = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    (weights, inputs, _), _ = draw("lstm", 4, 2, 7, 5)

    def call(inputs, *weights):
        return ops.lstm(inputs, *weights, implementation="pallas").outputs

    mapped = jax.shard_map(call, mesh=mesh, in_specs=(split, same, same, same), out_specs=split)
    with pytest.raises(NotImplementedError, match=r"lstm with implementation='pallas' .* only with check_vma=False"):
        mapped(inputs, *weights)


def test_without_a_gpu_a_named_kernel_says_so(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    arguments, _ = draw("gru", 3, 2, 7, 5)
    with pytest.raises(NotImplementedError, match=r"gru with implementation='pallas' .* needs an NVIDIA GPU"):
        run("gru", *arguments, implementation="pallas")
