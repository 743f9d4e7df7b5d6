"""The tokenizers of published models: the ids of transformers, whatever files they are read from."""

import importlib.util
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusionjax.data import Tokenizer, read_tokenizer
from fusionjax.data.sentencepiece import read_unigram
from fusionjax.errors import InputError
from tests.parity import hub_tokenizers
from tests.parity.hub_tokenizers import LENGTH, TEXTS, WRITERS
from tests.parity.reference import reference

NAMES = list(WRITERS)


def kind_of(name: str) -> Any:
    return name.partition("-")[0].rstrip("2")


def read(name: str, folder: Path) -> Tokenizer:
    WRITERS[name](folder)
    tokenizer = read_tokenizer(folder, kind_of(name), LENGTH)
    assert tokenizer is not None
    return tokenizer


def expected_of(name: str) -> np.ndarray:
    key = f"tokenizer-{name}"
    needs = hub_tokenizers.NEEDS.get(key, "transformers")
    return reference(key, hub_tokenizers.MODELS[key], needs=needs)["ids"]


@pytest.mark.parametrize("name", NAMES)
def test_the_ids_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    tokenizer, expected = read(name, tmp_path), expected_of(name)
    found = tokenizer.encode_batch(TEXTS)
    assert found.dtype == np.int32 and len({len(set(row)) for row in expected.tolist()}) > 3
    for text, ids, wanted in zip(TEXTS, found, expected, strict=True):
        np.testing.assert_array_equal(ids, wanted, err_msg=repr(text))
    np.testing.assert_array_equal(tokenizer.encode(TEXTS[4]), expected[4])
    # The long text is cut, and ends as short ones do.
    assert tokenizer.tokens(found[8, -1:])[0] in ("<|endoftext|>", "[SEP]", "</s>", "<eos>")
    assert tokenizer.decode(found[8]).count("cat") >= LENGTH // 2


@pytest.mark.parametrize("name", NAMES)
def test_saved_pickled_and_read_again_is_the_same(name: str, tmp_path: Path) -> None:
    tokenizer = read(name, tmp_path)
    (tmp_path / "again").mkdir()
    tokenizer.save(tmp_path / "again" / "tokenizer.json")
    shared = [read_tokenizer(tmp_path / "again", kind_of(name), LENGTH), pickle.loads(pickle.dumps(tokenizer))]
    for other in (*shared, Tokenizer.load(tmp_path / "again" / "tokenizer.json")):
        assert repr(other) == repr(tokenizer)
        assert (other.padding_id, other.max_length) == (tokenizer.padding_id, LENGTH)
        np.testing.assert_array_equal(other.encode_batch(TEXTS), tokenizer.encode_batch(TEXTS))
        assert other.decode(other.encode(TEXTS[0])) == tokenizer.decode(tokenizer.encode(TEXTS[0]))


def test_clip_by_hand(tmp_path: Path) -> None:
    tokenizer = read("clip", tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    start, end = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    words = [vocab[token] for token in ("a</w>", "photo</w>", "of</w>", "a</w>", "cat</w>")]
    assert tokenizer.encode("  A photo of\na CAT ", 9).tolist() == [start, *words, end, end, end]
    assert tokenizer.encode("A photo of a CAT", 4).tolist() == [start, *words[:2], end]
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.padding_id) == ("bpe", len(vocab), end)
    assert tokenizer.decode([start, *words, end, end]) == "a photo of a cat"
    assert tokenizer.tokens([start, *words[:2], end]) == ["<|startoftext|>", "a", "photo", "<|endoftext|>"]
    assert tokenizer.knows("xyz") and not tokenizer.knows(" ")


def test_bert_by_hand(tmp_path: Path) -> None:
    tokenizer = read("bert", tmp_path)
    ids = tokenizer.encode("two cats, xyzzy", 9)
    assert tokenizer.tokens(ids) == ["[CLS]", "two", "cat", "##s", ",", "[UNK]", "[SEP]", "[PAD]", "[PAD]"]
    assert (tokenizer.kind, tokenizer.padding_id, tokenizer.decode(ids)) == ("wordpiece", 0, "two cats,")
    assert tokenizer.knows("a xyzzy") and not tokenizer.knows("xyzzy")


def test_siglip_by_hand(tmp_path: Path) -> None:
    tokenizer = read("siglip", tmp_path)
    ids = tokenizer.encode("Two CATS, of: a dog!", 9)
    assert tokenizer.tokens(ids) == ["two", "cats", "of", "a", "dog", *["</s>"] * 4]
    assert (tokenizer.kind, tokenizer.padding_id, tokenizer.decode(ids)) == ("unigram", 1, "two cats of a dog")
    assert tokenizer.encode("!?", 3).tolist() == [1, 1, 1] and not tokenizer.knows("!? 犬")


def test_a_text_of_no_words_needs_room_for_what_is_around_them(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    clip, siglip = read("clip", tmp_path / "clip"), read("siglip", tmp_path)
    assert clip.encode("cat", 2).tolist() == [*clip.encode("", 2)] and siglip.encode("cat", 1).tolist() == [1]
    with pytest.raises(ValueError, match=r"length must be at least 2 \(start and end\); got 1. Give room"):
        clip.encode("cat", 1)
    with pytest.raises(ValueError, match=r"length must be at least 1 \(end\); got 0. Give room for the words"):
        siglip.encode("cat", 0)


def test_lower_case_and_punctuation_as_the_settings_have_them(tmp_path: Path) -> None:
    tokenizer = read("siglip", tmp_path)
    assert tokenizer.decode(tokenizer.encode("A Cat.")) == "a cat"
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "pad_token": "<pad>"}')
    kept = read_tokenizer(tmp_path, "siglip", 5)
    assert kept is not None and kept.padding_id == 0
    # Capitals are no pieces.
    assert 2 in kept.encode("A") and 2 not in tokenizer.encode("A")


def test_settings_of_older_files_name_the_padding(tmp_path: Path) -> None:
    WRITERS["clip"](tmp_path)
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": {"content": "!"}}')
    tokenizer = read_tokenizer(tmp_path, "clip", 4)
    assert tokenizer is not None and tokenizer.encode("cat")[-1] == tokenizer.padding_id == 0
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "a</w>"}')
    tokenizer = read_tokenizer(tmp_path, "clip", 4)
    assert tokenizer is not None and tokenizer.tokens([tokenizer.padding_id]) == ["a</w>"]


def test_the_whole_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "cased").mkdir()
    cased = read("bert-cased", tmp_path / "cased")
    WRITERS["bert"](tmp_path)
    cased.save(tmp_path / "tokenizer.json")
    tokenizer = read_tokenizer(tmp_path, "bert", LENGTH)
    assert tokenizer is not None
    np.testing.assert_array_equal(tokenizer.encode_batch(TEXTS), cased.encode_batch(TEXTS))


def test_padding_and_truncation_in_the_file_do_not_count(tmp_path: Path) -> None:
    tokenizer = read("bert", tmp_path)
    tokenizer.save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["padding"]["strategy"], content["truncation"]["max_length"] = {"Fixed": 11}, 3
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    again = read_tokenizer(tmp_path, "bert", LENGTH)
    assert again is not None
    np.testing.assert_array_equal(again.encode_batch(TEXTS), tokenizer.encode_batch(TEXTS))


def test_the_table_of_sentencepiece(tmp_path: Path) -> None:
    WRITERS["siglip"](tmp_path)
    table = read_unigram(tmp_path / "spiece.model")
    assert [piece for piece, _ in table.pieces[:4]] == ["<pad>", "</s>", "<unk>", "▁a"]
    assert table.unknown_id == 2 and table.characters == b""
    np.testing.assert_allclose([score for _, score in table.pieces[3:6]], [-2, -2.31, -2.62], rtol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is None, reason="sentencepiece is not installed")
def test_a_trained_model_of_sentencepiece(tmp_path: Path) -> None:
    """With the table of characters that T5 and SigLIP have."""
    import sentencepiece
    from transformers import SiglipTokenizer

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS[:2], *TEXTS[4:]] * 3),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=150,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    wide, joined = "\N{FULLWIDTH LATIN CAPITAL LETTER F}ull", "\N{LATIN SMALL LIGATURE FI}ll"
    texts = [*TEXTS, f"  {wide} {joined}", "a▁b ▁c", "soft\N{SOFT HYPHEN}ly \N{ZERO WIDTH SPACE}and½"]
    table, processor = read_unigram(tmp_path / "spiece.model"), sentencepiece.SentencePieceProcessor()
    processor.Load(str(tmp_path / "spiece.model"))
    assert [piece for piece, _ in table.pieces] == [processor.IdToPiece(one) for one in range(len(table.pieces))]
    tokenizer, theirs = read_tokenizer(tmp_path, "siglip", 16), SiglipTokenizer(str(tmp_path / "spiece.model"))
    assert tokenizer is not None and len(table.characters) > 1000
    expected = theirs(texts, padding="max_length", truncation=True, max_length=16)["input_ids"]
    np.testing.assert_array_equal(tokenizer.encode_batch(texts), expected)


def test_nothing_beside_the_weights(tmp_path: Path) -> None:
    for kind in ("clip", "siglip", "bert"):
        assert read_tokenizer(tmp_path, kind, 7) is None  # type: ignore[arg-type]
    (tmp_path / "vocab.json").write_text("{}")
    assert read_tokenizer(tmp_path, "clip", 7) is None


def damaged(folder: Path, name: str, content: bytes) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    for writer in ("clip", "bert", "siglip"):
        WRITERS[writer](folder)
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        (
            "clip",
            "merges.txt",
            b"#version\nzz yy\n",
            r"vocab.json and merges.txt must be a tokenizer's; they are damaged",
        ),
        ("clip", "vocab.json", b"{", r"vocab.json and merges.txt must be a tokenizer's; they are damaged"),
        ("bert", "vocab.txt", b"\xff\xfe", r"vocab.txt must be a list of tokens; it is damaged .* Fetch it anew"),
        (
            "bert",
            "vocab.txt",
            b"[UNK]\na\n",
            r"the tokenizer must have the token '\[CLS\]'; it has none. Fetch its files",
        ),
        ("bert", "vocab.txt", b"[UNK]\n[CLS]\n[SEP]\n", r"the tokenizer must have the token '\[PAD\]'; it has none"),
        ("bert", "vocab.txt", b"[CLS]\n[SEP]\n[PAD]\n", r"the tokenizer must have the token '\[UNK\]'; it has none"),
        (
            "siglip",
            "spiece.model",
            b"\x0a\x7f\x0a",
            r"spiece.model must be a model of SentencePiece; it is damaged. Fetch",
        ),
        ("siglip", "spiece.model", b"\x0a\x02\x0a\x05", r"must be a model of SentencePiece; it is damaged"),
        ("siglip", "spiece.model", b"\x08\x01", r"must be a model of SentencePiece; it is damaged"),
        ("siglip", "spiece.model", b"", r"must hold a unigram model; it holds another. Put tokenizer.json beside it"),
        ("bert", "tokenizer.json", b"{}", r"tokenizer.json: expected the JSON of a tokenizer; it is damaged"),
        ("bert", "tokenizer_config.json", b"{", r"tokenizer_config.json must be JSON; .* Fetch it anew"),
    ],
)
def test_damaged_files_are_told(kind: Any, name: str, content: bytes, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    damaged(folder, name, content)
    with pytest.raises(InputError, match=message):
        read_tokenizer(folder, kind, 7)


def test_what_only_a_whole_file_can_replace(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"Gemma's")
    with pytest.raises(InputError, match=r"tokenizer.model cannot be read alone. Put tokenizer.json beside it"):
        read_tokenizer(tmp_path, "siglip", 7)
    hub_tokenizers.write_siglip(tmp_path, kind=2)
    with pytest.raises(
        InputError, match=r"spiece.model must hold a unigram model; it holds another. Put tokenizer.json"
    ):
        read_tokenizer(tmp_path, "siglip", 7)
    (tmp_path / "spiece.model").unlink()
    (tmp_path / "spiece.model").mkdir()
    with pytest.raises(InputError, match=r"spiece.model cannot be read: .*. Check the path"):
        read_tokenizer(tmp_path, "siglip", 7)


def test_a_file_that_does_not_end_texts(tmp_path: Path) -> None:
    WRITERS["siglip2"](tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, "post_processor": None}))
    with pytest.raises(InputError, match=r"must end a text with a token of its own; it has none. Fetch it anew"):
        read_tokenizer(tmp_path, "siglip", 7)


def test_a_vocabulary_without_letters(tmp_path: Path) -> None:
    WRITERS["siglip2"](tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"] |= {"vocab": {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4}, "merges": []}
    content["model"] |= {"unk_token": None, "byte_fallback": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"a tokenizer must have a token for 'a'; got one that has none. Give another"):
        read_tokenizer(tmp_path, "siglip", 7)
