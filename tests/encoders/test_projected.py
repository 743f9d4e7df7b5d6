"""A projection behind another encoder, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import encoders
from fusionjax.encoders import FeatureLayout, Features, Projected, StoredFeatures
from tests.contracts.parameters import draw_variables

RNG = np.random.default_rng(0)
MASK = np.array([[True] * 4 + [False] * 2, [True] * 6, [False] * 6])
LAYOUT = FeatureLayout(grid=(2, 3), features=5, pooled_features=7, has_mask=True)
FEATURES = Features(
    jnp.asarray(RNG.normal(size=(3, 6, 5)), jnp.float32),
    jnp.asarray(MASK),
    jnp.asarray(RNG.normal(size=(3, 7)), jnp.float32),
    (2, 3),
)
ROWS = LAYOUT.pack(FEATURES)


def project(params: dict, name: str, values: np.ndarray) -> np.ndarray:
    norm, dense = params[f"{name}_norm"], params[f"{name}_projection"]
    centred = values - values.mean(-1, keepdims=True)
    normal = centred / np.sqrt(values.var(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]
    return normal @ dense["kernel"] + dense["bias"]


def numbers(tree: dict) -> dict:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def test_projections_against_numpy() -> None:
    encoder = Projected(StoredFeatures(LAYOUT), features=11, use_positions=True)
    variables = draw_variables(encoder, ROWS)
    params, found = numbers(variables["params"]), encoder.apply(variables, ROWS)
    tokens, pooled = np.asarray(FEATURES.kept_tokens), np.asarray(FEATURES.kept_pooled)
    expected = np.where(MASK[..., None], project(params, "token", tokens) + params["positions"], 0)
    np.testing.assert_allclose(found.tokens, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.pooled, project(params, "pooled", pooled), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.mask, MASK)
    assert found.grid == (2, 3)


def test_pooled_anew_or_alone() -> None:
    encoder = Projected(StoredFeatures(LAYOUT), features=11, pooling="mean")
    variables = draw_variables(encoder, ROWS)
    found = encoder.apply(variables, ROWS)
    weights = MASK / np.maximum(MASK.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(found.pooled, np.einsum("bl,blf->bf", weights, found.tokens), rtol=1e-4, atol=1e-6)
    alone = Projected(StoredFeatures(LAYOUT), features=11, has_tokens=False)
    variables = draw_variables(alone, ROWS)
    assert sorted(variables["params"]) == ["pooled_norm", "pooled_projection"]
    found = alone.apply(variables, ROWS)
    np.testing.assert_array_equal(found.tokens[:, 0], found.pooled)
    assert found.grid == (1, 1) and found.present.tolist() == [True, True, False]


def test_as_it_is_without_norm_and_projection() -> None:
    encoder = Projected(StoredFeatures(LAYOUT), use_norm=False)
    assert encoder.init(jax.random.key(0), ROWS) == {}
    found = encoder.apply({}, ROWS)
    np.testing.assert_array_equal(found.tokens, FEATURES.kept_tokens)
    np.testing.assert_array_equal(found.pooled, FEATURES.kept_pooled)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_backbone_computes_as_in_evaluation(rate: float) -> None:
    """Its batch statistics are the stored ones and stay so; dropout acts on what it gives alone."""
    backbone = encoders.EfficientNetLite(
        (1, 2), (2, 2), (3, 3), (2, 1), (1, 6), stem_features=2, head_features=5, stochastic_depth_rate=0.9
    )
    images = RNG.uniform(size=(4, 17, 13, 3)).astype(np.float32)
    encoder = Projected(backbone, use_norm=False, dropout_rate=rate)
    variables = draw_variables(encoder, images)
    found, changed = encoder.apply(
        variables, images, deterministic=False, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"]
    )
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])
    inner = {kind: tree["backbone"] for kind, tree in variables.items()}
    plain = backbone.apply(inner, images)
    kept = np.asarray(found.tokens != 0)
    np.testing.assert_allclose(found.tokens, np.where(kept, plain.tokens / (1 - rate), 0), rtol=1e-5, atol=1e-6)
    share = kept.sum() / (plain.tokens != 0).sum()
    assert share == 1 if rate == 0 else 0.3 < share < 0.7
