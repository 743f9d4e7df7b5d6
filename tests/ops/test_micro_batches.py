"""Micro-batches give what one call gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from fusionjax.ops.micro_batches import map_micro_batches, sum_micro_batches


@pytest.mark.parametrize("batch", [1, 8, 13, 48])
@pytest.mark.parametrize("examples", [0, 1, 3])
def test_mapped_and_summed_micro_batches(batch, examples):
    left = jnp.arange(batch * 5.0).reshape(batch, 5)
    right = jnp.cos(left)
    calls = []

    def product(left, right):
        calls.append(left.shape[0])
        return {"product": left * right, "first": left[:, 0]}

    actual = jax.jit(lambda *arrays: map_micro_batches(product, arrays, examples))(left, right)
    np.testing.assert_allclose(actual["product"], left * right)
    np.testing.assert_array_equal(actual["first"], left[:, 0])
    assert max(calls) <= max(8, 8 * examples)  # eight devices
    total = sum_micro_batches(lambda left, right: (left.T @ right, left.sum()), (left, right), examples)
    np.testing.assert_allclose(total[0], left.T @ right, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(total[1], left.sum())


def test_inside_shard_map_a_device_splits_its_own_part():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    sizes = []

    def total(part):
        def add(part):
            sizes.append(part.shape[0])
            return part.sum(0)

        return jax.lax.psum(sum_micro_batches(add, (part,), 3), "data")

    numbers = jnp.arange(24.0).reshape(12, 2)
    mapped = jax.jit(jax.shard_map(total, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec()))
    np.testing.assert_array_equal(mapped(numbers), numbers.sum(0))
    assert set(sizes) == {3}
