"""What the tables of CLIP, SigLIP and BLIP share."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusionjax.layers.activations import ActivationKind
from fusionjax.pretrained.counting import count_layers
from fusionjax.pretrained.rows import Row, Shapes, norm_rows
from fusionjax.pretrained.transformer_parts import (
    TOWER_NAMES,
    activation_from,
    activation_name,
    block_rows,
    count_heads,
    image_side,
    side_of,
    square_patches,
)

IMAGE, TEXT = "vision_model", "text_model"

# Of the perceptrons: of a tower, then of a block.
FIRST_KERNEL = "{}.encoder.layers.{{}}.mlp.fc1.weight"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerSizes:
    """The size of one of two towers.

    Attributes:
        features: of the tokens.
        num_layers: number of blocks.
        num_heads: of each block.
        mlp_features: hidden size of the perceptrons.
        norm_epsilon: of the normalisations.
        activation: of the perceptrons.
    """

    features: int
    num_layers: int
    num_heads: int
    mlp_features: int
    norm_epsilon: float
    activation: ActivationKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoTowerSizes:
    """The size of a model of images and texts.

    Attributes:
        image: the images' tower.
        text: the texts' tower.
        patch_size: height and width of a patch, in pixels.
        image_size: height and width of the images that the positions were learned with, in pixels.
        vocab_size: number of different tokens.
        max_length: number of places of a text.
        features: of the common space.
        end_id: of the token that ends a text; None for the highest of each text, or where none does.
    """

    image: TowerSizes
    text: TowerSizes
    patch_size: int
    image_size: int
    vocab_size: int
    max_length: int
    features: int
    end_id: int | None


def config_of(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The settings of a tower.

    Args:
        config: of the whole model.
        part: `"vision"` or `"text"`.

    Returns:
        Those settings; older files have two places for them, of which the second counts.

    Example:
        >>> config_of({"text_config": {"a": 1, "b": 2}, "text_config_dict": {"b": 3}}, "text")
        {'a': 1, 'b': 3}
    """
    return {**(config.get(f"{part}_config") or {}), **(config.get(f"{part}_config_dict") or {})}


def tower_sizes(
    shapes: Shapes, layers: str, config: Mapping[str, Any], *, act: str, epsilon: float, is_text: bool = False
) -> TowerSizes | None:
    """The size of a tower.

    Args:
        shapes: of the tensors by name.
        layers: name of the first kernel of the perceptrons, with `{}` where the number of the block stands.
        config: of the tower.
        act: name in transformers of its activation where the config has none.
        epsilon: of its normalisations, likewise.
        is_text: whether it reads texts.

    Returns:
        The size; None where it is no such tower.
    """
    num_layers = count_layers(shapes, layers)
    activation = activation_from(config.get("hidden_act", act))
    if not num_layers or activation is None:
        return None
    mlp_features, features = shapes[layers.format(0)]
    num_heads = count_heads(features, config, is_text=is_text)
    if num_heads is None:
        return None
    return TowerSizes(
        features=features,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_features=mlp_features,
        norm_epsilon=float(config.get("layer_norm_eps", epsilon)),
        activation=activation,
    )


def two_tower_sizes(
    shapes: Shapes,
    config: Mapping[str, Any],
    *,
    act: str,
    epsilon: float,
    class_tokens: int,
    features: int,
    end_id: int | None,
) -> TwoTowerSizes | None:
    """The sizes of both towers.

    Args:
        shapes: of the tensors by name.
        config: of the whole model.
        act: name in transformers of the activation where the config has none.
        epsilon: of the normalisations, likewise.
        class_tokens: how many positions belong to no patch.
        features: of the common space.
        end_id: of the token that ends a text.

    Returns:
        The sizes; None where it is no such model.
    """
    patch_size = square_patches(shapes.get(f"{IMAGE}.embeddings.patch_embedding.weight", ()))
    places = shapes.get(f"{IMAGE}.embeddings.position_embedding.weight", (0,))[0]
    side = side_of(places - class_tokens)
    words = shapes.get(f"{TEXT}.embeddings.token_embedding.weight", (0,))[0]
    length = shapes.get(f"{TEXT}.embeddings.position_embedding.weight", (0,))[0]
    towers = [
        tower_sizes(
            shapes, FIRST_KERNEL.format(name), config_of(config, part), act=act, epsilon=epsilon, is_text=name == TEXT
        )
        for name, part in ((IMAGE, "vision"), (TEXT, "text"))
    ]
    if not patch_size or not side or not words or not length or towers[0] is None or towers[1] is None:
        return None
    return TwoTowerSizes(
        image=towers[0],
        text=towers[1],
        patch_size=patch_size,
        image_size=image_side(side, patch_size, config_of(config, "vision")),
        vocab_size=words,
        max_length=length,
        features=features,
        end_id=end_id,
    )


def tower_rows(sizes: TwoTowerSizes) -> list[Row]:
    """The rows of what both models have under the same names: blocks, last normalisations and embeddings of the text.

    Args:
        sizes: of the model.

    Returns:
        The rows.
    """
    rows = [
        Row((f"params/text_encoder/{kind}_embedding/embedding",), f"{TEXT}.embeddings.{kind}_embedding.weight")
        for kind in ("token", "position")
    ]
    for ours, theirs, tower, norm in (
        ("image_encoder", IMAGE, sizes.image, "post_layernorm"),
        ("text_encoder", TEXT, sizes.text, "final_layer_norm"),
    ):
        for layer in range(tower.num_layers):
            rows += block_rows(f"{ours}/block_{layer}", f"{theirs}.encoder.layers.{layer}", TOWER_NAMES)
        rows += norm_rows(f"{ours}/norm", f"{theirs}.{norm}")
    return rows


def tower_config(sizes: TowerSizes, **others: Any) -> dict[str, Any]:
    """The settings of a tower as transformers reads them.

    Args:
        sizes: of the tower.
        others: settings of one of the two alone.

    Returns:
        The settings.
    """
    return {
        "hidden_size": sizes.features,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": sizes.mlp_features,
        "hidden_act": activation_name(sizes.activation),
        "layer_norm_eps": sizes.norm_epsilon,
        **others,
    }


def example_of(sizes: TwoTowerSizes) -> Sequence[Any]:
    """A batch of one small image and one word.

    Args:
        sizes: of the model.

    Returns:
        Arguments of the model's `init`.
    """
    image = np.zeros((1, sizes.patch_size, sizes.patch_size, 3), np.float32)
    return ({"image": image, "text": np.ones((1, 1), np.int32)},)
