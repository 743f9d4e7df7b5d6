"""The fusion model: convolutions over an image, LSTM and self-attention over tokens, joined."""

import dataclasses
from typing import ClassVar

import numpy as np

from fusionjax.benchmarks.workloads.numbers import check_positive, draw_weights

FILTERS = (32, 64, 128)
WORDS = 100
CLASSES = 10
PARTS = ("image", "text", "both")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fusion:
    """The fusion model, forward or one step of training.

    Image: three times (3x3 convolution without padding, ReLU, 2x2 max-pooling) with 32, 64 and 128 filters, flattened.
    Text: embedding, LSTM (all states), self-attention with one head whose query, key and value are the states and whose
    products are not scaled, dense with ReLU, dense with softmax over 100, flattened. Output: both joined. Training
    adds a dense layer to 10 classes, cross-entropy and a step of Adam, and puts out the loss.

    Attributes:
        batch_size: images with a sentence each.
        image_size: side in pixels.
        length: tokens of a sentence.
        vocab_size: different tokens.
        features: of the embedding, the LSTM and the dense layer.
        part: the branch that is computed: `image`, `text` or `both`.
        train: a training step instead of the forward pass.
        dtype: of the computation; parameters are float32.
    """

    kind: ClassVar[str] = "fusion"
    batch_size: int = 32
    image_size: int = 224
    length: int = 100
    vocab_size: int = 10_000
    features: int = 512
    part: str = "both"
    train: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks the sizes."""
        check_positive(self, "batch_size", "image_size", "length", "vocab_size", "features")

    @property
    def name(self) -> str:
        """What the records call it."""
        part = "" if self.part == "both" else f"-{self.part}"
        return f"fusion{part}-{'train' if self.train else 'forward'}"

    @property
    def has_image(self) -> bool:
        """Whether there is an image branch."""
        return self.part != "text"

    @property
    def has_text(self) -> bool:
        """Whether there is a text branch."""
        return self.part != "image"

    @property
    def image_features(self) -> int:
        """Numbers that the image branch puts out."""
        side = self.image_size
        for _ in FILTERS:
            side = (side - 2) // 2
        return side * side * FILTERS[-1] if self.has_image else 0

    def inputs(self) -> dict[str, np.ndarray]:
        """Draws `image`, `text` (no token is 0, which would be padding) and, in training, `label`."""
        random = np.random.default_rng(0)
        size = (self.batch_size, self.image_size, self.image_size, 3)
        image = random.random(size, np.float32) if self.has_image else None
        text = random.integers(1, self.vocab_size, (self.batch_size, self.length)).astype(np.int32)
        label = random.integers(0, CLASSES, self.batch_size).astype(np.int32)
        drawn = {"image": image, "text": text if self.has_text else None, "label": label if self.train else None}
        return {name: array for name, array in drawn.items() if array is not None}

    def weights(self) -> dict[str, np.ndarray]:
        """Draws the weights, by the paths of the library's own parameters."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.has_image:
            for stage, (channels, filters) in enumerate(zip((3, *FILTERS), FILTERS, strict=False)):
                shapes[f"image/conv_{stage}/kernel"] = (3, 3, channels, filters)
                shapes[f"image/conv_{stage}/bias"] = (filters,)
        if self.has_text:
            width = self.features
            shapes["text/embedding/embedding"] = (self.vocab_size, width)
            shapes["text/lstm/input_kernel"] = (width, 4 * width)
            shapes["text/lstm/recurrent_kernel"] = (width, 4 * width)
            shapes["text/lstm/bias"] = (4 * width,)
            shapes["text/hidden/kernel"], shapes["text/hidden/bias"] = (width, width), (width,)
            shapes["text/words/kernel"], shapes["text/words/bias"] = (width, WORDS), (WORDS,)
        if self.train:
            joined = self.image_features + (self.length * WORDS if self.has_text else 0)
            shapes["classes/kernel"], shapes["classes/bias"] = (joined, CLASSES), (CLASSES,)
        return draw_weights(shapes)

    def flops(self) -> float:
        """Counts the operations of the products; a training step has three times those of the forward pass."""
        count, side, channels = 0, self.image_size, 3
        if self.has_image:
            for filters in FILTERS:
                side -= 2
                count += 2 * 9 * channels * filters * side * side
                side, channels = side // 2, filters
        if self.has_text:
            width = self.features
            count += self.length * 2 * (2 * width * 4 * width + 2 * self.length * width + width * width + width * WORDS)
        if self.train:
            joined = self.image_features + (self.length * WORDS if self.has_text else 0)
            return 3.0 * self.batch_size * (count + 2 * joined * CLASSES)
        return float(self.batch_size * count)
