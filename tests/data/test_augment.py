"""Crops, flips and colours, on pictures small enough to check by hand."""

import colorsys

import numpy as np
import pytest

from fusionjax.data import augment


def numbered(height, width):
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def test_random_crop_is_every_window_equally_often():
    image = np.arange(5 * 7).reshape(5, 7, 1)
    rng = np.random.default_rng(0)
    seen = {}
    for _ in range(1500):
        crop = augment.random_crop(image, 3, rng)
        assert crop.shape == (3, 3, 1)
        top, left = divmod(int(crop[0, 0, 0]), 7)
        np.testing.assert_array_equal(crop, image[top : top + 3, left : left + 3])
        seen[top, left] = seen.get((top, left), 0) + 1
    assert len(seen) == 3 * 5
    assert min(seen.values()) > 60


def test_center_crop_by_hand():
    image = numbered(6, 9)
    np.testing.assert_array_equal(augment.center_crop(image, 3), image[1:4, 3:6])
    np.testing.assert_array_equal(augment.center_crop(image, 6), image[:, 1:7])


@pytest.mark.parametrize("size", [0, 6, -1])
def test_crop_larger_than_the_picture(size):
    message = rf"size must lie in \[1, 5\], the smaller side of the picture; got {size}"
    with pytest.raises(ValueError, match=message):
        augment.center_crop(numbered(5, 7), size)
    with pytest.raises(ValueError, match=message):
        augment.random_crop(numbered(5, 7), size, np.random.default_rng(0))


def test_random_flip_mirrors_half_of_the_time():
    image, rng = numbered(2, 3), np.random.default_rng(0)
    flips = [not np.array_equal(augment.random_flip(image, rng), image) for _ in range(400)]
    assert 0.4 < np.mean(flips) < 0.6
    np.testing.assert_array_equal(augment.random_flip(image, rng, probability=1.0), image[:, ::-1])
    np.testing.assert_array_equal(augment.random_flip(image, rng, probability=0.0), image)


def test_random_resized_crop_takes_the_asked_share_of_the_area():
    # Each pixel holds its own place, so the result's range tells the rectangle's sides.
    image = np.zeros((200, 240, 3), np.uint8)
    image[:, :, 0], image[:, :, 1] = np.arange(240), np.arange(200)[:, None]
    rng = np.random.default_rng(0)
    shares, ratios = [], []
    for _ in range(200):
        crop = augment.random_resized_crop(image, 50, rng, scale=(0.25, 0.5)).astype(float)
        assert crop.shape == (50, 50, 3)
        width, height = (np.ptp(crop[:, :, channel]) * 50 / 49 for channel in (0, 1))
        shares.append(width * height / (200 * 240))
        ratios.append(width / height)
    assert 0.22 < min(shares) < 0.29
    assert 0.46 < max(shares) < 0.53
    assert 0.72 < min(ratios) < 0.82
    assert 1.22 < max(ratios) < 1.38


def test_random_resized_crop_of_a_strip_falls_back_to_the_middle():
    image = np.zeros((10, 200, 3), np.uint8)
    image[:, 90:110] = 255
    crop = augment.random_resized_crop(image, 8, np.random.default_rng(0), scale=(1.0, 1.0))
    assert crop.min() == 255


def test_color_jitter_by_hand():
    image = np.array([[[100, 50, 0], [20, 200, 80]]], np.uint8)
    jitter = {"brightness": 0.5, "contrast": 0.4, "saturation": 0.3}
    rng = np.random.default_rng(5)
    brighter, harder, deeper = (rng.uniform(1 - amount, 1 + amount) for amount in jitter.values())
    expected = image * brighter
    luma = 0.299 * expected[..., :1] + 0.587 * expected[..., 1:2] + 0.114 * expected[..., 2:]
    expected = luma + deeper * (expected - luma)
    expected = luma.mean() + harder * (expected - luma.mean())
    got = augment.color_jitter(image, np.random.default_rng(5), **jitter)
    assert got.dtype == np.uint8
    np.testing.assert_allclose(got, np.clip(np.round(expected), 0, 255), atol=1)


def test_color_jitter_keeps_the_hue():
    image = np.full((2, 2, 3), (180, 90, 60), np.uint8)
    hue = colorsys.rgb_to_hsv(180 / 255, 90 / 255, 60 / 255)[0]
    rng = np.random.default_rng(1)
    for _ in range(20):
        jittered = augment.color_jitter(image, rng, brightness=0.2, contrast=0, saturation=0.4)[0, 0] / 255
        assert colorsys.rgb_to_hsv(*jittered)[0] == pytest.approx(hue, abs=0.02)
    unchanged = augment.color_jitter(image, rng, brightness=0, contrast=0, saturation=0)
    np.testing.assert_array_equal(unchanged, image)


def test_color_jitter_bounds():
    with pytest.raises(ValueError, match=r"contrast must lie in \[0, 1\]; got 1.5"):
        augment.color_jitter(numbered(2, 2), np.random.default_rng(0), contrast=1.5)
