"""CIDEr-D of single captions against references counted once."""

import pytest

from fusionjax.metrics import CiderScorer, cider_d
from tests.metrics.corpora import make_corpus


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_of_single_scores_is_the_score_of_the_corpus(seed):
    corpus = make_corpus(7, 3, seed)
    scorer = CiderScorer(corpus["references"])
    scores = [scorer.score(candidate, image) for image, candidate in enumerate(corpus["candidates"])]
    assert sum(scores) / 7 == pytest.approx(cider_d(**corpus), abs=1e-12)


def test_words_may_be_numbers_and_a_caption_belongs_to_its_image():
    scorer = CiderScorer([[[5, 6, 7, 8]], [[9, 4]]])
    assert scorer.score([5, 6, 7, 8], 0) == pytest.approx(10.0)
    assert scorer.score([5, 6, 7, 8], 1) == 0.0
    assert scorer.score([], 0) == 0.0
