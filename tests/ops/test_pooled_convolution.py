"""Convolution, ReLU and pooling as one: what the contract's small sizes do not reach."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionjax import ops
from fusionjax.ops import convolution_pooled, convolution_winograd


def draw(seed, *shapes):
    # Normal numbers in float32: no two outputs of a window are equal but by padding, and then all are.
    generator = np.random.default_rng(seed)
    return tuple(jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in shapes)


def values_and_gradients(function, *arguments):
    @jax.jit
    def run(*arguments):
        values, pull_back = jax.vjp(function, *arguments)
        return values, *pull_back(jnp.cos(jnp.arange(values.size, dtype=jnp.float32)).reshape(values.shape))

    return run(*arguments)


def relative_error(actual, expected):
    return float(jnp.linalg.norm(actual - expected) / jnp.maximum(jnp.linalg.norm(expected), 1e-30))


pads = st.tuples(st.integers(0, 3), st.integers(0, 3))


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    implementation=st.sampled_from(["direct", "winograd", "separate", "stacked"]),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(5, 19), st.integers(5, 19)),
    kernel_size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    channels=st.integers(1, 3),
    features=st.integers(1, 7),
    padding=st.tuples(pads, pads),
)
def test_random_shapes_equal_the_reference(implementation, batch, size, kernel_size, channels, features, padding):
    kernel_size = (3, 3) if implementation == "winograd" else kernel_size
    arguments = draw(3, (batch, *size, channels), (*kernel_size, channels, features), (features,))
    actual, expected = (
        values_and_gradients(partial(ops.conv2d_relu_max_pool, padding=padding, implementation=name), *arguments)
        for name in (implementation, "xla")
    )
    for left, right in zip(actual, expected, strict=True):
        assert relative_error(left, right) < 1e-5


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(3, 19), st.integers(3, 19)), channels=st.integers(1, 17), padding=st.tuples(pads, pads)
)
def test_winograd_on_random_shapes_equals_the_reference(size, channels, padding):
    images, kernel = draw(4, (2, *size, channels), (3, 3, channels, 5))
    actual, expected = (
        values_and_gradients(partial(ops.conv2d, padding=padding, implementation=name), images, kernel)
        for name in ("winograd", "xla")
    )
    for left, right in zip(actual, expected, strict=True):
        assert relative_error(left, right) < 1e-5


@pytest.mark.parametrize("batch", [7, 19])
@pytest.mark.slow
def test_several_micro_batches_equal_one(batch, monkeypatch):
    images, first, second, third = draw(5, (batch, 23, 19, 3), (3, 3, 3, 5), (3, 3, 5, 7), (7,))

    def stages(images, first, second, third):
        return ops.conv2d_relu_max_pool_stages(images, (first, second), (first[0, 0, 0], third))

    def winograd(images, first, second, third):
        return ops.conv2d(images, first, third[:5], implementation="winograd")

    for function in (stages, winograd):
        whole = values_and_gradients(function, images, first, second, third)
        with monkeypatch.context() as patch:
            patch.setattr(convolution_pooled, "_OUTPUTS_PER_STEP", 1)
            patch.setattr(convolution_winograd, "_OUTPUTS_PER_STEP", 1)
            parts = values_and_gradients(function, images, first, second, third)
        for left, right in zip(parts, whole, strict=True):
            assert relative_error(left, right) < 1e-5


@pytest.mark.parametrize("implementation", ["direct", "winograd", "stacked"])
@pytest.mark.slow
def test_second_derivatives_equal_the_reference(implementation):
    images, kernel, bias = draw(7, (2, 9, 8, 2), (3, 3, 2, 3), (3,))

    def curvature(kernel, implementation):
        def slope(kernel):
            run = partial(ops.conv2d_relu_max_pool, implementation=implementation)
            return jax.grad(lambda kernel: jnp.sum(jnp.sin(run(images, kernel, bias))))(kernel)

        return jax.jit(jax.grad(lambda kernel: jnp.sum(slope(kernel) ** 2)))(kernel)

    assert relative_error(curvature(kernel, implementation), curvature(kernel, "xla")) < 1e-4


@pytest.mark.parametrize("implementation", ["direct", "separate", "stacked"])
def test_bfloat16_values_stay_close(implementation):
    images, kernel, bias = (array.astype(jnp.bfloat16) for array in draw(8, (2, 9, 8, 2), (3, 3, 2, 3), (3,)))
    run = partial(ops.conv2d_relu_max_pool, implementation=implementation)
    actual = run(images, kernel, bias)
    expected = run(*(array.astype(jnp.float32) for array in (images, kernel, bias)))
    assert actual.dtype == jnp.bfloat16
    assert relative_error(actual.astype(jnp.float32), expected) < 2e-2


def test_a_bias_that_is_not_a_number_spoils_its_feature_alone():
    images, kernel, bias = draw(9, (2, 9, 8, 3), (3, 3, 3, 5), (5,))
    outputs = ops.conv2d_relu_max_pool(images, kernel, bias.at[0].set(jnp.nan), implementation="direct")
    expected = ops.conv2d_relu_max_pool(images, kernel, bias, implementation="direct")
    assert bool(jnp.isnan(outputs[..., 0]).all())
    np.testing.assert_allclose(outputs[..., 1:], expected[..., 1:], rtol=1e-5, atol=1e-5)
