"""One-dimensional convolution: numbers by hand, and the implementations against a sum over the taps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, PartitionSpec

from fusionjax import ops
from tests.ops import test_contract as contract
from tests.ops.cases import Case

ones = jnp.ones


def convolve(inputs, kernel, bias, pads, strides=1, dilation=1, groups=1):
    inputs = jnp.pad(inputs, ((0, 0), pads, (0, 0)))
    length = (inputs.shape[1] - 1 - (kernel.shape[0] - 1) * dilation) // strides + 1
    sides = [jnp.split(inputs, groups, axis=2), jnp.split(kernel, groups, axis=2)]
    outputs = []
    for part, weights in zip(*sides, strict=True):
        taps = [part[:, tap * dilation :][:, ::strides][:, :length] @ weights[tap] for tap in range(len(weights))]
        outputs.append(sum(taps))
    return jnp.concatenate(outputs, axis=2) + bias


def case(implementation, shapes, padding, pads, **options):
    return Case(
        f"conv1d-{implementation}-{padding}-{options}",
        partial(ops.conv1d, padding=padding, implementation=implementation, **options),
        partial(convolve, pads=pads, **options),
        shapes,
        1,
    )


SHAPES = ((8, 13, 3), (5, 3, 2), (2,))
CASES = (
    case("xla", SHAPES, "SAME", (2, 2)),
    case("taps", SHAPES, "SAME", (2, 2)),
    case("taps", ((8, 13, 1), (7, 1, 3), (3,)), "VALID", (0, 0)),
    case("taps", SHAPES, "CAUSAL", (8, 0), dilation=2),
    case("taps", SHAPES, (1, 6), (1, 6), strides=3, dilation=2),
    case(None, SHAPES, "SAME", (2, 2), strides=2),
    case(None, ((8, 13, 6), (5, 2, 3), (3,)), "SAME", (2, 2), groups=3),
    case("shifted", ((8, 13, 3), (5, 1, 6), (6,)), (1, 7), (1, 7), strides=3, dilation=2, groups=3),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        contract.test_values_and_gradients_equal_the_reference,
        contract.test_eager_equals_jit,
        contract.test_vmap_equals_single_calls,
        contract.test_bfloat16_stays_bfloat16_and_close,
        contract.test_sharded_jit_equals_one_device,
    ],
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_contract(case, check):
    check(case)


def test_padding_by_hand():
    inputs, kernel = jnp.arange(1.0, 5.0).reshape(1, 4, 1), jnp.array([1.0, 10.0]).reshape(2, 1, 1)
    for padding, expected in (
        ("VALID", [21, 32, 43]),
        ("SAME", [21, 32, 43, 4]),
        ("CAUSAL", [10, 21, 32, 43]),
        ((2, 0), [0, 10, 21, 32, 43]),
    ):
        for implementation in ("xla", "taps"):
            outputs = ops.conv1d(inputs, kernel, padding=padding, implementation=implementation)
            np.testing.assert_array_equal(outputs.ravel(), expected)


@settings(max_examples=5, deadline=None)
@given(st.tuples(*[st.integers(1, 7)] * 4), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["SAME", "CAUSAL"]))
@pytest.mark.slow
def test_random_shapes(sizes, strides, dilation, padding):
    length, taps, channels, features = sizes
    generator = np.random.default_rng(0)
    inputs = jnp.asarray(generator.normal(size=(2, length, channels)), jnp.float32)
    kernel = jnp.asarray(generator.normal(size=(taps, channels, features)), jnp.float32)

    def outcome(implementation):
        options = {"strides": strides, "dilation": dilation, "padding": padding, "implementation": implementation}
        values, pull_back = jax.vjp(partial(ops.conv1d, **options), inputs, kernel)
        return values, *pull_back(jnp.cos(values))

    for one, other in zip(outcome("taps"), outcome("xla"), strict=True):
        assert one.shape == other.shape
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other) + 1e-12


@pytest.mark.slow
def test_second_derivatives():
    generator = np.random.default_rng(1)
    inputs = jnp.asarray(generator.normal(size=(2, 7, 3)), jnp.float32)
    kernel = jnp.asarray(generator.normal(size=(5, 3, 2)), jnp.float32)

    def products(implementation):
        total = lambda kernel: jnp.sum(jnp.sin(ops.conv1d(inputs, kernel, implementation=implementation)))  # noqa: E731
        over_reverse = jax.grad(lambda kernel: jnp.vdot(jax.grad(total)(kernel), jnp.cos(kernel)))(kernel)
        return jax.jvp(jax.grad(total), (kernel,), (jnp.cos(kernel),))[1], over_reverse

    for one, other in zip(products("taps"), products("xla"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_inside_shard_map_the_kernel_gradient_is_summed_over_the_devices():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split, same = PartitionSpec("data"), PartitionSpec()
    function = partial(ops.conv1d, implementation="taps")
    mapped = jax.shard_map(function, mesh=mesh, in_specs=(split, same), out_specs=split)
    generator = np.random.default_rng(2)
    arrays = [jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in ((8, 13, 3), (5, 3, 2))]
    gradients = jax.jit(contract.with_gradients(mapped))(*arrays), jax.jit(contract.with_gradients(function))(*arrays)
    contract.assert_close(*gradients)


@pytest.mark.usefixtures("no_table")
@pytest.mark.parametrize(("channels", "groups", "is_own"), [(1, 1, True), (2, 1, False), (2, 2, True), (4, 2, False)])
def test_the_choice_on_a_cpu(channels, groups, is_own):
    function = partial(ops.conv1d, groups=groups)
    program = str(jax.make_jaxpr(function)(ones((2, 7, channels)), ones((3, channels // groups, 4))))
    assert ("conv_general_dilated" not in program) == is_own


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((ones((7, 3)), ones((5, 3, 2))), {}, r"takes inputs \[batch.*got \(7, 3\) and \(5, 3, 2\)"),
        ((ones((2, 7, 4)), ones((5, 3, 2))), {}, r"4 channels .* got groups=1 and \(5, 3, 2\)"),
        ((ones((2, 7, 4)), ones((5, 2, 3))), {"groups": 2}, r"3 features.* got groups=2 and \(5, 2, 3\)"),
        ((ones((2, 7, 3)), ones((5, 3, 2)), ones(3)), {}, r"bias must have shape \[features\] = \(2,\); got \(3,\)"),
        ((ones((2, 7, 3)), ones((5, 3, 2))), {"strides": 0}, "at least 1; got 0 and 1"),
        ((ones((2, 7, 3)), ones((5, 3, 2))), {"padding": "FULL"}, "padding must be .*got 'FULL'"),
        ((ones((2, 7, 3)), ones((5, 3, 2))), {"padding": (1, 2, 3)}, r"padding must be .*got \(1, 2, 3\)"),
        ((ones((2, 7, 3)), ones((5, 3, 2))), {"padding": "VALID", "dilation": 2}, "kernel's reach, 9; got 7"),
        ((ones((2, 7, 3)), ones((5, 3, 2))), {"implementation": "fft"}, "'xla', 'taps', 'shifted'; got 'fft'"),
    ],
)
def test_value_errors(arguments, options, match):
    with pytest.raises(ValueError, match=match):
        ops.conv1d(*arguments, **options)


@pytest.mark.parametrize(
    ("implementation", "match"),
    [("taps", "it needs one group; got 2"), ("shifted", "it needs as many groups as channels; got 2 for 4")],
)
def test_a_named_implementation_is_never_replaced(implementation, match):
    with pytest.raises(NotImplementedError, match=f"'{implementation}' cannot serve this call: {match}"):
        ops.conv1d(ones((2, 7, 4)), ones((5, 2, 2)), groups=2, implementation=implementation)
