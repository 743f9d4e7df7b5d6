"""Tests of `fusionjax.parallel.stacked`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.parallel import make_mesh, shard_batch, stack_batch, stack_replicas, unstack_replicas


def test_devices_get_the_same_examples_as_under_shard_batch() -> None:
    mesh, batch = make_mesh(4), {"image": np.arange(24.0).reshape(12, 2)}
    stacked = stack_batch(batch, mesh)["image"]
    assert stacked.shape == (4, 3, 2)
    for one, other in zip(
        stacked.addressable_shards, shard_batch(batch, mesh)["image"].addressable_shards, strict=True
    ):
        assert one.device == other.device
        np.testing.assert_array_equal(one.data[0], other.data)


def test_stack_batch_checks_the_batch_size() -> None:
    with pytest.raises(ValueError, match=r"must be divisible by 8 .* got 12"):
        stack_batch({"text": np.zeros(12)}, make_mesh())


@pytest.mark.parametrize("devices", [1, 8])
def test_stacked_replicas_are_equal_and_share_no_memory(devices: int) -> None:
    tree = {"bias": jnp.arange(3.0), "key": jax.random.key(5), "step": jnp.int32(2)}
    stacked = stack_replicas(tree, make_mesh(devices))
    assert stacked["bias"].shape == (devices, 3)
    np.testing.assert_array_equal(stacked["bias"][devices - 1], [0, 1, 2])
    back = unstack_replicas(stacked)
    jax.tree.map(lambda leaf: leaf.delete(), stacked)
    for one in (tree, back):
        np.testing.assert_array_equal(one["bias"], [0, 1, 2])
        np.testing.assert_array_equal(jax.random.key_data(one["key"]), jax.random.key_data(jax.random.key(5)))
        assert one["step"].shape == () and int(one["step"]) == 2
