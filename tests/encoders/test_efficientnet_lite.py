import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import EfficientNetLite, efficientnet_lite
from tests.contracts.parameters import draw_variables, run

IMAGES = np.random.default_rng(0).uniform(size=(5, 13, 11, 3)).astype(np.float32)
SMALL = EfficientNetLite((2,), (3,), (3,), (1,), (1,), stem_features=3, head_features=7)


def test_widths_and_depths_of_the_variants() -> None:
    sizes = [(efficientnet_lite(variant).stage_sizes, efficientnet_lite(variant).features) for variant in range(5)]
    plain = (16, 24, 40, 80, 112, 192, 320)
    assert sizes[0] == ((1, 2, 2, 3, 3, 4, 1), plain)
    assert sizes[1] == ((1, 3, 3, 4, 4, 5, 1), plain)
    assert sizes[2] == ((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352))
    assert sizes[3] == ((1, 3, 3, 5, 5, 6, 1), (24, 32, 48, 96, 136, 232, 384))
    assert sizes[4] == ((1, 4, 4, 6, 6, 8, 1), (24, 32, 56, 112, 160, 272, 448))


def test_the_output_is_cut_off_at_zero_and_six() -> None:
    variables = draw_variables(SMALL, IMAGES)
    larger = jax.tree.map(lambda leaf: 30 * leaf, variables["params"])
    tokens = run(SMALL, {**variables, "params": larger}, IMAGES).tokens
    assert float(tokens.min()) == 0 and float(tokens.max()) == 6


def test_stochastic_depth_leaves_out_whole_blocks() -> None:
    """Of two blocks only the second can be left out, at half of the rate."""
    encoder = SMALL.clone(stochastic_depth_rate=0.8)
    _, updated = run(
        encoder,
        draw_variables(encoder, IMAGES),
        IMAGES,
        deterministic=False,
        mutable=["batch_stats", "intermediates"],
        rngs={"dropout": jax.random.key(0)},
        capture_intermediates=True,
    )
    first, second = (updated["intermediates"][f"stage_0_block_{place}"] for place in (0, 1))
    grid, outputs = np.array(first["__call__"][0]), np.array(second["__call__"][0])
    added = np.array(second["project"]["__call__"][0]) / (1 - 0.4)
    is_kept = [np.allclose(outputs[one], grid[one] + added[one], atol=1e-5) for one in range(5)]
    is_left_out = [np.array_equal(outputs[one], grid[one]) for one in range(5)]
    assert set(is_kept) == {True, False} and is_left_out == [not kept for kept in is_kept]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: efficientnet_lite(5), "the variant must be 0 to 4; got 5. Choose one."),
        (
            lambda: EfficientNetLite((1, 2)).init(jax.random.key(0), IMAGES),
            "an entry for each stage; got 2, 7, 7, 7, 7 entries. Give as many of each.",
        ),
        (
            lambda: SMALL.init(jax.random.key(0), jnp.zeros((1, 9, 0, 3))),
            "images must be at least 1x1 for EfficientNet-Lite; got 9x0. Enlarge the images.",
        ),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
