"""Throughput of the fusion forward pass."""

import dataclasses
import importlib.metadata
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from fusionjax import encoders, fusion, models
from fusionjax._version import __version__
from fusionjax.recipes.config import require_positive

_WARM_UP = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measures the forward pass of the fusion model: convolutions and LSTM with self-attention, joined, classified.

    Attributes:
        batch_size: images with a sentence each.
        image_size: side in pixels.
        length: tokens of a sentence.
        vocab_size: different tokens.
        features: of the LSTM.
        dtype: of the computation.
        repeats: samples taken.
        peak_size: side of the square matrices whose product measures the peak.
    """

    batch_size: int = 32
    image_size: int = 224
    length: int = 100
    vocab_size: int = 10_000
    features: int = 512
    dtype: Literal["float32", "bfloat16"] = "float32"
    repeats: int = 10
    peak_size: int = 2048

    def __post_init__(self) -> None:
        """Checks the values."""
        require_positive(self, "batch_size", "image_size", "length", "vocab_size", "features", "repeats", "peak_size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchRecord:
    """One measurement.

    Attributes:
        contender: whose code ran.
        workload: what ran.
        implementation: of the operations; `default` is the best for the platform.
        device: kind and architecture.
        versions: of the packages.
        git_revision: of the code; None outside a checkout.
        dtype: of the computation.
        shapes: of the inputs.
        compile_ms: of the first call alone.
        samples_ms: every run.
        median_ms: of the samples.
        spread_ms: the longest less the shortest.
        examples_per_second: at the median.
        achieved_tflops: floating-point operations, as the compiler counts them, at the median.
        share_of_measured_peak: of a matrix product of the same dtype, measured just before; 0 to 1.
        peak_memory_mb: inputs, outputs and temporary memory, as the compiler plans them.
    """

    contender: str = "fusionjax"
    workload: str
    implementation: str = "default"
    device: str
    versions: dict[str, str]
    git_revision: str | None
    dtype: str
    shapes: dict[str, list[int]]
    compile_ms: float
    samples_ms: list[float]
    median_ms: float
    spread_ms: float
    examples_per_second: float
    achieved_tflops: float
    share_of_measured_peak: float
    peak_memory_mb: float


def bench_forward(options: BenchOptions) -> dict[str, Any]:
    """Measures the forward pass on the default device.

    Args:
        options: the workload.

    Returns:
        A `BenchRecord` as plain values.
    """
    dtype = jnp.bfloat16 if options.dtype == "bfloat16" else None
    text = encoders.RNNEncoder(options.vocab_size, options.features, cell="lstm", self_attention=True, dtype=dtype)
    model = models.FusionClassifier(
        {"image": encoders.SimpleCNN(dtype=dtype), "text": text}, fusion.Concat(), num_classes=100, dtype=dtype
    )
    key_image, key_text, key_init = jax.random.split(jax.random.key(0), 3)
    shape = (options.batch_size, options.image_size, options.image_size, 3)
    batch = {
        "image": jax.random.uniform(key_image, shape),
        "text": jax.random.randint(key_text, (options.batch_size, options.length), 1, options.vocab_size),
    }
    variables = jax.jit(model.init)(key_init, batch)

    def forward(variables: Any, batch: Any) -> jax.Array:
        output: Any = model.apply(variables, batch)
        return output.logits

    peak = measured_peak_tflops(options.peak_size, options.dtype)
    start = time.perf_counter()
    compiled = jax.jit(forward).lower(variables, batch).compile()
    compile_ms = 1000 * (time.perf_counter() - start)
    samples = _sample_ms(lambda: compiled(variables, batch), options.repeats)
    return dataclasses.asdict(_record(options, compiled, compile_ms, samples, peak))


def measured_peak_tflops(size: int, dtype: str) -> float:
    """Measures the fastest matrix product of the default device.

    Args:
        size: side of the square matrices.
        dtype: of the product.

    Returns:
        10^12 floating-point operations per second, in the best of five runs.
    """
    left = jax.random.normal(jax.random.key(1), (size, size)).astype(dtype)
    product = jax.jit(jnp.matmul).lower(left, left).compile()
    return 2 * size**3 / min(_sample_ms(lambda: product(left, left), 5)) / 1e9


def _sample_ms(run: Callable[[], Any], repeats: int) -> list[float]:
    samples = []
    for _ in range(_WARM_UP + repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        samples.append(1000 * (time.perf_counter() - start))
    return samples[_WARM_UP:]


def _record(options: BenchOptions, compiled: Any, compile_ms: float, samples: list[float], peak: float) -> BenchRecord:
    median = statistics.median(samples)
    memory, device = compiled.memory_analysis(), jax.devices()[0]
    sizes = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    achieved = float((compiled.cost_analysis() or {}).get("flops", 0.0)) / median / 1e9
    return BenchRecord(
        workload="fusion-forward",
        device=f"{device.device_kind} ({platform.machine()})",
        versions={"fusionjax": __version__, **{name: importlib.metadata.version(name) for name in ("jax", "flax")}},
        git_revision=_git_revision(),
        dtype=options.dtype,
        shapes={
            "image": [options.batch_size, options.image_size, options.image_size, 3],
            "text": [options.batch_size, options.length],
        },
        compile_ms=compile_ms,
        samples_ms=samples,
        median_ms=median,
        spread_ms=max(samples) - min(samples),
        examples_per_second=1000 * options.batch_size / median,
        achieved_tflops=achieved,
        share_of_measured_peak=achieved / peak,
        peak_memory_mb=sum(getattr(memory, name, 0) for name in sizes) / 1e6,
    )


def _git_revision() -> str | None:
    """The commit of the checkout that this package is in, if it is in one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
