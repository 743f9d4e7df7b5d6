import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import ResNet, resnet
from tests.contracts.parameters import draw_variables, run

IMAGES = np.random.default_rng(0).uniform(size=(2, 37, 29, 3)).astype(np.float32)


def test_basic_block_against_its_equation() -> None:
    encoder = ResNet((1,), (5,), 5, is_bottleneck=False)
    variables = draw_variables(encoder, IMAGES)
    features = run(encoder, variables, IMAGES)
    shorter = run(ResNet((), (), 5), _only_stem(variables), IMAGES)
    grid = jnp.reshape(shorter.tokens, (2, *shorter.grid, 5))
    block = [_conv_norm(variables, f"conv_{place}") for place in (0, 1)]
    # relu(x + f(x)), without a shortcut's convolution where nothing changes shape.
    expected = np.maximum(grid + block[1](np.maximum(block[0](grid), 0)), 0)
    assert features.grid == (10, 8) and "shortcut" not in variables["params"]["stage_0_block_0"]
    np.testing.assert_allclose(features.tokens, expected.reshape(2, 80, 5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features.pooled, expected.mean((1, 2)), rtol=1e-4, atol=1e-5)


def _only_stem(variables):
    return {name: {"stem": tree["stem"]} for name, tree in variables.items()}


def _conv_norm(variables, name: str):
    params, stats = (variables[part]["stage_0_block_0"][name] for part in ("params", "batch_stats"))

    def compute(grid):
        layout = ("NHWC", "HWIO", "NHWC")
        kernel, norm, stored = params["conv"]["kernel"], params["norm"], stats["norm"]
        outputs = jax.lax.conv_general_dilated(grid, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=layout)
        return (outputs - stored["mean"]) / np.sqrt(stored["var"] + 1e-5) * norm["scale"] + norm["bias"]

    return compute


def test_grids_of_odd_sizes() -> None:
    shapes = {
        size: jax.eval_shape(
            resnet(18).init_with_output, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
        )[0].grid
        for size in [(224, 224), (33, 65), (1, 1)]
    }
    assert shapes == {(224, 224): (7, 7), (33, 65): (2, 3), (1, 1): (1, 1)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: resnet(42), "the depth must be one of 18, 34, 50, 101, 152; got 42. Choose one."),
        (
            lambda: ResNet((1, 2), (5,)).init(jax.random.key(0), IMAGES),
            r"features for each stage; got stage_sizes=\(1, 2\) and features=\(5,\). Give as many of both.",
        ),
        (
            lambda: resnet(18).init(jax.random.key(0), IMAGES[:, :0]),
            "images must be at least 1x1 for ResNet; got 0x29. Enlarge the images.",
        ),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
