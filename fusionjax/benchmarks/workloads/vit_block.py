"""One block of a vision Transformer."""

import dataclasses
from typing import ClassVar

import numpy as np

from fusionjax.benchmarks.workloads.numbers import check_positive, draw_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitBlock:
    """A Transformer block with normalisation first; by default that of ViT-B for images 224x224 in patches 16x16.

    x += attention(norm(x)); x += dense(gelu(dense(norm(x)))), GELU by its tanh form, epsilon of the norms 1e-6.
    Trained, the gradients of the mean square of its outputs, for inputs and parameters; no optimiser follows.

    Attributes:
        batch_size: images.
        length: tokens, the class token included.
        width: of a token.
        num_heads: of the attention.
        train: the gradients instead of the forward pass alone.
        dtype: of the computation; parameters are float32.
    """

    kind: ClassVar[str] = "vit-block"
    batch_size: int = 8
    length: int = 197
    width: int = 768
    num_heads: int = 12
    train: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks the sizes."""
        check_positive(self, "batch_size", "length", "width", "num_heads")

    @property
    def name(self) -> str:
        """What the records call it."""
        return f"vit-block-{'train' if self.train else 'forward'}"

    def inputs(self) -> dict[str, np.ndarray]:
        """Draws `tokens`, `[batch, length, width]`."""
        shape = (self.batch_size, self.length, self.width)
        return {"tokens": np.random.default_rng(0).standard_normal(shape, np.float32)}

    def weights(self) -> dict[str, np.ndarray]:
        """Draws the weights, by the names of the library's own block."""
        width = self.width
        shapes: dict[str, tuple[int, ...]] = {}
        for norm in ("self_attention_norm", "mlp_norm"):
            shapes[f"{norm}/scale"], shapes[f"{norm}/bias"] = (width,), (width,)
        for part in ("query", "key", "value", "out"):
            shapes[f"self_attention/{part}/kernel"] = (width, width)
            shapes[f"self_attention/{part}/bias"] = (width,)
        for part, (inputs, outputs) in {"mlp_in": (width, 4 * width), "mlp_out": (4 * width, width)}.items():
            shapes[f"{part}/kernel"], shapes[f"{part}/bias"] = (inputs, outputs), (outputs,)
        weights = draw_weights(shapes)
        return {path: array + 1 if path.endswith("scale") else array for path, array in weights.items()}

    def flops(self) -> float:
        """Counts the operations of the products; gradients take twice those of the forward pass."""
        products = 2 * self.length * 12 * self.width * self.width + 4 * self.length * self.length * self.width
        return float(self.batch_size * products * (3 if self.train else 1))
