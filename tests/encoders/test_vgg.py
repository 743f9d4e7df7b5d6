import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import VGG, vgg
from tests.contracts.parameters import draw_variables, run

IMAGES = np.random.default_rng(0).uniform(size=(2, 13, 11, 3)).astype(np.float32)
SMALL = VGG(((5, 2), (3,)), (7,), pooled_grid=(2, 2))


def test_stages_against_plain_operations() -> None:
    variables = draw_variables(SMALL, IMAGES)
    features = run(SMALL, variables, IMAGES)
    expected = (IMAGES - np.float32(SMALL.mean)) / np.float32(SMALL.std)
    for stage, count in enumerate((2, 1)):
        for place in range(count):
            conv = variables["params"][f"conv_{stage}_{place}"]
            layout = ("NHWC", "HWIO", "NHWC")
            expected = jax.lax.conv_general_dilated(expected, conv["kernel"], (1, 1), "SAME", dimension_numbers=layout)
            expected = np.maximum(expected + conv["bias"], 0)
        rows, columns = (size // 2 for size in expected.shape[1:3])
        windows = expected[:, : 2 * rows, : 2 * columns].reshape(2, rows, 2, columns, 2, -1)
        expected = windows.max((2, 4))
    assert features.grid == (3, 2)
    np.testing.assert_allclose(features.tokens, expected.reshape(2, 6, 3), rtol=1e-4, atol=1e-4)
    # Three rows become two, each the mean of two.
    spread = np.stack([expected[:, :2].mean(1), expected[:, 1:].mean(1)], axis=1).reshape(2, -1)
    dense = variables["params"]["dense"]["layer_0"]
    pooled = np.maximum(spread @ dense["kernel"] + dense["bias"], 0)
    np.testing.assert_allclose(features.pooled, pooled, rtol=1e-4, atol=1e-4)


def test_dropout_comes_after_the_dense_layers() -> None:
    variables = draw_variables(SMALL, IMAGES)
    kept = run(SMALL, variables, IMAGES).pooled
    dropped = run(SMALL, variables, IMAGES, deterministic=False, rngs={"dropout": jax.random.key(0)}).pooled
    np.testing.assert_allclose(dropped, np.where(np.array(dropped) == 0, 0, 2 * np.array(kept)), rtol=1e-4)
    assert 0 < np.count_nonzero(dropped) < np.count_nonzero(kept)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vgg(12), "the depth must be one of 11, 13, 16, 19; got 12. Choose one."),
        (
            lambda: VGG(((2,), ())).init(jax.random.key(0), IMAGES),
            r"each stage must have a convolution; got stages=\(\(2,\), \(\)\). Leave out empty ones.",
        ),
        (
            lambda: vgg(16).init(jax.random.key(0), jnp.zeros((1, 99, 31, 3))),
            "images must be at least 32x32 for VGG of 5 stages; got 99x31. Enlarge the images.",
        ),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
