"""The nucleus against sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.decoding.nucleus import keep_nucleus


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.93])
def test_it_is_what_sorting_finds(seed, top_p):
    # small whole numbers sum exactly, so the boundary is exact too
    weights = np.random.default_rng(seed).permutation(np.arange(53)).astype(np.float32).reshape(1, 53)
    order = np.argsort(-weights[0])
    enough = np.cumsum(weights[0][order].astype(np.float64)) >= np.float32(top_p) * weights.sum()
    kept = order[: int(enough.argmax()) + 1]
    expected = np.zeros_like(weights)
    expected[0, kept] = weights[0, kept]
    np.testing.assert_array_equal(jax.jit(keep_nucleus)(jnp.asarray(weights), top_p), expected)


def test_it_is_scale_free_and_works_by_rows():
    weights = np.array([[1, 4, 2, 3], [8, 0, 1, 1]], np.float32)
    expected = np.array([[0, 4, 0, 3], [8, 0, 0, 0]], np.float32)
    for scale in (2.0**-100, 1.0, 2.0**100):
        np.testing.assert_array_equal(keep_nucleus(jnp.asarray(weights * scale), 0.7), expected * scale)


def test_equals_of_the_threshold_are_all_kept_and_a_share_of_one_keeps_all():
    weights = jnp.array([[1.0, 2.0, 2.0, 0.5]])
    np.testing.assert_array_equal(keep_nucleus(weights, 0.3), [[0, 2, 2, 0]])
    np.testing.assert_array_equal(keep_nucleus(weights, 1.0), weights)
