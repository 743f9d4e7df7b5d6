"""Results of an independent library: computed now where it is installed, else read from disk.

`python -m tests.parity.store` writes what is on disk anew.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

VALUES = Path(__file__).parent / "values"
MAX_BYTES = 30_000


def reference(
    name: str, compute: Callable[[], Mapping[str, np.ndarray]], *, needs: str = "torch"
) -> dict[str, np.ndarray]:
    """Returns the arrays that `compute` makes with the library `needs`, live or as stored under `name`."""
    if importlib.util.find_spec(needs) is None:
        with np.load(VALUES / f"{name}.npz") as stored:
            return dict(stored)
    return {key: np.asarray(value) for key, value in compute().items()}


def store(name: str, compute: Callable[[], Mapping[str, np.ndarray]]) -> Path:
    """Writes the arrays that `compute` makes, and refuses large ones."""
    path = VALUES / f"{name}.npz"
    np.savez_compressed(path, **compute())
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} must stay under {MAX_BYTES} bytes; got {path.stat().st_size}. Use smaller arrays.")
    return path


def assert_stored(name: str, arrays: Mapping[str, np.ndarray], tolerance: float = 1e-4) -> None:
    """What is stored under `name` is what the library computes, relative to the largest of each array."""
    with np.load(VALUES / f"{name}.npz") as stored:
        assert stored.files
        for key in stored.files:
            if stored[key].dtype.kind == "f":
                error = np.abs(stored[key] - arrays[key]).max() / np.abs(arrays[key]).max()
                assert error < tolerance, f"{key} differs by {error}"
            else:
                np.testing.assert_array_equal(stored[key], arrays[key], err_msg=key)
