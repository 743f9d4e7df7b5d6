"""One recurrent layer over sequences."""

import dataclasses
from typing import ClassVar

import numpy as np

from fusionjax.benchmarks.workloads.numbers import check_positive, draw_weights

GATES = {"lstm": 4, "gru": 3, "elman": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recurrent:
    """A recurrent layer that puts out all its states; trained, the gradients of their mean square.

    The gradients are those of the inputs and of all parameters; no optimiser follows. The GRU's reset gate acts after
    the recurrent product, and the Elman network's function is tanh.

    Attributes:
        cell: `lstm`, `gru` or `elman`.
        batch_size: sequences.
        length: steps.
        features: of the inputs and of the states.
        train: the gradients instead of the forward pass alone.
        dtype: of the computation; parameters are float32.
    """

    kind: ClassVar[str] = "recurrent"
    cell: str
    batch_size: int = 32
    length: int = 100
    features: int = 512
    train: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks the sizes."""
        check_positive(self, "batch_size", "length", "features")

    @property
    def name(self) -> str:
        """What the records call it."""
        return f"{self.cell}-{'train' if self.train else 'forward'}"

    def inputs(self) -> dict[str, np.ndarray]:
        """Draws `inputs`, `[batch, length, features]`."""
        shape = (self.batch_size, self.length, self.features)
        return {"inputs": np.random.default_rng(0).standard_normal(shape, np.float32)}

    def weights(self) -> dict[str, np.ndarray]:
        """Draws the weights, by the names of the library's own layer, gates in its order."""
        width, gates = self.features, GATES[self.cell]
        shapes: dict[str, tuple[int, ...]] = {
            f"{self.cell}/input_kernel": (width, gates * width),
            f"{self.cell}/recurrent_kernel": (width, gates * width),
            f"{self.cell}/bias": (gates * width,),
        }
        if self.cell == "gru":
            shapes["gru/recurrent_bias"] = (gates * width,)
        return draw_weights(shapes)

    def flops(self) -> float:
        """Counts the operations of the products; gradients take twice those of the forward pass."""
        forward = 2 * self.batch_size * self.length * 2 * self.features * GATES[self.cell] * self.features
        return float(3 * forward if self.train else forward)
