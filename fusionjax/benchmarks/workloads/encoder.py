"""A published encoder with its head, or two towers, with the weights of a folder."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np

from fusionjax.benchmarks.workloads.numbers import check_positive

# By family, the architecture whose names the tensors have: one that the peers read.
FORMATS = {
    "resnet": "resnet-transformers",
    "convnext": "convnext-transformers",
    "efficientnet-lite": "efficientnet-lite-timm",
    "vit": "vit-transformers",
    "clip": "clip-transformers",
    "siglip": "siglip-transformers",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
    """A model of images, or of images and texts, whose weights every contender reads from the same folder.

    The forward pass gives the logits of the classes, or of each image with each text. Trained, it is a step of Adam on
    the cross-entropy of drawn labels, with batch statistics where there are any, and without dropout.

    Attributes:
        model: what the records call it.
        family: a key of `FORMATS`.
        folder: as `pretrained.save` writes it.
        mean: of each channel, subtracted from the images in [0, 1].
        std: of each channel, divided by after that.
        multiply_adds: of the products of one example's forward pass.
        batch_size: images, and as many texts.
        image_size: side in pixels.
        num_classes: of the head; 0 for two towers.
        length: tokens of a text; 0 where there is none.
        vocab_size: different tokens, of which the last ends a text.
        train: a step of training instead of the forward pass alone.
        dtype: of the computation; parameters are float32.
    """

    kind: ClassVar[str] = "encoder"
    model: str
    family: str
    folder: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    multiply_adds: int
    batch_size: int = 32
    image_size: int = 224
    num_classes: int = 0
    length: int = 0
    vocab_size: int = 0
    train: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks the sizes."""
        check_positive(self, "batch_size", "image_size", "multiply_adds")

    @property
    def name(self) -> str:
        """What the records call it."""
        return f"{self.model}-{'train' if self.train else 'forward'}"

    def inputs(self) -> dict[str, np.ndarray]:
        """Draws `image`, in [0, 1]; `text` of two towers; and `label` in training."""
        random = np.random.default_rng(0)
        drawn = {"image": random.random((self.batch_size, self.image_size, self.image_size, 3), np.float32)}
        if self.length:
            drawn["text"] = self._draw_texts(random)
        if self.train:
            drawn["label"] = random.integers(0, self.num_classes, self.batch_size).astype(np.int32)
        return drawn

    def normal_inputs(self) -> dict[str, np.ndarray]:
        """Draws the same inputs, the image as other libraries take it: less the mean, over the deviation."""
        drawn = self.inputs()
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return {**drawn, "image": (drawn["image"] - mean) / std}

    def weights(self) -> dict[str, np.ndarray]:
        """Reads the tensors by the names that they have in the folder."""
        from safetensors.numpy import load_file

        return load_file(Path(self.folder) / "model.safetensors")

    def flops(self) -> float:
        """Counts the operations of the products; a training step has three times those of the forward pass."""
        return float(2 * self.batch_size * self.multiply_adds * (3 if self.train else 1))

    def _draw_texts(self, random: np.random.Generator) -> np.ndarray:
        """Of different lengths; the highest token ends each."""
        text = random.integers(1, self.vocab_size - 1, (self.batch_size, self.length))
        ends = random.integers(self.length // 2, self.length, (self.batch_size, 1))
        places = np.arange(self.length)
        text = np.where(places < ends, text, 0)
        return np.where(places == ends, self.vocab_size - 1, text).astype(np.int32)
