"""Photographs brought to size; the rules of torchvision and transformers by hand."""

import numpy as np
import pytest
from PIL import Image

from fusionjax.data import prepare_image

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("rows", "columns", "side", "scaled", "corners"),
    [
        # 11 * 53 / 30 = 19.4; (11 - 8) / 2 = 1.5: to the even number, or down.
        (30, 53, 11, (11, 19), {"even": (2, 6), "down": (1, 6)}),
        (53, 30, 11, (19, 11), {"even": (6, 2), "down": (5, 2)}),
        (40, 40, 11, (11, 11), {"even": (2, 2), "down": (1, 2)}),
        (40, 40, 13, (13, 13), {"even": (2, 3), "down": (2, 3)}),
    ],
)
def test_the_shorter_side_is_scaled_and_the_centre_cut_out(rows, columns, side, scaled, corners) -> None:
    image = RNG.integers(0, 256, (rows, columns, 3), np.uint8)
    height, width = scaled
    expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    for rounding, (top, left) in corners.items():
        found = prepare_image(image, (8, 7), shorter_side=side, interpolation="bicubic", rounding=rounding)
        np.testing.assert_array_equal(found, expected[top : top + 8, left : left + 7])
    assert prepare_image(image, (8, 7), shorter_side=side, interpolation="bicubic").shape == (8, 7, 3)


def test_without_a_shorter_side_the_photograph_is_squeezed() -> None:
    image = RNG.integers(0, 256, (13, 29, 3), np.uint8)
    for name in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"):
        expected = np.asarray(Image.fromarray(image).resize((5, 7), Image.Resampling[name.upper()]))
        np.testing.assert_array_equal(prepare_image(image, (7, 5), interpolation=name), expected)
        cut = prepare_image(image, (3, 1), scaled_size=(7, 5), interpolation=name)
        np.testing.assert_array_equal(cut, expected[2:5, 2:3])


@pytest.mark.parametrize(("rounding", "top", "left"), [("even", 1, 0), ("down", 2, 1)])
def test_a_small_photograph_is_filled_up_with_black(rounding, top, left) -> None:
    # The spare is -3 rows and -1 column.
    image = RNG.integers(1, 256, (6, 6, 3), np.uint8)
    found = prepare_image(image, (9, 7), shorter_side=6, interpolation="bilinear", rounding=rounding)
    expected = np.zeros((9, 7, 3), np.uint8)
    expected[top : top + 6, left : left + 6] = image
    np.testing.assert_array_equal(found, expected)


def test_what_does_not_fit_is_refused() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    with pytest.raises(ValueError, match=r"scaled by its shorter side or to a size; got 6 and \(8, 9\). Leave one"):
        prepare_image(image, (8, 7), shorter_side=6, scaled_size=(8, 9), interpolation="bilinear")
    with pytest.raises(ValueError, match=r"one of nearest, box, bilinear, hamming, bicubic, lanczos; got 'cubic'. Cho"):
        prepare_image(image, (8, 7), interpolation="cubic")
