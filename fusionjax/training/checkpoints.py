"""Checkpoints on disk: written in the background, checked when read."""

import contextlib
import logging
import math
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from fusionjax.errors import InputError
from fusionjax.training.leaves import flatten, from_host, host_shape, lookup, nest, to_host
from fusionjax.training.manifest import (
    CheckpointError,
    check_arrays,
    check_files,
    check_structure,
    make_manifest,
    read_manifest,
    read_metric,
    write_manifest,
)


class Checkpoints:
    """A directory of checkpoints of which the newest and the best are kept.

    Saving copies the state to host memory and returns; orbax writes it in the background under a temporary name
    and renames it when it is complete, so a checkpoint that was being written when the process died is never seen.
    `manifest.json` in each holds the data position, the metric, and a checksum of every array and of every file;
    reading verifies all of them.

    Args:
        directory: where the checkpoints are, one folder per step; made if missing, unless `read_only`.
        keep_best: how many checkpoints with the best metrics are kept.
        keep_latest: how many of the newest are kept; at least 1.
        best_mode: `"min"` if a smaller metric is better, else `"max"`.
        leaves_out: whether the leaf of a path, such as `model_state/frozen_params/kernel`, is not saved; it is then
            taken from the template as it is. None saves all.
        read_only: only reads; leaves alone what another process may be writing.

    Raises:
        ValueError: a number or mode out of range.
        InputError: the directory is a file, does not exist (`read_only`), or cannot be listed.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> with tempfile.TemporaryDirectory() as directory, Checkpoints(directory) as checkpoints:
        ...     checkpoints.save(5, {"bias": jnp.ones(3)}, {"position": 40})
        ...     state, data_state, step = checkpoints.restore({"bias": jnp.zeros(3)})
        >>> state["bias"].tolist(), data_state, step
        ([1.0, 1.0, 1.0], {'position': 40}, 5)
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_best: int = 1,
        keep_latest: int = 1,
        best_mode: str = "min",
        leaves_out: Callable[[str], bool] | None = None,
        read_only: bool = False,
    ) -> None:
        if best_mode not in ("min", "max"):
            raise ValueError(f'best_mode must be "min" or "max"; got {best_mode!r}. "min" suits a loss.')
        if keep_latest < 1 or keep_best < 0:
            raise ValueError(
                f"keep_latest must be at least 1 and keep_best at least 0; got {keep_latest} and {keep_best}. "
                "Without the newest a run cannot be resumed."
            )
        self.directory = Path(directory).resolve()
        if read_only and not self.directory.exists():
            raise InputError(f"no checkpoints in {self.directory}: the folder does not exist; give a run's folder.")
        self._keep_best, self._keep_latest, self._sign = keep_best, keep_latest, 1 if best_mode == "min" else -1
        self._leaves_out = leaves_out or (lambda path: False)
        self._being_written: tuple[int, dict[str, Any]] = (0, {})
        try:
            if self.directory.exists() and not self.directory.is_dir():
                raise NotADirectoryError("it is a file")
            self._manager = self._open(read_only)
        except Exception as error:
            raise InputError(
                f"cannot open the checkpoints in {self.directory} ({_one_line(error)}); "
                "check the folder, or give another one."
            ) from error
        self._metrics = {step: read_metric(self._folder(step)) for step in self.steps}

    def _open(self, read_only: bool) -> Any:
        """Starts orbax's manager, which lists the directory and, when it next saves, removes half-written ones."""
        import orbax.checkpoint as ocp

        # Adding the same filter twice does nothing; what matters of orbax's messages arrives as an exception.
        logging.getLogger("absl").addFilter(_is_not_orbax)
        callback = ocp.AsyncOptions(post_finalization_callback=self._write_manifest)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=types.SimpleNamespace(should_preserve=self._should_preserve),
            async_options=None if read_only else callback,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        handlers = {"state": ocp.PyTreeCheckpointHandler()}
        return ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def _should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Says which checkpoints to keep; orbax asks this before it deletes."""
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        kept = {*steps[-self._keep_latest :], *self._ranked(steps)[: self._keep_best]}
        return [checkpoint.step in kept for checkpoint in checkpoints]

    def _ranked(self, steps: list[int]) -> list[int]:
        """Steps that have a metric, the best first, the older of equals first."""
        scores = {step: metric for step in steps if (metric := self._metrics.get(step)) is not None}
        return sorted(scores, key=lambda step: (self._sign * scores[step], step))

    def _write_manifest(self) -> None:
        """Describes a checkpoint whose files are complete, before it is renamed to its final name."""
        step, manifest = self._being_written
        (folder,) = self.directory.glob(f"{step}.orbax-checkpoint-tmp*")
        write_manifest(folder, manifest)

    def _folder(self, step: int) -> Path:
        return self.directory / str(step)

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return max(self.steps, default=None)

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the best metric, the older of equals; None if none has a metric."""
        return next(iter(self._ranked(self.steps)), None)

    def save(self, step: int, state: Any, data_state: Any = None, metric: float | None = None) -> None:
        """Copies a state to host memory and starts writing it; waits for an earlier one that is still being written.

        Args:
            step: steps done; an existing checkpoint of this step is replaced.
            state: tree of arrays, typed random keys included, in the plain layout (`TrainStep.unprepare`).
            data_state: position of the data iterator, as JSON.
            metric: decides which checkpoint is best; None or a number that is not finite never is.

        Raises:
            TypeError: `data_state` is not JSON.
            InputError: an earlier checkpoint could not be written (disk full, for example).
        """
        import orbax.checkpoint as ocp

        leaves = self._saved(state)
        arrays = {path: to_host(leaf) for path, leaf in leaves.items()}
        metric = None if metric is None or not math.isfinite(metric) else float(metric)
        manifest = make_manifest(leaves, arrays, data_state, metric)
        # orbax refuses arrays without elements; the manifest has their shapes.
        stored = nest({path: array for path, array in arrays.items() if array.size})
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(stored))
        with self._writing():
            self._manager.wait_until_finished()
            if step in self.steps:
                self._manager.delete(step)
            self._being_written, self._metrics[step] = (step, manifest), metric
            self._manager.save(step, args=items, force=True)

    def restore(self, template: Any, step: int | None = None) -> tuple[Any, Any, int]:
        """Reads a checkpoint and checks every array against its checksum.

        Args:
            template: a state of the same structure, of arrays or of shapes (`jax.eval_shape`).
            step: which checkpoint; None takes the newest.

        Returns:
            `(state, data_state, step)`; the arrays are on the default device, equal bit for bit to those saved.

        Raises:
            InputError: there is no such checkpoint, it is damaged, of another version, or of another structure.
        """
        self.wait()
        wanted = self.latest_step if step is None else step
        if wanted is None or wanted not in self.steps:
            which = "" if step is None else f" of step {step}"
            raise InputError(
                f"no checkpoint{which} in {self.directory}; there are steps {self.steps}. Give another run or step."
            )
        try:
            state, data_state = self._read(template, wanted)
        except Exception as error:
            raise InputError(self._explain(wanted, error)) from error
        return state, data_state, wanted

    def _read(self, template: Any, step: int) -> tuple[Any, Any]:
        """Reads one checkpoint; raises whatever went wrong."""
        import orbax.checkpoint as ocp

        every = flatten(template)
        leaves = self._saved(template)
        manifest = read_manifest(self._folder(step))
        check_structure(manifest, leaves)
        check_files(self._folder(step), manifest)
        shapes = {path: host_shape(leaf) for path, leaf in leaves.items()}
        stored = nest({path: shape for path, shape in shapes.items() if shape.size})
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        request = ocp.args.PyTreeRestore(item=stored, restore_args=as_numpy)
        tree = self._manager.restore(step, args=ocp.args.Composite(state=request)).state
        arrays = {
            path: np.asarray(lookup(tree, path)) if shape.size else np.zeros(shape.shape, shape.dtype)
            for path, shape in shapes.items()
        }
        check_arrays(manifest, arrays)
        keys = {path: manifest["leaves"][path].get("key") for path in leaves}
        restored = [from_host(arrays[path], keys[path]) if path in leaves else leaf for path, leaf in every.items()]
        return jax.tree.unflatten(jax.tree.structure(template), restored), manifest["data_state"]

    def _saved(self, state: Any) -> dict[str, Any]:
        """The leaves that are in a checkpoint, by path."""
        return {path: leaf for path, leaf in flatten(state).items() if not self._leaves_out(path)}

    def _explain(self, step: int, error: Exception) -> str:
        """Says in one line what is wrong with a checkpoint and what to do."""
        others = [other for other in self.steps if other != step]
        reason, advice = f"it is damaged or incomplete: {_one_line(error)}", None
        if isinstance(error, CheckpointError):
            reason, advice = str(error), error.advice
        if advice is None:
            then = f"go on from step {others[-1]}" if others else "start again"
            advice = f"delete this folder to {then}"
        return f"cannot use the checkpoint {self._folder(step)}: {reason}; {advice}."

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns an error of writing, now or in the background, into one clear line."""
        try:
            yield
        except Exception as error:
            raise InputError(
                f"cannot write a checkpoint to {self.directory} ({_one_line(error)}); "
                "check free space and permissions, then run the same command again."
            ) from error

    def wait(self) -> None:
        """Waits until everything that was saved is on disk.

        Raises:
            InputError: it could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does and stops the background threads; the object cannot be used afterwards."""
        with self._writing():
            self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()


def _one_line(error: Exception) -> str:
    """Type and first line of an error, not too long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def _is_not_orbax(record: logging.LogRecord) -> bool:
    """Filter of log records, which keeps orbax's off standard error."""
    return "orbax" not in record.pathname
