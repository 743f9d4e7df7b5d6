"""Batches of several tasks: of all in each step, or of one at a time."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusionjax.data.loader import Batch, Loader
from fusionjax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MixedLoader:
    """An iterable over steps, each `{task: batch}`; resumable to the exact batch like the loaders that it draws from.

    Attributes:
        loaders: of each task; endless ones.
        probabilities: of each task, to take the batch of one task a step; None takes one of every task.
        seed: of the draws; step t draws from it and t alone.

    Raises:
        ValueError: there is no loader, or the probabilities are not those of the loaders.

    Example:
        >>> from fusionjax.data import make_loader
        >>> loaders = {
        ...     name: make_loader([1, 2], lambda number, rng: {"n": number}, batch_size=2, shuffle=False, seed=0)
        ...     for name in ("one", "other")
        ... }
        >>> with iter(MixedLoader(loaders=loaders)) as steps:
        ...     sorted(next(steps))
        ['one', 'other']
    """

    loaders: Mapping[str, Loader]
    probabilities: Mapping[str, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.loaders:
            raise ValueError("a mixture needs a loader; got none. Give one for each task.")
        if self.probabilities is not None:
            shares = self.probabilities
            if set(shares) != set(self.loaders) or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
                raise ValueError(
                    f"probabilities must be those of {', '.join(self.loaders)}, of sum 1; got {dict(shares)}. "
                    "See training.sampling_probabilities."
                )

    def __iter__(self) -> "MixedIterator":
        return MixedIterator(self)


class MixedIterator(Iterator[dict[str, Batch]]):
    """The steps of a `MixedLoader`, with a position that can be saved."""

    def __init__(self, loader: MixedLoader) -> None:
        self._loader = loader
        self._position = 0
        self._iterators = {name: iter(one) for name, one in loader.loaders.items()}

    def __next__(self) -> dict[str, Batch]:
        names = self._drawn()
        batches = {name: next(self._iterators[name]) for name in names}
        self._position += 1
        return batches

    def _drawn(self) -> list[str]:
        names, shares = list(self._iterators), self._loader.probabilities
        if shares is None:
            return names
        draw = np.random.default_rng([self._loader.seed, self._position])
        return [names[draw.choice(len(names), p=[shares[name] for name in names])]]

    def get_state(self) -> dict[str, Any]:
        """Returns the position as values that JSON can hold."""
        return {"steps": self._position, "tasks": {name: one.get_state() for name, one in self._iterators.items()}}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to a position that `get_state` returned.

        Raises:
            InputError: the state is of a mixture of other tasks, or of other loaders.
        """
        tasks = state.get("tasks")
        if not isinstance(tasks, Mapping) or set(tasks) != set(self._iterators):
            found = ", ".join(tasks) if isinstance(tasks, Mapping) else "none"
            raise InputError(
                f"the saved data position is of the tasks {found}; these are {', '.join(self._iterators)}. "
                "Go on with the tasks of the first run, or begin a new one."
            )
        for name, one in self._iterators.items():
            one.set_state(tasks[name])
        self._position = int(state["steps"])

    def close(self) -> None:
        """Ends the threads and the processes of all loaders."""
        with contextlib.ExitStack() as stack:
            for one in self._iterators.values():
                stack.callback(one.close)

    def __enter__(self) -> "MixedIterator":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
