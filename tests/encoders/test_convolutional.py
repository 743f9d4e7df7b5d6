"""What the published convolutional encoders have in common, and the pieces that they share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import VGG, AlexNet, ConvNeXt, EfficientNetLite, ResNet
from fusionjax.encoders.convolutional import adaptive_average_pool
from tests.contracts.parameters import draw_variables, fast_jit, run

IMAGES = np.random.default_rng(0).uniform(size=(3, 68, 73, 3)).astype(np.float32)
ENCODERS = {
    "AlexNet": AlexNet((2, 3, 2, 3, 5), (7, 11), pooled_grid=(2, 1)),
    "VGG": VGG(((2,), (3, 2), (5,)), (7, 11), pooled_grid=(3, 5)),
    "ConvNeXt": ConvNeXt((1, 1), (3, 5), scale_init=1.0),
    "EfficientNetLite": EfficientNetLite((1, 2), (2, 3), (3, 5), (1, 2), (1, 6), stem_features=2, head_features=5),
    "ResNet": ResNet((1, 1), (2, 3), 2, is_bottleneck=True),
}
NORMALIZED = ("EfficientNetLite", "ResNet")  # with batch statistics


@pytest.fixture(params=list(ENCODERS))
def encoder(request: pytest.FixtureRequest) -> nn.Module:
    return ENCODERS[request.param]


def test_uint8_images_mean_the_same_as_unit_images(encoder: nn.Module) -> None:
    images = np.round(IMAGES * 255).astype(np.uint8)
    variables = draw_variables(encoder, images)
    whole, unit = run(encoder, variables, images), run(encoder, variables, images / np.float32(255))
    np.testing.assert_allclose(whole.pooled, unit.pooled, rtol=1e-4, atol=1e-4)
    assert np.std(whole.pooled) > 1e-2


def test_images_are_normalised_channel_by_channel(encoder: nn.Module) -> None:
    variables = draw_variables(encoder, IMAGES)
    mean, std = np.float32(encoder.mean), np.float32(encoder.std)
    plain = encoder.clone(mean=(0.0,) * 3, std=(1.0,) * 3)
    np.testing.assert_allclose(
        run(encoder, variables, IMAGES).pooled,
        run(plain, variables, (IMAGES - mean) / std).pooled,
        rtol=1e-4,
        atol=1e-4,
    )


def test_masked_cells_are_zero_and_do_not_reach_the_pooled_vector(encoder: nn.Module) -> None:
    variables = draw_variables(encoder, IMAGES)
    plain = run(encoder, variables, IMAGES)
    mask = np.random.default_rng(1).uniform(size=plain.tokens.shape[:2]) < 0.5
    masked = run(encoder, variables, IMAGES, mask=mask)
    np.testing.assert_allclose(masked.tokens, np.where(mask[..., None], plain.tokens, 0), rtol=1e-5, atol=1e-5)
    assert np.abs(masked.pooled - plain.pooled).max() > 1e-3
    if masked.pooled.shape[1] == masked.tokens.shape[2] and type(encoder).__name__ in NORMALIZED:
        counts = np.maximum(mask.sum(1, keepdims=True), 1)
        np.testing.assert_allclose(masked.pooled, masked.tokens.sum(1) / counts, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"the image mask must have shape .* got \(3, 9\)\. Pad it"):
        run(encoder, variables, IMAGES, mask=np.ones((3, 9), bool))


def test_a_frozen_encoder_passes_no_gradient_and_keeps_its_statistics(encoder: nn.Module) -> None:
    variables = draw_variables(encoder, IMAGES)

    def total(encoder: nn.Module, variables, images):
        features, updated = encoder.apply(
            variables, images, deterministic=False, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
        )
        return jnp.sum(features.pooled) + jnp.sum(features.tokens), (features.pooled, updated)

    for is_frozen in (False, True):
        one = encoder.clone(is_frozen=is_frozen)
        gradients, (pooled, updated) = fast_jit(
            jax.grad(lambda *arguments, one=one: total(one, *arguments), argnums=(0, 1), has_aux=True)
        )(variables, IMAGES)
        largest = {name: np.abs(leaf).max() for name, leaf in enumerate(jax.tree.leaves(gradients[0]["params"]))}
        assert all(value == 0 for value in largest.values()) if is_frozen else sum(largest.values()) > 1
        changed = [
            not np.array_equal(*pair)
            for pair in zip(jax.tree.leaves(updated), jax.tree.leaves(variables.get("batch_stats", {})), strict=True)
        ]
        assert all(changed) != is_frozen or not changed
    # Frozen, it computes as in evaluation.
    np.testing.assert_allclose(pooled, run(encoder, variables, IMAGES).pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NORMALIZED)
def test_training_takes_the_statistics_of_the_batch(name: str) -> None:
    encoder = ENCODERS[name]
    variables = draw_variables(encoder, IMAGES)
    _, updated = run(
        encoder,
        variables,
        IMAGES,
        deterministic=False,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.path == ("stem", "conv"),
    )
    (convolved,) = updated["intermediates"]["stem"]["conv"]["__call__"]
    momentum = 0.9 if name == "ResNet" else 0.99
    before, after = variables["batch_stats"]["stem"]["norm"], updated["batch_stats"]["stem"]["norm"]
    for key, value in {"mean": np.mean(convolved, (0, 1, 2)), "var": np.var(convolved, (0, 1, 2))}.items():
        np.testing.assert_allclose(after[key], momentum * before[key] + (1 - momentum) * value, rtol=1e-4, atol=1e-4)


def test_channels_without_a_mean_are_refused(encoder: nn.Module) -> None:
    message = "a channel for each mean and deviation; got 1 channels, 3 means and 3 deviations. Give the encoder"
    with pytest.raises(ValueError, match=message):
        encoder.init(jax.random.key(0), IMAGES[..., :1])


@pytest.mark.parametrize("size", [(2, 3), (7, 6), (5, 11)])
def test_adaptive_pooling_against_its_definition(size: tuple[int, int]) -> None:
    grid = np.random.default_rng(2).normal(size=(2, 5, 7, 3)).astype(np.float32)
    expected = np.empty((2, *size, 3))
    for row in range(size[0]):
        for column in range(size[1]):
            rows = slice(row * 5 // size[0], -(-(row + 1) * 5 // size[0]))
            columns = slice(column * 7 // size[1], -(-(column + 1) * 7 // size[1]))
            expected[:, row, column] = grid[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(adaptive_average_pool(jnp.asarray(grid), size), expected, rtol=1e-5, atol=1e-6)
    half = adaptive_average_pool(jnp.asarray(grid, jnp.bfloat16), size)
    assert half.dtype == jnp.bfloat16 and np.abs(np.float32(half) - expected).max() < 0.02
