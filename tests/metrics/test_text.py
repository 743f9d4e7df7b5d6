"""Words of captions."""

import string

import pytest

from fusionjax.metrics import tokenize_caption
from fusionjax.metrics.text import count_ngrams


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A Dog's  ball , in the air .", ["a", "dogs", "ball", "in", "the", "air"]),
        ("red-haired\tgirl\n", ["redhaired", "girl"]),
        ("Ein Mädchen, ÄRGER!", ["ein", "mädchen", "ärger"]),
        (string.punctuation, []),
        ("", []),
    ],
)
def test_captions_are_lowered_freed_of_punctuation_and_cut(text, words):
    assert tokenize_caption(text) == words


def test_runs_of_words_are_counted():
    assert count_ngrams(["a", "b", "a", "b"], 3) == {("a", "b", "a"): 1, ("b", "a", "b"): 1}
    assert count_ngrams(["a"], 2) == {}
