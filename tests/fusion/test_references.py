"""Every fusion against its equations in NumPy."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import fusion
from fusionjax.encoders import Features
from tests.contracts.parameters import draw_variables, run
from tests.contracts.table import IMAGE, TEXT
from tests.fusion.references import REFERENCES, compute

MODULES = [
    fusion.AttentionMix(features=5, attention_features=3),
    fusion.BottleneckAttention(features=6, num_heads=3, num_layers=2, num_bottlenecks=2),
    fusion.CoAttention(features=6, num_heads=2, num_layers=2),
    fusion.CompactBilinear(features=17, seed=3),
    fusion.Concat(),
    fusion.CrossAttention(features=6, num_heads=2, num_layers=2, pooling="last"),
    fusion.DeepSets(features=5),
    fusion.FactorizedBilinear(features=5, factors=3),
    fusion.FiLMBlocks(features=5, num_layers=2),
    fusion.GatedMultimodalUnit(features=5),
    fusion.LowRankBilinear(features=5, rank=7),
    fusion.LowRankTensorFusion(features=5, rank=3),
    fusion.MergedAttention(features=6, num_heads=3, num_layers=2),
    fusion.Mutan(features=5, hidden_features=3, core_features=7, rank=2),
    fusion.PerceiverResampler(features=6, num_heads=2, num_layers=2, num_latents=5),
    fusion.QFormer(features=6, num_heads=3, num_layers=2, num_queries=5),
    fusion.RelationNetwork(relation_features=(5, 3, 7), features=(11, 2)),
    fusion.StackedAttention(features=5, attention_features=3, num_layers=2),
    fusion.Sum(features=5),
    fusion.TensorFusion(features=3),
    fusion.WordByWord(features=5, attention_features=3),
]


def hide(features: Features, *missing: int) -> Features:
    """Some examples miss the modality, and NaN stands wherever a mask says that nothing counts."""
    mask = features.mask.copy()
    mask[list(missing)] = False
    tokens = np.where(mask[..., None], features.tokens, np.nan)
    return Features(tokens, mask, np.where(mask.any(1)[:, None], features.pooled, np.nan), features.grid)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Of the eight examples number 3 misses the text, 5 the image, 6 both; the audio has no mask.
TWO = {"text": hide(TEXT, 3, 6), "image": hide(IMAGE, 5, 6)}
THREE = {**TWO, "audio": Features(draw(7, 8, 2, 19), None, draw(8, 8, 11), (2,))}


def assert_follows_reference(module: nn.Module, features: dict[str, Features], seed: int = 0) -> Features:
    """Compares with the reference, and returns what the fusion gave."""
    variables = draw_variables(module, features, seed=seed)
    fused = run(module, variables, features)
    params = jax.tree.map(np.float64, variables.get("params", {}))
    tokens, pooled = compute(module, params, features)
    # Beside zero the square root makes much of the transforms' rounding.
    tolerance = 1e-4 if isinstance(module, fusion.CompactBilinear) else 1e-5
    for found, expected in ((fused.tokens, tokens), (fused.pooled, pooled)):
        assert found.shape == expected.shape
        assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)
    assert np.prod(fused.grid) == tokens.shape[1]
    if tokens.shape[1] > 1:
        mask = np.ones(tokens.shape[:2], bool) if fused.mask is None else fused.mask
        np.testing.assert_array_equal(mask, tokens.any(-1))
    return fused


def name_of(value: object) -> str:
    return "-".join(value) if isinstance(value, dict) else type(value).__name__


def test_every_fusion_has_a_reference() -> None:
    assert REFERENCES.keys() == {getattr(fusion, name) for name in fusion.__all__} - {fusion.TokenProjection}
    assert [type(module) for module in MODULES] == list(REFERENCES)


@pytest.mark.parametrize("features", [TWO, pytest.param(THREE, marks=pytest.mark.slow)], ids=name_of)
@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_fusion_equals_its_reference(module: nn.Module, features: dict[str, Features]) -> None:
    """Also where a modality is missing: its content, here NaN, never counts."""
    assert_follows_reference(module, features)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        fusion.CrossAttention(query="image", features=6, num_heads=2, pooling="mean"),
        fusion.FiLMBlocks(modulated="text", features=5, pooling="mean"),
        fusion.QFormer(text="caption", features=6, num_heads=2, num_queries=3, num_layers=2),
        fusion.RelationNetwork(objects="text", relation_features=(5,), features=(7,)),
        fusion.StackedAttention(query="image", features=5, attention_features=3),
        fusion.WordByWord(query="image", features=5, attention_features=3),
        fusion.MergedAttention(features=6, num_heads=2, pooling="max"),
        # Norms hide the scale of what is spoken until the third layer.
        fusion.BottleneckAttention(features=4, num_heads=2, num_layers=3, num_bottlenecks=3, pooling="last"),
    ],
    ids=name_of,
)
def test_fusion_with_other_fields_equals_its_reference(module: nn.Module) -> None:
    assert_follows_reference(module, TWO)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        fusion.Concat(),
        fusion.CrossAttention(features=6, num_heads=2),
        fusion.DeepSets(features=5),
        fusion.MergedAttention(features=6, num_heads=2),
        fusion.PerceiverResampler(features=6, num_heads=2, num_latents=3),
    ],
    ids=name_of,
)
def test_fusion_of_one_modality_equals_its_reference(module: nn.Module) -> None:
    assert_follows_reference(module, {"text": TWO["text"]})


def test_sum_without_projection_equals_its_reference() -> None:
    same = {**TWO, "text": dataclasses.replace(TWO["text"], pooled=TWO["text"].pooled[:, :5])}
    assert not assert_follows_reference(fusion.Sum(features=None), same).pooled[6].any()
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.dtype == np.float32 else leaf, same)
    assert jax.eval_shape(fusion.Sum(features=None).apply, {}, narrow).pooled.dtype == jnp.bfloat16
