"""Captions to token ids and back: whole words or byte pairs, over Hugging Face's `tokenizers`."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fusionjax._extras import require
from fusionjax.errors import InputError

if TYPE_CHECKING:
    import tokenizers

PADDING, START, END, UNKNOWN = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<start>", "<end>", "<unk>")
_BYTES = 256
_PUNCTUATION = r"[!-/:-@\[-`{-~]"


class Tokenizer:
    """Turns a text into token ids and ids into a text; made by `train_tokenizer` or `Tokenizer.load`.

    Ids 0, 1, 2 and 3 are padding, start, end and unknown. Nothing in a text is ever read as one of the first three, not
    even the word "<end>".

    Attributes:
        kind: "word" or "bpe".
        vocab_size: number of ids, the four special ones included.

    Example:
        >>> tokenizer = train_tokenizer(["A dog runs.", "a dog sleeps"])
        >>> tokenizer.encode("A dog jumps!", length=6).tolist()
        [1, 4, 5, 3, 2, 0]
        >>> tokenizer.decode([1, 4, 5, 7, 2, 0])
        'a dog sleeps'
    """

    def __init__(self, model: "tokenizers.Tokenizer") -> None:
        self._model = model
        self.kind: Literal["word", "bpe"] = "word" if type(model.model).__name__ == "WordLevel" else "bpe"
        self.vocab_size: int = model.get_vocab_size()

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size})"

    def encode(self, text: str, length: int) -> np.ndarray:
        """Encodes one text; see `encode_batch`.

        Returns:
            int32 `[length]`.
        """
        return self.encode_batch([text], length)[0]

    def encode_batch(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Encodes texts as start, words, end, padding.

        Args:
            texts: any number of texts.
            length: tokens of each row. A text with more is cut and has no end, so that a model does not learn to stop
                there.

        Returns:
            int32 `[texts, length]`.

        Raises:
            ValueError: `length` is less than 2.
        """
        if length < 2:
            raise ValueError(f"length must be at least 2 (start and end); got {length}. Give room for the words.")
        tokens = np.full((len(texts), length), PADDING, np.int32)
        for row, encoding in zip(tokens, self._model.encode_batch(list(texts)), strict=True):
            ids = [START, *encoding.ids, END][:length]
            row[: len(ids)] = ids
        return tokens

    def knows(self, text: str) -> bool:
        """Says whether a text has a word of the vocabulary."""
        return any(number > UNKNOWN for number in self._model.encode(text).ids)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decodes the ids up to the first end; padding, start and unknown are left out.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        return self._model.decode(self._words(ids), skip_special_tokens=False).strip()

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Gives one readable string for each id, special ones included, to label a figure with.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        numbers = self._checked(ids)
        return [
            SPECIAL_TOKENS[number]
            if number <= UNKNOWN
            else self._model.decode([number], skip_special_tokens=False).strip()
            for number in numbers
        ]

    def _words(self, ids: Sequence[int] | np.ndarray) -> list[int]:
        numbers = self._checked(ids)
        if END in numbers:
            numbers = numbers[: numbers.index(END)]
        return [number for number in numbers if number > UNKNOWN]

    def _checked(self, ids: Sequence[int] | np.ndarray) -> list[int]:
        array = np.asarray(ids)
        if array.ndim != 1:
            raise ValueError(f"ids must have shape [length]; got {array.shape}. Decode one row at a time.")
        numbers = [int(number) for number in array]
        for number in numbers:
            if not 0 <= number < self.vocab_size:
                raise ValueError(
                    f"ids must lie in [0, {self.vocab_size}); got {number}. Use the model's own tokenizer."
                )
        return numbers

    def save(self, path: str | Path) -> None:
        """Writes the tokenizer as one JSON file, in the form of Hugging Face's `tokenizers`."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(self._model.to_str(pretty=True), encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads a tokenizer that `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or holds a tokenizer of another kind.
        """
        library = require("tokenizers", extra="data")
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            message = (
                f"{path}: expected a tokenizer file, which cannot be read ({error}). Give the folder of a finished run."
            )
            raise InputError(message) from error
        try:
            model = library.Tokenizer.from_str(text)
        except Exception as error:  # The library raises a bare Exception.
            message = f"{path}: expected the JSON of a tokenizer; it is damaged ({error}). Restore it or train again."
            raise InputError(message) from error
        special = tuple(model.id_to_token(number) for number in range(len(SPECIAL_TOKENS)))
        if special != SPECIAL_TOKENS or type(model.model).__name__ not in ("WordLevel", "BPE"):
            message = f"ids 0 to 3 must be {', '.join(SPECIAL_TOKENS)}; got {special}. Train one with train_tokenizer."
            raise InputError(f"{path}: {message}")
        return cls(model)

    def __reduce__(self) -> tuple[object, ...]:
        return (_from_text, (self._model.to_str(),))


def _from_text(text: str) -> Tokenizer:
    return Tokenizer(require("tokenizers", extra="data").Tokenizer.from_str(text))


def train_tokenizer(
    texts: Iterable[str], *, kind: Literal["word", "bpe"] = "word", vocab_size: int = 10_000, min_count: int = 1
) -> Tokenizer:
    """Makes a tokenizer from texts: those of the training split alone.

    "word" lower-cases, deletes ASCII punctuation and splits at white space, as caption metrics do; words that are not
    in the vocabulary become unknown. "bpe" merges pairs of bytes (Sennrich et al.), keeps capitals and punctuation,
    and encodes every text without unknowns. The most frequent words, or pairs, get the lowest ids.

    Args:
        texts: the captions.
        kind: "word" or "bpe".
        vocab_size: the most ids that there may be, the four special ones included ("bpe" also needs one for each byte).
        min_count: how often a word, or a pair, must occur to get an id.

    Returns:
        The tokenizer. The same texts in any order give the same one.

    Raises:
        InputError: there is no text, or no word is left.
        ValueError: `kind`, `vocab_size` or `min_count` is out of range.

    Example:
        >>> train_tokenizer(["a red star", "a blue star"]).vocab_size
        8

    References:
        Sennrich, Haddow and Birch, "Neural machine translation of rare words with subword units", 2016,
        arXiv:1508.07909.
    """
    if kind not in ("word", "bpe"):
        raise ValueError(f"kind must be 'word' or 'bpe'; got {kind!r}. Choose one of these.")
    smallest = len(SPECIAL_TOKENS) + (_BYTES if kind == "bpe" else 1)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size must be at least {smallest} for kind {kind!r}; got {vocab_size}. Raise it.")
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1; got {min_count}. Use 1 to keep every word.")
    counted = _Counted(texts)
    model, trainer = (_word_level if kind == "word" else _byte_pairs)(vocab_size, min_count)
    model.train_from_iterator(counted, trainer)
    if not counted.count:
        raise InputError("a tokenizer needs captions to learn its words from; got none. Check the training split.")
    if model.get_vocab_size() <= smallest - (kind == "word"):
        raise InputError(
            f"the vocabulary is empty: no word occurs {min_count} times or more in {counted.count} captions. "
            "Lower min_count, or check that the captions hold words."
        )
    # Trained special tokens would be recognised inside texts; only the ids are wanted.
    description = json.loads(model.to_str())
    description["added_tokens"] = []
    return _from_text(json.dumps(description))


class _Counted:
    """Passes texts on and counts those that are not blank."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts, self.count = texts, 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.count += bool(text.strip())
            yield text


def _word_level(vocab_size: int, min_count: int) -> tuple[Any, Any]:
    library = require("tokenizers", extra="data")
    model = library.Tokenizer(library.models.WordLevel(unk_token=SPECIAL_TOKENS[UNKNOWN]))
    punctuation = library.normalizers.Replace(library.Regex(_PUNCTUATION), "")
    model.normalizer = library.normalizers.Sequence([library.normalizers.Lowercase(), punctuation])
    model.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    trainer = library.trainers.WordLevelTrainer(
        vocab_size=vocab_size, min_frequency=min_count, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    return model, trainer


def _byte_pairs(vocab_size: int, min_count: int) -> tuple[Any, Any]:
    library = require("tokenizers", extra="data")
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    model.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return model, trainer
