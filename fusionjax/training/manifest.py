"""What a checkpoint says about itself, so that damage is found before anything is trained on it."""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fusionjax.training.leaves import is_key

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"


class CheckpointError(ValueError):
    """Why a checkpoint cannot be used.

    Args:
        reason: the fault, as a clause.
        advice: what to do, as a clause; None when the checkpoint is damaged.
    """

    def __init__(self, reason: str, advice: str | None = None) -> None:
        super().__init__(reason)
        self.advice = advice


def checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def file_checksum(path: Path) -> int:
    """CRC-32 of a file."""
    result = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            result = zlib.crc32(block, result)
    return result


def make_manifest(
    leaves: dict[str, Any], arrays: dict[str, np.ndarray], data_state: Any, metric: float | None
) -> dict[str, Any]:
    """Builds the JSON beside the arrays: version, data position, and every leaf with its checksum.

    Args:
        leaves: leaves by path.
        arrays: the same leaves as host arrays.
        data_state: JSON value of the data iterator.
        metric: value by which the best checkpoint is chosen.

    Returns:
        A JSON object, to which `write_manifest` adds the files.

    Raises:
        TypeError: `data_state` is not JSON.
    """
    _json_checksum(data_state)
    described = {}
    for path, leaf in leaves.items():
        described[path] = _describe(leaf) | {"crc32": checksum(arrays[path])}
        if is_key(leaf):
            described[path]["key"] = str(jax.random.key_impl(leaf))
    return {"format": FORMAT_VERSION, "leaves": described, "data_state": data_state, "metric": metric}


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes a manifest into a checkpoint's folder, with the checksums of the files there and one of itself."""
    # orbax still changes its two small files at the top, which hold nothing that is restored.
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent != folder)
    body = manifest | {"files": {path.relative_to(folder).as_posix(): file_checksum(path) for path in files}}
    text = json.dumps(body | {"crc32": _json_checksum(body)}, indent=1)
    (folder / FILE_NAME).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a checkpoint; raises CheckpointError if it is damaged or of another version."""
    try:
        body = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        is_intact = body.pop("crc32") == _json_checksum(body)
    except FileNotFoundError:
        raise CheckpointError(f"{FILE_NAME} is missing") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        is_intact = False
    if not is_intact:
        raise CheckpointError(f"{FILE_NAME} is damaged")
    if body["format"] != FORMAT_VERSION:
        raise CheckpointError(
            f"it has format version {body['format']}, and this fusionjax reads version {FORMAT_VERSION}",
            "use the fusionjax that wrote it, or train again in another folder",
        )
    return body


def read_metric(folder: Path) -> float | None:
    """Reads the metric of a checkpoint; None if it has none or cannot be used."""
    try:
        return read_manifest(folder)["metric"]
    except (CheckpointError, OSError):
        return None


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Raises CheckpointError if a file is missing or is not what was written."""
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"its file {name} is missing")
        if file_checksum(path) != expected:
            raise CheckpointError(f"its file {name} is damaged (the checksum differs)")


def check_structure(manifest: dict[str, Any], template: dict[str, Any]) -> None:
    """Raises CheckpointError if the saved leaves are not those of the template."""
    saved = {path: {name: leaf[name] for name in ("shape", "dtype")} for path, leaf in manifest["leaves"].items()}
    wanted = {path: _describe(leaf) for path, leaf in template.items()}
    for path in sorted(saved.keys() | wanted.keys()):
        if saved.get(path) != wanted.get(path):
            raise CheckpointError(
                f"it is of another model or optimiser ({path} is {_show(saved.get(path))} in it, "
                f"{_show(wanted.get(path))} here)",
                "use the settings it was trained with, or another folder",
            )


def check_arrays(manifest: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Raises CheckpointError if an array is not what was saved."""
    for path, leaf in manifest["leaves"].items():
        if checksum(arrays[path]) != leaf["crc32"]:
            raise CheckpointError(f"the checksum of {path} differs")


def _describe(leaf: Any) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _show(leaf: dict[str, Any] | None) -> str:
    return "missing" if leaf is None else f"{leaf['dtype']}{leaf['shape']}"


def _json_checksum(value: Any) -> int:
    """CRC-32 of a JSON value, whatever the order and spacing in which it was written."""
    try:
        text = json.dumps(value, sort_keys=True)
    except TypeError as error:
        raise TypeError(
            f"data_state must be JSON (dict, list, str, number, bool, None); got {error}. Convert it first."
        ) from error
    return zlib.crc32(text.encode())
