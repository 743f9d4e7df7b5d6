"""A trained captioner, ready to write."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import data, losses, models
from fusionjax.recipes.config import DecodingConfig
from fusionjax.recipes.frozen import ModelInputs

_END_TOKEN = 2


@dataclasses.dataclass(frozen=True)
class Written:
    """A caption that a model wrote.

    Attributes:
        caption: the sentence.
        words: its tokens, the end token not among them.
        log_probability: of the whole sentence with its end, natural logarithm.
        attention: share of each image cell at each word, `[words, rows, columns]`; None where the decoder does not
            look.
    """

    caption: str
    words: tuple[str, ...]
    log_probability: float
    attention: np.ndarray | None


class CaptionWriter:
    """A captioner with its parameters and tokenizer; each of its functions compiles once for a shape.

    Args:
        model: the Linen module.
        variables: its collections.
        tokenizer: text to tokens and back.
        max_length: tokens of a caption, start and end included.
        inputs: what brings images to the model; None takes them as they are.
    """

    def __init__(
        self,
        model: models.Captioner,
        variables: Mapping[str, Any],
        tokenizer: data.Tokenizer,
        max_length: int,
        inputs: ModelInputs | None = None,
    ) -> None:
        self.model, self.variables, self.tokenizer, self.max_length = model, variables, tokenizer, max_length
        self.inputs = inputs or ModelInputs(tokenizer)
        self._generators: dict[DecodingConfig, Callable[..., Any]] = {}
        self._sums = jax.jit(self._cross_entropy)
        self._maps = jax.jit(self._attention)

    def write(
        self, images: np.ndarray, decoding: DecodingConfig, *, look: bool = False, batch_size: int = 32
    ) -> list[Written]:
        """Writes a caption for each image.

        Args:
            images: uint8 `[images, size, size, 3]`, or stored features, `[images, numbers]`.
            decoding: how.
            look: whether to give the attention too.
            batch_size: images at once; the last batch is filled up.

        Returns:
            One `Written` an image.
        """
        images = np.stack(list(self.inputs.images(images))) if len(images) else images
        generator = self._generator(decoding)
        size = min(batch_size, 1 << max(len(images) - 1, 0).bit_length())
        written: list[Written] = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            key = jax.random.fold_in(jax.random.key(decoding.seed), start)
            output = jax.device_get(generator(self.variables, padded, key))
            maps = jax.device_get(self._maps(self.variables, padded, output.tokens)) if look else None
            for row in range(len(part)):
                written_tokens = output.tokens[row, : output.lengths[row]]
                words = tuple(self.tokenizer.tokens(written_tokens[written_tokens != _END_TOKEN]))
                attention = None if maps is None else maps[row, : len(words)]
                caption = self.tokenizer.decode(output.tokens[row])
                written.append(Written(caption, words, float(output.log_probabilities[row]), attention))
        return written

    def cross_entropy(self, batches: Iterator[Mapping[str, np.ndarray]]) -> tuple[float, float]:
        """Sums the cross-entropy of every word of given captions.

        Args:
            batches: with `image` and `text`.

        Returns:
            The sum in nats, and the number of words.
        """
        sums = [jax.device_get(self._sums(self.variables, batch)) for batch in batches]
        return sum(float(part.total) for part in sums), sum(float(part.weight) for part in sums)

    def _cross_entropy(self, variables: Any, batch: Any) -> losses.Loss:
        targets = batch["text"][..., 1:]
        output: Any = self.model.apply(variables, batch)
        return losses.cross_entropy(output.logits, targets, mask=targets != 0)

    def _attention(self, variables: Any, images: Any, tokens: Any) -> Any:
        text = jnp.concatenate([jnp.ones_like(tokens[:, :1]), tokens], axis=1)
        looked: Any = self.model.apply(variables, images, text, method=_look)
        output, features = looked
        return None if output.attention is None else output.attention.reshape(*tokens.shape, *features.grid)

    def _generator(self, decoding: DecodingConfig) -> Callable[..., Any]:
        if decoding not in self._generators:

            def compute(variables: Any, images: Any, key: Any) -> Any:
                return models.generate(
                    self.model,
                    variables,
                    images,
                    max_length=self.max_length - 1,
                    method=decoding.method,
                    num_beams=decoding.num_beams,
                    length_penalty=decoding.length_penalty,
                    key=key,
                    temperature=decoding.temperature,
                    top_k=decoding.top_k,
                    top_p=decoding.top_p,
                )

            self._generators[decoding] = jax.jit(compute)
        return self._generators[decoding]


def _look(model: models.Captioner, images: jax.Array, text: jax.Array) -> Any:
    return model({"image": images, "text": text}), model.encode(images)
