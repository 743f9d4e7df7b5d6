"""Depthwise convolution against XLA's grouped convolution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fusionjax.ops import convolution_depthwise
from fusionjax.ops.convolution_depthwise import depthwise_conv2d

PLAIN = {"strides": (1, 1), "pads": ((1, 1), (2, 2)), "dilation": (1, 1)}


def random(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.bfloat16).astype(dtype)


def reference(images, kernel, strides, pads, dilation):
    return lax.conv_general_dilated(
        images,
        kernel,
        strides,
        pads,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=images.shape[3],
    )


def with_gradients(function, arrays):
    @jax.jit
    def differentiate(*arrays):
        values, pull_back = jax.vjp(function, *arrays)
        return values, pull_back(jnp.cos(jnp.arange(values.size)).reshape(values.shape).astype(values.dtype))

    return differentiate(*arrays)


def assert_close(actual, expected, tolerance=1e-5):
    def compare(one, other):
        assert one.shape == other.shape
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other) + 1e-12

    jax.tree.map(compare, actual, expected)


def assert_agreement(images, kernel, **options):
    function, plain = partial(depthwise_conv2d, **options), partial(reference, **options)
    assert_close(with_gradients(function, (images, kernel)), with_gradients(plain, (images, kernel)))


@pytest.mark.parametrize("features", [3, 6])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pads": ((0, 0), (0, 0))},
        {"pads": ((4, 3), (0, 6))},
        {"strides": (2, 3)},
        {"strides": (2, 2), "pads": ((0, 1), (1, 2))},
        {"dilation": (2, 1), "pads": ((2, 2), (2, 2))},
        {"strides": (3, 2), "dilation": (1, 2), "pads": ((3, 0), (0, 5))},
    ],
    ids=str,
)
def test_values_and_gradients(features, options):
    assert_agreement(random(2, 11, 13, 3), random(3, 5, 1, features, seed=1), **{**PLAIN, **options})


@pytest.mark.slow
@pytest.mark.parametrize("pads", [((1, 1), (2, 2)), ((0, 2), (3, 0)), ((0, 0), (4, 4)), ((2, 1), (0, 0))])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_borders_apart(pads, dilation, monkeypatch):
    monkeypatch.setattr(convolution_depthwise, "_BYTES_WORTH_NO_COPY", 0)
    assert_agreement(random(2, 11, 7, 3), random(3, 5, 1, 3, seed=1), strides=(1, 1), pads=pads, dilation=dilation)
    assert_agreement(
        random(2, 4, 4, 3), random(5, 5, 1, 3, seed=1), strides=(1, 1), pads=((2, 2), (2, 2)), dilation=(1, 1)
    )


@pytest.mark.parametrize("height", [1, 13, 14, 15, 31])
def test_any_height(height):
    assert_agreement(random(3, height, 5, 2), random(3, 3, 1, 2, seed=1), **{**PLAIN, "pads": ((1, 1), (1, 1))})


def test_one_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert_agreement(random(3, 17, 5, 2), random(3, 5, 1, 4, seed=1), **PLAIN)


@pytest.mark.parametrize("options", [{}, {"strides": (2, 3)}, {"dilation": (2, 1), "pads": ((2, 2), (0, 3))}], ids=str)
def test_one_image_on_one_device(options, monkeypatch):
    """Its kernel gradient is no loop; 17 rows are two sums and a row of zeros."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert_agreement(random(1, 17, 7, 2), random(3, 5, 1, 4, seed=1), **{**PLAIN, **options})
    gradient = jax.jit(jax.grad(lambda kernel: depthwise_conv2d(random(1, 17, 7, 2), kernel, **PLAIN).sum()))
    assert "while" not in str(jax.make_jaxpr(gradient)(random(3, 5, 1, 2)))


@settings(max_examples=5, deadline=None)
@given(
    st.tuples(*[st.integers(1, 9)] * 2, *[st.integers(1, 3)] * 4),
    st.tuples(*[st.integers(1, 3)] * 4),
    st.tuples(*[st.integers(0, 4)] * 4),
)
@pytest.mark.slow
def test_random_shapes(sizes, steps, pads):
    height, width, rows, columns, channels, copies = sizes
    strides, dilation = steps[:2], steps[2:]
    height, width = height + (rows - 1) * dilation[0], width + (columns - 1) * dilation[1]
    images, kernel = random(2, height, width, channels), random(rows, columns, 1, channels * copies, seed=1)
    assert_agreement(images, kernel, strides=strides, pads=(pads[:2], pads[2:]), dilation=dilation)


def test_numbers_that_are_none_stay_in_their_channel():
    images, kernel = random(2, 5, 7, 3), random(3, 3, 1, 3, seed=1).at[0, 0, 0, 0].set(jnp.nan)
    options = {**PLAIN, "pads": ((1, 1), (1, 1))}
    actual, expected = depthwise_conv2d(images, kernel, **options), reference(images, kernel, **options)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)  # which takes equal places of NaN only


def test_a_sum_does_not_repeat_the_products():
    arrays = random(2, 11, 13, 8), random(3, 5, 1, 8, seed=1)
    program = jax.jit(lambda *arrays: jnp.sum(jnp.square(depthwise_conv2d(*arrays, **PLAIN)))).lower(*arrays).compile()
    assert "conditional(" in program.as_text()


def test_bfloat16_sums_in_float32():
    arrays = random(2, 11, 13, 3), random(3, 5, 1, 3, seed=1)
    narrow = with_gradients(partial(depthwise_conv2d, **PLAIN), [array.astype(jnp.bfloat16) for array in arrays])
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(narrow, with_gradients(partial(reference, **PLAIN), arrays), 1e-2)


@pytest.mark.slow
def test_vmap_equals_single_calls():
    images, kernels = random(5, 2, 7, 5, 3), random(5, 3, 5, 1, 3, seed=1)
    function = lambda *arrays: with_gradients(partial(depthwise_conv2d, **PLAIN), arrays)  # noqa: E731
    mapped = jax.vmap(function)(images, kernels)
    assert_close(jax.tree.map(lambda leaf: leaf[3], mapped), function(images[3], kernels[3]))


@pytest.mark.slow
def test_second_derivatives():
    arrays = random(2, 7, 5, 3), random(3, 5, 1, 3, seed=1)
    directions = tuple(jnp.cos(array) for array in arrays)

    def products(convolve):
        gradient = jax.grad(lambda *arrays: jnp.sum(jnp.sin(convolve(*arrays, **PLAIN))), (0, 1))
        over_reverse = jax.grad(lambda *arrays: sum(map(jnp.vdot, gradient(*arrays), directions)), (0, 1))
        forward_over_reverse = jax.jit(lambda *arrays: jax.jvp(gradient, arrays, directions)[1])
        return forward_over_reverse(*arrays), jax.jit(over_reverse)(*arrays)

    assert_close(products(depthwise_conv2d), products(reference), 2e-5)


def test_a_sharded_batch_equals_one_device():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    arrays = random(16, 7, 5, 3), random(3, 5, 1, 3, seed=1)
    placed = jax.device_put(arrays[0], NamedSharding(mesh, PartitionSpec("data")))
    compiled = jax.jit(lambda *arrays: with_gradients(partial(depthwise_conv2d, **PLAIN), arrays))
    assert_close(compiled(placed, arrays[1]), with_gradients(partial(reference, **PLAIN), arrays))


def test_inside_shard_map_the_kernel_gradient_is_summed_over_the_devices():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split, same = PartitionSpec("data"), PartitionSpec()
    function = partial(depthwise_conv2d, **PLAIN)
    arrays = random(8, 7, 5, 3), random(3, 5, 1, 3, seed=1)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=(split, same), out_specs=split)
    assert_close(with_gradients(mapped, arrays), with_gradients(function, arrays))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(3, 5, 3, 3), (3, 5, 1, 4)])
def test_a_kernel_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"a multiple of 3 features for as many channels; got \(3, 5, "):
        depthwise_conv2d(random(2, 7, 5, 3), random(*shape), **PLAIN)
