"""What a command of `fusionjax bench` gives."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from fusionjax.benchmarks.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the device can do at most, as measured in the same run.

    Attributes:
        tflops: of a matrix product.
        gb_per_second: read and written by a copy.
    """

    tflops: float
    gb_per_second: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """Records and what helps to read them.

    Attributes:
        records: those of one workload and size after each other.
        ceilings: of the device; None where they were not measured.
        intensities: by workload and shapes (`group_key`), operations a byte of inputs and weights.
        notes: lines below the table.
        series: for curves, records by the size that grows: `batch`, `length` or `features`.
    """

    records: Sequence[Record]
    ceilings: Ceilings | None = None
    intensities: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    series: dict[str, list[Record]] = dataclasses.field(default_factory=dict)


def group_key(record: Record) -> str:
    """Names what the records of several contenders have in common.

    Args:
        record: one of them.

    Returns:
        Its workload, shapes and dtype.

    Example:
        >>> group_key(Record(contender="flax", workload="sum", dtype="float32", shapes={"x": [3, 5], "y": [3]}))
        'sum, x 3x5, y 3, float32'
    """
    shapes = [f"{name} {'x'.join(map(str, shape))}" for name, shape in record.shapes.items()]
    return ", ".join([record.workload, *shapes, record.dtype])


def intensity(workload: Any) -> float:
    """Counts a workload's operations for each byte of its inputs and weights, which it must read at least once.

    Captions are written step by step, and each step reads all weights.

    Args:
        workload: of `workloads`.

    Returns:
        Operations a byte.
    """
    inputs, weights = (sum(array.nbytes for array in each.values()) for each in (workload.inputs(), workload.weights()))
    return workload.flops() / (inputs + weights * getattr(workload, "steps", 1))
