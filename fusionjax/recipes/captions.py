"""Images with captions as arrays, and the tokenizer that learns from them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusionjax import data
from fusionjax.recipes.config import DataConfig
from fusionjax.recipes.sources import Examples, ImageTransform


def train_tokenizer(config: DataConfig, examples: Examples) -> data.Tokenizer:
    """Learns the words of all captions.

    Args:
        config: the kind and the size of the vocabulary.
        examples: with `captions`.

    Returns:
        The tokenizer.
    """
    texts = (text for place in range(len(examples)) for text in examples.describe(place)["captions"])
    return data.train_tokenizer(texts, kind=config.tokenizer, vocab_size=config.vocab_size, min_count=config.min_count)


@dataclasses.dataclass(frozen=True)
class CaptionTransform:
    """Makes `image` and `text` of one example.

    Attributes:
        tokenizer: text to tokens.
        config: sizes and augmentation.
        training: augments, and draws captions at random; else the captions come in order.
    """

    tokenizer: data.Tokenizer
    config: DataConfig
    training: bool

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Transforms one example.

        Args:
            example: with `image` and `captions`.
            rng: what chance depends on.

        Returns:
            `image` uint8 `[size, size, 3]` and `text` int32 `[captions, length]`; rows without a caption are padding.
        """
        image = ImageTransform(self.config, self.training)(example["image"], rng)
        captions, count = list(example["captions"]), self.config.captions_per_image
        if self.training:
            captions = [captions[place] for place in rng.permutation(len(captions))]
        text = np.zeros((count, self.config.max_length), np.int32)
        text[: len(captions[:count])] = self.tokenizer.encode_batch(captions[:count], self.config.max_length)
        return {"image": image, "text": text}
