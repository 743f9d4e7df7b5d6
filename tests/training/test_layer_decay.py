"""Smaller steps nearer to the input."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from fusionjax import encoders
from fusionjax.training import find_layers, scale_by_layer

PARAMS = {
    "encoder": {"stem": {"kernel": jnp.ones(2)}, "block_0": {"kernel": jnp.ones(3)}, "block_1": {"bias": jnp.ones(5)}},
    "head": {"kernel": jnp.ones(7)},
}


def test_steps_shrink_towards_the_input() -> None:
    optimizer = optax.chain(optax.sgd(2.0), scale_by_layer(0.5, ["stem", r"block_0/", r"block_\d"]))
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(PARAMS), PARAMS)
    found = {name: float(layer.popitem()[1][0]) for name, layer in updates["encoder"].items()}
    assert found == {"stem": -2 * 0.125, "block_0": -2 * 0.25, "block_1": -2 * 0.5}
    assert updates["head"]["kernel"].tolist() == [-2.0] * 7


def test_bad_settings_are_refused() -> None:
    for decay in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"decay must be above 0 and at most 1; got {decay}. Try 0.75"):
            scale_by_layer(decay, ["stem"])
    with pytest.raises(ValueError, match=r"layers must name one layer or more; got none. Give them from the input"):
        scale_by_layer(0.5, [])
    scaled = scale_by_layer(0.5, ["stem", "blocks_7"])
    with pytest.raises(ValueError, match=r"every layer must name a parameter; blocks_7 names none. Look at the paths"):
        scaled.update(PARAMS, scaled.init(PARAMS), PARAMS)


IMAGES, TOKENS = jnp.zeros((1, 64, 64, 3)), jnp.ones((1, 5), int)
TEXT = {"features": 6, "num_layers": 2, "num_heads": 2, "norm_first": False}


@pytest.mark.parametrize(
    ("encoder", "inputs", "expected"),
    [
        (
            encoders.EfficientNetLite((1, 2), (3, 5), (3, 3), (2, 2), (1, 6)),
            IMAGES,
            ["stem", "stage_0_block_0", "stage_1_block_0", "stage_1_block_1", "head"],
        ),
        (encoders.AlexNet((2, 3, 2, 3, 5), (7,)), IMAGES, [*(f"conv_{place}" for place in range(5)), "dense"]),
        (
            encoders.ConvNeXt((1, 1), (3, 5)),
            IMAGES,
            [
                "downsample_0",
                "downsample_norm_0",
                "stage_0_block_0",
                "downsample_norm_1",
                "downsample_1",
                "stage_1_block_0",
                "norm",
            ],
        ),
        (
            encoders.VisionTransformer(6, 11, 2, image_size=(32, 32)),
            IMAGES,
            ["class_token|patches|positions", *(f"block_{layer}" for layer in range(11)), "norm"],
        ),
        (
            encoders.TextTransformer(11, num_segments=2, use_pooler=True, **TEXT),
            TOKENS,
            [
                "embedding_norm|position_embedding|segment_embedding|token_embedding",
                "block_0",
                "block_1",
                "pooler",
            ],
        ),
        (encoders.SimpleCNN((3, 5)), IMAGES, ["conv_0", "conv_1"]),
    ],
)
def test_layers_of_a_module_in_the_order_of_its_call(encoder: Any, inputs: Any, expected: list[str]) -> None:
    assert find_layers(encoder, inputs) == [f"(^|/)({names})(/|$)" for names in expected]
    params = jax.eval_shape(encoder.init, jax.random.key(0), inputs)["params"]
    assert sorted(name for names in expected for name in names.split("|")) == sorted(params)


def test_a_layer_is_found_by_its_whole_name_where_the_module_is() -> None:
    """Not block_1 for block_11, nor another module's block; also in the path that adapters have for a name."""
    layers = find_layers(encoders.VisionTransformer(6, 12, 2, image_size=(32, 32)), IMAGES, prefix="image/backbone/")
    updates = {
        "image": {"backbone": {f"block_{layer}": {"mlp_in": {"kernel": jnp.ones(1)}} for layer in range(12)}},
        "text": {"backbone": {"block_1": jnp.ones(1)}},
        "tuned": {"image/backbone/norm/scale": jnp.ones(1), "image/backbone/positions": jnp.ones(1)},
    }
    scaled, _ = scale_by_layer(0.5, layers).update(updates, optax.EmptyState())
    blocks = [float(scaled["image"]["backbone"][f"block_{layer}"]["mlp_in"]["kernel"][0]) for layer in range(12)]
    assert blocks == [0.5 ** (13 - layer) for layer in range(12)]
    assert float(scaled["text"]["backbone"]["block_1"][0]) == 1
    assert {name: float(leaf[0]) for name, leaf in scaled["tuned"].items()} == {
        "image/backbone/norm/scale": 0.5,
        "image/backbone/positions": 0.5**14,
    }
