"""What runs on an NVIDIA GPU alone, against the plain implementations there: `JAX_PLATFORMS=cuda` chooses it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import ops
from fusionjax.ops.recurrent_block import find_most_features
from tests.ops.recurrences import GATES, assert_close, draw, every_cell, make_mask, values_and_gradients

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "gpu",
    reason="needs an NVIDIA GPU: JAX_PLATFORMS=cuda python -m pytest tests/ops/test_gpu.py",
)
# Products of float32 round to TF32, of bfloat16 to that.
TOLERANCES = {"float32": 3e-3, "bfloat16": 2e-2}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCES)


def reference(name, arguments, cotangents, **options):
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (arguments, cotangents))
    with jax.default_matmul_precision("highest"):
        return values_and_gradients(name, *wide, implementation="xla", **options)


@every_cell
@every_dtype
@pytest.mark.parametrize(
    ("batch", "length", "features", "mask", "reverse"),
    [(3, 7, 37, None, False), (67, 5, 131, "trailing", True), (29, 11, None, "scattered", False)],
)
def test_kernels_that_keep_weights_on_chip_equal_the_scan(name, dtype, batch, length, features, mask, reverse):
    features = features or find_most_features(GATES[name], dtype)
    drawn = draw(name, batch, length, 19, features)
    arguments, cotangents = jax.tree.map(lambda leaf: leaf.astype(dtype), drawn)
    options = {"mask": make_mask(mask, batch, length), "reverse": reverse}
    actual = values_and_gradients(name, arguments, cotangents, implementation="pallas", **options)
    assert_close(actual, reference(name, arguments, cotangents, **options), TOLERANCES[dtype])


@pytest.mark.parametrize("length", [1, 7])
def test_second_derivatives_of_the_default_equal_the_scans(length):
    arguments, cotangents = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), draw("lstm", 5, length, 7, 11))

    def penalty(arguments, cotangents, **options):
        gradients = values_and_gradients("lstm", arguments, cotangents, **options)[1]
        return sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(gradients))

    actual = jax.jit(jax.grad(penalty))(arguments, cotangents)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (arguments, cotangents))
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(jax.grad(lambda *pair: penalty(*pair, implementation="xla")))(*wide)
    assert_close(actual, expected, 2 * TOLERANCES["bfloat16"])


@pytest.mark.parametrize("reverse", [False, True])
def test_lstm_by_cudnn_equals_the_scan(reverse):
    arguments, cotangents = draw("lstm", 5, 11, 19, 37)
    actual = values_and_gradients("lstm", arguments, cotangents, implementation="cudnn", reverse=reverse)
    assert_close(actual, reference("lstm", arguments, cotangents, reverse=reverse), TOLERANCES["float32"])


@pytest.mark.parametrize("mask", [None, "keys", "full"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_by_cudnn_equals_the_plain_one(mask, is_causal):
    random = np.random.default_rng(7)
    query, key, value = (jnp.asarray(random.normal(size=(3, length, 4, 16)), jnp.bfloat16) for length in (22, 34, 34))
    shape = {"keys": (3, 1, 1, 34), "full": (3, 4, 22, 34)}.get(mask)
    mask = None if shape is None else jnp.asarray(random.random(shape) < 0.6)
    cotangent = jnp.asarray(random.normal(size=query.shape), jnp.bfloat16)

    def differentiate(implementation, *arrays):
        def attend(*arrays):
            return ops.attention(*arrays, mask=mask, is_causal=is_causal, implementation=implementation).values

        values, pull_back = jax.vjp(attend, *arrays)
        return values, pull_back(cotangent.astype(values.dtype))

    with jax.default_matmul_precision("highest"):
        expected = differentiate("xla", *(array.astype(jnp.float32) for array in (query, key, value)))
    assert_close(differentiate("cudnn", query, key, value), expected, TOLERANCES["bfloat16"])


@every_dtype
@pytest.mark.parametrize(("channels", "size"), [(3, (3, 3)), (2, (2, 5)), (16, (3, 3))])
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_pooled_convolutions_equal_those_of_full_precision(channels, size, padding, dtype):
    random = np.random.default_rng(5)
    shapes = (2, 23, 18, channels), (*size, channels, 13), (13,)
    arrays = [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]

    def differentiate(*arrays, **chosen):
        values, pull_back = jax.vjp(
            lambda *arrays: ops.conv2d_relu_max_pool(*arrays, padding=padding, **chosen), *arrays
        )
        return values, pull_back(jnp.cos(jnp.arange(values.size)).reshape(values.shape).astype(values.dtype))

    with jax.default_matmul_precision("highest"):
        expected = differentiate(*(array.astype(jnp.float32) for array in arrays), implementation="xla")
    # Rounding makes other maxima of near ties, each of which moves a gradient to another place.
    assert_close(differentiate(*arrays), expected, 10 * TOLERANCES[dtype])


@every_dtype
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((3, 3, 11, 13), {}),
        ((5, 3, 11, 13), {"strides": (2, 2)}),
        ((3, 3, 1, 11), {"groups": 11}),
        ((1, 1, 11, 17), {}),
    ],
)
def test_convolutions_equal_those_of_full_precision(kernel, options, dtype):
    random = np.random.default_rng(3)
    images, kernel = (jnp.asarray(random.normal(size=shape), dtype) for shape in ((2, 23, 19, 11), kernel))

    def differentiate(images, kernel, **chosen):
        values, pull_back = jax.vjp(lambda *arrays: ops.conv2d(*arrays, **options, **chosen), images, kernel)
        return values, pull_back(jnp.cos(jnp.arange(values.size)).reshape(values.shape).astype(values.dtype))

    with jax.default_matmul_precision("highest"):
        expected = differentiate(images.astype(jnp.float32), kernel.astype(jnp.float32), implementation="xla")
    assert_close(differentiate(images, kernel), expected, TOLERANCES[dtype])
