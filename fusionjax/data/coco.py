"""Captioned folders in the form of COCO: JSON files of images and annotations."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusionjax.data.folders import (
    CaptionFolder,
    CaptionRow,
    FolderBuilder,
    OnBroken,
    Report,
    check_folder,
    read_text,
    split_name,
)
from fusionjax.errors import InputError


def read_coco(path: str | Path, *, on_broken: OnBroken = "skip", report: Report | None = None) -> CaptionFolder:
    """Reads pictures with captions in the form of COCO.

    Given a folder, every `captions_*.json` in it or in `annotations/` is read; `train`, `val` or `test` in a file's
    name is its split. Given one JSON file, that alone. Each holds `images` (`id`, `file_name`) and `annotations`
    (`image_id`, `caption`). A picture is looked for in the folder named like the file's ending (`train2017/`), in
    `images/`, in both together and beside the JSON. Without a split in the names, a hash of each picture's name
    divides them 80 : 10 : 10.

    Args:
        path: the folder, or a JSON file.
        on_broken: "skip" leaves out and reports empty captions, pictures without captions and captions whose picture is
            missing; "stop" raises instead.
        report: takes the lines of the report; by default a warning in the log.

    Returns:
        The folder; nothing is decoded yet.

    Raises:
        InputError: there is no folder or no such JSON, it is damaged or of another form, or nothing is left.

    Example:
        >>> read_coco("/none")
        Traceback (most recent call last):
        fusionjax.errors.InputError: /none: expected a folder of pictures and captions; there is none. Check the path.

    References:
        Chen et al., "Microsoft COCO captions: data collection and evaluation server", 2015, arXiv:1504.00325.
    """
    path = check_folder(path)
    if path.is_file():
        files, root = [path], path.parent.parent if path.parent.name == "annotations" else path.parent
    else:
        files, root = sorted(path.glob("annotations/captions_*.json")) or sorted(path.glob("captions_*.json")), path
    if not files:
        message = "expected annotations/captions_*.json; found none. Add it, or give the path of the JSON file."
        raise InputError(f"{path}: {message}")
    builder = FolderBuilder(path, on_broken, report)
    rows: list[CaptionRow] = []
    listed: set[str] = set()
    for file in files:
        images, annotations = _read_json(file)
        names = {number: _locate(name, root, file) for number, name in images.items()}
        listed.update(names.values())
        rows += _rows(names, annotations, file)

    def find(image: str) -> Path | None:
        return root / image if (root / image).is_file() else None

    return builder.build(rows, find, listed - {row.image for row in rows})


def _locate(name: str, root: Path, file: Path) -> str:
    """Finds a picture under the root: it lies in the split's own folder, in `images/`, or beside the JSON."""
    ending = file.stem.partition("_")[2] or file.stem
    for folder in (root / ending, root / "images" / ending, root / "images", root, file.parent):
        if (folder / name).is_file():
            return name if Path(name).is_absolute() else str((folder / name).relative_to(root))
    return name


def _read_json(file: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    try:
        content = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: expected JSON; it is damaged ({error}). Download or write it again.") from error
    is_object = isinstance(content, dict)
    images, annotations = (content.get("images"), content.get("annotations")) if is_object else (None, None)
    if not isinstance(images, list) or not isinstance(annotations, list):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        message = (
            f"expected an object with the lists images and annotations; found {found[:80]}. Give COCO's caption file."
        )
        raise InputError(f"{file}: {message}")
    for name, entries, keys in (
        ("images", images, ("id", "file_name")),
        ("annotations", annotations, ("image_id", "caption")),
    ):
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or any(key not in entry for key in keys):
                got = ", ".join(entry) if isinstance(entry, dict) else repr(entry)
                raise InputError(
                    f"{file}: {name}[{number}] must have {' and '.join(keys)}; got {got[:80]}. Correct it."
                )
    return {str(entry["id"]): str(entry["file_name"]) for entry in images}, annotations


def _rows(names: dict[str, str], annotations: list[dict[str, Any]], file: Path) -> Iterator[CaptionRow]:
    named = re.search(r"(?:^|_)(train|val|test)", file.stem.lower())
    split = named and split_name(named[1])
    for number, entry in enumerate(annotations):
        name = names.get(str(entry["image_id"]))
        if name is None:
            message = (
                f"annotations[{number}] names image_id {entry['image_id']!r}, which images does not list. Correct it."
            )
            raise InputError(f"{file}: {message}")
        yield CaptionRow(name, str(entry["caption"]), f"{file.name}: annotations[{number}]", split)
