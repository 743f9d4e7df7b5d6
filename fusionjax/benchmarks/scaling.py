"""`bench scaling`: one size grown, the others fixed."""

import dataclasses
import itertools
from typing import Any

from fusionjax.benchmarks.models import measure_all
from fusionjax.benchmarks.options import ScalingOptions
from fusionjax.benchmarks.results import Results
from fusionjax.benchmarks.workloads import Fusion, Recurrent


def bench_scaling(options: ScalingOptions) -> Results:
    """Measures how time grows with the batch, the length and the features.

    Args:
        options: which sizes grow, and to which values.

    Returns:
        The records, along each axis in turn.
    """
    series = make_series(options)
    workloads = [workload for group in series.values() for workload in group]
    results = measure_all(workloads, options, options.dtype)
    records = iter(results.records)
    contenders = len(results.records) // len(workloads)
    curves = {axis: list(itertools.islice(records, contenders * len(group))) for axis, group in series.items()}
    return dataclasses.replace(results, series=curves)


def make_series(options: ScalingOptions) -> dict[str, list[Any]]:
    """Makes the workloads: the fusion model by its batch; an LSTM of batch 32 by its steps and by its features.

    Args:
        options: which sizes grow, and to which values.

    Returns:
        The workloads of each axis, in its order.

    Example:
        >>> series = make_series(ScalingOptions(axes=("length",), lengths=(16, 64)))
        >>> [(one.name, one.length, one.features) for one in series["length"]]
        [('lstm-forward', 16, 512), ('lstm-forward', 64, 512)]
    """
    common: dict[str, Any] = {"train": options.train, "dtype": options.dtype}
    size: dict[str, Any] = {"image_size": options.image_size, "vocab_size": options.vocab_size}
    layer: dict[str, Any] = {"cell": "lstm", "batch_size": 32, **common}
    series: dict[str, list[Any]] = {
        "batch": [
            Fusion(batch_size=batch, length=options.length, features=options.features, **size, **common)
            for batch in options.batch_sizes
        ],
        "length": [Recurrent(length=length, features=options.features, **layer) for length in options.lengths],
        "features": [Recurrent(length=options.length, features=width, **layer) for width in options.widths],
    }
    return {axis: series[axis] for axis in options.axes}
