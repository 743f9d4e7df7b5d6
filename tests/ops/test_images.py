"""Convolution and pooling: what the contract's small sizes do not reach."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import ops
from fusionjax.ops import convolution_taps


@pytest.mark.parametrize("batch", [1, 7, 16, 37])
def test_kernel_gradient_over_several_micro_batches(batch, monkeypatch):
    monkeypatch.setattr(convolution_taps, "_ROWS_PER_STEP", 1)  # two examples for each of the eight devices
    generator = np.random.default_rng(batch)
    images = jnp.asarray(generator.normal(size=(batch, 5, 7, 3)), jnp.float32)
    kernel = jnp.asarray(generator.normal(size=(3, 2, 3, 11)), jnp.float32)

    def total(kernel, implementation):
        return jnp.sum(jnp.sin(ops.conv2d(images, kernel, implementation=implementation)))

    actual, expected = (jax.grad(total)(kernel, implementation) for implementation in ("taps", "xla"))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_bias_gradient_in_bfloat16_does_not_saturate():
    images, kernel = jnp.ones((16, 16, 16, 1), jnp.bfloat16), jnp.zeros((1, 1, 1, 3), jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda bias: ops.conv2d(images, kernel, bias).sum()))(jnp.zeros(3, jnp.bfloat16))
    np.testing.assert_array_equal(gradient.astype(jnp.float32), [4096.0] * 3)


@pytest.mark.parametrize("implementation", ["xla", "codes"])
def test_the_first_of_equal_maxima_gets_the_gradient(implementation):
    images = jnp.array([[1.0, 1.0, 5.0], [1.0, 0.0, 5.0], [9.0, 9.0, 9.0]]).reshape(1, 3, 3, 1)
    gradient = jax.grad(lambda images: ops.max_pool2d(images, implementation=implementation).sum())(images)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0, 0], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(("groups", "size", "is_shifted"), [(4, 3, True), (4, 17, False), (2, 3, False), (1, 3, False)])
def test_depthwise_convolution_is_shifted_by_choice(groups, size, is_shifted):
    arrays = jnp.ones((2, 5, 7, 4)), jnp.ones((size, size, 4 // groups, 8))
    program = str(jax.make_jaxpr(partial(ops.conv2d, groups=groups))(*arrays))
    assert ("conv_general_dilated" not in program) == is_shifted


@pytest.mark.parametrize("groups", [1, 3])
def test_an_empty_batch_has_gradients_of_zero(groups):
    images, kernel = jnp.ones((0, 5, 7, 3)), jnp.ones((3, 3, 3 // groups, 6))
    gradient = jax.jit(jax.grad(lambda kernel: ops.conv2d(images, kernel, strides=(2, 1), groups=groups).sum()))(kernel)
    np.testing.assert_array_equal(gradient, np.zeros(kernel.shape))


def test_convolution_does_not_flip_the_kernel():
    images = jnp.zeros((1, 3, 3, 1)).at[0, 0, 1, 0].set(1.0)
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    np.testing.assert_array_equal(ops.conv2d(images, kernel)[0, :, :, 0], [[5, 4, 3], [2, 1, 0], [0, 0, 0]])
