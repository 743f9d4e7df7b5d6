"""One workload, several contenders: prepared one after another, sampled in turn, compared, recorded."""

import contextlib
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax.benchmarks.contender import Contender, ContenderError
from fusionjax.benchmarks.machine import git_revision
from fusionjax.benchmarks.record import Record, figures_of

# The threads of the last contender spin for a while before they sleep.
PAUSE_SECONDS = 0.3
# Relative difference from the first contender's outputs, in the Euclidean norm, above which figures are not trusted.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
# What is marked as inexact may write other words.
_INEXACT = "bfloat16"


@contextlib.contextmanager
def open_contenders(pythons: dict[str, str | None]) -> Iterator[list[Contender]]:
    """Makes contenders, and ends their processes at the end.

    Args:
        pythons: by the contender's name, the Python that it lives in; None for this one.

    Yields:
        The contenders, not yet started.
    """
    contenders = [Contender(name, python=python) for name, python in pythons.items()]
    try:
        yield contenders
    finally:
        for contender in contenders:
            contender.close()


def measure(workload: Any, contenders: Sequence[Contender], *, repeats: int) -> list[Record]:
    """Measures a workload.

    Each contender is prepared alone; then they are sampled in turn, A B C A B C, so that a drift of the machine meets
    all of them. Their outputs, from the same inputs and weights, are compared with the first contender's.

    Args:
        workload: what to compute.
        contenders: who computes it; the first is what the others are compared with.
        repeats: samples of each.

    Returns:
        A record of each contender, in their order.
    """
    first_ms: dict[str, float] = {}
    errors: dict[str, str] = {}
    memory_mb: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {contender.name: Path(folder) / f"{index}.npz" for index, contender in enumerate(contenders)}
        for contender in contenders:
            with _kept(errors, contender):
                first_ms[contender.name] = contender.prepare(workload, paths[contender.name])
            _say(
                workload, contender.name, errors.get(contender.name) or f"first call {first_ms[contender.name]:.0f} ms"
            )
        differences = compare_outputs([path for name, path in paths.items() if name in first_ms])
    running = [contender for contender in contenders if contender.name in first_ms]
    differing = {contender.name: each for contender, each in zip(running, differences, strict=True)}
    for name, difference in differing.items():
        if difference > _tolerance(workload, name):
            errors[name] = f"its outputs differ by {difference:.1e} from those of {running[0].name}"
    samples = _sample_in_turn(running, repeats, errors)
    for contender in running:
        if samples[contender.name]:
            with _kept(errors, contender):
                memory_mb[contender.name] = contender.finish()
    records = []
    for contender in contenders:
        taken = samples.get(contender.name)
        figures: dict[str, Any] = {}
        if taken:
            figures = figures_of(
                taken,
                first_ms=first_ms[contender.name],
                batch_size=workload.batch_size,
                flops=workload.flops(),
            )
        figures |= {"peak_memory_mb": memory_mb.get(contender.name), "difference": differing.get(contender.name)}
        record = _record(workload, contender, errors.get(contender.name), figures)
        _say(workload, contender.name, record.error or f"{record.median_ms:.2f} ms")
        records.append(record)
    return records


def compare_outputs(paths: Sequence[Path]) -> list[float]:
    """Compares the outputs of contenders with the first's.

    Args:
        paths: of the `.npz` files that they saved.

    Returns:
        For each the relative difference in the Euclidean norm, the largest of its outputs; of integers, which are
        words, the share that differs; infinity if the shapes differ.
    """
    outputs = []
    for path in paths:
        with np.load(path) as arrays:
            outputs.append([arrays[name] for name in arrays.files])
    return [_difference(each, outputs[0]) for each in outputs]


def _tolerance(workload: Any, name: str) -> float:
    if _INEXACT in name:
        return 1.0 if hasattr(workload, "tolerance") else _TOLERANCE["bfloat16"]
    return getattr(workload, "tolerance", _TOLERANCE[workload.dtype])


def _record(workload: Any, contender: Contender, error: str | None, figures: dict[str, Any]) -> Record:
    name, _, implementation = contender.name.partition(":")
    return Record(
        contender=name,
        implementation=implementation or "default",
        workload=workload.name,
        device=f"{contender.device} ({platform.machine()})" if contender.device else None,
        versions=contender.versions,
        git_revision=git_revision(),
        dtype=workload.dtype,
        shapes={name: list(array.shape) for name, array in workload.inputs().items()},
        error=error,
        **figures,
    )


def _sample_in_turn(contenders: Iterable[Contender], repeats: int, errors: dict[str, str]) -> dict[str, list[float]]:
    running = list(contenders)
    samples: dict[str, list[float]] = {contender.name: [] for contender in running}
    failed: set[str] = set()
    for _ in range(repeats):
        for contender in running:
            if contender.name in failed:
                continue
            time.sleep(PAUSE_SECONDS)
            try:
                samples[contender.name].append(contender.sample())
            except ContenderError as error:
                errors[contender.name] = str(error)
                failed.add(contender.name)
                samples[contender.name] = []
    return samples


def _difference(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    if [output.shape for output in outputs] != [each.shape for each in expected]:
        return float("inf")
    return max(_distance(output, each) for output, each in zip(outputs, expected, strict=True))


def _distance(output: np.ndarray, expected: np.ndarray) -> float:
    if expected.dtype.kind == "i":
        return float(np.mean(output != expected))
    return float(np.linalg.norm(output - expected) / (np.linalg.norm(expected) + np.finfo(np.float32).tiny))


@contextlib.contextmanager
def _kept(errors: dict[str, str], contender: Contender) -> Iterator[None]:
    try:
        yield
    except ContenderError as error:
        errors[contender.name] = str(error)


def _say(workload: Any, contender: str, text: str) -> None:
    print(f"{workload.name} x {workload.batch_size}, {contender}: {text}", file=sys.stderr, flush=True)
