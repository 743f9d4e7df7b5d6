"""`bench ops`: every implementation of every operation, and random shapes against plain Flax and `jax.lax`."""

import importlib.metadata
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.benchmarks.machine import git_revision
from fusionjax.benchmarks.op_cases import Case, draw_cases, list_cases
from fusionjax.benchmarks.options import OpsOptions, require_known
from fusionjax.benchmarks.record import Record
from fusionjax.benchmarks.results import Results, group_key
from fusionjax.benchmarks.tune import best_choices, write_choices

# A sample repeats a call until so many milliseconds are over.
SAMPLE_MS = 5.0
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}


def bench_ops(options: OpsOptions) -> Results:
    """Measures the operations on the default device, in this process, implementations in turn.

    Each is measured forward, and in training: with the gradients of the outputs' mean square for all arrays.

    Args:
        options: which operations and implementations, and how many random shapes.

    Returns:
        Records by case, direction and implementation: `default` is the operation's own choice, and the contender
        `flax` is plain Flax or `jax.lax`, first of each.

    Raises:
        InputError: there is no operation or implementation of a name.
    """
    cases = list_cases()
    require_known("the ops", options.ops, dict.fromkeys(case.op for case in cases))
    cases = [case for case in cases if not options.ops or case.op in options.ops]
    known = [name for case in cases for name in case.implementations()]
    require_known("the implementations", options.implementations, dict.fromkeys(known))
    records = []
    for case in cases:
        names = [name for name in case.implementations() if _is_chosen(name, options.implementations)]
        records += _measure_both(case, [None, *names], options)
    drawn = draw_cases(options.random_shapes, options.seed, options.largest)
    for case in drawn:
        records += _measure_both(case, [None], options)
    if options.tune:
        write_choices(options.tune, best_choices(records, jax.default_backend()))
    return Results(records=records, notes=_worst_lines(records))


def _worst_lines(records: list[Record]) -> list[str]:
    lines = []
    for drawn, what in ((False, "shape classes"), (True, "random shapes")):
        worst = worst_ratio(records, drawn=drawn)
        if worst:
            lines.append(f"worst ratio to plain Flax over the {what}: {worst[0]:.2f}, {group_key(worst[1])}")
    return lines


def worst_ratio(records: list[Record], *, drawn: bool = True) -> tuple[float, Record] | None:
    """Finds where the default implementation loses most to plain Flax.

    Args:
        records: of `bench_ops`.
        drawn: among the random shapes, instead of the shape classes.

    Returns:
        Our time over theirs, and our record; None where there is nothing to compare.

    Example:
        >>> common = {"workload": "conv2d-forward, random", "dtype": "float32", "shapes": {"images": [1, 6, 6, 2]}}
        >>> plain = Record(contender="flax", implementation="plain", median_ms=2.0, **common)
        >>> worst_ratio([plain, Record(contender="fusionjax", median_ms=3.0, **common)])[0]
        1.5
    """
    plain = {group_key(record): record for record in records if record.contender == "flax"}
    pairs = [
        (record.median_ms / plain[group_key(record)].median_ms, record)  # type: ignore[operator]
        for record in records
        if record.contender == "fusionjax"
        and record.implementation == "default"
        and record.workload.endswith("random") == drawn
        and record.median_ms
        and plain[group_key(record)].median_ms
    ]
    return max(pairs, key=lambda pair: pair[0], default=None)


def _is_chosen(name: str, chosen: tuple[str, ...]) -> bool:
    return not chosen or name in chosen


def _measure_both(case: Case, implementations: list[str | None], options: OpsOptions) -> list[Record]:
    return [
        record
        for train in (False, True)
        for record in _measure(case, implementations, train=train, repeats=options.repeats, dtype=options.dtype)
    ]


def _measure(case: Case, implementations: list[str | None], *, train: bool, repeats: int, dtype: str) -> list[Record]:
    arrays = case.arrays(dtype)
    functions = {"plain": case.plain(), **{name or "default": case.ours(name) for name in implementations}}
    ready: dict[str, Callable[[], Any]] = {}
    first_ms: dict[str, float] = {}
    errors: dict[str, str] = {}
    outputs: dict[str, list[np.ndarray]] = {}
    for name, function in functions.items():
        compiled = jax.jit(_trained(function) if train else function)
        start = time.perf_counter()
        try:
            found = jax.block_until_ready(compiled(arrays))
        except NotImplementedError as error:
            errors[name] = " ".join(str(error).split())
            continue
        first_ms[name] = 1000 * (time.perf_counter() - start)
        outputs[name] = [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(found)]
        ready[name] = partial(_call, compiled, arrays)
    for name, found_outputs in outputs.items():
        difference = _difference(found_outputs, outputs["plain"])
        if not difference <= _TOLERANCE[dtype]:
            errors[name] = f"its outputs differ by {difference:.1e} from those of plain Flax"
    samples = alternate(ready, repeats)
    workload = f"{case.op}-{'train' if train else 'forward'}, {case.shape_class}"
    print(f"{workload} {list(case.shapes.values())}", file=sys.stderr, flush=True)
    return [
        _record(case, workload, name, dtype, first_ms.get(name), samples.get(name), errors.get(name))
        for name in functions
    ]


def _call(compiled: Callable[[Any], Any], arrays: Any) -> None:
    jax.block_until_ready(compiled(arrays))


def _trained(function: Callable[[Any], jax.Array]) -> Callable[[Any], Any]:
    def loss(arrays: Any) -> jax.Array:
        return jnp.mean(jnp.square(function(arrays).astype(jnp.float32)))

    return jax.grad(loss)


def alternate(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Times functions in turn, A B C A B C.

    Args:
        runs: by name; each returns when it is done.
        repeats: samples of each.

    Returns:
        Milliseconds of a call, by name and sample; a sample is the mean over calls of some milliseconds together.
    """
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start, calls, spent = time.perf_counter(), 0, 0.0
            while spent < SAMPLE_MS:
                run()
                calls += 1
                spent = 1000 * (time.perf_counter() - start)
            samples[name].append(spent / calls)
    return samples


def _difference(outputs: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest relative difference in the Euclidean norm; arrays that are nearly zero count by the largest."""
    norms = [float(np.linalg.norm(each)) for each in expected]
    floor = max(1e-3 * max(norms), 1e-30)
    pairs = zip(outputs, expected, norms, strict=True)
    return max(float(np.linalg.norm(output - each)) / max(norm, floor) for output, each, norm in pairs)


def _record(
    case: Case,
    workload: str,
    name: str,
    dtype: str,
    first_ms: float | None,
    samples: list[float] | None,
    error: str | None,
) -> Record:
    figures: dict[str, Any] = {}
    if samples and first_ms is not None:
        median = statistics.median(samples)
        batch = next(iter(case.shapes.values()))[0]
        figures = {
            "samples_ms": samples,
            "compile_ms": max(0.0, first_ms - median),
            "median_ms": median,
            "spread_ms": max(samples) - min(samples),
            "examples_per_second": 1000 * batch / median,
        }
    return Record(
        contender="flax" if name == "plain" else "fusionjax",
        workload=workload,
        implementation=name,
        device=f"{jax.devices()[0].device_kind} ({platform.machine()})",
        versions={package: importlib.metadata.version(package) for package in ("jax", "jaxlib", "flax")},
        git_revision=git_revision(),
        dtype=dtype,
        shapes={argument: list(shape) for argument, shape in case.shapes.items()},
        error=error,
        **figures,
    )
