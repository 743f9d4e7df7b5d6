"""The tokenizer that comes with published weights."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax._extras import require
from fusionjax.errors import InputError


class PublishedTokenizer:
    """Turns texts into the token ids that a published encoder was trained with, its special tokens among them.

    Args:
        model: of Hugging Face's `tokenizers`.
        padding_id: of the encoder; None pads with 0.
    """

    def __init__(self, model: Any, padding_id: int | None) -> None:
        # What it was saved with is for other lengths.
        model.no_padding()
        model.no_truncation()
        self._model, self._padding_id = model, padding_id or 0
        self.vocab_size: int = model.get_vocab_size()

    def encode_batch(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Encodes texts.

        Args:
            texts: any number of texts.
            length: tokens of each row; a text with more is cut, but keeps a special token at its end.

        Returns:
            int32 `[texts, length]`.
        """
        tokens = np.full((len(texts), length), self._padding_id, np.int32)
        for row, encoding in zip(tokens, self._model.encode_batch(list(texts)), strict=True):
            ids = encoding.ids
            if len(ids) > length:
                end = ids[-1:] if encoding.special_tokens_mask[-1] else []
                ids = [*ids[: length - len(end)], *end]
            row[: len(ids)] = ids
        return tokens

    def knows(self, text: str) -> bool:
        """Says whether a text has a token that is neither special nor unknown."""
        encoding = self._model.encode(text)
        unknown = self._model.token_to_id(str(getattr(self._model.model, "unk_token", None)))
        words = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
        return any(number != unknown and not special for number, special in words)

    def save(self, path: str | Path) -> None:
        """Writes the tokenizer as one JSON file, in the form of Hugging Face's `tokenizers`."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(self._model.to_str(pretty=True), encoding="utf-8")
        partial.replace(path)

    def __reduce__(self) -> tuple[object, ...]:
        return _from_text, (self._model.to_str(), self._padding_id)


def read_published_tokenizer(path: str | Path, padding_id: int | None) -> PublishedTokenizer:
    """Reads a tokenizer.

    Args:
        path: of the JSON file, or of the folder that holds `tokenizer.json` or `vocab.txt`.
        padding_id: of the encoder.

    Returns:
        The tokenizer.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    library = require("tokenizers", extra="data")
    try:
        if file.is_file():
            return PublishedTokenizer(library.Tokenizer.from_file(str(file)), padding_id)
        if (file.parent / "vocab.txt").is_file():
            words = require("tokenizers.implementations", extra="data").BertWordPieceTokenizer
            return PublishedTokenizer(words(str(file.parent / "vocab.txt"))._tokenizer, padding_id)
    except Exception as error:  # The library raises a bare Exception.
        raise InputError(f"{file} must be a tokenizer; it is damaged ({error}). Fetch it anew.") from error
    raise InputError(f"{file.parent} must hold tokenizer.json or vocab.txt beside the weights; it has none. Fetch it.")


def _from_text(text: str, padding_id: int) -> PublishedTokenizer:
    return PublishedTokenizer(require("tokenizers", extra="data").Tokenizer.from_str(text), padding_id)
