"""`bench forward`, `bench train`, `bench decode`: whole models and single layers, beside the peers."""

from collections.abc import Callable, Sequence
from typing import Any

from fusionjax.benchmarks.options import DecodeOptions, ModelOptions, ModelSizes, PeerOptions
from fusionjax.benchmarks.results import Ceilings, Results, group_key, intensity
from fusionjax.benchmarks.run import measure, open_contenders
from fusionjax.benchmarks.workloads import Decode, Depthwise, Fusion, Recurrent, VitBlock
from fusionjax.benchmarks.workloads.depthwise import LAYERS
from fusionjax.errors import InputError


def bench_forward(options: ModelOptions) -> Results:
    """Measures forward passes.

    Args:
        options: which, and beside whom.

    Returns:
        The records, with the ceilings of the device in the same run.
    """
    return _bench(options, train=False)


def bench_train(options: ModelOptions) -> Results:
    """Measures steps of training.

    Args:
        options: which, and beside whom.

    Returns:
        The records, with the ceilings of the device in the same run.

    Raises:
        InputError: an inference option is named.
    """
    if options.inference:
        raise InputError(
            f"inference options are for forward passes; got {', '.join(options.inference)}. Use bench forward."
        )
    return _bench(options, train=True)


def bench_decode(options: DecodeOptions) -> Results:
    """Measures how many captions are written.

    Args:
        options: models, searches, and beside whom.

    Returns:
        The records, with the ceilings of the device in the same run.
    """
    workloads = [
        Decode(
            model=model,
            num_beams=num_beams,
            batch_size=batch_size,
            width=options.features,
            vocab_size=options.vocab_size,
            steps=options.steps,
            dtype=options.dtype,
        )
        for model in options.models
        for num_beams in options.beams
        for batch_size in options.batch_sizes
    ]
    return measure_all(workloads, options, options.dtype)


def make_workloads(name: str, sizes: ModelSizes, *, train: bool) -> list[Any]:
    """Makes the workloads of a name, one for each size.

    Args:
        name: of `options.MODELS`.
        sizes: how large.
        train: training instead of forward passes.

    Returns:
        The workloads, in order.

    Example:
        >>> [workload.name for workload in make_workloads("fusion", ModelSizes(batch_sizes=(1, 8)), train=False)]
        ['fusion-forward', 'fusion-forward']
    """
    return _MAKERS[name](sizes, train)


def _bench(options: ModelOptions, *, train: bool) -> Results:
    workloads = [workload for name in options.workloads for workload in make_workloads(name, options, train=train)]
    return measure_all(workloads, options, options.dtype)


def measure_all(workloads: Sequence[Any], options: PeerOptions, dtype: str) -> Results:
    """Measures workloads one after another, beside the peers.

    Args:
        workloads: what to compute.
        options: beside whom, and how often.
        dtype: of the product that measures the peak.

    Returns:
        The records, with the ceilings of the device in the same run.
    """
    with open_contenders(options.pythons()) as contenders:
        measured = [contenders[0].measure_peak(options.peak_size, dtype)]
        records, intensities = [], {}
        for workload in workloads:
            found = measure(workload, contenders, repeats=options.repeats)
            intensities[group_key(found[0])] = intensity(workload)
            records += found
        # Something else may have used the machine just then.
        measured.append(contenders[0].measure_peak(options.peak_size, dtype))
    tflops, gb_per_second = (max(values) for values in zip(*measured, strict=True))
    ceilings = Ceilings(tflops=tflops, gb_per_second=gb_per_second)
    return Results(records=[record.with_peak(tflops) for record in records], ceilings=ceilings, intensities=intensities)


def _fusion(options: ModelSizes, train: bool) -> list[Fusion]:
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


def _recurrent(cell: str) -> Callable[[ModelSizes, bool], list[Any]]:
    def make(options: ModelSizes, train: bool) -> list[Any]:
        sizes: dict[str, Any] = {"length": options.length, "features": options.features, "dtype": options.dtype}
        return [
            Recurrent(cell=cell, batch_size=batch_size, train=train, **sizes)
            for batch_size in options.batch_sizes or (32,)
        ]

    return make


def _vit_block(options: ModelSizes, train: bool) -> list[Any]:
    return [
        VitBlock(batch_size=batch_size, train=train, dtype=options.dtype)
        for batch_size in options.batch_sizes or (1, 8, 32)
    ]


def _depthwise(options: ModelSizes, train: bool) -> list[Any]:
    return [
        Depthwise(
            batch_size=batch_size,
            image_size=image_size,
            channels=channels,
            kernel_size=kernel_size,
            train=train,
            dtype=options.dtype,
        )
        for batch_size in options.batch_sizes or (32,)
        for image_size, channels, kernel_size in LAYERS
    ]


_MAKERS: dict[str, Callable[[ModelSizes, bool], list[Any]]] = {
    "fusion": _fusion,
    **{cell: _recurrent(cell) for cell in ("lstm", "gru", "elman")},
    "vit-block": _vit_block,
    "depthwise": _depthwise,
}
