"""What one measurement leaves behind."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One measurement of one contender.

    Where a contender could not run, `error` says why, `samples_ms` is empty and the figures are None.

    Attributes:
        contender: whose code ran: `fusionjax`, `torch`, `torch.compile`, `keras-tensorflow` (also `-xla`),
            `keras-jax`, `flax` or `jimm`.
        workload: what ran, such as `fusion-forward`.
        implementation: of the operations; `default` is the contender's own choice. An inference option is named here.
        device: kind and architecture.
        versions: of the packages, in the contender's own Python.
        git_revision: of the library's code; None outside a checkout.
        dtype: of the computation.
        shapes: of the inputs.
        compile_ms: the first call, less the median of the others.
        samples_ms: every sample.
        median_ms: of the samples.
        spread_ms: the longest less the shortest.
        examples_per_second: at the median.
        achieved_tflops: 10^12 floating-point operations per second at the median. The operations are those that the
            workload's equations need, the same for all contenders.
        share_of_measured_peak: of a matrix product of the same dtype, measured in the same run, before and after.
        peak_memory_mb: growth of the process's memory on a CPU, of the device's elsewhere, over all of the workload.
        difference: of the outputs from those of the first contender, relative in the Euclidean norm; of words, the
            share that differs.
        error: why there are no figures, or why they are not to be trusted; None if all is well.
    """

    contender: str
    workload: str
    implementation: str = "default"
    device: str | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    git_revision: str | None = None
    dtype: str
    shapes: dict[str, list[int]]
    compile_ms: float | None = None
    samples_ms: list[float] = dataclasses.field(default_factory=list)
    median_ms: float | None = None
    spread_ms: float | None = None
    examples_per_second: float | None = None
    achieved_tflops: float | None = None
    share_of_measured_peak: float | None = None
    peak_memory_mb: float | None = None
    difference: float | None = None
    error: str | None = None

    @property
    def label(self) -> str:
        """The contender and, where it is not its own choice, the implementation."""
        return self.contender if self.implementation == "default" else f"{self.contender}:{self.implementation}"

    def with_peak(self, tflops: float) -> "Record":
        """Returns the record with its share of a measured peak, where it has figures."""
        if self.achieved_tflops is None:
            return self
        return dataclasses.replace(self, share_of_measured_peak=self.achieved_tflops / tflops)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON."""
        return dataclasses.asdict(self)


def figures_of(samples_ms: Sequence[float], *, first_ms: float, batch_size: int, flops: float) -> dict[str, Any]:
    """Makes the figures of a record.

    Args:
        samples_ms: every sample; at least one.
        first_ms: the first call, compilation included.
        batch_size: examples in a call.
        flops: floating-point operations of a call.

    Returns:
        Fields of a `Record`, by name.

    Example:
        >>> found = figures_of([4.0, 2.0, 3.0], first_ms=10.0, batch_size=6, flops=6e9)
        >>> found["median_ms"], found["spread_ms"], found["compile_ms"], found["examples_per_second"]
        (3.0, 2.0, 7.0, 2000.0)
        >>> found["achieved_tflops"]
        2.0
    """
    median = statistics.median(samples_ms)
    return {
        "samples_ms": list(samples_ms),
        "compile_ms": max(0.0, first_ms - median),
        "median_ms": median,
        "spread_ms": max(samples_ms) - min(samples_ms),
        "examples_per_second": 1000 * batch_size / median,
        "achieved_tflops": flops / median / 1e9,
    }
