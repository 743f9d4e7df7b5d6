"""A trained captioner, ready to write."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import losses, models
from fusionjax.data.tokenizer import END, PADDING, START, UNKNOWN, Tokenizer
from fusionjax.recipes.config import DecodingConfig
from fusionjax.recipes.frozen import ModelInputs


@dataclasses.dataclass(frozen=True)
class Written:
    """A caption that a model wrote.

    Attributes:
        caption: the sentence.
        words: its tokens, those of a prompt and the end token not among them.
        log_probability: of the whole sentence with its end, given the prompt; natural logarithm.
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
        tokenizer: tokens to text.
        max_length: tokens of a caption, those before the first word and the end included.
        before: tokens before the first word: the start, and those of a prompt.
        end: the token that ends a caption.
        banned: tokens that are never written.
        inputs: what brings images to the model; None takes them as they are.
    """

    def __init__(
        self,
        model: models.Captioner,
        variables: Mapping[str, Any],
        tokenizer: Tokenizer,
        max_length: int,
        *,
        before: tuple[int, ...] = (START,),
        end: int = END,
        banned: tuple[int, ...] = (PADDING, START, UNKNOWN),
        inputs: ModelInputs | None = None,
    ) -> None:
        self.model, self.variables, self.tokenizer, self.max_length = model, variables, tokenizer, max_length
        self._before, self._end, self._banned = before, end, banned
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
                tokens = output.tokens[row, : output.lengths[row]]
                # A published model may have tokens that its tokenizer does not: they make no text.
                kept = np.flatnonzero((tokens != self._end) & (tokens < self.tokenizer.vocab_size))
                tokens = tokens[kept]
                words = tuple(self.tokenizer.tokens(tokens))
                attention = None if maps is None else maps[row, kept]
                caption = self.tokenizer.decode([*self._before[1:], *tokens.tolist()])
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
        before = jnp.broadcast_to(jnp.array(self._before, tokens.dtype), (len(tokens), len(self._before)))
        text = jnp.concatenate([before, tokens], axis=1)
        looked: Any = self.model.apply(variables, images, text, method=_look)
        output, features = looked
        if output.attention is None:
            return None
        return output.attention[:, len(self._before) - 1 :].reshape(*tokens.shape, *features.grid)

    def _generator(self, decoding: DecodingConfig) -> Callable[..., Any]:
        if decoding not in self._generators:

            def compute(variables: Any, images: Any, key: Any) -> Any:
                return models.generate(
                    self.model,
                    variables,
                    images,
                    max_length=self.max_length - len(self._before),
                    method=decoding.method,
                    num_beams=decoding.num_beams,
                    length_penalty=decoding.length_penalty,
                    key=key,
                    temperature=decoding.temperature,
                    top_k=decoding.top_k,
                    top_p=decoding.top_p,
                    prompt=self._before[1:],
                    start_token=self._before[0],
                    end_token=self._end,
                    banned_tokens=self._banned,
                )

            self._generators[decoding] = jax.jit(compute)
        return self._generators[decoding]


def _look(model: models.Captioner, images: jax.Array, text: jax.Array) -> Any:
    return model({"image": images, "text": text}), model.encode(images)
