import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import SimpleCNN, as_unit_images
from tests.contracts.parameters import draw_variables, run

IMAGES = np.random.default_rng(0).uniform(size=(2, 11, 13, 3)).astype(np.float32)


def render(images: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Convolution without padding, ReLU and 2x2 max-pooling, window by window, in the common order."""
    rows, columns = images.shape[1] - 2, images.shape[2] - 2
    windows = np.stack(
        [images[:, row : row + rows, column : column + columns] for row in range(3) for column in range(3)], axis=-2
    )
    # [batch, rows, columns, features]
    convolved = np.einsum("bhwkc,kcf->bhwf", windows, kernel.reshape(9, *kernel.shape[2:])) + bias
    rectified = np.maximum(convolved, 0)[:, : rows // 2 * 2, : columns // 2 * 2]
    return rectified.reshape(len(images), rows // 2, 2, columns // 2, 2, -1).max((2, 4))


def test_two_stages_against_numpy() -> None:
    encoder = SimpleCNN(features=(5, 7), mean=0.25, std=0.5)
    variables = draw_variables(encoder, IMAGES)
    features = run(encoder, variables, IMAGES)
    expected = (IMAGES - 0.25) / 0.5
    for stage in ("conv_0", "conv_1"):
        expected = render(expected, *(np.array(variables["params"][stage][name]) for name in ("kernel", "bias")))
    assert features.grid == expected.shape[1:3] == (1, 1)
    np.testing.assert_allclose(features.tokens, expected.reshape(2, 1, 7), rtol=1e-5, atol=1e-5)


def test_group_normalisation_follows_the_pooling() -> None:
    encoder = SimpleCNN(features=(32,), normalization="group")
    variables = draw_variables(encoder, IMAGES)
    params = variables["params"]
    # Without ReLU the rendering gives the maximum of the convolution itself.
    shifted = render(IMAGES, np.array(params["conv_0"]["kernel"]), np.float32(100)) - 100
    groups = shifted.reshape(2, -1, 2, 16)
    normal = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)
    expected = normal.reshape(2, -1, 32) * params["norm_0"]["scale"] + params["norm_0"]["bias"]
    np.testing.assert_allclose(run(encoder, variables, IMAGES).tokens, np.maximum(expected, 0), rtol=1e-3, atol=1e-3)


def test_batch_normalisation_learns_statistics_in_training_only() -> None:
    encoder = SimpleCNN(features=(5,), normalization="batch", pooling="mean")
    variables = draw_variables(encoder, IMAGES)
    _, updated = run(encoder, variables, IMAGES, deterministic=False, mutable=["batch_stats"])
    convolved = render(IMAGES, np.array(variables["params"]["conv_0"]["kernel"]), np.float32(100)) - 100
    before = np.array(variables["batch_stats"]["norm_0"]["mean"])
    expected = 0.9 * before + 0.1 * convolved.mean((0, 1, 2))
    np.testing.assert_allclose(updated["batch_stats"]["norm_0"]["mean"], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(before, expected)


def test_same_padding_keeps_the_grid_and_hidden_layers_follow_the_pooling() -> None:
    encoder = SimpleCNN(features=(5, 7), padding="SAME", hidden_features=(3,), pooling="mean")
    variables = draw_variables(encoder, IMAGES)
    features = run(encoder, variables, IMAGES)
    dense = variables["params"]["dense_0"]
    expected = np.maximum(np.array(features.tokens).mean(1) @ dense["kernel"] + dense["bias"], 0)
    assert features.grid == (2, 3)
    np.testing.assert_allclose(features.pooled, expected, rtol=1e-5, atol=1e-6)


def test_positions_are_added_to_the_cells() -> None:
    encoder = SimpleCNN(features=(5,), use_positions=True)
    variables = draw_variables(encoder, IMAGES)
    plain = run(encoder.clone(use_positions=False), {"params": {"conv_0": variables["params"]["conv_0"]}}, IMAGES)
    expected = plain.tokens + variables["params"]["positions"]
    np.testing.assert_allclose(run(encoder, variables, IMAGES).tokens, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", [0, 1, None])
def test_coordinates_are_read_from_a_stage_on(first: int | None) -> None:
    encoder = SimpleCNN(features=(5, 7), coordinates_from=first)
    variables = draw_variables(encoder, IMAGES)
    expected = IMAGES
    for stage in range(2):
        if first is not None and stage >= first:
            down, across = np.meshgrid(*(np.linspace(-1, 1, size) for size in expected.shape[1:3]), indexing="ij")
            places = np.float32([np.stack([down, across], axis=-1)] * 2)
            expected = np.concatenate([expected, places], axis=-1)
        params = variables["params"][f"conv_{stage}"]
        expected = render(expected, np.array(params["kernel"]), np.array(params["bias"]))
    np.testing.assert_allclose(run(encoder, variables, IMAGES).pooled, expected.reshape(2, 7), rtol=1e-5, atol=1e-5)


def test_uint8_images_mean_the_same_as_unit_images() -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 11, 13, 3), np.uint8)
    encoder = SimpleCNN(features=(5,))
    variables = draw_variables(encoder, images)
    whole, unit = run(encoder, variables, images), run(encoder, variables, images / np.float32(255))
    np.testing.assert_allclose(whole.tokens, unit.tokens, rtol=1e-5, atol=1e-6)
    assert as_unit_images(jnp.asarray(images), jnp.bfloat16).dtype == jnp.bfloat16


def test_dropout_depends_on_the_key() -> None:
    encoder = SimpleCNN(features=(5,), dropout_rate=0.5)
    variables = draw_variables(encoder, IMAGES)
    one, again, other = (
        run(encoder, variables, IMAGES, deterministic=False, rngs={"dropout": jax.random.key(seed)}).pooled
        for seed in (0, 0, 1)
    )
    assert bool((one == again).all()) and not bool((one == other).all())
    kept = run(encoder, variables, IMAGES).pooled
    np.testing.assert_allclose(one, np.where(np.array(one) == 0, 0, 2 * np.array(kept)), rtol=1e-6)


def test_fields_given_as_lists_can_be_compiled() -> None:
    encoder = SimpleCNN(features=[5])
    variables = draw_variables(encoder, IMAGES)
    assert jax.eval_shape(jax.jit(encoder.apply), variables, IMAGES).tokens.shape == (2, 20, 5)


@pytest.mark.parametrize(
    ("encoder", "images", "error", "message"),
    [
        (SimpleCNN(), np.zeros((2, 3, 3), np.uint8), ValueError, r"images must have shape .*; got \(2, 3, 3\). Add"),
        (SimpleCNN(), np.zeros((2, 30, 30, 3), np.int32), TypeError, "uint8 in 0..255 or .*; got int32. Convert them"),
        (
            SimpleCNN(),
            np.zeros((1, 30, 9, 3), np.float32),
            ValueError,
            r"large enough for 3 stages; got 30x9, of which 14x3 is left at stage 1. Enlarge the images",
        ),
        (
            SimpleCNN(features=(5, 7), padding="SAME"),
            np.zeros((1, 2, 9, 3), np.float32),
            ValueError,
            "large enough for 2 stages; got 2x9, of which 1x4 is left at stage 1.",
        ),
        (
            SimpleCNN(normalization="layer"),
            IMAGES,
            ValueError,
            "normalization must be None, 'group' or 'batch'; got 'layer'. Choose one.",
        ),
    ],
)
def test_errors(encoder: SimpleCNN, images: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jax.eval_shape(encoder.init, jax.random.key(0), images)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_strides_in_place_of_pooling(padding: str) -> None:
    encoder = SimpleCNN(features=(5, 7), downsampling="strides", padding=padding, pooling="mean")
    images = jnp.asarray(np.random.default_rng(2).uniform(size=(2, 18, 23, 3)), jnp.float32)
    variables = draw_variables(encoder, images)
    found, expected = encoder.apply(variables, images), images
    for stage in ("conv_0", "conv_1"):
        kernel, bias = (variables["params"][stage][name] for name in ("kernel", "bias"))
        layout = ("NHWC", "HWIO", "NHWC")
        expected = jax.lax.conv_general_dilated(expected, kernel, (2, 2), padding, dimension_numbers=layout)
        expected = jnp.maximum(expected + bias, 0)
    assert found.grid == expected.shape[1:3] == ((3, 5) if padding == "VALID" else (5, 6))
    np.testing.assert_allclose(found.tokens, expected.reshape(2, -1, 7), rtol=1e-5, atol=1e-5)


def test_an_unknown_downsampling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"downsampling must be 'pool' or 'strides'; got 'mean'. Choose one."):
        SimpleCNN(features=(5,), downsampling="mean").init(jax.random.key(0), jnp.zeros((1, 9, 9, 3)))
