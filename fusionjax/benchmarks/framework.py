"""What a contender has to offer to the worker that runs it."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from fusionjax.benchmarks.workloads import Workload


class Framework(Protocol):
    """One way to compute a workload, alone in its process."""

    def versions(self) -> dict[str, str]:
        """Returns the versions of its packages."""

    def device(self) -> str:
        """Returns the kind of device that it computes on."""

    def build(self, workload: Workload) -> Callable[[], Any]:
        """Prepares a workload: inputs and weights on the device, nothing compiled.

        Args:
            workload: what to compute.

        Returns:
            A function that starts one call (a training step goes on from the last one) and returns its outputs. A
            forward pass puts out its array, training the loss and, where there is no optimiser, the gradients.

        Raises:
            NotImplementedError: it has no such workload, with the reason.
        """

    def wait(self, outputs: Any) -> None:
        """Waits until the outputs of a call are there."""

    def fetch(self, outputs: Any) -> list[np.ndarray]:
        """Copies the outputs to the host, in the library's own layout and order."""

    def peak_memory_bytes(self) -> int | None:
        """Returns the most that was in use on an accelerator; None on a CPU, whose processes the worker measures."""


# Where each contender lives: a class, and what it is called with.
FRAMEWORKS: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "fusionjax": ("fusionjax.benchmarks.ours", "Ours", ()),
    "fusionjax:folded": ("fusionjax.benchmarks.inference", "Inference", (False,)),
    "fusionjax:folded+bfloat16": ("fusionjax.benchmarks.inference", "Inference", (True,)),
    "torch": ("fusionjax.benchmarks.peers.torch", "Torch", (False,)),
    "torch.compile": ("fusionjax.benchmarks.peers.torch", "Torch", (True,)),
    "keras-tensorflow": ("fusionjax.benchmarks.peers.keras", "Keras", ("tensorflow",)),
    "keras-tensorflow-xla": ("fusionjax.benchmarks.peers.keras", "Keras", ("tensorflow", True)),
    "keras-jax": ("fusionjax.benchmarks.peers.keras", "Keras", ("jax",)),
    "flax": ("fusionjax.benchmarks.peers.flax", "PlainFlax", ()),
    "jimm": ("fusionjax.benchmarks.peers.jimm", "Jimm", ()),
}


def load_framework(contender: str) -> Framework:
    """Imports a contender.

    Args:
        contender: a key of `FRAMEWORKS`.

    Returns:
        The framework, ready to build workloads.

    Raises:
        ImportError: one of its packages is not installed.
    """
    module, name, arguments = FRAMEWORKS[contender]
    return getattr(import_module(module), name)(*arguments)
