"""Records as a table."""

import io
import itertools
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from fusionjax.benchmarks.record import Record

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
    groups = itertools.groupby(records, lambda record: (record.workload, str(record.shapes), record.dtype))
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
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in first.shapes.items())
    drawn = Table(title=f"{first.workload}, {shapes}, {first.dtype}", title_justify="left", title_style="")
    drawn.add_column("contender", no_wrap=True)
    for heading in ("median ms", "spread ms", "examples/s", "TFLOP/s", "of peak", "first call s", "memory MB", "ratio"):
        drawn.add_column(heading, justify="right")
    notes = []
    for record in records:
        drawn.add_row(record.contender, *_cells(record, first))
        if record.error:
            notes.append(f"{record.contender}: {record.error}")
    output = io.StringIO()
    console = Console(file=output, width=_WIDTH, color_system=None)
    console.print(drawn)
    return "\n".join([*(line.rstrip() for line in output.getvalue().splitlines()), *notes])


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
