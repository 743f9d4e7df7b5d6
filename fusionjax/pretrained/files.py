"""Files of weights: one, a folder of them, or a model of the Hugging Face hub."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fusionjax._extras import require
from fusionjax.errors import InputError
from fusionjax.pretrained.torch_file import open_torch_file

_INDEX = "model.safetensors.index.json"
_TORCH_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")
_MOST_MAPPED = 2**24  # bytes that are read of a safetensors file before its pages are given back
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")


class Weights(NamedTuple):
    """The tensors of a model, each read when it is asked for.

    Attributes:
        path: of the file, or of the folder.
        shapes: by name.
        read: gives a tensor by name.
        config: the `config.json` beside them; empty where there is none.
        folder: whose other files belong to them; None where a file alone was named.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    config: Mapping[str, Any]
    folder: Path | None = None


def open_weights(source: str | Path) -> Weights:
    """Opens weights without reading them.

    Args:
        source: a file (safetensors, or of `torch.save`), a folder that holds one, or several with their index, or the
            id of a model of the Hugging Face hub, such as `google/siglip-base-patch16-224`. What exists on disk comes
            first; nothing is asked of the network then.

    Returns:
        The tensors' shapes, and a function that reads one.

    Raises:
        InputError: there is nothing of that name, no network, or the files are damaged.
    """
    path = Path(source)
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_file(path)
    # A name of the hub may have dots: timm/resnet50.a1_in1k.
    is_name = str(source).count("/") == 1 and not str(source).startswith((".", "/", "~"))
    if is_name and path.suffix not in (*_TORCH_ENDINGS, ".safetensors"):
        return _open_folder(_fetch(str(source)))
    raise InputError(f"weights must be a file, a folder or the id of a model; there is no {source}. Check the name.")


def takes_mean(path: Path) -> bool:
    """Says whether weights lie in a folder of sentence-transformers that pools to the mean of the states.

    Args:
        path: of the file of weights, or of their folder.

    Returns:
        Whether the folder says so.

    Raises:
        InputError: what it says cannot be read.
    """
    file = (path if path.is_dir() else path.parent) / "1_Pooling" / "config.json"
    return file.is_file() and bool(read_json(file).get("pooling_mode_mean_tokens"))


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors whole, or not at all.

    Args:
        path: of the file.
        tensors: by name.

    Raises:
        InputError: the folder cannot be written.
    """
    numpy_file = require("safetensors.numpy", extra="pretrained")
    path = Path(path)
    beside = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent} must be a folder; {error.strerror or error}. Give another place.") from error
    try:
        numpy_file.save_file(dict(tensors), beside, metadata={"format": "pt"})
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}. Give another place.") from error
    finally:
        beside.unlink(missing_ok=True)


def _open_folder(folder: Path) -> Weights:
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    if (folder / _INDEX).exists():
        return _open_several(folder, read_json(folder / _INDEX), config)
    for pattern in ("model.safetensors", "*.safetensors", "pytorch_model.bin", *(f"*{end}" for end in _TORCH_ENDINGS)):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return _open_file(found[0])._replace(config=config, folder=folder)
        if found:
            raise InputError(
                f"{folder} must hold one file of weights, or {_INDEX}; got {', '.join(one.name for one in found)}. "
                "Name one of them."
            )
    raise InputError(
        f"{folder} must hold weights (safetensors, or of torch.save); there are none. Name another folder."
    )


def _open_several(folder: Path, index: Mapping[str, Any], config: Mapping[str, Any]) -> Weights:
    places = index.get("weight_map")
    if not isinstance(places, Mapping):
        raise InputError(
            f"{folder / _INDEX} must have a weight_map; got {', '.join(index) or 'nothing'}. Fetch it anew."
        )
    odd = [name for name in places.values() if not isinstance(name, str) or Path(name).name != name]
    if odd:
        raise InputError(f"{folder / _INDEX} must name files beside it; got {odd[0]!r}. Fetch it anew.")
    missing = sorted({name for name in places.values() if not (folder / name).is_file()})
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}, which {_INDEX} names. Fetch the rest.")
    parts = {name: part for file in sorted(set(places.values())) for name, part in _parts(folder / file)}
    return Weights(folder, {name: part.shapes[name] for name, part in parts.items()}, _reader_of(parts), config, folder)


def _parts(path: Path) -> Iterator[tuple[str, Weights]]:
    part = _open_file(path)
    yield from ((name, part) for name in part.shapes)


def _reader_of(parts: Mapping[str, Weights]) -> Callable[[str], np.ndarray]:
    return lambda name: parts[name].read(name)


def _open_file(path: Path) -> Weights:
    if path.suffix in _TORCH_ENDINGS:
        shapes, read = open_torch_file(path)
        return Weights(path, shapes, read, {})
    safetensors = require("safetensors", extra="pretrained")
    try:
        file = safetensors.safe_open(path, framework="numpy")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in _names(file)}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} must be a whole safetensors file; {error}. Fetch it anew.") from error
    return Weights(path, shapes, _reader(path, lambda: safetensors.safe_open(path, framework="numpy")), {})


def _reader(path: Path, open_file: Callable[[], Any]) -> Callable[[str], np.ndarray]:
    """Reads tensors of a file that is mapped, and opens it anew now and then.

    What was read of a mapped file stays in the process's memory until it is closed, so that it would hold the whole
    file beside the model.
    """
    file, mapped = open_file(), 0

    def read(name: str) -> np.ndarray:
        nonlocal file, mapped
        if mapped > _MOST_MAPPED:
            file, mapped = open_file(), 0
        try:
            tensor: np.ndarray = file.get_tensor(name)
        # What NumPy has no name for, such as numbers of 8 bits and less; the library's error is a bare Exception.
        except Exception as error:
            kind = file.get_slice(name).get_dtype()
            raise InputError(
                f"{path}: {name} must hold floating-point numbers of 16 bits or more; got {kind}. Give the weights as "
                "they were trained, not quantised."
            ) from error
        mapped += tensor.nbytes
        return tensor

    return read


def _names(file: Any) -> Iterator[str]:
    yield from file.keys()


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: of the file.

    Returns:
        The object.

    Raises:
        InputError: the file holds none.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} must be JSON; {error}. Fetch it anew.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must be a JSON object; got {type(content).__name__}. Fetch it anew.")
    return content


def _fetch(identity: str) -> Path:
    hub = require("huggingface_hub", extra="pretrained")
    try:
        return Path(hub.snapshot_download(identity, allow_patterns=list(_PATTERNS)))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{identity} is no file or folder, and the hub did not give it: {reason}. Check the name and the network, "
            "or give a folder."
        ) from error
