"""Captioned folders in the form of Flickr8k: a table of captions, or the original token file."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from fusionjax.data.folders import (
    CaptionFolder,
    CaptionRow,
    FolderBuilder,
    OnBroken,
    Report,
    check_folder,
    image_names,
    read_text,
)
from fusionjax.errors import InputError

_TABLES = ("captions.csv", "captions.txt", "captions.tsv")
_IMAGE_FOLDERS = ("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k_images", "flickr30k-images")
_LISTS = {"train": "*[tT]rain*mages*.txt", "validation": "*[dD]ev*mages*.txt", "test": "*[tT]est*mages*.txt"}


def read_flickr(path: str | Path, *, on_broken: OnBroken = "skip", report: Report | None = None) -> CaptionFolder:
    """Reads a folder of pictures with captions in the form of Flickr8k.

    Either `captions.csv` with the columns `image` and `caption`, and where there are any `split` and `label`, one row
    for each caption; or the original `*.token.txt` with lines `name.jpg#0<tab>caption` and, where they are there, the
    lists `*trainImages.txt`, `*devImages.txt` and `*testImages.txt`. The pictures lie in `images/` (or under the
    original names of that folder) or beside the captions. Without splits, a hash of each name divides the pictures 80
    : 10 : 10.

    Args:
        path: the folder.
        on_broken: "skip" leaves out and reports empty captions, pictures without captions and captions whose picture is
            missing; "stop" raises instead.
        report: takes the lines of the report; by default a warning in the log.

    Returns:
        The folder; nothing is decoded yet.

    Raises:
        InputError: there is no folder, no file of captions, a column is missing, a file is not UTF-8, or nothing is
            left.

    Example:
        >>> read_flickr("/none")
        Traceback (most recent call last):
        fusionjax.errors.InputError: /none: expected a folder of pictures and captions; there is none. Check the path.

    References:
        Hodosh, Young and Hockenmaier, "Framing image description as a ranking task", 2013, JAIR 47.
    """
    folder = check_folder(path)
    builder = FolderBuilder(folder, on_broken, report)
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    token_file = next(iter(sorted(folder.glob("*.token.txt")) + sorted(folder.glob("*.token"))), None)
    if table is not None:
        rows = captioned = list(_read_table(table))
    elif token_file is not None:
        captioned = list(_read_tokens(token_file))
        rows = _with_splits(captioned, folder, builder)
    else:
        raise InputError(
            f"{folder}: expected captions.csv (columns image, caption) or *.token.txt; found {_listing(folder)}. "
            "Add the captions, or read a COCO folder with read_coco."
        )
    images = next((folder / name for name in _IMAGE_FOLDERS if (folder / name).is_dir()), folder)

    def find(image: str) -> Path | None:
        file = images / image
        return file if file.is_file() else None

    return builder.build(rows, find, set(image_names(images)) - {row.image for row in captioned})


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "a file, not a folder"
    names = sorted(entry.name for entry in folder.iterdir())
    return (", ".join(names[:5]) + (", ..." if len(names) > 5 else "")) or "nothing"


def _read_table(file: Path) -> Iterator[CaptionRow]:
    text = read_text(file)
    header = text.partition("\n")[0]
    # Flickr30k's table is separated by bars.
    delimiter = next((mark for mark in ("\t", "|", ";") if mark in header and "," not in header), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    columns = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = columns
    missing = [name for name in ("image", "caption") if name not in columns]
    if missing:
        found = ", ".join(columns) or "an empty file"
        message = f"expected the columns image and caption; found {found}. Add or rename {' and '.join(missing)}."
        raise InputError(f"{file}: {message}")
    try:
        for record in reader:
            place = f"line {reader.line_num}"
            if None in record:
                message = f"has more cells than there are columns ({len(columns)}). Put captions with commas in quotes."
                raise InputError(f"{file}: {place} {message}")
            yield CaptionRow(
                image=(record["image"] or "").strip(),
                caption=record["caption"] or "",
                place=place,
                split=_cell(record, "split", columns, file, place),
                label=_cell(record, "label", columns, file, place),
            )
    except csv.Error as error:
        raise InputError(f"{file}: line {reader.line_num} is no row of a table ({error}). Correct it.") from error


def _cell(record: dict[str, str], name: str, columns: list[str], file: Path, place: str) -> str | None:
    if name not in columns:
        return None
    value = (record[name] or "").strip()
    if not value:
        raise InputError(f"{file}: {place} has no {name}; the column must be full. Fill it in, or remove the column.")
    return value


def _read_tokens(file: Path) -> Iterator[CaptionRow]:
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        if not tab or "#" not in name:
            raise InputError(f"{file}: line {number} must be 'name.jpg#0<tab>caption'; got {line[:60]!r}. Correct it.")
        yield CaptionRow(image=name.rpartition("#")[0], caption=caption, place=f"line {number}")


def _with_splits(rows: list[CaptionRow], folder: Path, builder: FolderBuilder) -> list[CaptionRow]:
    """Gives the rows the splits of the original lists, if there are any; pictures in no list are left out."""
    split_of: dict[str, str] = {}
    for split, pattern in _LISTS.items():
        for file in sorted(folder.glob(pattern)):
            for name in read_text(file).split():
                if split_of.setdefault(name, split) != split:
                    message = f"{name} must be in one split; got {split_of[name]} and {split}. Remove it from one list."
                    raise InputError(f"{file}: {message}")
    if not split_of:
        return rows
    unlisted = sorted({row.image for row in rows if row.image not in split_of})
    builder.leave_out("images in no split's list", "Add them to a list.", unlisted)
    return [row._replace(split=split_of[row.image]) for row in rows if row.image in split_of]
