"""Rows of numbers on disk, each under a key: computed once, read through memory maps, never half written."""

import dataclasses
import logging
import os
import time
import uuid
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax.errors import InputError

Key = bytes

KEY_BYTES = 32  # of SHA-256
_STALE_S = 3600.0
_logger = logging.getLogger("fusionjax")


class StoredRows(Sequence[np.ndarray]):
    """Rows of a store, in the order in which they were asked for; each is read when it is.

    It may be handed to another process, which maps the files anew.

    Args:
        files: of the rows.
        places: for each row the number of its file and its place there, `[rows, 2]`.
        dtype: of the records in the files.
    """

    def __init__(self, files: Sequence[Path], places: np.ndarray, dtype: np.dtype[Any]) -> None:
        self._files, self._places, self._dtype = tuple(files), places, dtype
        self._maps = [_map(file, dtype) for file in self._files]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        """Reads one row: a view of the file's memory map, `[width]`."""
        file, place = self._places[index]
        return self._maps[file]["row"][place]

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredRows, (self._files, self._places, self._dtype)


@dataclasses.dataclass(frozen=True)
class RowStore:
    """A folder of rows of one width and dtype.

    Rows lie in files of many, each an array of records (key, checksum, row) that is written whole under another name,
    then renamed, and never changed: whatever is killed in between, and however many processes write at once, what can
    be seen is whole. Two processes that write the same row write it twice, which harms nothing.

    Attributes:
        folder: made when something is written.
        width: numbers of a row.
        dtype: of the numbers.

    Example:
        >>> import tempfile
        >>> from hashlib import sha256
        >>> keys = [sha256(name).digest() for name in (b"a", b"b")]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = RowStore(Path(folder), 3, np.dtype(np.float16))
        ...     store.write(keys[:1], np.ones((1, 3), np.float16))
        ...     store.missing(keys) == keys[1:], store.rows(keys[:1])[0].tolist()
        (True, [1.0, 1.0, 1.0])
    """

    folder: Path
    width: int
    dtype: np.dtype[Any]
    _whole: dict[Key, tuple[Path, int]] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def record(self) -> np.dtype[Any]:
        """Of one row in a file."""
        return np.dtype([("key", f"V{KEY_BYTES}"), ("crc32", "<u4"), ("row", self.dtype.newbyteorder("<"), self.width)])

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Gives the keys that have no whole row, each once, in the order given; a damaged one with a warning.

        Args:
            keys: to look for.

        Returns:
            The keys without a row.
        """
        found = self._find(dict.fromkeys(keys))
        return [key for key, place in found.items() if place is None]

    def rows(self, keys: Sequence[Key]) -> StoredRows:
        """Finds rows.

        Args:
            keys: one for each row.

        Returns:
            The rows.

        Raises:
            InputError: one is missing.
        """
        found = self._find(dict.fromkeys(keys))
        files: dict[Path, int] = {}
        places = np.zeros((len(keys), 2), np.int64)
        for row, key in enumerate(keys):
            place = found[key]
            if place is None:
                raise InputError(f"{self.folder} must hold every row that was computed; one is gone. Start again.")
            places[row] = files.setdefault(place[0], len(files)), place[1]
        return StoredRows(list(files), places, self.record)

    def write(self, keys: Sequence[Key], rows: np.ndarray) -> None:
        """Writes rows as one file.

        Args:
            keys: one for each row.
            rows: `[rows, width]`.

        Raises:
            ValueError: there are not as many keys as rows, or these have another width.
            InputError: the folder cannot be written.
        """
        if rows.shape != (len(keys), self.width):
            raise ValueError(f"rows must have shape {(len(keys), self.width)}; got {rows.shape}. Give a key for each.")
        records = np.zeros(len(keys), self.record)
        records["key"], records["row"] = np.array(keys, f"V{KEY_BYTES}"), rows
        records["crc32"] = [_checksum(record) for record in records]
        temporary = self.folder / f".{uuid.uuid4().hex}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.save(file, records)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / f"{uuid.uuid4().hex}.npy")
        except OSError as error:
            raise InputError(
                f"{self.folder} must be a folder to write to; got {error.strerror or error}. Make room, or set "
                "FUSIONJAX_CACHE to another folder."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _find(self, wanted: dict[Key, Any]) -> dict[Key, tuple[Path, int] | None]:
        """The file and the place of a whole row for each key, None where there is none; each is read whole once."""
        files = self._files()
        there = set(files)
        known = {key: place for key, place in self._whole.items() if key in wanted and place[0] in there}
        found: dict[Key, tuple[Path, int] | None] = {**dict.fromkeys(wanted), **known}
        damaged: set[Key] = set()
        for path in files if len(known) < len(found) else ():
            records = self._open(path)
            for place, key in enumerate(() if records is None else records["key"].tolist()):
                if key not in found or found[key] is not None:
                    continue
                if _checksum(records[place]) == records["crc32"][place]:
                    found[key] = self._whole[key] = path, place
                else:
                    damaged.add(key)
        if lost := sum(found[key] is None for key in damaged):
            _logger.warning("%d rows of %s are damaged; they are computed anew", lost, self.folder)
        return found

    def _files(self) -> list[Path]:
        """Those of rows; what a process that was killed has left is removed once it is old."""
        if not self.folder.is_dir():
            return []
        for path in self.folder.glob(".*"):
            if _age(path) > _STALE_S:
                path.unlink(missing_ok=True)
        return sorted(self.folder.glob("*.npy"))

    def _open(self, path: Path) -> Any:
        try:
            return _map(path, self.record)
        except FileNotFoundError:
            # Another process found it damaged first.
            return None
        except (OSError, ValueError, EOFError) as error:
            _logger.warning("%s is damaged (%s); it is removed, and its rows are computed anew", path, error)
            path.unlink(missing_ok=True)
            return None


def _map(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """Maps the records of a file."""
    records = np.load(path, mmap_mode="r", allow_pickle=False)
    if records.dtype != dtype or records.ndim != 1:
        raise ValueError(f"it must hold rows of {dtype['row'].shape[0]} numbers")
    # A plain array: what is read of it is no memory map of its own.
    return records.view(np.ndarray)


def _checksum(record: Any) -> int:
    """Of the key and the row."""
    return zlib.crc32(record["row"].tobytes(), zlib.crc32(record["key"].tobytes()))


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
