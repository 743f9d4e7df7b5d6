"""Words and byte pairs to ids and back."""

import collections
import csv
import json
import os
import pathlib
import pickle
import string

import numpy as np
import pytest

from fusionjax.data import Tokenizer, train_tokenizer
from fusionjax.errors import InputError

TEXTS = ["A dog runs.", "A dog, sleeping!", "the dog's bone", "A cat runs"]
SHARED = pathlib.Path(os.environ.get("FUSIONJAX_SHARED_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data"))


def plain_words(text):
    return text.lower().translate(str.maketrans("", "", string.punctuation)).split()


@pytest.fixture(scope="module")
def captions():
    """Real captions, where they are on this machine."""
    file = SHARED / "flickr8k-1k" / "captions.csv"
    if not file.exists():
        pytest.skip(f"no shared data at {SHARED}; set FUSIONJAX_SHARED_DATA")
    with file.open(encoding="utf-8", newline="") as stream:
        return [row["caption"] for row in csv.DictReader(stream) if row["split"] == "train"]


def test_words_by_hand():
    tokenizer = train_tokenizer(TEXTS)
    # By count, then by the alphabet: a 3, dog 2, runs 2, bone, cat, dogs, sleeping, the.
    assert tokenizer.vocab_size == 12
    assert tokenizer.tokens(range(12)) == [
        *("<pad>", "<start>", "<end>", "<unk>"),
        *("a", "dog", "runs", "bone", "cat", "dogs", "sleeping", "the"),
    ]
    encoded = tokenizer.encode("The DOG meows...", 7)
    assert encoded.tolist() == [1, 11, 5, 3, 2, 0, 0]
    assert encoded.dtype == np.int32
    assert tokenizer.decode(encoded) == "the dog"
    assert tokenizer.encode("", 4).tolist() == [1, 2, 0, 0]


def test_a_long_text_is_cut_and_has_no_end():
    tokenizer = train_tokenizer(TEXTS)
    assert tokenizer.encode("a cat runs", 5).tolist() == [1, 4, 8, 6, 2]
    assert tokenizer.encode("a cat runs", 4).tolist() == [1, 4, 8, 6]
    with pytest.raises(ValueError, match=r"length must be at least 2 .* got 1"):
        tokenizer.encode("a", 1)
    with pytest.raises(ValueError, match=r"length must be given for a tokenizer of no published model; got None. Give"):
        tokenizer.encode("a")


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_batch_equals_one_by_one(kind):
    tokenizer = train_tokenizer(TEXTS, kind=kind)
    batch = tokenizer.encode_batch(TEXTS, 11)
    assert batch.shape == (4, 11)
    np.testing.assert_array_equal(batch, np.stack([tokenizer.encode(text, 11) for text in TEXTS]))
    assert tokenizer.encode_batch([], 11).shape == (0, 11)


def test_decode_stops_at_the_end_and_skips_what_is_no_word():
    tokenizer = train_tokenizer(TEXTS)
    assert tokenizer.decode(np.array([1, 0, 4, 3, 5, 2, 6, 6])) == "a dog"
    assert tokenizer.decode([]) == ""
    assert tokenizer.tokens([4, 2, 6]) == ["a", "<end>", "runs"]


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_special_words_in_a_text_are_no_special_ids(kind):
    tokenizer = train_tokenizer([*TEXTS, "the <end> is <pad>"], kind=kind, vocab_size=400)
    ids = tokenizer.encode("a <end> dog <start><pad>", 40)
    length = int((ids != 0).sum())
    assert ids[0] == 1
    assert ids[length - 1] == 2
    assert not np.isin(ids[1 : length - 1], [0, 1, 2]).any()
    assert tokenizer.decode(ids) == {"word": "a end dog", "bpe": "a <end> dog <start><pad>"}[kind]


def test_vocab_size_and_min_count_keep_the_frequent():
    assert train_tokenizer(TEXTS, vocab_size=6).tokens([4, 5]) == ["a", "dog"]
    assert train_tokenizer(TEXTS, min_count=2).vocab_size == 7
    assert train_tokenizer(TEXTS, min_count=2).encode("a cat runs", 5).tolist() == [1, 4, 3, 6, 2]


def test_byte_pairs_lose_nothing():
    tokenizer = train_tokenizer(TEXTS * 3, kind="bpe", vocab_size=300)
    for text in (*TEXTS, "Ein Käse, 好; emoji \N{DOG FACE}!", "x" * 30):
        assert tokenizer.decode(tokenizer.encode(text, 64)) == text
    assert 260 < tokenizer.vocab_size <= 300
    assert tokenizer.tokens(tokenizer.encode("A dog", 5)) == ["<start>", "A", "dog", "<end>", "<pad>"]


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_same_texts_in_any_order_give_the_same_tokenizer(kind):
    first, second = train_tokenizer(TEXTS, kind=kind), train_tokenizer(reversed(TEXTS), kind=kind)
    assert first.tokens(range(first.vocab_size)) == second.tokens(range(second.vocab_size))


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_saved_and_pickled_tokenizers_are_equal(kind, tmp_path):
    tokenizer = train_tokenizer(TEXTS, kind=kind)
    tokenizer.save(tmp_path / "tokenizer.json")
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    for other in (Tokenizer.load(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(tokenizer))):
        assert repr(other) == repr(tokenizer) == f"Tokenizer(kind='{kind}', vocab_size={tokenizer.vocab_size})"
        np.testing.assert_array_equal(other.encode_batch(TEXTS, 9), tokenizer.encode_batch(TEXTS, 9))
        assert other.decode(other.encode("a <end> dog", 30)) == tokenizer.decode(tokenizer.encode("a <end> dog", 30))


def test_real_captions_split_as_the_metrics_do(captions):
    tokenizer = train_tokenizer(captions, min_count=3)
    counts = collections.Counter(word for caption in captions for word in plain_words(caption))
    kept = {word for word, count in counts.items() if count >= 3}
    assert set(tokenizer.tokens(range(4, tokenizer.vocab_size))) == kept
    for caption in captions[::7]:
        words = plain_words(caption)
        assert tokenizer.decode(tokenizer.encode(caption, 90)) == " ".join(word for word in words if word in kept)


def test_nothing_to_learn_from():
    for texts in ([], ["", "  "]):
        with pytest.raises(InputError, match="needs captions to learn its words from; got none"):
            train_tokenizer(texts)
    with pytest.raises(InputError, match="vocabulary is empty: no word occurs 1 times or more in 2 captions"):
        train_tokenizer(["...", "?!"])
    with pytest.raises(InputError, match="vocabulary is empty: no word occurs 9 times or more in 4 captions"):
        train_tokenizer(TEXTS, min_count=9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "char"}, "kind must be 'word' or 'bpe'; got 'char'"),
        ({"vocab_size": 4}, "vocab_size must be at least 5 for kind 'word'; got 4"),
        ({"kind": "bpe", "vocab_size": 200}, "vocab_size must be at least 260 for kind 'bpe'; got 200"),
        ({"min_count": 0}, "min_count must be at least 1; got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(TEXTS, **arguments)


def test_ids_outside_the_vocabulary():
    tokenizer = train_tokenizer(TEXTS)
    with pytest.raises(ValueError, match=r"ids must lie in \[0, 12\); got 12"):
        tokenizer.decode([4, 12])
    with pytest.raises(ValueError, match=r"ids must have shape \[length\]; got \(1, 2\)"):
        tokenizer.tokens(np.array([[1, 2]]))


def test_damaged_files(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match=r"tokenizer\.json: expected a tokenizer file, which cannot be read"):
        Tokenizer.load(path)
    train_tokenizer(TEXTS).save(path)
    text = path.read_text()
    for damaged in (text[:-40], "", "[]", "\0"):
        path.write_text(damaged)
        with pytest.raises(InputError, match="expected the JSON of a tokenizer; it is damaged"):
            Tokenizer.load(path)
    content = json.loads(text)
    content["model"]["vocab"] = {"a": 0, "<unk>": 1}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"ids 0 to 3 must be <pad>, <start>, <end>, <unk>; got \('a', '<unk>', None"):
        Tokenizer.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        Tokenizer.load(path)
