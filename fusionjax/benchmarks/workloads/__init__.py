"""What is computed: a workload is sizes, inputs, weights and a count of operations, in NumPy alone."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from fusionjax.benchmarks.workloads.decode import Decode
from fusionjax.benchmarks.workloads.depthwise import Depthwise
from fusionjax.benchmarks.workloads.encoder import Encoder
from fusionjax.benchmarks.workloads.fusion import Fusion
from fusionjax.benchmarks.workloads.recurrent import Recurrent
from fusionjax.benchmarks.workloads.vit_block import VitBlock

__all__ = [
    "KINDS",
    "Decode",
    "Depthwise",
    "Encoder",
    "Fusion",
    "Recurrent",
    "VitBlock",
    "Workload",
    "from_json",
    "to_json",
]


class Workload(Protocol):
    """What contenders compute.

    Attributes:
        kind: the key of its class in `KINDS`.
        name: what the records call it.
        batch_size: examples in a call.
        train: whether there are gradients.
        dtype: of the computation.
    """

    kind: Any
    batch_size: int
    dtype: str
    train: bool

    @property
    def name(self) -> str:
        """What the records call it."""

    def inputs(self) -> dict[str, np.ndarray]:
        """Draws the inputs by name."""

    def weights(self) -> dict[str, np.ndarray]:
        """Draws the weights by path."""

    def flops(self) -> float:
        """Counts the operations of one call."""


KINDS: dict[str, Any] = {kind.kind: kind for kind in (Fusion, Recurrent, VitBlock, Depthwise, Decode, Encoder)}


def to_json(workload: Any) -> dict[str, Any]:
    """Turns a workload into plain values.

    Args:
        workload: a dataclass of `KINDS`.

    Returns:
        Its fields and its kind.

    Example:
        >>> from_json(to_json(Fusion(batch_size=3))) == Fusion(batch_size=3)
        True
    """
    return {"kind": workload.kind, **dataclasses.asdict(workload)}


def from_json(values: dict[str, Any]) -> Any:
    """Undoes `to_json`.

    Args:
        values: what `to_json` made.

    Returns:
        The workload.
    """
    return KINDS[values["kind"]](**{name: value for name, value in values.items() if name != "kind"})
