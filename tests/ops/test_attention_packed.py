"""Attention with packed heads: the contract, every shape of mask, micro-batches, derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fusionjax import ops
from fusionjax.ops import attention_packed
from tests.ops import references
from tests.ops import test_contract as contract
from tests.ops.cases import Case

# [batch, queries, heads, head_dim], with other keys and another value_dim
QUERY, KEY, VALUE = (7, 5, 3, 11), (7, 13, 3, 11), (7, 13, 3, 2)


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def keep(*shape):
    return jnp.asarray(np.random.default_rng(3).random(shape) > 0.4)


@pytest.fixture
def two_examples_a_step(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(attention_packed, "_LOGITS_PER_STEP", 2 * 5 * 3 * 13)


def assert_close(actual, expected, tolerance=1e-5):
    def compare(one, other):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other) + 1e-12

    jax.tree.map(compare, actual, expected)


def attend(*arrays, implementation, **options):
    return ops.attention(*arrays, implementation=implementation, **options).values


def with_gradients(arrays, implementation, **options):
    @jax.jit
    def run(*arrays):
        values, pull_back = jax.vjp(partial(attend, implementation=implementation, **options), *arrays)
        return values, pull_back(jnp.cos(jnp.arange(values.size, dtype=values.dtype)).reshape(values.shape))

    return run(*arrays)


def assert_agreement(arrays, tolerance=1e-5, **options):
    assert_close(with_gradients(arrays, "packed", **options), with_gradients(arrays, "xla", **options), tolerance)


def _case(name, mask, is_causal):
    full = np.broadcast_to(True if mask is None else mask, (8, 3, 5, 7))
    full = full & np.tril(np.ones((5, 7), bool)) if is_causal else full
    return Case(
        name,
        partial(attend, implementation="packed", mask=mask, is_causal=is_causal),
        lambda query, key, value: references.attend(query, key, value, full)[0],
        ((8, 5, 3, 11), (8, 7, 3, 11), (8, 7, 3, 2)),
        3,
    )


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
@pytest.mark.parametrize("case", [_case("plain", None, False), _case("masked", keep(8, 3, 5, 7), True)])
def test_the_contract(case, check):
    check(case)


@pytest.mark.slow
@pytest.mark.usefixtures("two_examples_a_step")
@pytest.mark.parametrize(
    "shape", [(13,), (5, 13), (5, 1), (3, 5, 13), (3, 1, 1), (1, 1, 1, 13), (7, 1, 1, 13), (7, 1, 5, 1), (7, 3, 5, 13)]
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_every_mask_that_broadcasts(shape, is_causal):
    assert_agreement(
        (random(*QUERY), random(*KEY, seed=1), random(*VALUE, seed=2)), mask=keep(*shape), is_causal=is_causal
    )


@pytest.mark.usefixtures("two_examples_a_step")
@pytest.mark.parametrize("mask_batch", [(), (1, 1), (2, 1), (1, 3), (2, 3)])
def test_any_batch_axes(mask_batch):
    arrays = [random(2, 3, *shape[1:], seed=seed) for seed, shape in enumerate((QUERY, KEY, VALUE))]
    assert_agreement(arrays, mask=keep(*mask_batch, 1, 5, 13))
    no_batch = [array[0, 0] for array in arrays]
    assert_agreement(no_batch, mask=keep(5, 13))


@pytest.mark.usefixtures("two_examples_a_step")
@pytest.mark.slow
@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    st.tuples(*[st.integers(1, 7)] * 6),
    st.sampled_from([None, (1, 1, 1, 1), (1, 0, 0, 1), (0, 1, 1, 0)]),
    st.booleans(),
)
def test_random_shapes(sizes, mask_axes, is_causal):
    batch, queries, keys, heads, head_dim, value_dim = sizes
    arrays = (
        random(batch, queries, heads, head_dim),
        random(batch, keys, heads, head_dim, seed=1),
        random(batch, keys, heads, value_dim, seed=2),
    )
    full = (batch, heads, queries, keys)
    mask = (
        None if mask_axes is None else keep(*[size if axis else 1 for axis, size in zip(mask_axes, full, strict=True)])
    )
    assert_agreement(arrays, 5e-5, mask=mask, is_causal=is_causal)


@pytest.mark.usefixtures("two_examples_a_step")
@pytest.mark.slow
def test_bfloat16_is_as_exact_as_the_reference():
    arrays = [random(*shape, seed=seed).astype(jnp.bfloat16) for seed, shape in enumerate((QUERY, KEY, VALUE))]
    assert attend(*arrays, implementation="packed").dtype == jnp.bfloat16
    assert_agreement(arrays, 2e-2, mask=keep(7, 1, 5, 13))


def test_a_query_that_sees_nothing_reads_zeros_and_passes_no_gradient():
    arrays = random(1, 2, 1, 3), random(1, 5, 1, 3), random(1, 5, 1, 3)
    mask = jnp.array([True, False])[:, None] & jnp.ones((2, 5), bool)
    values, pull_back = jax.vjp(partial(attend, implementation="packed", mask=mask), *arrays)
    np.testing.assert_array_equal(values[:, 1], jnp.zeros((1, 1, 3)))
    assert np.isfinite(values).all() and np.abs(values[:, 0]).min() > 0
    for gradient in pull_back(jnp.zeros_like(values).at[:, 1].set(1.0)):
        np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


@pytest.mark.usefixtures("two_examples_a_step")
@pytest.mark.slow
def test_forward_mode_and_second_derivatives():
    arrays = random(*QUERY), random(*KEY, seed=1), random(*VALUE, seed=2)
    directions = tuple(jnp.cos(array) for array in arrays)

    def total(*arrays, implementation):
        return jnp.sum(jnp.sin(attend(*arrays, implementation=implementation, mask=keep(5, 13))))

    @partial(jax.jit, static_argnums=0)
    def derivatives(implementation):
        function = partial(total, implementation=implementation)
        gradient = jax.grad(function, (0, 1, 2))
        over_reverse = jax.grad(lambda *arrays: sum(map(jnp.vdot, gradient(*arrays), directions)), (0, 1, 2))
        return jax.jvp(function, arrays, directions), jax.jvp(gradient, arrays, directions), over_reverse(*arrays)

    assert_close(derivatives("packed"), derivatives("xla"), 5e-5)


def test_a_sharded_batch_stays_on_its_devices(monkeypatch):
    monkeypatch.setattr(attention_packed, "_LOGITS_PER_STEP", 1)
    sharding = NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data"))
    arrays = [jax.device_put(random(16, 5, 3, 11, seed=seed), sharding) for seed in range(3)]
    compiled = jax.jit(partial(with_gradients, implementation="packed")).lower(arrays).compile()
    assert "while" in compiled.as_text() and "all-gather" not in compiled.as_text()
    assert_close(compiled(arrays), with_gradients(arrays, "xla"))


@pytest.mark.usefixtures("no_table")
@pytest.mark.parametrize(("queries", "scans"), [(15, 0), (16, 1)])
def test_the_choice_on_a_cpu(queries, scans, monkeypatch):
    monkeypatch.setattr(attention_packed, "_LOGITS_PER_STEP", 1)
    array = random(16, queries, 1, 3)
    assert str(jax.make_jaxpr(partial(attend, implementation=None))(array, array, array)).count("scan[") == scans


def test_packed_returns_no_weights():
    array = random(1, 2, 1, 3)
    with pytest.raises(NotImplementedError, match="'packed' cannot serve this call: it returns no weights"):
        ops.attention(array, array, array, return_weights=True, implementation="packed")
    assert ops.attention(random(1, 17, 1, 3), array, array, return_weights=True).weights.shape == (1, 1, 17, 2)
