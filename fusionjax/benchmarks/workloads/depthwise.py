"""Depthwise convolution: each channel with a kernel of its own."""

import dataclasses
from typing import ClassVar

import numpy as np

from fusionjax.benchmarks.workloads.numbers import check_positive, draw_weights

# Side of the images, channels, side of the kernel: five layers of mobile networks.
LAYERS = ((112, 32, 3), (56, 144, 3), (28, 240, 5), (14, 480, 5), (7, 1152, 3))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Depthwise:
    """A depthwise convolution with padding SAME and no bias; trained, the gradients of its outputs' mean square.

    The gradients are those of the images and of the kernel.

    Attributes:
        batch_size: images.
        image_size: side in pixels.
        channels: of the images.
        kernel_size: side of the kernel.
        train: the gradients instead of the forward pass alone.
        dtype: of the computation; the kernel is float32.
    """

    kind: ClassVar[str] = "depthwise"
    batch_size: int = 32
    image_size: int = 56
    channels: int = 144
    kernel_size: int = 3
    train: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks the sizes."""
        check_positive(self, "batch_size", "image_size", "channels", "kernel_size")

    @property
    def name(self) -> str:
        """What the records call it."""
        return f"depthwise-{self.kernel_size}x{self.kernel_size}-{'train' if self.train else 'forward'}"

    def inputs(self) -> dict[str, np.ndarray]:
        """Draws `images`, `[batch, height, width, channels]`."""
        shape = (self.batch_size, self.image_size, self.image_size, self.channels)
        return {"images": np.random.default_rng(0).standard_normal(shape, np.float32)}

    def weights(self) -> dict[str, np.ndarray]:
        """Draws the kernel, `[height, width, 1, channels]`."""
        return draw_weights({"depthwise/kernel": (self.kernel_size, self.kernel_size, 1, self.channels)})

    def flops(self) -> float:
        """Counts the operations; gradients take twice those of the forward pass."""
        forward = 2 * self.kernel_size**2 * self.batch_size * self.image_size**2 * self.channels
        return float(3 * forward if self.train else forward)
