"""Convolution and pooling: what the contract's small sizes do not reach."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import ops, training
from fusionjax.ops import convolution_taps, implementations
from fusionjax.ops.choices import record_selections
from fusionjax.ops.micro_batches import map_micro_batches
from fusionjax.training.gradients import accumulate_gradients


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


# Overlaps, gaps, steps of one, rows and columns that fill no window, and one window only
POOLINGS = [
    ((3, 3), (2, 2)),
    ((5, 2), (3, 1)),
    ((2, 3), (1, 2)),
    ((2, 1), (3, 5)),
    ((1, 4), (2, 3)),
    ((5, 5), (1, 1)),
    ((3, 2), (17, 2)),
    ((2, 11), (7, 1)),
]
every_pooling = pytest.mark.parametrize(("window", "strides"), POOLINGS)


def pool_with_gradient(images, window, strides, implementation):
    """Gives the maxima, the images' gradient, and that of its own squares for the maxima's gradient."""
    pool = partial(ops.max_pool2d, window=window, strides=strides, implementation=implementation)

    @jax.jit
    def differentiate(images):
        maxima, pull_back = jax.vjp(pool, images)
        weights = jnp.cos(jnp.arange(maxima.size).reshape(maxima.shape)).astype(images.dtype)
        squares = jax.grad(lambda weights: jnp.square(pull_back(weights)[0].astype(jnp.float32)).sum())(weights)
        return maxima, pull_back(weights)[0], squares

    return differentiate(images)


@every_pooling
@pytest.mark.parametrize("has_ties", [False, True])
def test_codes_equal_the_reference_for_every_window(window, strides, has_ties):
    generator = np.random.default_rng(5)
    shape = (2, 13, 11, 3)
    values = generator.integers(0, 3, shape) if has_ties else generator.normal(size=shape)
    images = jnp.asarray(values, jnp.float32)
    actual, expected = (pool_with_gradient(images, window, strides, name) for name in ("codes", "xla"))
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@every_pooling
def test_codes_equal_pytorch_for_every_window(window, strides):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(7).integers(0, 5, (2, 13, 11, 3)).astype(np.float32)
    maxima, gradient, _ = pool_with_gradient(jnp.asarray(images), window, strides, "codes")
    theirs = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    outputs = torch.nn.functional.max_pool2d(theirs, window, strides)
    np.testing.assert_array_equal(maxima, outputs.detach().numpy().transpose(0, 2, 3, 1))
    weights = np.cos(np.arange(maxima.size).reshape(maxima.shape)).astype(np.float32)
    outputs.backward(torch.tensor(weights.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(gradient, theirs.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_overlapping_gradients_are_summed_in_float32():
    """In bfloat16, which has eight bits, 256 stays 256 when ones are added to it one by one."""
    images = jnp.zeros((1, 9, 9, 1), jnp.bfloat16).at[0, 4, 4, 0].set(1)
    pool = partial(ops.max_pool2d, window=(5, 5), strides=(1, 1), implementation="codes")
    _, pull_back = jax.vjp(pool, images)
    gradient = jnp.ones((1, 5, 5, 1), jnp.bfloat16).at[0, 4, 4, 0].set(256)  # the window of code 0, summed first
    (actual,) = pull_back(gradient)
    assert actual.dtype == jnp.bfloat16
    assert float(actual[0, 4, 4, 0]) == 280


@every_pooling
def test_vmap_of_codes(window, strides):
    images = jnp.asarray(np.random.default_rng(3).normal(size=(2, 3, 13, 11, 5)), jnp.float32)
    gradient = jax.grad(
        lambda images: jnp.sin(ops.max_pool2d(images, window, strides=strides, implementation="codes")).sum()
    )
    np.testing.assert_allclose(jax.vmap(gradient)(images), jnp.stack([gradient(each) for each in images]), rtol=1e-6)


@pytest.mark.parametrize(
    ("platform", "window", "strides", "expected"),
    [
        ("cpu", (2, 2), (2, 2), "codes"),
        ("cpu", (3, 3), (2, 2), "codes"),
        ("cpu", (9, 3), (2, 2), "xla"),
        ("gpu", (2, 2), (2, 2), "codes"),
        ("gpu", (3, 3), (2, 2), "xla"),
        ("gpu", (2, 2), (1, 1), "xla"),
        ("tpu", (2, 2), (2, 2), "xla"),
    ],
)
def test_the_choice_of_a_pooling_without_a_table(platform, window, strides, expected, monkeypatch):
    monkeypatch.setattr(implementations, "read_choices", dict)
    with ops.for_platform(platform), record_selections() as selections:
        jax.eval_shape(partial(ops.max_pool2d, window=window, strides=strides), jnp.ones((2, 13, 11, 3)))
    assert selections[0].implementation == expected


@pytest.mark.parametrize(
    ("groups", "size", "options", "expected"),
    [
        (4, 3, {}, "shifted"),
        (4, 17, {}, "split"),
        (2, 3, {"strides": (2, 2)}, "split"),
        (1, 3, {}, "taps"),
        (1, 3, {"strides": (2, 1)}, "xla"),
        (1, 3, {"dilation": (1, 2)}, "xla"),
        (1, 1, {"strides": (2, 2)}, "pointwise"),
        (2, 1, {}, "split"),
    ],
)
def test_the_choice_on_a_cpu_without_a_table(groups, size, options, expected, monkeypatch):
    monkeypatch.setattr(implementations, "read_choices", dict)
    arrays = jnp.ones((2, 5, 7, 4)), jnp.ones((size, size, 4 // groups, 8))
    with record_selections() as selections:
        jax.eval_shape(partial(ops.conv2d, groups=groups, **options), *arrays)
    assert selections[0].implementation == expected


def test_the_choice_for_few_tiles_on_a_cpu():
    """Thirty-two tiles of 4x4 pay the transformation of the kernel, one fewer do not."""
    for shape, kernel, expected in (
        ((2, 14, 16, 24), (3, 3, 24, 32), "winograd"),
        ((1, 28, 16, 24), (3, 3, 24, 32), "taps"),
        ((1, 28, 16, 23), (3, 3, 23, 32), "xla"),
    ):
        with record_selections() as selections:
            jax.eval_shape(ops.conv2d, jnp.ones(shape), jnp.ones(kernel))
        assert selections[0].implementation == expected, shape


@pytest.mark.parametrize("has_table", [True, False])
def test_in_a_loop_on_a_cpu_nothing_leaves_the_gradient_to_xla(has_table, monkeypatch):
    if not has_table:
        monkeypatch.setattr(implementations, "read_choices", dict)

    def chosen(function, *shapes):
        with record_selections() as selections:
            jax.eval_shape(lambda *arrays: function(*arrays), *map(jnp.zeros, shapes))
        return {one.op: one.implementation for one in selections}

    arrays = (4, 9, 7, 3), (5, 5, 3, 8)
    with ops.inside_loop():
        assert chosen(partial(ops.conv2d, strides=(2, 1)), *arrays) == {"conv2d": "taps"}
        assert chosen(partial(ops.conv1d, strides=2), (4, 9, 7), (5, 7, 8)) == {"conv1d": "taps"}
        assert chosen(ops.conv2d, (4, 9, 7, 3), (1, 1, 3, 8)) == {"conv2d": "pointwise"}
        assert chosen(partial(ops.conv2d, implementation="xla"), *arrays) == {"conv2d": "xla"}
        with ops.for_platform("gpu"):
            assert chosen(ops.conv2d, *arrays) == {"conv2d": "xla"}
    assert chosen(partial(ops.conv2d, strides=(2, 1)), *arrays) == {"conv2d": "xla"}


def test_micro_batches_and_accumulated_gradients_are_in_a_loop():
    images, kernel = jnp.ones((4, 9, 7, 3)), jnp.ones((5, 5, 3, 8))

    def loss(params, model_state, batch, key):
        return training.LossOutput(ops.conv2d(batch, params, strides=(2, 1)).sum(), jnp.float32(len(batch)), {})

    def encode(params, model_state, batch, key):
        return ops.conv2d(batch, params, strides=(2, 1)), model_state

    def compare(params, features, batch):
        return training.LossOutput(features.sum(), jnp.float32(len(batch)), {})

    compared = training.BatchLoss(encode, compare)
    for loss_fn, parts in ((loss, 2), (compared, 2), (loss, 1)):
        with record_selections() as selections:
            jax.eval_shape(
                partial(accumulate_gradients, loss_fn, accumulate=parts), kernel, {}, images, jax.random.key(0)
            )
        in_loop = {one.implementation for one in selections if one.op == "conv2d"}
        assert in_loop == {"taps" if parts > 1 else "xla"}
    several = jnp.ones((2 * jax.device_count(), 9, 7, 3))
    with record_selections() as selections:
        jax.eval_shape(lambda: map_micro_batches(partial(ops.conv2d, kernel=kernel, strides=(2, 1)), (several,), 1))
    assert {one.implementation for one in selections} == {"taps"}


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_more_padding_than_the_kernel_reaches(strides):
    """The gradient for the images is cropped, with strides between its spread pixels."""
    generator = np.random.default_rng(3)
    images, kernel = (jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in ((2, 5, 7, 3), (2, 3, 3, 5)))

    def outcome(implementation):
        options = {"strides": strides, "padding": ((4, 1), (0, 5)), "implementation": implementation}
        values, pull_back = jax.vjp(lambda *arrays: ops.conv2d(*arrays, **options), images, kernel)
        return values, *pull_back(jnp.cos(values))

    padded = jnp.pad(images, ((0, 0), (4, 1), (0, 5), (0, 0)))
    plain = partial(ops.conv2d, strides=strides, padding="VALID", implementation="xla")
    values, pull_back = jax.vjp(plain, padded, kernel)
    image_gradient, kernel_gradient = pull_back(jnp.cos(values))
    expected = values, image_gradient[:, 4:9, :7], kernel_gradient
    for one, other in zip(outcome("taps"), expected, strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other)


@pytest.mark.parametrize("groups", [1, 3])
def test_an_empty_batch_has_gradients_of_zero(groups):
    images, kernel = jnp.ones((0, 5, 7, 3)), jnp.ones((3, 3, 3 // groups, 6))
    gradient = jax.jit(jax.grad(lambda kernel: ops.conv2d(images, kernel, strides=(2, 1), groups=groups).sum()))(kernel)
    np.testing.assert_array_equal(gradient, np.zeros(kernel.shape))


def test_convolution_does_not_flip_the_kernel():
    images = jnp.zeros((1, 3, 3, 1)).at[0, 0, 1, 0].set(1.0)
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    np.testing.assert_array_equal(ops.conv2d(images, kernel)[0, :, :, 0], [[5, 4, 3], [2, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 2), (3, 0)), ((0, 0), (0, 0))])
@pytest.mark.parametrize(("strides", "dilation"), [((1, 1), (1, 1)), ((2, 3), (1, 1)), ((2, 1), (1, 2))])
def test_image_gradients_as_products_are_those_of_the_turned_kernel(
    strides: tuple[int, int], dilation: tuple[int, int], pads: tuple[tuple[int, int], ...], monkeypatch: Any
) -> None:
    """What wide kernels do on small images, and which the last rows that the strides leave out get no gradient of."""
    random = np.random.default_rng(0)
    images, kernel = (jnp.asarray(random.normal(size=shape), jnp.float32) for shape in ((2, 11, 13, 3), (3, 2, 3, 5)))

    def convolve(images: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            images, kernel, strides, pads, rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    values, pull_back = jax.vjp(convolve, images)
    gradient = jnp.asarray(random.normal(size=values.shape), jnp.float32)
    monkeypatch.setattr(convolution_taps, "_LEAST_KERNEL_FOR_PRODUCTS", 1)
    program = jax.jit(
        partial(convolution_taps.image_gradient, pads=pads, size=(11, 13), strides=strides, dilation=dilation)
    )
    assert "conv_general_dilated" not in str(jax.make_jaxpr(program)(gradient, kernel))
    np.testing.assert_allclose(program(gradient, kernel), pull_back(gradient)[0], rtol=1e-5, atol=1e-5)
