import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import ConvNeXt, convnext
from tests.contracts.parameters import draw_variables, run

IMAGES = np.random.default_rng(0).uniform(size=(5, 13, 11, 3)).astype(np.float32)
SMALL = ConvNeXt((2,), (3,))


def normalize(values: np.ndarray, norm, epsilon: float = 1e-6) -> np.ndarray:
    mean, var = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
    return (values - mean) / np.sqrt(var + epsilon) * norm["scale"] + norm["bias"]


def test_the_pooled_vector_is_the_normalised_mean_of_the_kept_cells() -> None:
    variables = draw_variables(SMALL, IMAGES)
    mask = np.random.default_rng(1).uniform(size=(5, 6)) < 0.6
    mask[0], mask[1] = True, False
    features = run(SMALL, variables, IMAGES, mask=mask)
    mean = np.array(features.tokens).sum(1) / np.maximum(mask.sum(1, keepdims=True), 1)
    assert features.grid == (3, 2)
    np.testing.assert_allclose(features.pooled, normalize(mean, variables["params"]["norm"]), rtol=1e-4, atol=1e-4)


def test_new_blocks_hardly_change_their_input() -> None:
    variables = jax.jit(SMALL.init)(jax.random.key(0), IMAGES)
    scales = [variables["params"][f"stage_0_block_{place}"]["scale"] for place in (0, 1)]
    np.testing.assert_allclose(scales, 1e-6, rtol=1e-6)
    stem, norm = (variables["params"][name] for name in ("downsample_0", "downsample_norm_0"))
    patches = (IMAGES - np.float32(SMALL.mean)) / np.float32(SMALL.std)
    # [batch, rows, columns, pixels of a patch]
    patches = patches[:, :12, :8].reshape(5, 3, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(5, 3, 2, 48)
    expected = normalize(patches @ stem["kernel"].reshape(48, 3) + stem["bias"], norm)
    np.testing.assert_allclose(run(SMALL, variables, IMAGES).tokens, expected.reshape(5, 6, 3), rtol=1e-3, atol=1e-3)


def test_without_scales_there_is_no_such_parameter() -> None:
    encoder = SMALL.clone(scale_init=None)
    variables = draw_variables(encoder, IMAGES)
    assert "scale" not in variables["params"]["stage_0_block_0"]
    ones = jax.tree_util.tree_map(jnp.asarray, variables)
    for place in (0, 1):
        ones["params"][f"stage_0_block_{place}"]["scale"] = jnp.ones(3)
    np.testing.assert_allclose(
        run(encoder, variables, IMAGES).tokens, run(SMALL, ones, IMAGES).tokens, rtol=1e-5, atol=1e-5
    )


def test_stochastic_depth_leaves_out_whole_blocks() -> None:
    """Of two blocks only the second can be left out."""
    encoder = SMALL.clone(stochastic_depth_rate=0.4)
    features, updated = run(
        encoder,
        draw_variables(encoder, IMAGES),
        IMAGES,
        deterministic=False,
        mutable=["intermediates"],
        rngs={"dropout": jax.random.key(0)},
        capture_intermediates=True,
    )
    first, second = (updated["intermediates"][f"stage_0_block_{place}"] for place in (0, 1))
    grid, outputs = np.array(first["__call__"][0]), np.array(second["__call__"][0])
    is_left_out = [np.array_equal(outputs[one], grid[one]) for one in range(5)]
    whole = run(encoder, draw_variables(encoder, IMAGES), IMAGES).tokens.reshape(5, 3, 2, 3)
    is_kept = [np.allclose(outputs[one], grid[one] + (whole[one] - grid[one]) / 0.6, atol=1e-4) for one in range(5)]
    assert set(is_kept) == {True, False} and is_left_out == [not kept for kept in is_kept]
    assert features.tokens.shape == (5, 6, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: convnext("huge"), "the size must be one of tiny, small, base, large; got 'huge'. Choose one."),
        (
            lambda: ConvNeXt((1, 2), (5,)).init(jax.random.key(0), IMAGES),
            r"features for each stage; got stage_sizes=\(1, 2\) and features=\(5,\). Give as many of both.",
        ),
        (
            lambda: convnext("tiny").init(jax.random.key(0), jnp.zeros((1, 99, 31, 3))),
            "images must be at least 32x32 for ConvNeXt of 4 stages; got 99x31. Enlarge the images.",
        ),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
