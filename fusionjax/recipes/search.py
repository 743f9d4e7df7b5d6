"""Search: a folder of photographs, indexed once by a trained run of retrieval, answers texts."""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fusionjax import data
from fusionjax._extras import require
from fusionjax.errors import InputError
from fusionjax.recipes import retrieval
from fusionjax.recipes.retrieval_report import RetrievalSample, write_retrieval_report
from fusionjax.recipes.run import open_run, write_atomically

_logger = logging.getLogger("fusionjax")


@dataclasses.dataclass(frozen=True)
class Hit:
    """A photograph that was found.

    Attributes:
        image: its path.
        score: product of its vector and the text's, -1 to 1.
    """

    image: str
    score: float


@dataclasses.dataclass(frozen=True)
class PhotoIndex:
    """The vectors of the photographs of a folder.

    Attributes:
        folder: of the photographs.
        names: of the photographs, in the order of the vectors.
        nearest: the faiss index of the vectors, by inner product.
        embedder: the run that encodes texts alike.
        encoded: how many photographs were encoded to make it, the others being known from before.
    """

    folder: Path
    names: tuple[str, ...]
    nearest: Any
    embedder: retrieval.Embedder
    encoded: int

    def search(self, text: str, *, top: int = 10) -> list[Hit]:
        """Finds photographs.

        Args:
            text: in words.
            top: how many, the best first.

        Returns:
            The photographs.

        Raises:
            InputError: as `check_query`.
        """
        check_query(self.embedder, text, top)
        scores, places = self.nearest.search(self.embedder.texts([text]), min(top, len(self.names)))
        found = zip(scores[0].tolist(), places[0].tolist(), strict=True)
        # An approximate index may find fewer than asked for, and says -1.
        return [Hit(str(self.folder / self.names[place]), score) for score, place in found if place >= 0]


def check_query(embedder: retrieval.Embedder, text: str, top: int) -> None:
    """Checks a query, which costs nothing, before photographs are encoded for it.

    Args:
        embedder: the run.
        text: in words.
        top: how many photographs.

    Raises:
        InputError: the text has no word that the run knows, or none are asked for.
    """
    if top < 1:
        raise InputError(f"top must be at least 1; got {top}. 10 is the default.")
    if not embedder.tokenizer.knows(text):
        raise InputError(f"a query must have a word that the run was trained with; got {text!r}. Search otherwise.")


def build_index(
    path: str | Path, folder: str | Path, *, kind: str = "Flat", embedder: retrieval.Embedder | None = None
) -> PhotoIndex:
    """Encodes the photographs of a folder, or reads what was encoded before.

    The vectors stay in the run directory. Photographs that were added, or changed since, are encoded; those that are
    gone are dropped; a run that was trained on starts anew.

    Args:
        path: the run directory.
        folder: with the photographs; its subfolders too.
        kind: of the index, as `faiss.index_factory` takes it; `Flat` is exact.
        embedder: the run, where it is loaded already.

    Returns:
        The index.

    Raises:
        InputError: the run or the folder cannot be used, or no photograph can.
        ImportError: faiss is not installed.
    """
    faiss = require("faiss", extra="search")
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise InputError(f"{folder} must be a folder of photographs; there is none. Check the path.")
    embedder = retrieval.load(path) if embedder is None else embedder
    place = open_run(path).path / "indexes" / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    weights = _fingerprint(embedder.variables)
    stamps = {name: _stamp(folder / name) for name in data.image_names(folder, deep=True)}
    before = {name: row for name, (stamp, row) in _read(place, weights).items() if stamps.get(name) == stamp}
    fresh = _encode(embedder, folder, [name for name in stamps if name not in before])
    rows = before | fresh
    names = [name for name in stamps if name in rows]
    if not names:
        raise InputError(f"{folder} must hold a photograph that can be read; it has none. Give another folder.")
    vectors = np.stack([rows[name] for name in names])
    _write(place, weights, {name: stamps[name] for name in names}, vectors)
    try:
        nearest = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        nearest.train(vectors)
        nearest.add(vectors)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"the index must be one that faiss makes of {len(names)} vectors; got {kind!r}: {reason} Try Flat."
        ) from error
    return PhotoIndex(folder, tuple(names), nearest, embedder, len(fresh))


def write_search_page(path: str | Path, text: str, hits: Sequence[Hit]) -> None:
    """Writes what was found as one HTML file.

    Args:
        path: the file; an old one is replaced.
        text: that was searched for.
        hits: the photographs.

    Raises:
        InputError: a photograph cannot be read.
    """
    sample = RetrievalSample(
        query=text,
        images=[data.load_image(hit.image) for hit in hits],
        names=[Path(hit.image).name for hit in hits],
        scores=[hit.score for hit in hits],
        is_known=False,
    )
    write_retrieval_report(path, title=f"Search: {text}", summary={}, samples=[sample])


def _encode(embedder: retrieval.Embedder, folder: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Encodes photographs; those that cannot be read are named in the log and left out."""
    config, readable = embedder.config.data, []

    def decoded() -> Iterator[np.ndarray]:
        for name in names:
            try:
                image = data.load_image(folder / name, config.stored_size, fit=config.fit)
            except InputError as error:
                _logger.warning("%s It is left out.", error)
                continue
            readable.append(name)
            yield image

    if not names:
        return {}
    _logger.warning("encoding %d photographs of %s", len(names), folder)
    vectors = embedder.images(decoded())
    return dict(zip(readable, vectors, strict=True))


def _fingerprint(variables: Any) -> str:
    """Of all weights: with others the vectors mean something else."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(variables)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _stamp(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def _read(place: Path, weights: str) -> dict[str, tuple[list[int], np.ndarray]]:
    """What was encoded before with these weights; nothing where it cannot be read."""
    try:
        listed = json.loads((place / "photographs.json").read_text(encoding="utf-8"))
        if listed["weights"] != weights:
            return {}
        vectors = np.load(place / listed["vectors"])
        stamps = listed["photographs"]
        return {name: (stamp, row) for (name, stamp), row in zip(stamps.items(), vectors, strict=True)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(place: Path, weights: str, stamps: dict[str, list[int]], vectors: np.ndarray) -> None:
    """Writes the vectors, then what names them, then drops older ones: at any time what is named is whole."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        name = f"{hashlib.sha256(vectors.tobytes()).hexdigest()[:16]}.npy"
        temporary = place / f".{name}.{os.getpid()}"
        with temporary.open("wb") as file:
            np.save(file, vectors)
        temporary.replace(place / name)
        listed = {"weights": weights, "vectors": name, "photographs": stamps}
        write_atomically(place / "photographs.json", json.dumps(listed) + "\n")
        for other in place.glob("*.npy"):
            if other.name != name:
                other.unlink()
    except OSError as error:
        # The answer does not need it.
        _logger.warning("the index is not kept: %s", error)
