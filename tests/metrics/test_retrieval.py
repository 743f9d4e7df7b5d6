"""Ranks against sorting the whole matrix, in any blocks and on any mesh; ties; chance; what is refused."""

import jax
import numpy as np
import pytest

from fusionjax import metrics, parallel

IMAGES, TEXTS, WIDTH = 29, 71, 13


def make_features(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features whose products are exact in float32, with some ties, and 1 to 5 texts of each image in any order."""
    rng = np.random.default_rng(seed)
    owners = np.concatenate([np.arange(IMAGES), rng.integers(0, IMAGES, TEXTS - IMAGES)])
    rng.shuffle(owners)
    images = rng.integers(-3, 4, (IMAGES, WIDTH)).astype(np.float32)
    texts = (images[owners] + rng.integers(-6, 7, (TEXTS, WIDTH))).astype(np.float32)
    return images, texts, owners


def by_the_matrix(images: np.ndarray, texts: np.ndarray, owners: np.ndarray) -> tuple[list[int], list[int]]:
    """One query after the other."""
    scores = images.astype(np.float64) @ texts.T
    of_images, of_texts = [], []
    for image in range(len(images)):
        right = owners == image
        of_images.append(1 + int((scores[image][~right] >= scores[image][right].max()).sum()))
    for text, owner in enumerate(owners):
        wrong = np.arange(len(images)) != owner
        of_texts.append(1 + int((scores[wrong, text] >= scores[owner, text]).sum()))
    return of_images, of_texts


@pytest.mark.parametrize("devices", [None, 1, 2, 8])
@pytest.mark.parametrize("block_size", [7, 1024])
def test_ranks(block_size: int, devices: int | None) -> None:
    images, texts, owners = make_features()
    mesh = None if devices is None else parallel.make_mesh(devices)
    found = metrics.retrieval_ranks(images, texts, owners, block_size=block_size, mesh=mesh)
    expected = by_the_matrix(images, texts, owners)
    assert 1 < np.mean(expected[0]) < TEXTS / 4 and 1 < np.mean(expected[1]) < IMAGES / 4
    np.testing.assert_array_equal(found.image_to_text, expected[0])
    np.testing.assert_array_equal(found.text_to_image, expected[1])


@pytest.mark.parametrize("sign", [1, -1])
def test_what_fills_up_a_block_is_no_answer(sign: int) -> None:
    """Whether right answers score above or below 0."""
    images, texts, owners = make_features(1)
    found = metrics.retrieval_ranks(images, sign * texts, owners, block_size=11)
    expected = by_the_matrix(images, sign * texts, owners)
    np.testing.assert_array_equal(found.image_to_text, expected[0])
    np.testing.assert_array_equal(found.text_to_image, expected[1])


def test_equal_features_find_nothing() -> None:
    one = np.full((1, WIDTH), 0.1234567, np.float32)
    owners = np.arange(TEXTS) % IMAGES
    ranks = metrics.retrieval_ranks(np.repeat(one, IMAGES, 0), np.repeat(one, TEXTS, 0), owners, block_size=8)
    assert (ranks.text_to_image == IMAGES).all()
    assert ranks.image_to_text.tolist() == [1 + TEXTS - (owners == image).sum() for image in range(IMAGES)]


def test_more_devices_than_blocks() -> None:
    images, texts, _ = make_features(2)
    found = metrics.retrieval_ranks(images[:3], texts[:5], np.array([2, 0, 1, 1, 0]), mesh=parallel.make_mesh(8))
    expected = by_the_matrix(images[:3], texts[:5], np.array([2, 0, 1, 1, 0]))
    np.testing.assert_array_equal(found.image_to_text, expected[0])
    np.testing.assert_array_equal(found.text_to_image, expected[1])


def test_scores() -> None:
    ranks = metrics.RetrievalRanks(np.array([1, 2, 6, 40]), np.array([1, 1, 10]))
    scores = metrics.retrieval_scores(ranks)
    expected = {
        "image_to_text/recall_at_1": 0.25,
        "image_to_text/recall_at_5": 0.5,
        "image_to_text/recall_at_10": 0.75,
        "image_to_text/median_rank": 4.0,
        "text_to_image/recall_at_1": 2 / 3,
        "text_to_image/recall_at_5": 2 / 3,
        "text_to_image/recall_at_10": 1.0,
        "text_to_image/median_rank": 1.0,
    }
    assert scores == {**expected, "mean_recall": pytest.approx((0.25 + 0.5 + 0.75 + 4 / 3 + 1) / 6)}


def test_chance() -> None:
    """By drawing orders of 23 candidates, 3 of them right."""
    rng = np.random.default_rng(0)
    hits = np.mean([rng.permutation(23)[:5].min() < 3 for _ in range(4000)])
    assert metrics.chance_recall(23, 3, 5) == pytest.approx(hits, abs=0.025)
    assert metrics.chance_recall(23, 1, 23) == 1


def test_no_matrix_in_memory() -> None:
    """A matrix of 3,000 x 3,000 would be 36 MB."""
    from fusionjax.metrics import retrieval

    shape, size = jax.ShapeDtypeStruct((3000, 5), np.float32), 100
    owners, blocks = jax.ShapeDtypeStruct((3000,), np.int32), jax.ShapeDtypeStruct((30, 2), np.int32)
    count = jax.jit(retrieval._count, static_argnames=("rows", "columns", "axis_name"))
    first = jax.ShapeDtypeStruct((), np.int32)
    lowered = count.lower(shape, shape, owners, blocks, first, rows=size, columns=size, axis_name=None)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 1e6


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (r"must have shapes \[images, features\] .* got \(29, 13\) and \(71, 12\)", {"texts": np.zeros((TEXTS, 12))}),
        (r"one of each at least; got \(0, 13\)", {"images": np.zeros((0, WIDTH))}),
        (r"an integer for each of the 71 texts; got int64 \(70,\)", {"owners": np.zeros(70, np.int64)}),
        ("an integer for each of the 71 texts; got float64", {"owners": np.zeros(TEXTS)}),
        ("must be places of the 29 images; got 0 to 29", {"owners": np.arange(TEXTS) % 30}),
        ("every image must have a text; image 28 has none", {"owners": np.arange(TEXTS) % 28}),
        (
            "features of texts must be finite; row 3 is not",
            {"texts": np.where(np.arange(TEXTS)[:, None] == 3, np.nan, 0)},
        ),
        ("block_size must be at least 1; got 0", {"block_size": 0}),
    ],
)
def test_refusals(message: str, changed: dict[str, object]) -> None:
    images, texts, owners = make_features()
    given = {"images": images, "texts": texts, "owners": owners, "block_size": 9, **changed}
    if given["texts"].shape[1] == 1:  # type: ignore[attr-defined]
        given["texts"] = np.repeat(given["texts"], WIDTH, 1)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=message):
        metrics.retrieval_ranks(
            given["images"],
            given["texts"],
            given["owners"],
            block_size=int(given["block_size"]),  # type: ignore[call-overload]
        )
