"""Vectors of images and of texts in one space, from a trained run of retrieval or from a published model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import models
from fusionjax.errors import InputError
from fusionjax.recipes.captions import TextTokenizer
from fusionjax.recipes.frozen import ModelInputs
from fusionjax.recipes.sources import Views

_TEXTS = 256  # at a time


class Embedder:
    """Two towers with all that leads from files and words to vectors.

    Args:
        model: the Linen module.
        variables: its collections.
        tokenizer: text to tokens.
        inputs: what brings prepared images, and texts, to the model; None takes pixels and tokens.
        length: tokens of each text.
        read: an image file to what `prepare` takes.
        prepare: an image to what the model takes, `[height, width, 3]`.
        preparation: both in words, which are others where vectors would be.
        batch_size: images that are encoded at a time.
        indexes: the folder in which indexes of photographs are kept.
    """

    def __init__(
        self,
        model: models.DualEncoder,
        variables: Mapping[str, Any],
        tokenizer: TextTokenizer,
        *,
        inputs: ModelInputs | None = None,
        length: int,
        read: Callable[[str | Path], np.ndarray],
        prepare: Callable[[np.ndarray | Views], Any],
        preparation: str,
        batch_size: int,
        indexes: Path,
    ) -> None:
        self.model, self.variables, self.tokenizer = model, variables, tokenizer
        self.length, self.read, self.prepare, self.preparation = length, read, prepare, preparation
        self.batch_size, self.indexes, self.inputs = batch_size, indexes, inputs or ModelInputs(tokenizer)
        self._encode = {
            "image": jax.jit(lambda variables, images: model.apply(variables, images, method="encode_image")),
            "text": jax.jit(lambda variables, tokens: model.apply(variables, tokens, method="encode_text")),
        }

    def images(self, images: Iterable[np.ndarray | Views], *, batch_size: int | None = None) -> np.ndarray:
        """Encodes decoded images.

        Args:
            images: each uint8, as `read` gives it, or its stored features.
            batch_size: at a time; None takes the embedder's.

        Returns:
            `[images, features]` float32, of length 1.
        """
        return self._all("image", self.inputs.images(map(self.prepare, images)), batch_size or self.batch_size)

    def photographs(self, paths: Sequence[str | Path]) -> np.ndarray:
        """Encodes image files.

        Args:
            paths: of them.

        Returns:
            `[images, features]` float32, of length 1.

        Raises:
            InputError: one cannot be read.
        """
        return self.images(map(self.read, paths), batch_size=min(len(paths), self.batch_size))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes texts.

        Args:
            texts: in words.

        Returns:
            `[texts, features]` float32, of length 1.
        """
        rows = self.inputs.texts.encode_batch(list(texts), self.length)
        return self._all("text", rows, min(len(texts), _TEXTS))

    def check_text(self, text: str) -> None:
        """Checks that a text can be searched for, which costs nothing.

        Args:
            text: in words.

        Raises:
            InputError: it has no word that the model knows.
        """
        if not self.tokenizer.knows(text):
            raise InputError(
                f"a text must have a word that the model was trained with; got {text!r}. Say it otherwise."
            )

    def scalars(self) -> tuple[float, float | None]:
        """What a product of two vectors is multiplied by, and what is added to it; None for nothing (CLIP)."""
        found: Any = self.model.apply(self.variables, method="scalars")
        scale, bias = found
        return float(scale), None if bias is None else float(bias)

    def probabilities(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """How probably each of some texts describes each image, as the model was trained to say.

        Args:
            images: `[images, features]`.
            texts: `[texts, features]`.

        Returns:
            `[images, texts]` float32: the softmax over the texts of scale * image . text, or with a bias, each pair by
            itself, the sigmoid of scale * image . text + bias.

        References:
            Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
            arXiv:2103.00020, section 3.1.2.
            Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023, arXiv:2303.15343, section 3.2.
        """
        scale, bias = self.scalars()
        products = scale * (jnp.asarray(images) @ jnp.asarray(texts).T)
        return np.asarray(jax.nn.softmax(products, axis=1) if bias is None else jax.nn.sigmoid(products + bias))

    def _all(self, name: str, inputs: Iterable[np.ndarray], size: int) -> np.ndarray:
        found: list[np.ndarray] = []
        waiting: list[np.ndarray] = []

        def flush() -> None:
            filled = np.zeros((size, *waiting[0].shape), waiting[0].dtype)
            filled[: len(waiting)] = waiting
            found.append(np.asarray(self._encode[name](self.variables, filled))[: len(waiting)])
            waiting.clear()

        for one in inputs:
            waiting.append(one)
            if len(waiting) == size:
                flush()
        if waiting:
            flush()
        return np.concatenate(found) if found else np.zeros((0, self.model.features), np.float32)
