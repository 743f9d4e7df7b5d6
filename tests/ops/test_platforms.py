"""Choices for a platform other than JAX's own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import ops
from fusionjax.ops import convolution_pooled, implementations, lstm_cudnn, micro_batches
from fusionjax.ops.choices import record_selections

IMAGES, KERNEL, BIAS = jnp.ones((2, 9, 8, 3)), jnp.ones((3, 3, 3, 5)), jnp.ones(5)


def test_the_platform_is_the_named_one_inside_alone():
    assert implementations.target_platform() == "cpu"
    with ops.for_platform("tpu"):
        assert implementations.on_platform("tpu") and not implementations.on_platform("cpu", "gpu")
        with ops.for_platform("gpu", 3):
            assert implementations.on_platform("gpu") and implementations.count_devices() == 3
        assert implementations.target_platform() == "tpu"
        assert implementations.count_devices() == jax.device_count()
    assert implementations.on_platform("cpu")


def test_an_error_inside_ends_it_too():
    with pytest.raises(KeyError, match="inside"), ops.for_platform("tpu"):
        raise KeyError("inside")
    assert implementations.on_platform("cpu")


def test_what_was_traced_for_one_platform_is_not_used_for_another():
    """Neither by the function's own `jit` nor by one that it calls, nor for the gradient."""
    traced = []

    @jax.jit
    def inner(images):
        traced.append(implementations.target_platform())
        return ops.conv2d_relu_max_pool(images, KERNEL, BIAS)

    @jax.jit
    def outer(images):
        return jax.grad(lambda images: inner(images).sum())(images)

    with record_selections() as selections:
        on_cpu = outer(IMAGES)
        with ops.for_platform("tpu"):
            on_tpu = outer(IMAGES)
            outer(IMAGES)
        outer(IMAGES)
    assert traced == ["cpu", "tpu"]
    chosen = [one.implementation for one in selections if one.op == "conv2d_relu_max_pool"]
    assert chosen == ["direct", "stacked"]
    assert jnp.allclose(on_cpu, on_tpu, rtol=1e-5)


def test_lowering_follows_it():
    lowered = jax.jit(lambda images: ops.conv2d_relu_max_pool(images, KERNEL, BIAS))
    texts = []
    for platform in ("cpu", "tpu", "gpu", "cpu"):
        with ops.for_platform(platform):
            texts.append(lowered.lower(IMAGES).as_text())
    assert texts[0] == texts[3]
    assert len(set(texts)) == 3
    # Four times the five features; on a GPU of blocks of 2x2 pixels with four channels.
    assert "tensor<4x4x3x20xf32>" in texts[1] and "tensor<4x4x3x20xf32>" not in texts[0]
    assert "tensor<2x2x16x20xf32>" in texts[2] and "tensor<2x2x16x20xf32>" not in texts[0] + texts[1]


@pytest.mark.parametrize(
    ("platform", "batch", "channels", "chosen"),
    [
        ("tpu", 64, 3, "stacked"),
        ("tpu", 65, 3, "separate"),
        ("tpu", 2, 7, "separate"),
        ("gpu", 2, 32, "stacked"),
        ("gpu", 2, 33, "separate"),
        ("cpu", 2, 3, "direct"),
    ],
)
def test_the_pooled_convolution_is_chosen_by_it(platform, batch, channels, chosen):
    with ops.for_platform(platform, 2):
        assert convolution_pooled._choose(jnp.ones((batch, 9, 8, 3)), jnp.ones((3, 3, channels, 5))) == chosen


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "size"), [(3, (3, 3)), (2, (2, 5)), (37, (3, 3))])
@pytest.mark.parametrize("padding", ["VALID", ((2, 1), (0, 3))])
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_what_an_accelerator_does_otherwise_changes_neither_values_nor_gradients(platform, channels, size, padding):
    generator = np.random.default_rng(3)
    shapes = (2, 10, 7, channels), (*size, channels, 5), (5,)
    arguments = [jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in shapes]

    def run(*arguments, **options):
        pooled = partial(ops.conv2d_relu_max_pool, padding=padding, **options)
        values, pull_back = jax.vjp(pooled, *arguments)
        return values, *pull_back(jnp.cos(jnp.arange(values.size, dtype=jnp.float32)).reshape(values.shape))

    expected = run(*arguments, implementation="xla")
    with ops.for_platform(platform):
        actual = run(*arguments)
    for left, right in zip(actual, expected, strict=True):
        assert jnp.linalg.norm(left - right) < 1e-5 * jnp.linalg.norm(right)


def test_micro_batches_follow_it():
    with ops.for_platform("tpu", 2):
        assert micro_batches._size(12, 3) == 6
    with ops.for_platform("tpu", 1):
        assert micro_batches._size(12, 3) == 3


def test_cudnn_says_which_platform_it_is_not():
    with ops.for_platform("tpu"):
        found = lstm_cudnn.find_cudnn_obstacle((IMAGES,), None)
    assert found == "cuDNN needs an NVIDIA GPU; JAX's backend is 'tpu'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rocm",), "the platform must be one of cpu, gpu, tpu; got 'rocm'. Name one of these."),
        (("tpu", 0), "num_devices must be at least 1; got 0. Leave it out for those that JAX has here."),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message), ops.for_platform(*arguments):
        pass
