"""What a fusion cannot join, it refuses with what was expected, what came and what to do."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from fusionjax import fusion
from fusionjax.encoders import Features
from tests.contracts.table import IMAGE, TEXT
from tests.fusion.test_references import MODULES, THREE, name_of

ALONE = (fusion.Concat, fusion.CrossAttention, fusion.DeepSets, fusion.MergedAttention, fusion.PerceiverResampler)


def trace(module: nn.Module, **features: object) -> None:
    jax.eval_shape(module.init, jax.random.key(0), features)


def refuses(message: str) -> pytest.RaisesExc:
    return pytest.raises(ValueError, match=f"^{re.escape(message)}")


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_no_modality_and_batches_that_differ(module: nn.Module) -> None:
    with refuses("a fusion needs the features of at least one modality; got none. Pass {name: Features}."):
        trace(module)
    fewer = jax.tree.map(lambda leaf: leaf[:3], IMAGE)
    with refuses("all modalities must have the same batch size; got {'image': 3, 'text': 8}. Batch them together."):
        trace(module, image=fewer, text=TEXT)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_one_modality_alone(module: nn.Module) -> None:
    # By the name that the fusion needs, if any.
    name = getattr(module, "objects", getattr(module, "modulated", "text"))
    if isinstance(module, ALONE):
        trace(module, **{name: IMAGE})
        return
    with refuses(f"this fusion joins at least 2 modalities; got {name} alone. Add one."):
        trace(module, **{name: IMAGE})


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        (fusion.CrossAttention(query="question"), "question"),
        (fusion.FiLMBlocks(modulated="video"), "video"),
        (fusion.RelationNetwork(objects="video"), "video"),
        (fusion.StackedAttention(query="question"), "question"),
        (fusion.WordByWord(query="question"), "question"),
    ],
    ids=name_of,
)
def test_the_modality_that_looks_or_is_looked_at_is_missing(module: nn.Module, needed: str) -> None:
    with refuses(f"this fusion needs the modality '{needed}'; got image, text. Rename it or set the field."):
        trace(module, text=TEXT, image=IMAGE)


@pytest.mark.parametrize(
    "kind",
    [
        fusion.BottleneckAttention,
        fusion.CoAttention,
        fusion.CrossAttention,
        fusion.MergedAttention,
        fusion.PerceiverResampler,
        fusion.QFormer,
    ],
    ids=lambda kind: kind.__name__,
)
def test_heads_that_do_not_divide_the_features(kind: type[nn.Module]) -> None:
    with refuses("features must be divisible by num_heads = 4; got 6. Or give head_dim."):
        trace(kind(features=6, num_heads=4), text=TEXT, image=IMAGE)


def test_a_sum_of_vectors_of_different_sizes() -> None:
    with refuses(
        "vectors that are added must have one size; got {'image': 5, 'text': 13}. Set features to project them."
    ):
        trace(fusion.Sum(features=None), text=TEXT, image=IMAGE)


def test_a_product_that_is_too_large() -> None:
    trace(fusion.TensorFusion(features=1023), text=TEXT, image=IMAGE)
    with refuses(
        "the product of 3 modalities of 101 features must have at most 1048576 features; got 1061208. "
        "Lower features, or take LowRankTensorFusion."
    ):
        trace(fusion.TensorFusion(features=101), **THREE)


@pytest.mark.parametrize(
    "module", [MODULES[1], MODULES[5], fusion.MergedAttention(features=6, num_heads=2)], ids=name_of
)
def test_a_pooling_that_is_not_there(module: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"pooling must be one of flatten, .*; got 'sum'. Choose one."):
        trace(module.copy(pooling="sum"), text=TEXT, image=IMAGE)


def test_a_grid_of_another_size_than_at_the_initialisation() -> None:
    module = fusion.TokenProjection(5)
    one, other = (Features(jnp.ones((2, rows * 3, 7)), None, jnp.ones((2, 7)), (rows, 3)) for rows in (2, 5))
    variables = module.init(jax.random.key(0), one)
    message = re.escape("a grid must have as many tokens as at the initialisation, 6; got (5, 3), 15. Bring the images")
    with pytest.raises(ValueError, match=message):
        module.apply(variables, other)


@pytest.mark.parametrize(("relation", "features"), [((), (5,)), ((5,), ())])
def test_relation_networks_without_layers(relation: tuple[int, ...], features: tuple[int, ...]) -> None:
    modalities = {name: Features(jnp.ones((2, 3, 7)), None, jnp.ones((2, 7)), (3,)) for name in ("image", "text")}
    message = re.escape(f"must each be one size or more; got {relation} and {features}. Give the layers of g and of f.")
    with pytest.raises(ValueError, match=message):
        fusion.RelationNetwork(relation_features=relation, features=features).init(jax.random.key(0), modalities)
