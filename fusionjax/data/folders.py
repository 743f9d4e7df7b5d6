"""A folder of pictures with captions, divided into splits, and what was wrong with it."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, NotRequired, TypedDict

from fusionjax.errors import InputError

OnBroken = Literal["skip", "stop"]
Report = Callable[[str], None]

_logger = logging.getLogger("fusionjax")
_IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif", ".tga")
)
_SPLIT_NAMES = {
    "val": "validation",
    "dev": "validation",
    "valid": "validation",
    "eval": "validation",
    "training": "train",
}
_HASHED_SHARES = (("train", 0.8), ("validation", 0.9), ("test", 1.0))
_SHOWN = 5


class CaptionExample(TypedDict):
    """A picture and its captions; `labels` has one entry for each caption, `label` is there where they all agree."""

    id: str
    image: Path
    captions: list[str]
    labels: NotRequired[list[str]]
    label: NotRequired[str]


class CaptionRow(NamedTuple):
    """One caption as a file states it: `image` and `split` by name, `place` for messages."""

    image: str
    caption: str
    place: str
    split: str | None = None
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class CaptionFolder:
    """Pictures with captions, by split.

    Attributes:
        path: where they were read from.
        examples: the examples of each split.
        problems: one line for each thing that was left out.
        label_names: the labels that occur, in alphabetical order; empty without a column of labels.

    Example:
        >>> folder = CaptionFolder(path=Path("birds"), examples={"train": []})
        >>> folder.splits
        ('train',)
    """

    path: Path
    examples: dict[str, list[CaptionExample]]
    problems: tuple[str, ...] = ()
    label_names: tuple[str, ...] = field(default=())

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self.examples)

    def split(self, name: str) -> Sequence[CaptionExample]:
        """Returns the examples of a split, in the order of the file.

        Raises:
            InputError: there is no such split.
        """
        examples = self.examples.get(split_name(name))
        if not examples:
            there = ", ".join(f"{split} ({len(members)})" for split, members in self.examples.items())
            raise InputError(f"{self.path}: expected a split {name!r}; there are {there}. Choose one of these.")
        return examples


def split_name(name: str) -> str:
    """Brings the usual names of a split to one: "val", "dev" and "valid" are "validation".

    Example:
        >>> split_name("Dev")
        'validation'
    """
    name = name.strip().lower()
    return _SPLIT_NAMES.get(name, name)


def hashed_split(image: str) -> str:
    """Puts a picture into train (80 %), validation or test (10 % each) by its name alone.

    Example:
        >>> hashed_split("1000268201_693b08cb0e.jpg")
        'train'
    """
    place = int.from_bytes(hashlib.blake2b(image.encode(), digest_size=8).digest()) / 2**64
    return next(split for split, share in _HASHED_SHARES if place < share)


def read_text(path: Path) -> str:
    """Reads a UTF-8 file.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        message = (
            f"{path}: expected UTF-8 text; byte {error.start} is {error.object[error.start]:#04x}. Save it as UTF-8."
        )
        raise InputError(message) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error


def check_folder(path: str | Path) -> Path:
    """Returns the path as a `Path`, or says that there is no such folder.

    Raises:
        InputError: there is nothing at the path.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: expected a folder of pictures and captions; there is none. Check the path.")
    return path


class FolderBuilder:
    """Collects the rows of caption files into a `CaptionFolder` and reports what has to be left out.

    Args:
        path: the folder, for messages.
        on_broken: "skip" leaves out what cannot be used and reports it; "stop" raises instead.
        report: takes the lines of the report; by default a warning in the log.
    """

    def __init__(self, path: Path, on_broken: OnBroken, report: Report | None) -> None:
        if on_broken not in ("skip", "stop"):
            raise ValueError(f"on_broken must be 'skip' or 'stop'; got {on_broken!r}. Choose one of these.")
        self.path, self.on_broken, self.report = path, on_broken, report or _logger.warning
        self.problems: list[str] = []

    def leave_out(self, what: str, advice: str, items: Sequence[str]) -> None:
        """Reports items that cannot be used, or raises where the caller asked for that."""
        if not items:
            return
        shown = ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
        if self.on_broken == "stop":
            raise InputError(f"{self.path}: {len(items)} {what}: {shown}. {advice}")
        self.problems += [f"{what}: {item}" for item in items]
        self.report(f"{self.path}: left out {len(items)} {what}: {shown}")

    def build(
        self, rows: Iterable[CaptionRow], find: Callable[[str], Path | None], uncaptioned: Iterable[str] = ()
    ) -> CaptionFolder:
        """Groups rows by picture and split.

        Args:
            rows: the captions.
            find: the file of a picture by name, or None if it is missing.
            uncaptioned: names of the pictures that no row speaks of.

        Returns:
            The folder.

        Raises:
            InputError: a picture is in two splits, nothing is left, or something is left out and `on_broken` is "stop".
        """
        groups: dict[str, list[CaptionRow]] = {}
        empty = []
        for row in rows:
            if row.caption.strip():
                groups.setdefault(row.image, []).append(row)
            else:
                empty.append(f"{row.place} ({row.image})")
        self.leave_out("empty captions", "Fill them in or remove them.", empty)
        self.leave_out("images without captions", "Add captions or move them away.", sorted(uncaptioned))
        found = {image: find(image) for image in groups}
        missing = [image for image, file in found.items() if file is None]
        self.leave_out("captioned images that are missing", "Add the files or remove the captions.", missing)
        if not groups.keys() - set(missing):
            raise InputError(
                f"{self.path}: expected pictures with captions; none is left of {len(groups)} captioned images "
                f"({len(missing)} missing, {len(empty)} captions empty). Make the captions name the files."
            )
        if all(row.split is None for group in groups.values() for row in group):
            self.report(
                f"{self.path}: no splits given; divided by the images' names: train 80 %, validation 10 %, test 10 %"
            )
        examples: dict[str, list[CaptionExample]] = {}
        for image, group in groups.items():
            file = found[image]
            if file is not None:
                examples.setdefault(self._split_of(image, group), []).append(_example(image, file, group))
        order = sorted(examples, key=lambda name: ("train", "validation", "test", name).index(name))
        labels = {row.label for group in groups.values() for row in group if row.label is not None}
        return CaptionFolder(
            path=self.path,
            examples={name: examples[name] for name in order},
            problems=tuple(self.problems),
            label_names=tuple(sorted(labels)),
        )

    def _split_of(self, image: str, group: Sequence[CaptionRow]) -> str:
        names = sorted({split_name(row.split) for row in group if row.split is not None})
        if len(names) > 1:
            message = f"{image} must be in one split; got {' and '.join(names)}. Give all of its captions the same."
            raise InputError(f"{self.path}: {message}")
        return names[0] if names else hashed_split(Path(image).name)


def _example(image: str, file: Path, group: Sequence[CaptionRow]) -> CaptionExample:
    example: CaptionExample = {"id": image, "image": file, "captions": [row.caption.strip() for row in group]}
    labels = [row.label for row in group if row.label is not None]
    if labels:
        example["labels"] = labels
        if len(set(labels)) == 1:
            example["label"] = labels[0]
    return example


def image_names(folder: Path, *, deep: bool = False) -> list[str]:
    """Lists the pictures in a folder by name, none where there is no folder.

    Args:
        folder: to look into.
        deep: looks into its subfolders too; names are then paths from the folder, with `/`.

    Returns:
        The names, sorted.
    """
    if not folder.is_dir():
        return []
    files = folder.rglob("*") if deep else folder.iterdir()
    return sorted(file.relative_to(folder).as_posix() for file in files if file.suffix.lower() in _IMAGE_SUFFIXES)
