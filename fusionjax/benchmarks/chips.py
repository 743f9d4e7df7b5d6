"""Tensor processing units: what their maker publishes of them, and their compiler without one of them."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from fusionjax._extras import require
from fusionjax.errors import InputError
from fusionjax.parallel.mesh import DATA_AXIS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip.

    Attributes:
        tflops: 10^12 operations per second of a bfloat16 matrix product at most; XLA multiplies float32 in bfloat16
            too, unless `jax.default_matmul_precision` asks for more.
        gb_per_second: of its memory.
        memory_gb: that it has.
        products_per_cycle: multiply-adds of its matrix units in a cycle; with `tflops` this gives the clock.

    Example:
        >>> round(CHIPS["v5e"].gigahertz, 2), round(CHIPS["v6e"].gigahertz, 2)
        (1.5, 1.75)

    References:
        Google Cloud, "TPU v5e" and "TPU v6e", system architecture: peaks, memory and bandwidth (819 and 1640 GB/s,
        which the page on v6e rounds).
    """

    tflops: float
    gb_per_second: float
    memory_gb: float
    products_per_cycle: int

    @property
    def gigahertz(self) -> float:
        """The clock, 10^9 cycles per second."""
        return self.tflops * 1000 / (2 * self.products_per_cycle)

    def floor_ms(self, flops: float, memory_bytes: float) -> float:
        """Says how long a program takes at least.

        Args:
            flops: of its matrix products.
            memory_bytes: that it reads and writes at least.

        Returns:
            Milliseconds, the longer of the two.

        Example:
            >>> Chip(tflops=2.0, gb_per_second=500.0, memory_gb=1.0, products_per_cycle=1).floor_ms(4e9, 5e8)
            2.0
        """
        return max(flops / (1e9 * self.tflops), memory_bytes / (1e6 * self.gb_per_second))


CHIPS: Mapping[str, Chip] = {
    "v5e": Chip(tflops=197.0, gb_per_second=819.0, memory_gb=16.0, products_per_cycle=4 * 128 * 128),
    "v6e": Chip(tflops=918.0, gb_per_second=1640.0, memory_gb=32.0, products_per_cycle=4 * 256 * 256),
}


def chip_of(topology: str) -> Chip:
    """Finds the chip of a topology.

    Args:
        topology: such as `"v5e:2x2"`.

    Returns:
        The chip.

    Raises:
        InputError: it is not of a chip that is known here.

    Example:
        >>> chip_of("v6e:2x2").memory_gb
        32.0
    """
    name, _, layout = topology.partition(":")
    if name not in CHIPS or not layout:
        names = ", ".join(CHIPS)
        raise InputError(f"a topology is a chip of {names} and its layout; got {topology!r}. An example is v5e:2x2.")
    return CHIPS[name]


def open_topology(topology: str) -> Mesh:
    """Builds a mesh of chips that are not there, to compile for.

    Args:
        topology: such as `"v5e:2x2"`.

    Returns:
        A mesh over all of its chips with the axis `"data"`.

    Raises:
        ImportError: libtpu, the compiler, is not installed.
        InputError: there is no such topology.
    """
    chip_of(topology)
    require("libtpu", extra="tpu")
    _settle_without_chips()
    try:
        found: Any = topologies.get_topology_desc(topology, platform="tpu")
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the topology must be one that libtpu knows; got {topology!r}: {reason}") from None
    return Mesh(np.asarray(found.devices), (DATA_AXIS,))


def _settle_without_chips() -> None:
    """Tells libtpu, where there is no chip, not to ask the cloud's server for one, nor to lock it."""
    if any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*")):
        return
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
