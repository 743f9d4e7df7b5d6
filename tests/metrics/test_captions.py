"""Caption metrics: parity with pycocoevalcap (stored, and live where it is installed), and properties."""

import importlib.util
import json

import numpy as np
import pytest

from fusionjax.metrics import bleu, caption_metrics, cider_d, exact_match, rouge_l
from tests.metrics.corpora import STORED, make_corpus, odd_corpora, score_by_peer

STORED_CORPORA = json.loads(STORED.read_text(encoding="utf-8"))
needs_peer = pytest.mark.skipif(
    importlib.util.find_spec("pycocoevalcap") is None, reason="pycocoevalcap is not installed"
)


def assert_scores(corpus, scores):
    found = caption_metrics(corpus["candidates"], corpus["references"])
    for name, score in scores.items():
        assert found[name] == pytest.approx(score, abs=1e-9), name


@pytest.mark.parametrize("name", STORED_CORPORA)
def test_scores_equal_the_stored_ones_of_pycocoevalcap(name):
    corpus = STORED_CORPORA[name]
    assert set(corpus["scores"]) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"}
    assert_scores(corpus, corpus["scores"])


@needs_peer
@pytest.mark.parametrize("seed", range(12))
def test_scores_equal_pycocoevalcap(seed):
    corpus = make_corpus(images=1 + 3 * seed, references=1 + seed % 5, seed=seed, vocab_size=3 + seed)
    assert_scores(corpus, score_by_peer(corpus))


@needs_peer
@pytest.mark.parametrize("corpus", odd_corpora().values(), ids=odd_corpora())
def test_odd_scores_equal_pycocoevalcap(corpus):
    assert_scores(corpus, score_by_peer(corpus))


def test_scores_by_hand():
    candidate, truths = ["the", "dog", "runs"], [["the", "dog", "sits", "here"]]
    # 2 of 3 words, 1 of 2 pairs; 3 words for 4
    penalty = np.exp(1 - 4 / 3)
    assert bleu([candidate], [truths])[:2] == pytest.approx((penalty * 2 / 3, penalty * np.sqrt(2 / 3 / 2)), rel=1e-6)
    # common: "the dog"; precision 2/3, recall 2/4
    assert rouge_l([candidate], [truths]) == pytest.approx(2.44 * (2 / 3) * 0.5 / (0.5 + 1.44 * 2 / 3))
    # of two images, "x" is only in the first: its words alone weigh anything, and "x" is all right in n = 1
    assert cider_d([["x"], ["b"]], [[["x", "a"]], [["a"]]]) == pytest.approx(10 / 4 / 2 * np.exp(-1 / 72))


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_images_and_of_references_does_not_matter(seed):
    corpus = make_corpus(11, 5, seed)
    turned = caption_metrics(corpus["candidates"][::-1], [truths[::-1] for truths in corpus["references"][::-1]])
    assert turned == pytest.approx(caption_metrics(**corpus), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_candidate_that_is_a_reference_scores_highest(seed):
    corpus = make_corpus(11, 3, seed)
    best = caption_metrics([truths[-1] for truths in corpus["references"]], corpus["references"])
    found = caption_metrics(**corpus)
    assert best["exact_match"] == pytest.approx(1.0) and best["rouge_l"] == pytest.approx(1.0)
    assert best["bleu_1"] == pytest.approx(1.0) and best["cider_d"] > found["cider_d"]
    assert all(0.0 <= found[name] <= (10.0 if name == "cider_d" else 1.0) for name in found)


def test_exact_match_counts_any_reference_and_whole_captions_only():
    truths = [[["a", "dog"], ["one", "dog"]], [["a", "cat"]], [["a", "cat"]]]
    assert exact_match([("one", "dog"), ["a"], ["cat", "a"]], truths) == pytest.approx(1 / 3)


METRICS = {"bleu": bleu, "rouge_l": rouge_l, "cider_d": cider_d, "exact_match": exact_match, "all": caption_metrics}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize(
    ("candidates", "references", "error", "message"),
    [
        ([], [], ValueError, "at least one caption; got none"),
        ([["a"]], [], ValueError, "each of the 1 candidates; got 0"),
        ([["a"], ["b"]], [[["a"]], []], ValueError, r"at least one reference; got \[\] for image 1"),
        (["a dog"], [[["a"]]], TypeError, "lists of words; got the string 'a dog' for image 0"),
        (
            [["a"]],
            [["a dog"]],
            TypeError,
            "lists of words; got the string 'a dog' for image 0. Pass .*tokenize_caption",
        ),
    ],
)
def test_errors_name_the_value_and_the_fix(metric, candidates, references, error, message):
    with pytest.raises(error, match=message):
        metric(candidates, references)
