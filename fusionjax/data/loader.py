"""Batches out of a sequence of examples: shuffled, in parallel, resumable to the exact batch; over grain."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusionjax._extras import require
from fusionjax.errors import InputError

Batch = dict[str, np.ndarray]
Transform = Callable[[Any, np.random.Generator], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Loader:
    """An iterable over batches; made by `make_loader`, which explains the fields."""

    source: Sequence[Any]
    transform: Transform
    batch_size: int
    shuffle: bool
    seed: int
    num_epochs: int | None = None
    num_workers: int = 0
    num_threads: int = 2
    drop_remainder: bool = False

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("seed", 0), ("num_workers", 0), ("num_threads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}. Raise it.")
        if self.num_epochs is not None and self.num_epochs < 1:
            raise ValueError(f"num_epochs must be at least 1, or None for no end; got {self.num_epochs}. Raise it.")
        if self.seed >= 2**32:
            raise ValueError(f"seed must be less than 2**32; got {self.seed}. Choose a smaller one.")
        if not len(self.source):
            raise InputError(
                "a loader needs examples; got an empty source. Check the split and what was left out of it."
            )
        if self.num_batches == 0:
            raise InputError(
                f"batch_size {self.batch_size} is larger than the {len(self.source)} examples that there are, and an "
                "incomplete batch is dropped. Choose a smaller batch_size or drop_remainder=False."
            )

    @property
    def num_batches(self) -> int | None:
        """How many batches there are in all; None where `num_epochs` is None."""
        if self.num_epochs is None:
            return None
        examples = len(self.source) * self.num_epochs
        return examples // self.batch_size if self.drop_remainder else -(-examples // self.batch_size)

    def __iter__(self) -> "LoaderIterator":
        return LoaderIterator(self)


def make_loader(
    source: Sequence[Any],
    transform: Transform,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    num_epochs: int | None = None,
    num_workers: int = 0,
    num_threads: int = 2,
    drop_remainder: bool = False,
) -> Loader:
    """Makes an iterable over batches of examples, the same for the same seed whatever the number of workers.

    Every epoch holds every example once, in an order of its own; the epochs follow each other without a seam, so a
    batch may hold the end of one and the beginning of the next. The iterator says where it is (`get_state`) and goes
    on from there (`set_state`) with exactly the batches that would have followed, even with another number of
    workers.

    Args:
        source: anything with a length and an index: a list, `Scenes`, a split of a `CaptionFolder`, a `TFDSSource`.
        transform: makes a dictionary of arrays out of one example and a `numpy.random.Generator` that depends on
            `seed` and on the example's position alone; the arrays of a batch's examples are stacked. With workers it
            must be picklable.
        batch_size: examples in a batch.
        shuffle: whether every epoch is in an order of chance.
        seed: of the order and of the generators, at least 0 and below 2**32.
        num_epochs: passes over the source; None never ends.
        num_workers: processes that make batches; 0 makes them in threads of this process. They are started anew, so a
            script needs the guard `if __name__ == "__main__":`.
        num_threads: threads that make batches ahead, in each process; 0 makes each batch when it is asked for.
        drop_remainder: whether an incomplete last batch is left out.

    Returns:
        The loader; `iter(loader)` begins at the first batch. Close an iterator that is not read to its end.

    Raises:
        ValueError: a number is out of range.
        InputError: there are no examples, or not one batch of them.

    Example:
        >>> loader = make_loader([1, 2, 3], lambda number, rng: {"double": 2 * number},
        ...                      batch_size=2, shuffle=False, seed=0, num_epochs=1)
        >>> [batch["double"].tolist() for batch in loader]
        [[2, 4], [6]]
    """
    return Loader(
        source=source,
        transform=transform,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        num_epochs=num_epochs,
        num_workers=num_workers,
        num_threads=num_threads,
        drop_remainder=drop_remainder,
    )


class LoaderIterator(Iterator[Batch]):
    """The batches of a `Loader`, one after the other, with a position that can be saved.

    Example:
        >>> loader = make_loader(range(9), lambda number, rng: {"n": number}, batch_size=3, shuffle=False, seed=0)
        >>> with iter(loader) as batches:
        ...     _ = next(batches)
        ...     state = batches.get_state()
        >>> with iter(loader) as batches:
        ...     batches.set_state(state)
        ...     next(batches)["n"].tolist()
        [3, 4, 5]
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._position = 0
        self._batches: Any = None

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = iter(_dataset(self._loader, self._position))
        try:
            batch = next(self._batches)
        except StopIteration:
            self.close()
            raise
        self._position += 1
        # Workers hand over arrays in shared memory, which must not outlive the iterator.
        return {name: np.array(value) for name, value in batch.items()} if self._loader.num_workers else batch

    def get_state(self) -> dict[str, int | bool]:
        """Returns the position as numbers that JSON can hold, with what they depend on."""
        return {"batches": self._position, **_identity(self._loader)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to a position that `get_state` returned.

        Raises:
            InputError: the state is of a loader with other examples, another batch size, seed or shuffling.
        """
        for name, value in _identity(self._loader).items():
            if name not in state or state[name] != value:
                raise InputError(
                    f"the saved data position is of a loader with {name} = {state.get(name)}; this one has {value}. "
                    "Go on with the settings and the data of the first run, or begin a new one."
                )
        if not isinstance(state.get("batches"), int) or state["batches"] < 0:
            raise InputError(
                f"a data position must count batches from 0; got {state.get('batches')}. The state is damaged."
            )
        self.close()
        self._position = state["batches"]

    def close(self) -> None:
        """Ends the threads and the processes; the position stays, and reading goes on from it."""
        if self._batches is not None:
            self._batches.close()
        self._batches = None

    def __enter__(self) -> "LoaderIterator":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _identity(loader: Loader) -> dict[str, int | bool]:
    """What the sequence of batches depends on and two runs can be compared by."""
    return {
        "examples": len(loader.source),
        "batch_size": loader.batch_size,
        "shuffle": loader.shuffle,
        "seed": loader.seed,
    }


def _dataset(loader: Loader, first_batch: int) -> Any:
    grain = require("grain", extra="data")
    dataset = grain.MapDataset.source(loader.source)
    if loader.shuffle:
        dataset = dataset.shuffle(seed=loader.seed)
    dataset = dataset.repeat(loader.num_epochs).random_map(loader.transform, seed=loader.seed)
    batches = dataset.batch(loader.batch_size, drop_remainder=loader.drop_remainder, batch_fn=stack_examples)
    # A grain iterator's own state holds one position per worker; a slice starts anywhere with any number of workers.
    batches = batches[first_batch:]
    options = grain.ReadOptions(num_threads=loader.num_threads, prefetch_buffer_size=2 * loader.num_threads)
    batches = batches.to_iter_dataset(options)
    if loader.num_workers:
        flags = require("absl.flags", extra="data").FLAGS
        if not flags.is_parsed():
            # Grain's workers read absl's flags, which only programs begun with absl.app have parsed.
            flags.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=loader.num_workers), worker_init_fn=_end_with_parent
        )
    return batches


def _end_with_parent(worker: int, workers: int) -> None:
    """Ends a worker process when the process that started it is gone, killed without a word or not."""
    del worker, workers
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def stack_examples(examples: Sequence[Mapping[str, Any]]) -> Batch:
    """Stacks the arrays of several examples along a new first axis.

    Args:
        examples: dictionaries of arrays or numbers, all with the same keys and shapes.

    Returns:
        A dictionary of arrays `[examples, ...]`.

    Raises:
        ValueError: the keys or the shapes of two examples differ.

    Example:
        >>> stack_examples([{"size": 3}, {"size": 5}])["size"].tolist()
        [3, 5]
    """
    first = examples[0]
    batch = {}
    for name in first:
        values = [np.asarray(example[name]) if name in example else None for example in examples]
        shapes = [None if value is None else value.shape for value in values]
        if any(shape != shapes[0] for shape in shapes):
            other = next(shape for shape in shapes if shape != shapes[0])
            got = f"{shapes[0]} and {'none' if other is None else other}"
            raise ValueError(f"every example must have {name!r} in one shape; got {got}. Pad or crop in the transform.")
        batch[name] = np.stack([value for value in values if value is not None])
    return batch
