"""Images with captions as arrays, and the tokenizer that learns from them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

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


class TextRows(Protocol):
    """What brings texts to a model: a tokenizer, or the features that an encoder that does not learn makes of them."""

    def encode_batch(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Encodes texts.

        Args:
            texts: any number of texts.
            length: tokens of each.

        Returns:
            Tokens, int32 `[texts, length]`, or features, `[texts, numbers]`.
        """
        ...


class TextTokenizer(TextRows, Protocol):
    """A tokenizer: trained with the model, or one that published weights came with."""

    vocab_size: int

    def knows(self, text: str) -> bool:
        """Says whether a text has a token that is not unknown."""
        ...

    def save(self, path: Path) -> None:
        """Writes a file that a run is opened with."""
        ...


@dataclasses.dataclass(frozen=True)
class CaptionTransform:
    """Makes `image` and `text` of one example.

    Attributes:
        tokenizer: text to tokens, or to what else the model reads.
        config: sizes and augmentation.
        training: augments, and draws captions at random; else the captions come in order.
    """

    tokenizer: TextRows
    config: DataConfig
    training: bool

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Transforms one example.

        Args:
            example: with `image` and `captions`.
            rng: what chance depends on.

        Returns:
            `image` and `text`, see `ImageTransform` and `TextRows`; text has a row for each caption, `[captions, ...]`,
            and zeros in those without one.
        """
        image = ImageTransform(self.config, self.training)(example["image"], rng)
        captions, count = list(example["captions"]), self.config.captions_per_image
        if self.training:
            captions = [captions[place] for place in rng.permutation(len(captions))]
        rows = self.tokenizer.encode_batch(captions[:count], self.config.max_length)
        text = np.zeros((count, *rows.shape[1:]), rows.dtype)
        text[: len(rows)] = rows
        return {"image": image, "text": text}
