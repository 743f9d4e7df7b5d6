"""Many pictures at once: which of them can be read, and all of them as one array."""

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from fusionjax.data.images import Fit, load_image
from fusionjax.errors import InputError

_logger = logging.getLogger("fusionjax")


def check_images(
    paths: Iterable[str | Path],
    *,
    on_broken: Literal["skip", "stop"] = "skip",
    report: Callable[[str], None] | None = None,
    max_megapixels: float = 100.0,
    num_threads: int = 4,
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Decodes every picture once, before training, to find those that cannot be read.

    Args:
        paths: the files.
        on_broken: "skip" reports each broken picture and goes on; "stop" raises at the first one.
        report: takes one line for each broken picture, and one that counts them; by default a warning in the log.
        max_megapixels: as in `load_image`.
        num_threads: how many pictures are decoded at the same time.

    Returns:
        The paths that can be read, in the order given, and the others, each with what is wrong with it.

    Raises:
        InputError: a picture is broken and `on_broken` is "stop", or all of them are broken.
        ValueError: `on_broken` is neither "skip" nor "stop".

    Example:
        >>> check_images(["missing.jpg"], on_broken="stop")
        Traceback (most recent call last):
        fusionjax.errors.InputError: missing.jpg: expected an image, but there is no such file. Check the path.
    """
    if on_broken not in ("skip", "stop"):
        raise ValueError(f"on_broken must be 'skip' or 'stop'; got {on_broken!r}. Choose one of these.")
    report = report or _logger.warning

    def message_of(path: Path) -> str | None:
        try:
            # The whole file is read, but a large JPEG is decoded at a fraction of its size.
            load_image(path, 32, max_megapixels=max_megapixels)
        except InputError as error:
            if on_broken == "stop":
                raise
            return str(error)
        return None

    files = [Path(path) for path in paths]
    broken: list[tuple[Path, str]] = []
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for path, message in zip(files, pool.map(message_of, files), strict=True):
                if message is not None:
                    broken.append((path, message))
                    report(message)
        finally:
            pool.shutdown(cancel_futures=True)
    if not broken:
        return files, []
    if len(broken) == len(files):
        raise InputError(f"expected pictures, but all {len(files)} files are broken; the first: {broken[0][1]}")
    report(f"{len(broken)} of {len(files)} pictures are broken and left out")
    names = {path for path, _ in broken}
    return [path for path in files if path not in names], broken


def decode_images(
    sources: Sequence[str | Path | bytes],
    size: int,
    *,
    fit: Fit = "squeeze",
    max_memory_mb: float | None = None,
    max_megapixels: float = 100.0,
    num_threads: int = 4,
) -> np.ndarray:
    """Decodes pictures into one array, for sets that fit in memory and are read more than once.

    Args:
        sources: paths, or the bytes of files.
        size: side of the squares in pixels.
        fit: as in `load_image`.
        max_memory_mb: the largest array, in megabytes, that the caller allows; None for any.
        max_megapixels: as in `load_image`.
        num_threads: how many pictures are decoded at the same time.

    Returns:
        uint8 `[pictures, size, size, 3]`, in the order given.

    Raises:
        InputError: a picture cannot be read, or the array would be larger than `max_memory_mb`.

    Example:
        >>> decode_images([], 8).shape
        (0, 8, 8, 3)
    """
    needed_mb = len(sources) * size * size * 3 / 1e6
    if max_memory_mb is not None and needed_mb > max_memory_mb:
        raise InputError(
            f"expected at most {max_memory_mb:g} MB of decoded pictures, got {len(sources)} of {size} x {size} = "
            f"{needed_mb:.3g} MB. Decode them while training, choose a smaller size, or raise max_memory_mb."
        )
    images = np.empty((len(sources), size, size, 3), np.uint8)

    def decode(index: int) -> None:
        images[index] = load_image(sources[index], size, fit=fit, max_megapixels=max_megapixels)

    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for _ in pool.map(decode, range(len(sources))):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
    return images
