"""`bench ops`: every implementation of every operation, and random shapes against plain Flax and `jax.lax`."""

import importlib.metadata
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.benchmarks.machine import git_revision
from fusionjax.benchmarks.op_cases import Case, draw_cases, list_cases
from fusionjax.benchmarks.options import OpsOptions, require_known
from fusionjax.benchmarks.record import Record
from fusionjax.benchmarks.results import Results, group_key
from fusionjax.benchmarks.tune import best_choices, write_choices
from fusionjax.ops.choices import choices_path, jax_minor_version

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
    measured = []
    for case in cases:
        names = [name for name in case.implementations() if _is_chosen(name, options.implementations)]
        measured += _measure_both(case, [None, *names], options)
    if options.tune:
        write_choices(options.tune, best_choices(measured, jax.default_backend()))
    drawn = draw_cases(options.random_shapes, options.seed, options.largest)
    records = [*measured, *[record for case in drawn for record in _measure_both(case, [None], options)]]
    return Results(records=records, notes=[*_choice_lines([*cases, *drawn], options.dtype), *_worst_lines(records)])


def _choice_lines(cases: Sequence[Case], dtype: str) -> list[str]:
    selections = dict.fromkeys(case.selection(dtype) for case in cases)
    lines = ["what the operations choose:"]
    for op, shape_class, _, implementation, choice in sorted(selections, key=lambda each: (each.op, str(each[1]))):
        why = f"measured, {choice.gain:.2f} times as fast as plain Flax" if choice else "by rule, not measured"
        lines.append(f"  {op}, {shape_class}, {dtype}: {implementation} ({why})")
    table = choices_path()
    where = f"{jax.default_backend()}, jax {jax_minor_version()}"
    return [*lines, f"Rows for {where} in {table}. To measure them anew: fusionjax bench ops --tune {table}"]


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
        and record.workload.endswith(", random") == drawn
        and record.median_ms
        and plain[group_key(record)].median_ms
    ]
    return max(pairs, key=lambda pair: pair[0], default=None)


def _is_chosen(name: str, chosen: tuple[str, ...]) -> bool:
    return not chosen or name in chosen


def _measure_both(case: Case, implementations: list[str | None], options: OpsOptions) -> list[Record]:
    both = [_compile(case, implementations, train=train, dtype=options.dtype) for train in (False, True)]
    return [record for compiled in both for record in _time(compiled, options.repeats)]


class _Compiled(NamedTuple):
    """A case in one direction, by `plain`, `default` and names of implementations."""

    case: Case
    workload: str
    dtype: str
    names: list[str]
    runs: dict[str, Callable[[], Any]]
    first_ms: dict[str, float]
    errors: dict[str, str]


def _compile(case: Case, implementations: list[str | None], *, train: bool, dtype: str) -> _Compiled:
    direction, suffix = "train" if train else "forward", ", random" if case.is_random else ""
    workload = f"{case.op}-{direction}, {case.selection(dtype).shape_class}{suffix}"
    functions = {"plain": case.plain(), **{name or "default": case.ours(name) for name in implementations}}
    compiled = _Compiled(case, workload, dtype, list(functions), {}, {}, {})
    arrays = case.arrays(dtype)
    outputs: dict[str, list[np.ndarray]] = {}
    selected = case.selection(dtype).implementation
    if selected in functions:
        del functions["default"]
    for name, function in functions.items():
        run = jax.jit(_trained(function) if train else function)
        start = time.perf_counter()
        try:
            found = jax.block_until_ready(run(arrays))
        except NotImplementedError as error:
            compiled.errors[name] = " ".join(str(error).split())
            continue
        compiled.first_ms[name] = 1000 * (time.perf_counter() - start)
        outputs[name] = [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(found)]
        compiled.runs[name] = partial(_call, run, arrays)
    for name, found_outputs in outputs.items():
        difference = _difference(found_outputs, outputs["plain"])
        if not difference <= _TOLERANCE[dtype]:
            compiled.errors[name] = f"its outputs differ by {difference:.1e} from those of plain Flax"
    if selected in functions:
        # One program for both, measured under either name.
        by_name: tuple[dict[str, Any], ...] = (compiled.runs, compiled.first_ms, compiled.errors)
        for each in by_name:
            each.update({"default": each[selected]} if selected in each else {})
    return compiled


def _time(compiled: _Compiled, repeats: int) -> list[Record]:
    samples = alternate(compiled.runs, repeats)
    print(f"{compiled.workload} {list(compiled.case.shapes.values())}", file=sys.stderr, flush=True)
    return [_record(compiled, name, samples.get(name)) for name in compiled.names]


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


def _record(compiled: _Compiled, name: str, samples: list[float] | None) -> Record:
    case = compiled.case
    figures: dict[str, Any] = {}
    if samples:
        median = statistics.median(samples)
        batch = next(iter(case.shapes.values()))[0]
        figures = {
            "samples_ms": samples,
            "compile_ms": max(0.0, compiled.first_ms[name] - median),
            "median_ms": median,
            "spread_ms": max(samples) - min(samples),
            "examples_per_second": 1000 * batch / median,
        }
    return Record(
        contender="flax" if name == "plain" else "fusionjax",
        workload=compiled.workload,
        implementation=name,
        device=f"{jax.devices()[0].device_kind} ({platform.machine()})",
        versions={package: importlib.metadata.version(package) for package in ("jax", "jaxlib", "flax")},
        git_revision=git_revision(),
        dtype=compiled.dtype,
        shapes={argument: list(shape) for argument, shape in case.shapes.items()},
        error=compiled.errors.get(name),
        **figures,
    )
