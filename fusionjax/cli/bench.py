"""Throughput of the fusion forward pass."""

import dataclasses
import importlib.metadata
import platform
import statistics
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp

from fusionjax import encoders, fusion, models
from fusionjax._version import __version__
from fusionjax.recipes.config import require_positive


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
    """

    batch_size: int = 32
    image_size: int = 224
    length: int = 100
    vocab_size: int = 10_000
    features: int = 512
    dtype: Literal["float32", "bfloat16"] = "float32"
    repeats: int = 10

    def __post_init__(self) -> None:
        """Checks the values."""
        require_positive(self, "batch_size", "image_size", "length", "vocab_size", "features", "repeats")


def bench_forward(options: BenchOptions) -> dict[str, Any]:
    """Measures the forward pass on the default device.

    Args:
        options: the workload.

    Returns:
        A benchmark record: times in milliseconds, compile time apart, all samples, throughput, operations and memory as
        the compiler counts them.
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
    start = time.perf_counter()
    compiled = jax.jit(lambda variables, batch: model.apply(variables, batch).logits).lower(variables, batch).compile()
    compile_ms = 1000 * (time.perf_counter() - start)
    samples = []
    for sample in range(options.repeats + 2):
        start = time.perf_counter()
        jax.block_until_ready(compiled(variables, batch))
        if sample >= 2:
            samples.append(1000 * (time.perf_counter() - start))
    return _record(options, compiled, compile_ms, samples)


def _record(options: BenchOptions, compiled: Any, compile_ms: float, samples: list[float]) -> dict[str, Any]:
    median = statistics.median(samples)
    cost = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    device = jax.devices()[0]
    return {
        "contender": "fusionjax",
        "workload": "fusion-forward",
        "device": f"{device.device_kind} ({platform.machine()})",
        "versions": {"fusionjax": __version__, **{name: importlib.metadata.version(name) for name in ("jax", "flax")}},
        "dtype": options.dtype,
        "shapes": {
            "image": [options.batch_size, options.image_size, options.image_size, 3],
            "text": [options.batch_size, options.length],
        },
        "compile_ms": compile_ms,
        "samples_ms": samples,
        "median_ms": median,
        "spread_ms": max(samples) - min(samples),
        "examples_per_second": 1000 * options.batch_size / median,
        "achieved_tflops": float(cost.get("flops", 0.0)) / median / 1e9,
        "peak_memory_mb": getattr(memory, "temp_size_in_bytes", 0) / 1e6,
    }
