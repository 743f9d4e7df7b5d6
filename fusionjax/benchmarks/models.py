"""`bench forward` and `bench train`: whole models and single layers, beside the peers."""

from typing import Any

from fusionjax.benchmarks.contender import Contender
from fusionjax.benchmarks.options import ModelOptions
from fusionjax.benchmarks.record import Record
from fusionjax.benchmarks.run import Ceilings, measure, open_contenders
from fusionjax.benchmarks.workloads import Fusion


def bench_forward(options: ModelOptions) -> tuple[list[Record], Ceilings]:
    """Measures forward passes.

    Args:
        options: which, and beside whom.

    Returns:
        The records, and the ceilings of the device in the same run.
    """
    return _bench(options, train=False)


def bench_train(options: ModelOptions) -> tuple[list[Record], Ceilings]:
    """Measures steps of training.

    Args:
        options: which, and beside whom.

    Returns:
        The records, and the ceilings of the device in the same run.
    """
    return _bench(options, train=True)


def make_workloads(options: ModelOptions, *, train: bool) -> list[Any]:
    """Makes the workloads that the options name.

    Args:
        options: which, and how large.
        train: training instead of forward passes.

    Returns:
        The workloads, in order.

    Example:
        >>> [workload.name for workload in make_workloads(ModelOptions(batch_sizes=(1, 8)), train=False)]
        ['fusion-forward', 'fusion-forward']
    """
    return [workload for name in options.workloads for workload in _MAKERS[name](options, train)]


def _bench(options: ModelOptions, *, train: bool) -> tuple[list[Record], Ceilings]:
    workloads = make_workloads(options, train=train)
    with open_contenders(options.pythons()) as contenders:
        ceilings = measure_ceilings(contenders[0], options.peak_size, options.dtype)
        records = [
            record
            for workload in workloads
            for record in measure(workload, contenders, repeats=options.repeats, peak_tflops=ceilings.tflops)
        ]
    return records, ceilings


def measure_ceilings(contender: Contender, size: int, dtype: str) -> Ceilings:
    """Measures what the device can do.

    Args:
        contender: the library.
        size: side of the square matrices.
        dtype: of their product.

    Returns:
        The ceilings.
    """
    tflops, gb_per_second = contender.measure_peak(size, dtype)
    return Ceilings(tflops=tflops, gb_per_second=gb_per_second)


def _fusion(options: ModelOptions, train: bool) -> list[Fusion]:
    return [
        Fusion(
            batch_size=batch_size,
            image_size=options.image_size,
            length=options.length,
            vocab_size=options.vocab_size,
            features=options.features,
            part=options.parts,
            train=train,
            dtype=options.dtype,
        )
        for batch_size in options.batch_sizes or (32,)
    ]


_MAKERS = {"fusion": _fusion}
