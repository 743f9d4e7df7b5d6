"""Texts to token ids and back, over Hugging Face's `tokenizers`: trained here or published."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from fusionjax._extras import require
from fusionjax.errors import InputError

if TYPE_CHECKING:
    import tokenizers

PADDING, START, END, UNKNOWN = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<start>", "<end>", "<unk>")
_BYTES = 256
_KINDS: dict[str, Literal["word", "bpe", "wordpiece", "unigram"]] = {
    "WordLevel": "word",
    "BPE": "bpe",
    "WordPiece": "wordpiece",
    "Unigram": "unigram",
}
_SOME_WORD = "a"
_PUNCTUATION = r"[!-/:-@\[-`{-~]"


class _Frame(NamedTuple):
    """What stands around the words of a text.

    Attributes:
        before: ids.
        after: ids; the first of them ends a text.
        padding: the id that fills a row.
        special: ids that are no words.
        is_end_kept: whether of a text that is too long the words are cut, and not what comes after them.
        max_length: places that the model has; None where it is not known.
    """

    before: tuple[int, ...] = (START,)
    after: tuple[int, ...] = (END,)
    padding: int = PADDING
    special: frozenset[int] = frozenset({PADDING, START, END, UNKNOWN})
    is_end_kept: bool = False
    max_length: int | None = None


class Tokenizer:
    """Turns a text into token ids and ids into a text; made by `train_tokenizer`, `read_tokenizer` or `Tokenizer.load`.

    Of one that was trained here, ids 0, 1, 2 and 3 are padding, start, end and unknown, and nothing in a text is ever
    read as one of the first three, not even the word "<end>". That of a published model has ids of its own, reads the
    names of its special tokens in a text as these, and keeps the end of a text that it cuts, all as its model was
    trained.

    Args:
        model: of the library; a post-processor and padding make it one of a published model.

    Attributes:
        kind: "word", "bpe", "wordpiece" or "unigram".
        vocab_size: number of ids, the special ones included.
        padding_id: what fills a row after the end of the text.
        max_length: tokens that the published model has places for; None where the tokenizer belongs to none.

    Raises:
        InputError: the tokens around the words cannot be told.

    Example:
        >>> tokenizer = train_tokenizer(["A dog runs.", "a dog sleeps"])
        >>> tokenizer.encode("A dog jumps!", length=6).tolist()
        [1, 4, 5, 3, 2, 0]
        >>> tokenizer.decode([1, 4, 5, 7, 2, 0])
        'a dog sleeps'
    """

    def __init__(self, model: "tokenizers.Tokenizer") -> None:
        self._frame = _frame_of(model)
        self._model = model
        self.kind = _KINDS[type(model.model).__name__]
        self.vocab_size: int = model.get_vocab_size()
        self.padding_id = self._frame.padding
        self.max_length = self._frame.max_length

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size})"

    def encode(self, text: str, length: int | None = None) -> np.ndarray:
        """Encodes one text; see `encode_batch`.

        Returns:
            int32 `[length]`.
        """
        return self.encode_batch([text], length)[0]

    def encode_batch(self, texts: Sequence[str], length: int | None = None) -> np.ndarray:
        """Encodes texts as start, words, end, padding; a published model may have no start.

        Args:
            texts: any number of texts.
            length: tokens of each row; None takes `max_length`. A text with more is cut. One that was trained here then
                leaves out the end, so that a model does not learn to stop there; a published one keeps it.

        Returns:
            int32 `[texts, length]`.

        Raises:
            ValueError: `length` has no room for start and end, or is not given where the tokenizer belongs to no model.
        """
        before, after, padding, _, is_end_kept, max_length = self._frame
        length = max_length if length is None else length
        if length is None:
            raise ValueError("length must be given for a tokenizer of no published model; got None. Give one.")
        least = len(before) + len(after)
        if length < least:
            around = " and ".join(name for name, ids in (("start", before), ("end", after)) if ids)
            raise ValueError(f"length must be at least {least} ({around}); got {length}. Give room for the words.")
        tokens = np.full((len(texts), length), padding, np.int32)
        for row, words in zip(tokens, self._words_of(texts), strict=True):
            ids = [*before, *(words[: length - least] if is_end_kept else words), *after][:length]
            row[: len(ids)] = ids
        return tokens

    def knows(self, text: str) -> bool:
        """Says whether a text has a word that is in the vocabulary, in whole or in parts.

        Args:
            text: in words.

        Returns:
            False where all that there is of it is unknown, or space.

        Example:
            >>> tokenizer = train_tokenizer(["a dog"])
            >>> tokenizer.knows("the dog"), tokenizer.knows("the cat"), tokenizer.knows(" ")
            (True, False, False)
        """
        known = [number for number in self._words_of([text])[0] if number not in self._frame.special]
        return any(self._model.decode([number], skip_special_tokens=False).strip() for number in known)

    def words(self, text: str) -> list[int]:
        """Gives the tokens of a text alone, without start, end and padding, however many.

        Example:
            >>> tokenizer = train_tokenizer(["a dog"])
            >>> tokenizer.words("a dog") == tokenizer.encode("a dog", 4)[1:3].tolist()
            True
        """
        return self._words_of([text])[0]

    def _words_of(self, texts: Sequence[str]) -> list[list[int]]:
        return [one.ids for one in self._model.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decodes the ids up to the first end; padding, start, unknown and other special ones are left out.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        return self._model.decode(self._words(ids), skip_special_tokens=False).strip()

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Gives one readable string for each id, special ones included, to label a figure with.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        return [
            str(self._model.id_to_token(number))
            if number in self._frame.special
            else self._model.decode([number], skip_special_tokens=False).strip()
            for number in self._checked(ids)
        ]

    def _words(self, ids: Sequence[int] | np.ndarray) -> list[int]:
        numbers = self._checked(ids)
        end = self._frame.after[:1]
        if end and end[0] in numbers:
            numbers = numbers[: numbers.index(end[0])]
        return [number for number in numbers if number not in self._frame.special]

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
        partial.write_text(self._to_text(pretty=True), encoding="utf-8")
        partial.replace(path)

    def _to_text(self, *, pretty: bool = False) -> str:
        text: str = self._model.to_str(pretty=pretty)
        if self._model.post_processor is None:
            return text
        model = require("tokenizers", extra="data").Tokenizer.from_str(text)
        padding, max_length = self._frame.padding, self._frame.max_length
        model.enable_padding(pad_id=padding, pad_token=model.id_to_token(padding))
        if max_length is not None:
            model.enable_truncation(max_length)
        return str(model.to_str(pretty=pretty))

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads a tokenizer that `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or holds a tokenizer of another kind.
        """
        model = read_json(path)
        if model.post_processor is None or model.padding is None:
            special = tuple(model.id_to_token(number) for number in range(len(SPECIAL_TOKENS)))
            if special != SPECIAL_TOKENS or type(model.model).__name__ not in ("WordLevel", "BPE"):
                message = (
                    f"ids 0 to 3 must be {', '.join(SPECIAL_TOKENS)}; got {special}. Train one with train_tokenizer."
                )
                raise InputError(f"{path}: {message}")
        return cls(model)

    def __reduce__(self) -> tuple[object, ...]:
        return (_from_text, (self._to_text(),))


def read_json(path: str | Path) -> "tokenizers.Tokenizer":
    """Reads the JSON of a tokenizer of any kind.

    Args:
        path: of the file.

    Returns:
        The tokenizer of the library.

    Raises:
        InputError: the file is missing or damaged.
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
        return library.Tokenizer.from_str(text)
    except Exception as error:  # The library raises a bare Exception.
        message = f"{path}: expected the JSON of a tokenizer; it is damaged ({error}). Restore it or train again."
        raise InputError(message) from error


def _from_text(text: str) -> Tokenizer:
    return Tokenizer(require("tokenizers", extra="data").Tokenizer.from_str(text))


def _frame_of(model: "tokenizers.Tokenizer") -> _Frame:
    """Takes padding and truncation off a model of the library, and says what stands around its words."""
    padding, truncation = model.padding, model.truncation
    model.no_padding()
    model.no_truncation()
    if model.post_processor is None or padding is None:
        return _Frame()
    encoding = model.encode(_SOME_WORD)
    words = [place for place, is_around in enumerate(encoding.special_tokens_mask) if not is_around]
    if not words:
        raise InputError(f"a tokenizer must have a token for {_SOME_WORD!r}; got one that has none. Give another.")
    before, after = tuple(encoding.ids[: words[0]]), tuple(encoding.ids[words[-1] + 1 :])
    special = {number for number, token in model.get_added_tokens_decoder().items() if token.special}
    special |= {*before, *after, padding["pad_id"]}
    unknown = model.token_to_id(getattr(model.model, "unk_token", None) or "")
    special |= set() if unknown is None else {unknown}
    length = None if truncation is None else truncation["max_length"]
    return _Frame(before, after, padding["pad_id"], frozenset(special), is_end_kept=True, max_length=length)


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
