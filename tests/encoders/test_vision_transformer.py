import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import VisionTransformer, vision_transformer
from fusionjax.encoders.positions import resize_positions
from tests.contracts.parameters import draw_variables, fast_jit, run

# Three rows and two columns of patches of 5 pixels.
IMAGES = np.random.default_rng(0).uniform(size=(2, 15, 10, 3)).astype(np.float32)
SIZES = {"features": 6, "num_layers": 1, "num_heads": 2, "patch_size": 5, "image_size": (15, 10), "mlp_features": 7}


def encoder_of(**fields) -> VisionTransformer:
    return VisionTransformer(**{**SIZES, **fields})


def normal(values, params, epsilon=1e-6):
    mean, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
    return (values - mean) / np.sqrt(variance + epsilon) * params["scale"] + params["bias"]


def test_patches_are_a_convolution_without_overlap() -> None:
    encoder = encoder_of(num_layers=0, use_class_token=False, pooling="mean", use_pre_norm=True)
    variables = draw_variables(encoder, IMAGES)
    params = jax.tree.map(np.asarray, variables["params"])
    kernel = params["patches"]["kernel"].reshape(5, 5, 3, 6)
    layout = ("NHWC", "HWIO", "NHWC")
    grid = jax.lax.conv_general_dilated((IMAGES - 0.5) / 0.5, kernel, (5, 5), "VALID", dimension_numbers=layout)
    tokens = np.asarray(grid).reshape(2, 6, 6) + params["patches"]["bias"] + params["positions"]
    expected = normal(normal(tokens, params["pre_norm"]), params["norm"])
    features = run(encoder, variables, IMAGES)
    assert features.grid == (3, 2)
    np.testing.assert_allclose(features.tokens, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features.pooled, expected.mean(1), rtol=1e-4, atol=1e-4)


def test_the_class_token_is_read_and_pooled_but_no_token() -> None:
    encoder = encoder_of()
    variables = draw_variables(encoder, IMAGES)
    features = run(encoder, variables, IMAGES)
    assert features.tokens.shape == (2, 6, 6) and features.pooled.shape == (2, 6) and features.mask is None
    params = variables["params"]
    # Not the same for all features, which the normalisation would take out again.
    step = jnp.arange(6.0)
    moved = {"params": {**params, "class_token": params["class_token"] + step}}
    # It has a position of its own.
    same = {"params": {**moved["params"], "positions": params["positions"].at[0].add(-step)}}
    np.testing.assert_allclose(run(encoder, same, IMAGES).pooled, features.pooled, rtol=1e-4, atol=1e-5)
    changed = run(encoder, moved, IMAGES)
    assert np.abs(changed.tokens - features.tokens).max() > 1e-3 < np.abs(changed.pooled - features.pooled).max()


def test_attention_pooling_against_its_equation() -> None:
    encoder = encoder_of(pooling="attention", use_class_token=False, num_heads=1, activation="relu")
    mask = np.array([[True] * 6, [True, False, True, True, False, False]])
    variables = draw_variables(encoder, IMAGES)
    params = jax.tree.map(np.asarray, variables["params"]["pool"])
    features = run(encoder, variables, IMAGES, mask=mask)
    tokens = np.asarray(features.tokens)

    def dense(name, values):
        layer = params["attention"].get(name) or params[name]
        return values @ layer["kernel"] + layer["bias"]

    logits = dense("key", tokens) @ dense("query", params["query"]) / math.sqrt(6)
    weights = np.where(mask, np.exp(logits), 0)
    weights /= weights.sum(1, keepdims=True)
    read = dense("out", np.einsum("bl,blf->bf", weights, dense("value", tokens)))
    expected = read + dense("mlp_out", np.maximum(dense("mlp_in", normal(read, params["norm"])), 0))
    np.testing.assert_allclose(features.pooled, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["class", "mean", "attention"])
def test_a_padded_image_gives_what_it_gives_alone(pooling: str) -> None:
    encoder = encoder_of(pooling=pooling, image_size=(20, 25))
    variables = draw_variables(encoder, IMAGES)
    alone = run(encoder, variables, IMAGES)
    # Two rows and three columns of patches more, in which stands what is no number.
    padded = np.full((2, 25, 25, 3), np.nan, np.float32)
    padded[:, :15, :10] = IMAGES
    mask = np.zeros((2, 5, 5), bool)
    mask[:, :3, :2] = True

    def total(variables, images):
        features = encoder.apply(variables, images, mask.reshape(2, 25))
        return jnp.sum(jnp.sin(features.tokens)) + jnp.sum(jnp.sin(features.pooled)), features

    (_, features), gradients = fast_jit(jax.value_and_grad(total, has_aux=True))(variables, padded)
    np.testing.assert_allclose(features.pooled, alone.pooled, rtol=1e-4, atol=1e-5)
    tokens = np.asarray(features.tokens).reshape(2, 5, 5, 6)
    np.testing.assert_allclose(tokens[:, :3, :2], alone.tokens.reshape(2, 3, 2, 6), rtol=1e-4, atol=1e-5)
    assert not tokens[:, 3:].any() and not tokens[:, :, 2:].any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_masks_at_random_leave_the_positions_where_they_are() -> None:
    encoder = encoder_of(resize_to_kept=False, num_layers=0)
    variables = draw_variables(encoder, IMAGES)
    mask = np.array([[True] * 4 + [False] * 2, [True, False] * 3])
    found, whole = run(encoder, variables, IMAGES, mask=mask), run(encoder, variables, IMAGES)
    np.testing.assert_allclose(found.tokens, np.where(mask[..., None], whole.tokens, 0), rtol=1e-5, atol=1e-6)
    moved = run(encoder_of(num_layers=0), variables, IMAGES, mask=mask)
    assert np.abs(moved.tokens[0] - found.tokens[0]).max() > 1e-2


def test_an_image_without_a_patch_is_missing() -> None:
    encoder = encoder_of(pooling="attention")
    mask = np.array([[True] * 6, [False] * 6])
    features = run(encoder, draw_variables(encoder, IMAGES), IMAGES, mask=mask)
    assert features.present.tolist() == [True, False]
    assert np.isfinite(features.pooled).all() and not np.asarray(features.kept_pooled)[1].any()


def test_grids_of_any_size() -> None:
    shapes = {
        size: jax.eval_shape(
            vision_transformer("tiny").init_with_output,
            jax.random.key(0),
            jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8),
        )[0].grid
        for size in [(224, 224), (240, 31), (16, 47)]
    }
    assert shapes == {(224, 224): (14, 14), (240, 31): (15, 1), (16, 47): (1, 2)}


def test_pixels_of_no_whole_patch_are_cut_off() -> None:
    encoder = encoder_of()
    variables = draw_variables(encoder, IMAGES)
    wider = np.pad(IMAGES, ((0, 0), (0, 4), (0, 3), (0, 0)), constant_values=0.3)
    np.testing.assert_array_equal(run(encoder, variables, wider).tokens, run(encoder, variables, IMAGES).tokens)


@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
def test_positions_are_interpolated_as_pytorch_does(kind: str) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    import torch

    positions = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    source = torch.tensor(positions).permute(2, 0, 1)[None]
    for grid in [(7, 11), (2, 3), (3, 4), (1, 1)]:
        expected = torch.nn.functional.interpolate(source, size=grid, mode=kind, align_corners=False)
        found = resize_positions(jnp.asarray(positions), grid, interpolation=kind)
        np.testing.assert_allclose(found, expected[0].permute(1, 2, 0), rtol=1e-5, atol=1e-6)


def test_positions_interpolated_by_hand() -> None:
    # The first place lies at -1/4 and the second at 1/4; beyond the border lie 0 and 1 again, with the shares that the
    # kernel gives them.
    positions = jnp.array([[[0.0], [1.0]]])
    cubic = resize_positions(positions, (1, 4)).ravel()
    np.testing.assert_allclose(cubic[:2], [-0.10546875, 0.2265625], rtol=1e-6)
    np.testing.assert_allclose(cubic[:2] + cubic[:1:-1], [1, 1], rtol=1e-6)
    np.testing.assert_array_equal(resize_positions(positions, (1, 2)), positions)


def test_a_frozen_encoder_lets_no_gradient_pass() -> None:
    encoder = encoder_of(is_frozen=True, dropout_rate=0.5)
    variables = draw_variables(encoder, IMAGES)

    def total(variables, images):
        return encoder.apply(variables, images, deterministic=False).tokens.sum()

    gradients = fast_jit(jax.grad(total, (0, 1)))(variables, IMAGES)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))
    plain = run(encoder_of(), variables, IMAGES)
    np.testing.assert_array_equal(run(encoder, variables, IMAGES, deterministic=False).tokens, plain.tokens)


def test_dropout_needs_a_key_and_changes_values() -> None:
    encoder = encoder_of(dropout_rate=0.5)
    variables = draw_variables(encoder, IMAGES)
    dropped = [
        run(encoder, variables, IMAGES, deterministic=False, rngs={"dropout": jax.random.key(seed)}).pooled
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(dropped[0] - dropped[2]).max() > 1e-3


def test_scales_of_blocks_are_learned() -> None:
    shapes = jax.eval_shape(encoder_of(scale_init=1e-5).init, jax.random.key(0), IMAGES)
    assert shapes["params"]["block_0"]["mlp_scale"]["scale"].shape == (6,)


@pytest.mark.parametrize(
    ("fields", "images", "message"),
    [
        ({"pooling": "max"}, IMAGES, "pooling must be one of class, mean, attention; got 'max'. Choose one."),
        ({"use_class_token": False}, IMAGES, "needs a class token; got use_class_token=False. Use one, or choose"),
        ({"image_size": (4, 9)}, IMAGES, r"image_size must hold a patch of 5 pixels; got \(4, 9\). Enlarge it."),
        ({}, IMAGES[:, :4], "images must be at least 5x5 for patches of 5 pixels; got 4x10. Enlarge the images."),
        ({}, IMAGES[..., :2], "a channel for each mean and deviation; got 2 channels, 3 means and 3 deviations."),
        ({"interpolation": "nearest"}, IMAGES, "must be one of bicubic, bilinear; got 'nearest'. Choose one."),
    ],
)
def test_errors(fields, images, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder_of(**fields).init(jax.random.key(0), images)


def test_errors_of_masks_and_sizes() -> None:
    with pytest.raises(ValueError, match=r"image mask must have shape \[batch, length\] = \(2, 6\); got \(2, 7\)"):
        encoder_of().init(jax.random.key(0), IMAGES, np.ones((2, 7), bool))
    with pytest.raises(TypeError, match="the image mask must be boolean"):
        encoder_of().init(jax.random.key(0), IMAGES, np.ones((2, 6)))
    with pytest.raises(
        ValueError, match=r"size must be one of tiny, small, base, large, huge; got 'vast'. Choose one."
    ):
        vision_transformer("vast")
