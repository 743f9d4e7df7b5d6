"""Masks drawn as matrices, 1 = keep."""

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import ops


def drawn(*rows):
    return np.array([[int(entry) for entry in row] for row in rows], bool)


def test_causal_mask():
    np.testing.assert_array_equal(ops.make_causal_mask(3), drawn("100", "110", "111"))


def test_causal_mask_with_offset_traced_or_not():
    expected = drawn("11000", "11100", "11110")
    np.testing.assert_array_equal(ops.make_causal_mask(3, 5, offset=1), expected)
    traced = jax.jit(lambda offset: ops.make_causal_mask(3, 5, offset=offset))(jnp.int32(1))
    np.testing.assert_array_equal(traced, expected)


def test_padding_mask():
    tokens = jnp.array([[1, 7, 2, 0, 0], [1, 0, 2, 5, 0]])
    np.testing.assert_array_equal(ops.make_padding_mask(tokens), drawn("11100", "10110"))
    np.testing.assert_array_equal(ops.make_padding_mask(tokens, padding_token=2), drawn("11011", "11011"))


def test_combined_masks_keep_what_all_keep():
    padding = ops.make_padding_mask(jnp.array([[1, 0, 2]]))
    np.testing.assert_array_equal(ops.combine_masks(ops.make_causal_mask(3), None, padding), drawn("100", "100", "101"))
    assert ops.combine_masks(None, None) is None
