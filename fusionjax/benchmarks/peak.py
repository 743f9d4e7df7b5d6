"""The ceilings of a device, measured: matrix products and copies."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_RUNS = 5


def measured_peak_tflops(size: int, dtype: str) -> float:
    """Measures the fastest matrix product of the default device.

    Args:
        size: side of the square matrices.
        dtype: of the product.

    Returns:
        10^12 floating-point operations per second, in the best of five runs.
    """
    left = jax.random.normal(jax.random.key(1), (size, size)).astype(dtype)
    return 2 * size**3 / _best_seconds(jax.jit(jnp.matmul), left, left) / 1e12


def measured_bandwidth(size_mb: int = 256) -> float:
    """Measures how fast the default device reads one large array and writes another.

    Args:
        size_mb: of the array.

    Returns:
        10^9 bytes read and written per second, in the best of five runs.
    """
    array = jnp.ones(size_mb * 250_000, jnp.float32)
    return 2 * array.nbytes / _best_seconds(jax.jit(jnp.negative), array) / 1e9


def _best_seconds(run: Callable[..., Any], *arguments: Any) -> float:
    jax.block_until_ready(run(*arguments))
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        seconds.append(time.perf_counter() - start)
    return min(seconds)
