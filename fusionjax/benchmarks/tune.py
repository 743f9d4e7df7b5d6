"""The best implementation of each operation and shape class, as measured."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusionjax.benchmarks.record import Record


def best_choices(records: Sequence[Record], platform: str) -> list[dict[str, Any]]:
    """Finds the fastest named implementation of each case.

    Args:
        records: of `bench ops`, one shape class after another.
        platform: that they were measured on: `cpu`, `gpu` or `tpu`.

    Returns:
        A row for each operation, direction, shape class and dtype: `platform`, `jax` (its minor version), `op`,
        `direction`, `shape_class`, `dtype`, `implementation`, and `gain`, the second best's time over its own.

    Example:
        >>> common = {"workload": "conv2d-forward, wide", "dtype": "float32", "shapes": {}}
        >>> common |= {"versions": {"jax": "0.10.2"}}
        >>> times = {"taps": 2.0, "xla": 3.0}
        >>> records = [Record(contender="fusionjax", implementation=n, median_ms=t, **common) for n, t in times.items()]
        >>> best_choices(records, "cpu")[0]["implementation"], best_choices(records, "cpu")[0]["gain"]
        ('taps', 1.5)
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        named = record.contender == "fusionjax" and record.implementation != "default"
        if named and record.median_ms and not record.error:
            groups.setdefault((record.workload, record.dtype), []).append(record)
    rows = []
    for (workload, dtype), group in groups.items():
        times: dict[str, list[float]] = {}
        for record in group:
            times.setdefault(record.implementation, []).append(record.median_ms or 0.0)
        ranked = sorted((statistics.median(values), name) for name, values in times.items())
        operation, _, shape_class = workload.partition(", ")
        op, _, direction = operation.rpartition("-")
        rows.append(
            {
                "platform": platform,
                "jax": ".".join(group[0].versions["jax"].split(".")[:2]),
                "op": op,
                "direction": direction,
                "shape_class": shape_class,
                "dtype": dtype,
                "implementation": ranked[0][1],
                "gain": round(ranked[1][0] / ranked[0][0], 3) if len(ranked) > 1 else None,
            }
        )
    return rows


def write_choices(path: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the rows as JSON, one a line; those of other platforms and versions in the file are kept.

    Args:
        path: of the file, which may not be there yet.
        rows: of `best_choices`.
    """
    file = Path(path)
    new = {(row["platform"], row["jax"], row["dtype"]) for row in rows}
    before = json.loads(file.read_text()) if file.exists() else []
    kept = [row for row in before if (row["platform"], row["jax"], row["dtype"]) not in new]
    lines = ",\n ".join(json.dumps(row) for row in [*kept, *rows])
    file.write_text(f"[{lines}]\n")
