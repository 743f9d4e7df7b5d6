"""Photographs brought to size; the rules of torchvision by hand."""

import numpy as np
import pytest
from PIL import Image

from fusionjax.data import prepare_image

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("rows", "columns", "scaled", "corner"),
    [
        (30, 53, (11, 19), (2, 6)),  # 11 * 53 / 30 = 19.4; (11 - 8) / 2 = 1.5, to the even number
        (53, 30, (19, 11), (6, 2)),
        (40, 40, (11, 11), (2, 2)),
    ],
)
def test_the_shorter_side_is_scaled_and_the_centre_cut_out(rows, columns, scaled, corner) -> None:
    image = RNG.integers(0, 256, (rows, columns, 3), np.uint8)
    (height, width), (top, left) = scaled, corner
    expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    found = prepare_image(image, (8, 7), shorter_side=11, interpolation="bicubic")
    np.testing.assert_array_equal(found, expected[top : top + 8, left : left + 7])


def test_without_a_shorter_side_the_photograph_is_squeezed() -> None:
    image = RNG.integers(0, 256, (13, 29, 3), np.uint8)
    for name in ("bilinear", "lanczos"):
        expected = np.asarray(Image.fromarray(image).resize((5, 7), Image.Resampling[name.upper()]))
        np.testing.assert_array_equal(prepare_image(image, (7, 5), interpolation=name), expected)


def test_what_does_not_fit_is_refused() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    with pytest.raises(ValueError, match=r"a centre of 8x7 needs a shorter side of 8; got 6. Enlarge"):
        prepare_image(image, (8, 7), shorter_side=6, interpolation="bilinear")
    with pytest.raises(ValueError, match=r"interpolation must be bilinear, bicubic or lanczos; got 'nearest'. Choose"):
        prepare_image(image, (8, 7), interpolation="nearest")
