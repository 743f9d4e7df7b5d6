"""Reads the tensors of a file of `torch.save` without PyTorch, and without running what a pickle could run."""

import collections
import io
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fusionjax.errors import InputError

_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
_MAGIC = 0x1950A86A20F9469CFC6C  # of the format before PyTorch 1.6
_NESTED = ("state_dict", "model", "model_state_dict")


class _Storage(NamedTuple):
    """A storage that a pickle names.

    Attributes:
        dtype: of its numbers.
        key: of its bytes.
        size: how many numbers it has.
    """

    dtype: Any
    key: str
    size: int


class _Tensor(NamedTuple):
    """A tensor of a pickle: a view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class LazyTensors(NamedTuple):
    """The tensors of a file, each read when it is asked for.

    Attributes:
        shapes: by name.
        read: gives a tensor by name.
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def open_torch_file(path: str | Path) -> LazyTensors:
    """Opens a file of `torch.save` that holds a state dict.

    Its pickle may name tensors, storages, numbers, texts and plain containers; anything else is refused before it could
    run. Checkpoints that keep the state dict under `state_dict` or `model` are read too.

    Args:
        path: of the file: the zip format of PyTorch 1.6 and later, or the one before.

    Returns:
        The shapes of the tensors, and a function that reads one.

    Raises:
        InputError: it is damaged, holds no state dict, or would run code.
    """
    path = Path(path)
    if zipfile.is_zipfile(path):
        content, load = _open_zip(path)
    else:
        content, load = _open_legacy(path)
    tensors = {name: value for name, value in _state_dict(path, content).items() if _is_named_tensor(name, value)}

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        numbers = load(tensor.storage)
        reach = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
        if min((*tensor.strides, tensor.offset, 0)) < 0 or (0 not in tensor.shape and reach >= len(numbers)):
            raise InputError(f"{path}: {name} reaches beyond its storage of {len(numbers)} numbers. Fetch it anew.")
        steps = [step * numbers.itemsize for step in tensor.strides]
        return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, steps, writeable=False)

    return LazyTensors({name: tensor.shape for name, tensor in tensors.items()}, read)


class _Unpickler(pickle.Unpickler):
    """Finds nothing but what a state dict is made of."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda tensor, *rest: tensor
        raise InputError(
            f"{self.path} must hold tensors alone; its pickle asks for {module}.{name}, which could run code. Take "
            "weights in safetensors, or save the state_dict alone."
        )

    def persistent_load(self, identity: Any) -> Any:
        kind, dtype, key, _, size, *_ = identity
        if int(size) < 0:
            raise ValueError(f"a storage has {size} numbers")
        if kind != "storage":
            raise InputError(f"{self.path} must hold storages; got {kind!r}. Save the state_dict alone.")
        return _Storage(dtype, str(key), int(size))


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
    tensor = _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise ValueError("a tensor has no storage, or not a stride for each axis")
    return tensor


def _unpickle(path: Path, file: Any) -> Any:
    try:
        return _Unpickler(file, path).load()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} must be a file of torch.save; {error or type(error).__name__}. Fetch it anew."
        ) from error


def _open_zip(path: Path) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    try:
        archive = zipfile.ZipFile(path)
    except _BROKEN_ZIP as error:
        raise InputError(f"{path} is damaged: {error}. Fetch it anew.") from error
    inside = next((name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"), None)
    if inside is None:
        raise InputError(f"{path} must be a file of torch.save; it is a zip without data.pkl. Give another file.")
    folder = inside.removesuffix("data.pkl")

    def load(storage: _Storage) -> np.ndarray:
        try:
            data = archive.read(f"{folder}data/{storage.key}")
        except (KeyError, *_BROKEN_ZIP) as error:
            raise InputError(f"{path} is damaged: storage {storage.key} cannot be read. Fetch it anew.") from error
        return _numbers(path, storage, data)

    try:
        pickled = archive.read(inside)
    except _BROKEN_ZIP as error:
        raise InputError(f"{path} is damaged: {error}. Fetch it anew.") from error
    return _unpickle(path, io.BytesIO(pickled)), load


def _open_legacy(path: Path) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """Three pickles, the state dict, the keys of the storages, and the storages themselves with their sizes."""
    with path.open("rb") as file:
        if _unpickle(path, file) != _MAGIC:
            raise InputError(f"{path} must be a file of torch.save; it begins otherwise. Give another file.")
        _unpickle(path, file)
        _unpickle(path, file)
        content = _unpickle(path, file)
        keys = _unpickle(path, file)
        begin = file.tell()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise InputError(f"{path} is damaged: it does not list its storages. Fetch it anew.")
    dtypes = {
        one.storage.key: one.storage.dtype for one in _state_dict(path, content).values() if isinstance(one, _Tensor)
    }
    places, whole = {}, path.stat().st_size
    with path.open("rb") as file:
        for key in keys:
            file.seek(begin)
            count = int.from_bytes(file.read(8), "little")
            width = np.dtype(dtypes.get(key, np.uint8)).itemsize
            places[key] = begin + 8, count
            begin += 8 + count * width
            if key not in dtypes or begin > whole:
                raise InputError(f"{path} is damaged: its storages do not fit its size. Fetch it anew.")

    def load(storage: _Storage) -> np.ndarray:
        if storage.key not in places:
            raise InputError(f"{path} is damaged: storage {storage.key} cannot be read. Fetch it anew.")
        place, count = places[storage.key]
        return np.memmap(path, storage.dtype, "r", place, (count,))

    return content, load


def _numbers(path: Path, storage: _Storage, data: bytes) -> np.ndarray:
    if len(data) < storage.size * np.dtype(storage.dtype).itemsize:
        raise InputError(f"{path} is damaged: storage {storage.key} is too short. Fetch it anew.")
    return np.frombuffer(data, storage.dtype, storage.size)


def _state_dict(path: Path, content: Any) -> Mapping[str, Any]:
    for name in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not any(_is_named_tensor(*pair) for pair in content.items()):
        raise InputError(f"{path} must hold a state dict; got {type(content).__name__} without tensors. Save one.")
    return content


def _is_named_tensor(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, _Tensor)
