"""Prepared data sets of TensorFlow Datasets, by name and without TensorFlow."""

import difflib
import itertools
import operator
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np

from fusionjax._extras import require
from fusionjax.errors import InputError

_NAME = r"\w+(/[\w.-]+)?(:[\d.*]+)?"
_FIELDS = {"image": "image", "captions": "captions/text"}


class TFDSSource(Sequence[dict[str, Any]]):
    """A split of a data set that TensorFlow Datasets has prepared on disk, as a sequence of dictionaries.

    Nothing is downloaded: what is not there is an error that says how to prepare it. Reading needs no TensorFlow, as
    long as the data set was prepared in the format `array_record`. Text comes as `str`, pictures as the encoded bytes
    that `load_image` takes, the field `captions` always as a list, and without an `id` among the fields the index
    serves.

    Args:
        name: such as "coco_captions" or "coco_captions/2014:1.1.0".
        split: such as "train" or "train[:10%]".
        data_dir: where the data sets lie; None for `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
        fields: from the names in the result to the data set's own, nested ones joined by "/".

    Raises:
        InputError: there is no such data set, split or field, it is not prepared, or not as `array_record`.

    Example:
        >>> TFDSSource("no_such_set", "train", data_dir="/nowhere")
        Traceback (most recent call last):
        fusionjax.errors.InputError: expected the name of a data set; got 'no_such_set', which TFDS does not know...
    """

    def __init__(
        self, name: str, split: str, *, data_dir: str | Path | None = None, fields: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.split, self.fields = name, split, dict(_FIELDS if fields is None else fields)
        builder = _prepared_builder(name, data_dir)
        features = builder.info.features
        tree = _tree(features)
        for field, path in self.fields.items():
            if not _has_path(tree, path):
                there = ", ".join(_paths(tree))
                raise InputError(
                    f"{name}: expected a field {path!r} for {field!r}; there are {there}. Map it to one of these."
                )
        tfds = require("tensorflow_datasets", extra="tfds")
        try:
            self._records = builder.as_data_source(split, decoders=_undecoded_images(tfds, features))
        except ValueError as error:
            splits = ", ".join(builder.info.splits)
            message = f"expected a split out of {splits}, or a part such as 'train[:10%]'; got {split!r}."
            raise InputError(f"{name}: {message} Choose one of these.") from error

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"TFDSSource({self.name!r}, {self.split!r}, {len(self)} examples)"

    @overload
    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"index must be in [0, {len(self)}); got {place}. Ask for an example that is there.")
        place %= len(self)
        record = self._records[place]
        example: dict[str, Any] = {"id": f"{self.name}-{self.split}-{place}"}
        for field, path in self.fields.items():
            value = _value(record, path)
            example[field] = (
                value if field == "image" else _text(value, f"{self.name}: example {place}, field {path!r}")
            )
        if isinstance(example.get("captions"), str):
            example["captions"] = [example["captions"]]
        example["id"] = str(example["id"])
        return example


def tfds_splits(name: str, *, data_dir: str | Path | None = None) -> list[str]:
    """Names the splits of a data set that TensorFlow Datasets has prepared on disk.

    Args:
        name: such as "coco_captions".
        data_dir: where the data sets lie; None for `TFDS_DATA_DIR` or `~/tensorflow_datasets`.

    Returns:
        The splits' names.

    Raises:
        InputError: there is no such data set, or it is not prepared.
    """
    return list(_prepared_builder(name, data_dir).info.splits)


def _prepared_builder(name: str, data_dir: str | Path | None) -> Any:
    tfds = require("tensorflow_datasets", extra="tfds")
    if not re.fullmatch(_NAME, name):
        raise InputError(f"expected 'name', 'name/config' or 'name:1.0.0'; got {name!r}. Correct the name.")
    place = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    prepare = f"tfds.builder({name!r}, data_dir={str(place)!r}, file_format='array_record').download_and_prepare()"
    advice = f'run: python -c "import tensorflow_datasets as tfds; {prepare}"'
    try:
        builder = _find_builder(name, str(place))
    except tfds.core.registered.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise InputError(
            f"expected the name of a data set; got {name!r}, which TFDS does not know and which is not prepared in "
            f"{place}.{hint} Check the name and data_dir."
        ) from error
    except ImportError as error:
        raise InputError(
            f"{name}: expected a prepared data set in {place}; there is none, and preparing it needs a module that is "
            f"missing here ({str(error).rpartition(': ')[2]}). On a machine that has it, {advice}"
        ) from error
    except (AssertionError, ValueError) as error:
        reason = " ".join((str(error).partition('}": ')[2] or str(error)).split())
        message = f"expected a version and a configuration that exist; got {name!r}: {reason} Correct the name."
        raise InputError(message) from error
    if not builder.is_prepared():
        raise InputError(
            f"{name}: expected a prepared data set in {place}; it has not been downloaded. To prepare it, {advice}"
        )
    stored = builder.info.file_format
    if stored is None or stored.value != "array_record":
        kind = "an unknown format" if stored is None else stored.value
        raise InputError(
            f"{name}: expected the format array_record in {place}; got {kind}. Remove it there and {advice}"
        )
    return builder


def _find_builder(name: str, data_dir: str) -> Any:
    """Prefers the files to the code of a data set, which may need TensorFlow just to be loaded."""
    files = require("tensorflow_datasets.core.read_only_builder", extra="tfds")
    tfds = require("tensorflow_datasets", extra="tfds")
    try:
        return files.builder_from_files(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)


def _split_path(node: Mapping[str, Any], path: str) -> tuple[str, str] | None:
    """Divides a path into a key of the node and the rest; a key may itself hold a slash, as "image/filename" does."""
    for end in [len(path), *(place for place in range(len(path) - 1, 0, -1) if path[place] == "/")]:
        if path[:end] in node:
            return path[:end], path[end + 1 :]
    return None


def _tree(feature: Any) -> Any:
    """Turns the description of the features into nested dictionaries, through the sequences around them."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    return {name: _tree(inner) for name, inner in feature.items()} if hasattr(feature, "items") else feature


def _has_path(tree: Any, path: str) -> bool:
    if not path or not isinstance(tree, dict):
        return not path
    parts = _split_path(tree, path)
    return parts is not None and _has_path(tree[parts[0]], parts[1])


def _paths(tree: dict[str, Any], prefix: str = "") -> list[str]:
    nested = (
        _paths(inner, f"{prefix}{name}/") if isinstance(inner, dict) else [prefix + name]
        for name, inner in tree.items()
    )
    return sorted(itertools.chain.from_iterable(nested))


def _undecoded_images(tfds: Any, feature: Any) -> Any:
    """Asks for pictures as their encoded bytes: the reader would want OpenCV, and decode before the size is known."""
    if isinstance(feature, tfds.features.Image):
        return tfds.decode.SkipDecoding()
    if hasattr(feature, "feature") or not hasattr(feature, "items"):
        return None
    decoders = {name: _undecoded_images(tfds, inner) for name, inner in feature.items()}
    return {name: decoder for name, decoder in decoders.items() if decoder} or None


def _value(node: Any, path: str) -> Any:
    if not path:
        return node
    if isinstance(node, Mapping):
        parts = _split_path(node, path)
        if parts is not None:
            return _value(node[parts[0]], parts[1])
        raise KeyError(path)
    return [_value(item, path) for item in node]


def _text(value: Any, place: str) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{place} must be UTF-8 text; byte {error.start} is not. Prepare the data set again."
            ) from error
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype.kind == "O"):
        return [_text(item, place) for item in value]
    return value
