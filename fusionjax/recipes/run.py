"""The directory of a run: what it was asked to do, and what came of it."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, TypeVar

from fusionjax._version import __version__
from fusionjax.errors import InputError
from fusionjax.recipes.config import from_json, to_json

FORMAT = 1
Config = TypeVar("Config")


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file whole or not at all.

    Args:
        path: the file; an old one is replaced.
        text: its content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        path: the directory.
        recipe: the name of the task.
        config: its settings as plain values.
    """

    path: Path
    recipe: str
    config: dict[str, Any]

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """The directory of the TensorBoard curves."""
        return self.path / "tensorboard"

    @property
    def tokenizer(self) -> Path:
        """The file of the tokenizer."""
        return self.path / "tokenizer.json"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    def settings(self, kind: type[Config]) -> Config:
        """Gives the settings as the recipe's config.

        Args:
            kind: the recipe's config dataclass.

        Returns:
            The config.
        """
        return from_json(kind, self.config)

    def read_metrics(self) -> dict[str, float] | None:
        """Gives the final metrics, or None before the run has ended."""
        path = self.path / "metrics.json"
        if not path.exists():
            return None
        return _read_object(path)

    def write_metrics(self, metrics: dict[str, float]) -> None:
        """Writes the final metrics.

        Args:
            metrics: flat, such as `{"test/bleu_4": 0.1}`.
        """
        write_atomically(self.path / "metrics.json", json.dumps(metrics, indent=1) + "\n")


def start_run(path: str | Path, recipe: str, config: Any) -> Run:
    """Makes a run directory, or finds the one that the same command made before.

    Args:
        path: the directory.
        recipe: the name of the task.
        config: the settings, a dataclass.

    Returns:
        The run.

    Raises:
        InputError: the directory holds something else, or a run with other settings.
    """
    path, values = Path(path), json.loads(json.dumps(to_json(config)))
    if (path / "config.json").exists():
        run = open_run(path)
        if run.recipe != recipe:
            raise InputError(f"{path} holds a run of {run.recipe}; this is {recipe}. Choose another --output.")
        # A setting that the run's version did not have yet is as it was: at its default.
        before = json.loads(json.dumps(to_json(run.settings(type(config)))))
        # The same directory may be named in several ways.
        changed = _differences({**before, "output": None}, {**values, "output": None})
        if changed:
            raise InputError(f"{path} holds a run with other settings ({'; '.join(changed)}). Choose another --output.")
        return run
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(
            f"{path} must be a run directory or not exist; it holds something else. Choose another --output."
        )
    header = {"format": FORMAT, "fusionjax": __version__, "recipe": recipe, "config": values}
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / "config.json", json.dumps(header, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{path} must be a folder to write to; got {error}. Choose another --output.") from error
    return Run(path, recipe, values)


def finished_metrics(path: str | Path, recipe: str, config: Any) -> dict[str, float] | None:
    """Looks at a run directory before anything is read or made.

    Args:
        path: the directory; it need not be there.
        recipe: the name of the task.
        config: the settings, a dataclass.

    Returns:
        The final metrics if the same command has ended there already, else None.

    Raises:
        InputError: as `start_run`.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    return start_run(path, recipe, config).read_metrics()


def open_run(path: str | Path) -> Run:
    """Opens a run directory.

    Args:
        path: the directory.

    Returns:
        The run.

    Raises:
        InputError: it is not there, is no run directory, or is one of another version.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        found = "no such directory" if not path.is_dir() else "a directory without config.json"
        raise InputError(f"{path} must be a run directory; it is {found}. Give the --output of a training.")
    header = _read_object(path / "config.json")
    if header.get("format") != FORMAT:
        raise InputError(
            f"{path} must be a run of format {FORMAT}; got format {header.get('format')!r}, written by fusionjax "
            f"{header.get('fusionjax', 'of unknown version')}. Install that version, or train again."
        )
    recipe, config = header.get("recipe"), header.get("config")
    if not isinstance(recipe, str) or not isinstance(config, dict):
        raise InputError(
            f"{path / 'config.json'} must name a recipe and its config; got {header!r:.80}. Restore the file."
        )
    return Run(path, recipe, config)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be readable JSON; got {error}. Restore the file, or train again.") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object; got {value!r:.80}. Restore the file, or train again.")
    return value


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name in sorted(set(old) | set(new)):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name} {before!r}, now {after!r}")
    return found
