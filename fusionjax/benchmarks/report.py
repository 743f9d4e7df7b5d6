"""Records as a table."""

import dataclasses
import io
import itertools
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from fusionjax.benchmarks.record import Record
from fusionjax.benchmarks.results import group_key

_WIDTH = 132


def table(records: Sequence[Record]) -> str:
    """Draws the records, a table for each workload and size, with the ratio of our median to each other's.

    Args:
        records: in the order of `run.measure`: those of one workload and size after each other.

    Returns:
        Lines of text; a ratio below 1 means that the library is faster.

    Example:
        >>> ours = Record(contender="fusionjax", workload="sum", dtype="float32", shapes={"x": [3]}, median_ms=2.0)
        >>> print(table([ours]).splitlines()[0].strip())
        sum, x 3, float32
    """
    groups = itertools.groupby(records, group_key)
    return "\n\n".join(_draw(list(group)) for _, group in groups)


def ratio(ours: Record, other: Record) -> float | None:
    """Divides our median time by another's.

    Args:
        ours: the library's record.
        other: another contender's.

    Returns:
        The ratio; None where one of them has no figures.

    Example:
        >>> common = {"workload": "sum", "dtype": "float32", "shapes": {"x": [3]}}
        >>> ours = Record(contender="fusionjax", median_ms=2.0, **common)
        >>> ratio(ours, Record(contender="torch", median_ms=8.0, **common))
        0.25
    """
    return ours.median_ms / other.median_ms if ours.median_ms and other.median_ms else None


def _draw(records: list[Record]) -> str:
    first = records[0]
    drawn = Table(title=group_key(first), title_justify="left", title_style="")
    drawn.add_column("contender", no_wrap=True)
    for heading in ("median ms", "spread ms", "examples/s", "TFLOP/s", "of peak", "first call s", "memory MB", "ratio"):
        drawn.add_column(heading, justify="right")
    notes = []
    for record in records:
        drawn.add_row(record.label, *_cells(record, first))
        if record.error:
            notes.append(f"{record.label}: {record.error}")
        elif record.label != record.contender and record.difference is not None:
            notes.append(f"{record.label}: its outputs differ by {record.difference:.1e} from those of {first.label}")
    return "\n".join([_text(drawn), *notes])


def _cells(record: Record, first: Record) -> list[str]:
    if record.median_ms is None:
        return ["-"] * 8
    against = ratio(first, record)
    return [
        f"{record.median_ms:.2f}",
        f"{record.spread_ms:.2f}" if record.spread_ms is not None else "-",
        f"{record.examples_per_second:.1f}" if record.examples_per_second else "-",
        f"{record.achieved_tflops:.3f}" if record.achieved_tflops else "-",
        f"{record.share_of_measured_peak:.0%}" if record.share_of_measured_peak else "-",
        f"{(record.compile_ms + record.median_ms) / 1000:.2f}" if record.compile_ms is not None else "-",
        f"{record.peak_memory_mb:.0f}" if record.peak_memory_mb is not None else "-",
        "-" if against is None or record is first else f"{against:.2f}",
    ]


def ops_table(records: Sequence[Record]) -> str:
    """Draws the records of `bench ops`: a line for each operation, shape and implementation.

    Args:
        records: of `ops.bench_ops`.

    Returns:
        Lines of text; the ratio is that of our median to plain Flax's.

    Example:
        >>> common = {"workload": "conv2d-forward, wide", "dtype": "float32", "shapes": {"images": [1, 6, 6, 2]}}
        >>> plain = Record(contender="flax", implementation="plain", median_ms=2.0, **common)
        >>> lines = ops_table([plain, Record(contender="fusionjax", median_ms=1.0, **common)]).splitlines()
        >>> lines[-2].replace("│", "").split()
        ['default', '1.000', '0.50']
    """
    drawn = Table()
    drawn.add_column("operation and shapes")
    drawn.add_column("implementation", no_wrap=True)
    for heading in ("median ms", "ratio"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    notes = []
    for _, each in itertools.groupby(records, group_key):
        group = list(each)
        for index, record in enumerate(group):
            against = ratio(record, group[0])
            shown = "-" if record.median_ms is None else f"{record.median_ms:.3f}"
            cells = shown, "-" if against is None or index == 0 else f"{against:.2f}"
            drawn.add_row("" if index else group_key(record), record.implementation, *cells)
            if record.error:
                notes.append(f"{record.workload}, {record.implementation}: {record.error}")
    return "\n".join([_text(drawn), *notes])


def ahead_table(records: Sequence[Any]) -> str:
    """Draws the records of `bench ahead`: a line for each contender and topology, all figures of one chip.

    `moves in loops` counts gathers, transposes, copies and exchanges between chips.

    Args:
        records: of `ahead.bench_ahead`.

    Returns:
        Lines of text.

    Example:
        >>> from fusionjax.benchmarks.ahead import AheadRecord
        >>> common = {"contender": "flax", "workload": "sum", "dtype": "float32", "shapes": {"x": [3]}}
        >>> found = ahead_table([AheadRecord(topology="v5e:2x2", floor_ms=1.0, estimated_ms=2.5, **common)])
        >>> found.splitlines()[-2].replace("│", "").split()
        ['flax', 'v5e:2x2', '-', '-', '-', '-', '-', '-', '-', '1.000', '-', '2.500', '-']
    """
    parts = []
    for title, group in itertools.groupby(records, group_key):
        drawn = Table(title=title, title_justify="left", title_style="", padding=(0, 0, 0, 1))
        for heading in ("contender", "topology"):
            drawn.add_column(heading, no_wrap=True)
        for heading, _, _ in _AHEAD_COLUMNS:
            drawn.add_column(heading, justify="right")
        drawn.add_column("moves in loops", justify="right")
        notes = []
        for record in group:
            values = [(getattr(record, name), form) for _, name, form in _AHEAD_COLUMNS]
            cells = ["-" if value is None else form.format(value) for value, form in values]
            moves = "-" if record.in_loops is None else " ".join(map(str, dataclasses.astuple(record.in_loops)))
            drawn.add_row(record.contender, record.topology, *cells, moves)
            if record.error:
                notes.append(f"{record.contender}, {record.topology}: {record.error}")
        parts.append("\n".join([_text(drawn), *notes]))
    return "\n\n".join(parts)


# Heading, field of an `AheadRecord`, how it is written.
_AHEAD_COLUMNS = (
    ("compile ms", "compile_ms", "{:.0f}"),
    ("args MB", "argument_mb", "{:.0f}"),
    ("out MB", "output_mb", "{:.0f}"),
    ("temp MB", "temporary_mb", "{:.0f}"),
    ("need GFLOP", "needed_gflop", "{:.1f}"),
    ("XLA GFLOP", "counted_gflop", "{:.1f}"),
    ("XLA MB", "accessed_mb", "{:.0f}"),
    ("floor ms", "floor_ms", "{:.3f}"),
    ("XLA ms", "xla_ms", "{:.3f}"),
    ("est. ms", "estimated_ms", "{:.3f}"),
)


def _text(drawn: Table) -> str:
    output = io.StringIO()
    Console(file=output, width=_WIDTH, color_system=None).print(drawn)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())
