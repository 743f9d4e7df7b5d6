"""The tables in files of SentencePiece, without its library."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fusionjax.errors import InputError

# Numbers of the fields that are read, by message, and values of their enumerations.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE = 1, 2
_MODEL_TYPE, _UNKNOWN_ID, _UNIGRAM = 3, 40, 1
_CHARACTERS = 2
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED_64: 8, _FIXED_32: 4}


class UnigramTable(NamedTuple):
    """What a unigram model of SentencePiece knows.

    Attributes:
        pieces: each with its log-probability, in the order of their ids.
        unknown_id: of what no piece matches.
        characters: the compiled table that characters are normalised with; empty for none.
    """

    pieces: list[tuple[str, float]]
    unknown_id: int
    characters: bytes


def read_unigram(path: str | Path) -> UnigramTable:
    """Reads a unigram model of SentencePiece, such as T5's or SigLIP's `spiece.model`.

    Args:
        path: of the file.

    Returns:
        Its table.

    Raises:
        InputError: the file is missing or damaged, or holds a model of another kind.

    References:
        Kudo, "Subword Regularization", 2018, arXiv:1804.10959, section 3.2.
        The file's form: sentencepiece_model.proto of github.com/google/sentencepiece.
    """
    path = Path(path)
    pieces: list[tuple[str, float]] = []
    kind: int | bytes = _UNIGRAM
    unknown_id, characters = 0, b""
    try:
        for number, value in _fields(path.read_bytes()):
            if number == _PIECES:
                fields = dict(_fields(_as_bytes(value)))
                score = _as_bytes(fields.get(_SCORE, bytes(4)))
                pieces.append((_as_bytes(fields[_PIECE]).decode("utf-8"), struct.unpack("<f", score)[0]))
            elif number == _TRAINER:
                fields = dict(_fields(_as_bytes(value)))
                kind, unknown_id = fields.get(_MODEL_TYPE, _UNIGRAM), int(fields.get(_UNKNOWN_ID, 0))
            elif number == _NORMALIZER:
                characters = _as_bytes(dict(_fields(_as_bytes(value))).get(_CHARACTERS, b""))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise InputError(f"{path} must be a model of SentencePiece; it is damaged. Fetch it anew.") from error
    if kind != _UNIGRAM or not pieces:
        raise InputError(f"{path} must hold a unigram model; it holds another. Put tokenizer.json beside it.")
    return UnigramTable(pieces, unknown_id, characters)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message of Protocol Buffers: whole numbers as such, all others as bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            whole, place = _varint(message, place)
            yield number, whole
            continue
        if wire == _BYTES:
            size, place = _varint(message, place)
        else:
            size = _FIXED_SIZES[wire]
        if place + size > len(message):
            raise IndexError(size)
        yield number, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A whole number, seven bits a byte, and the place after it."""
    number = shift = 0
    while True:
        byte = message[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError(value)
    return value
