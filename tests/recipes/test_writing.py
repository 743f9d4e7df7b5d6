"""Writing captions with a trained run: batches, probabilities, heat maps."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import data
from fusionjax.recipes import captioning
from fusionjax.recipes.config import DecodingConfig
from fusionjax.recipes.writing import CaptionWriter

IMAGES = np.stack([scene["image"] for scene in data.Scenes("test", size=5, image_size=32)])
GREEDY = DecodingConfig(method="greedy")


@pytest.fixture(scope="module")
def writer(captioner: Path) -> CaptionWriter:
    return captioning.load(captioner)[0]


def test_batches_do_not_change_what_is_written(writer: CaptionWriter) -> None:
    together = writer.write(IMAGES, GREEDY)
    parts = writer.write(IMAGES, GREEDY, batch_size=2)
    assert len(together) == len(parts) == 5
    for one, other in zip(together, parts, strict=True):
        assert (one.caption, one.words) == (other.caption, other.words)
        assert math.isclose(one.log_probability, other.log_probability, rel_tol=1e-4)
        assert one.attention is None
    assert writer.write(IMAGES[:0], GREEDY) == []


def test_log_probability_is_that_of_the_words_among_those_allowed(writer: CaptionWriter) -> None:
    (written,) = writer.write(IMAGES[:1], GREEDY)
    text = writer.tokenizer.encode_batch([written.caption], writer.max_length)
    batch = {"image": IMAGES[:1], "text": text[None]}
    output: Any = jax.jit(writer.model.apply)(writer.variables, batch)
    logits = output.logits.reshape(-1, writer.tokenizer.vocab_size)
    scores = jax.nn.log_softmax(logits.at[:, jnp.array([0, 1, 3])].set(-jnp.inf))
    expected = sum(float(scores[place, token]) for place, token in enumerate(text[0, 1:]) if token)
    assert written.log_probability == pytest.approx(expected, rel=1e-4)


def test_cross_entropy_counts_words_once(writer: CaptionWriter) -> None:
    text = writer.tokenizer.encode_batch(["a red circle", ""], writer.max_length)
    text[1] = 0
    batches = [{"image": IMAGES[:1], "text": text[None]}, {"image": IMAGES[:1], "text": text[None, :1]}]
    sums = [writer.cross_entropy(iter([batch])) for batch in batches]
    both = writer.cross_entropy(iter(batches))
    assert [words for _, words in (*sums, both)] == [4, 4, 8]
    assert sums[0][0] == pytest.approx(sums[1][0], rel=1e-5)
    assert both[0] == pytest.approx(sums[0][0] + sums[1][0], rel=1e-6)


def test_a_heat_map_for_each_word(writer: CaptionWriter) -> None:
    looked = writer.write(IMAGES, GREEDY, look=True)
    for one, plain in zip(looked, writer.write(IMAGES, GREEDY), strict=True):
        assert one.words == plain.words
        assert " ".join(one.words) == one.caption and not {"<end>", "<pad>"} & set(one.words)
        assert one.attention is not None
        assert one.attention.shape == (len(one.words), 8, 8)
        np.testing.assert_allclose(one.attention.sum((1, 2)), 1, rtol=1e-5)


def test_sampling_depends_on_its_seed_alone(writer: CaptionWriter) -> None:
    sample = DecodingConfig(method="sample", temperature=2.0)
    first, again = writer.write(IMAGES, sample), writer.write(IMAGES, sample)
    other = writer.write(IMAGES, dataclasses.replace(sample, seed=1))
    assert [one.words for one in first] == [one.words for one in again]
    assert [one.words for one in first] != [one.words for one in other]


def test_more_beams_than_words(writer: CaptionWriter) -> None:
    beams = writer.write(IMAGES[:1], DecodingConfig(num_beams=writer.tokenizer.vocab_size + 3, length_penalty=0.0))
    assert beams[0].log_probability >= writer.write(IMAGES[:1], GREEDY)[0].log_probability - 1e-4
