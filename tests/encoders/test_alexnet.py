import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import AlexNet
from tests.contracts.parameters import draw_variables, run

IMAGES = np.random.default_rng(0).uniform(size=(2, 63, 95, 3)).astype(np.float32)
SMALL = AlexNet((2, 3, 2, 3, 5), (7,), pooled_grid=(1, 1))


def test_the_smallest_image_leaves_one_cell_and_the_published_one_36() -> None:
    shapes = {
        size: jax.eval_shape(
            AlexNet().init_with_output, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
        )[0]
        for size in (63, 224)
    }
    assert {size: features.grid for size, features in shapes.items()} == {63: (1, 1), 224: (6, 6)}
    assert {features.pooled.shape for features in shapes.values()} == {(1, 4096)}


def test_dense_layers_read_the_averaged_grid() -> None:
    variables = draw_variables(SMALL, IMAGES)
    features = run(SMALL, variables, IMAGES)
    dense = variables["params"]["dense"]["layer_0"]
    assert features.grid == (1, 2)
    expected = np.maximum(np.array(features.tokens).mean(1) @ dense["kernel"] + dense["bias"], 0)
    np.testing.assert_allclose(features.pooled, expected, rtol=1e-5, atol=1e-6)
    # Both masked: only the bias is left.
    masked = run(SMALL, variables, IMAGES, mask=np.zeros((2, 2), bool))
    np.testing.assert_allclose(masked.pooled, np.maximum(dense["bias"], 0)[None].repeat(2, 0), rtol=1e-6)


def test_dropout_comes_before_the_dense_layers() -> None:
    variables = draw_variables(SMALL, IMAGES)
    options = {"deterministic": False, "rngs": {"dropout": jax.random.key(0)}}
    dense = variables["params"]["dense"]["layer_0"]
    everything = run(SMALL.clone(dropout_rate=1.0), variables, IMAGES, **options)
    np.testing.assert_allclose(everything.pooled, np.maximum(dense["bias"], 0)[None].repeat(2, 0), rtol=1e-6)
    assert not np.array_equal(run(SMALL, variables, IMAGES, **options).pooled, run(SMALL, variables, IMAGES).pooled)


@pytest.mark.parametrize(
    ("encoder", "size", "message"),
    [
        (AlexNet((2, 3)), 63, r"features must be those of 5 convolutions; got \(2, 3\). Give 5 numbers."),
        (SMALL, 62, "images must be at least 63x63 for AlexNet; got 62x99. Enlarge the images."),
    ],
)
def test_errors(encoder: AlexNet, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.init(jax.random.key(0), jnp.zeros((1, size, 99, 3)))
