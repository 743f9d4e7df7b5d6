"""Features in rows of numbers, against NumPy: how they lie, what comes back, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import FeatureLayout, Features, StoredFeatures

RNG = np.random.default_rng(0)
TOKENS, POOLED = RNG.normal(size=(2, 6, 5)), RNG.normal(size=(2, 7))
MASK = np.array([[True] * 4 + [False] * 2, [False] * 6])
FEATURES = Features(jnp.asarray(TOKENS), jnp.asarray(MASK), jnp.asarray(POOLED), (2, 3))
# Nothing under a mask is kept; an example without a token has no pooled vector.
KEPT, PRESENT = np.where(MASK[..., None], TOKENS, 0), np.where(MASK.any(1)[:, None], POOLED, 0)


def test_rows_against_numpy() -> None:
    layout = FeatureLayout.of(FEATURES)
    assert layout == FeatureLayout(grid=(2, 3), features=5, pooled_features=7, has_mask=True)
    expected = np.concatenate([KEPT.reshape(2, 30), PRESENT, MASK], axis=1)
    assert layout.size == 43
    np.testing.assert_allclose(layout.pack(FEATURES), expected, rtol=1e-6)
    bare = FeatureLayout(grid=(2, 3), features=5, pooled_features=7)
    np.testing.assert_allclose(
        bare.pack(FEATURES.replace(mask=None)), np.concatenate([TOKENS.reshape(2, 30), POOLED], 1)
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
def test_what_is_packed_comes_back(dtype: jnp.dtype) -> None:
    layout = FeatureLayout.of(FEATURES)
    rows = np.asarray(layout.pack(FEATURES)).astype(dtype)
    found = StoredFeatures(layout).apply({}, rows)
    assert found.grid == (2, 3) and found.tokens.dtype == found.pooled.dtype == jnp.float32
    np.testing.assert_array_equal(found.tokens, KEPT.astype(dtype))
    np.testing.assert_array_equal(found.pooled, PRESENT.astype(dtype))
    np.testing.assert_array_equal(found.mask, MASK)
    assert StoredFeatures(layout, dtype=jnp.bfloat16).apply({}, rows).tokens.dtype == jnp.bfloat16
    more = np.tile([True, False], 3)[None].repeat(2, 0)
    found = StoredFeatures(layout).apply({}, rows, jnp.asarray(more))
    np.testing.assert_array_equal(found.mask, MASK & more)
    np.testing.assert_array_equal(found.tokens, np.where((MASK & more)[..., None], TOKENS, 0).astype(dtype))


def test_pooled_vectors_alone() -> None:
    layout = FeatureLayout.of(FEATURES, has_tokens=False)
    assert (layout.size, layout.has_mask) == (7, False)
    found = layout.unpack(layout.pack(FEATURES))
    np.testing.assert_allclose(found.pooled, PRESENT, rtol=1e-6)
    np.testing.assert_array_equal(found.tokens[:, 0], found.pooled)
    assert found.tokens.shape == (2, 1, 7) and found.grid == (1, 1) and found.mask is None


def test_shapes_are_enough_for_a_layout() -> None:
    shapes = jax.eval_shape(lambda: FEATURES)
    assert FeatureLayout.of(shapes) == FeatureLayout.of(FEATURES)


def test_what_is_refused() -> None:
    encoder = StoredFeatures(FeatureLayout.of(FEATURES))
    with pytest.raises(ValueError, match=r"stored features must have shape \[batch, 43\]; got \(2, 42\). Compute them"):
        encoder.apply({}, jnp.ones((2, 42)))
    with pytest.raises(TypeError, match=r"stored features must be floating point; got int32. Give what was stored"):
        encoder.apply({}, jnp.ones((2, 43), int))
    with pytest.raises(
        ValueError, match=r"the features mask must have shape \[batch, length\] = \(2, 6\); got \(2, 5\)"
    ):
        encoder.apply({}, jnp.ones((2, 43)), jnp.ones((2, 5), bool))
