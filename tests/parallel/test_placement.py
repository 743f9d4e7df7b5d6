"""Tests of `fusionjax.parallel.placement`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.parallel import batch_size_of, check_divisible, make_mesh, replicate, shard_batch, unreplicate


def test_batch_size_is_the_shared_first_axis() -> None:
    assert batch_size_of({"image": np.zeros((7, 2)), "text": (np.zeros(7), np.zeros((7, 3, 5)))}) == 7


@pytest.mark.parametrize("batch", [{}, {"scale": np.float32(1)}, {"image": np.zeros((2, 3)), "text": np.zeros((3, 2))}])
def test_batch_without_a_shared_first_axis_is_refused(batch: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"must have the same first axis; got shapes .*Stack the examples"):
        batch_size_of(batch)


def test_each_device_holds_its_run_of_examples() -> None:
    mesh = make_mesh(4)
    batch = {"image": np.arange(24.0).reshape(12, 2), "text": np.arange(12)}
    sharded = shard_batch(batch, mesh)
    np.testing.assert_array_equal(sharded["image"], batch["image"])
    for index, shard in enumerate(sharded["text"].addressable_shards):
        assert shard.device == mesh.devices[index]
        np.testing.assert_array_equal(shard.data, [3 * index, 3 * index + 1, 3 * index + 2])


@pytest.mark.parametrize(
    ("devices", "accumulate", "said"),
    [(8, 1, r"8 device\(s\) = 8"), (4, 3, r"4 device\(s\) times 3 micro-batches = 12")],
)
def test_batch_that_does_not_divide_is_refused(devices: int, accumulate: int, said: str) -> None:
    with pytest.raises(ValueError, match=f"divisible by {said}; got 20. Change the batch size"):
        check_divisible(np.zeros((20, 2)), make_mesh(devices), accumulate)


def test_shard_batch_checks_the_batch_size() -> None:
    with pytest.raises(ValueError, match="must be divisible by 8"):
        shard_batch({"text": np.zeros(12)}, make_mesh())


@pytest.mark.parametrize("devices", [1, 8])
def test_replicas_are_equal_and_share_no_memory(devices: int) -> None:
    tree = {"bias": jnp.arange(3.0), "key": jax.random.key(5), "step": jnp.int32(2)}
    copies = replicate(tree, make_mesh(devices))
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(copies))
    assert len(copies["bias"].addressable_shards) == devices
    back = unreplicate(copies)
    jax.tree.map(lambda leaf: leaf.delete(), copies)
    for one in (tree, back):
        np.testing.assert_array_equal(one["bias"], [0, 1, 2])
        np.testing.assert_array_equal(jax.random.key_data(one["key"]), jax.random.key_data(jax.random.key(5)))
        assert int(one["step"]) == 2
    assert back["bias"].devices() == {jax.devices()[0]}
