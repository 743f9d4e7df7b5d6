"""Captioning: an image encoder and a decoder that writes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from fusionjax import decoding
from fusionjax.encoders import Features


@flax.struct.dataclass
class CaptionerOutput:
    """What a captioner gives in teacher forcing.

    Attributes:
        logits: for each word after the first; `[batch, (captions,) length - 1, vocab_size]`. Position t is for token
            t + 1.
        attention: how much each of them looked at each cell of the image, `[batch, (captions,) length - 1, cells]`;
            sums to 1 over cells, or less where the decoder also reads the pooled vector; None where it does not look.
    """

    logits: jax.Array
    attention: jax.Array | None


class Captioner(nn.Module):
    """An image encoder and a text decoder.

    p(w_1 ... w_n | image) = product over t of p(w_t | w_0 ... w_{t-1}, encoder(image)). The image is encoded once,
    however many captions belong to it.

    Attributes:
        encoder: image to `Features`.
        decoder: one of `LSTMDecoder`, `AttentionLSTMDecoder`, `TransformerDecoder`, or any other module with their
            three methods `__call__`, `prepare` and `step`.

    Raises:
        ValueError: the batch lacks image or text, or the tokens have neither two nor three axes.
        TypeError: the tokens are not integers.

    Example:
        >>> from fusionjax import encoders, models
        >>> decoder = models.AttentionLSTMDecoder(vocab_size=11, features=8)
        >>> model = models.Captioner(encoders.SimpleCNN(features=(5, 7)), decoder)
        >>> batch = {"image": jnp.zeros((2, 30, 30, 3)), "text": jnp.ones((2, 3, 6), int)}
        >>> output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), batch)
        >>> output.logits.shape, output.attention.shape
        ((2, 3, 5, 11), (2, 3, 5, 36))

    References:
        Vinyals et al., "Show and Tell", 2015, arXiv:1411.4555.
        Xu et al., "Show, Attend and Tell", 2015, arXiv:1502.03044.
    """

    encoder: nn.Module
    decoder: nn.Module

    def __call__(
        self,
        batch: Mapping[str, jax.Array],
        *,
        deterministic: bool = True,
        encoder_deterministic: bool | None = None,
    ) -> CaptionerOutput:
        """Scores given captions (teacher forcing).

        Args:
            batch: `"image"` `[batch, height, width, channels]` and `"text"`, tokens `[batch, length]` or
                `[batch, captions, length]` that begin with the start token; 0 = padding.
            deterministic: switches dropout off.
            encoder_deterministic: the same for the encoder alone, whose batch statistics are then the stored ones; None
                takes `deterministic`.

        Returns:
            The logits of every next token, and where each looked.
        """
        if "image" not in batch or "text" not in batch:
            raise ValueError(
                f"the batch must hold image and text; got {', '.join(sorted(batch)) or 'an empty batch'}. "
                "Add the captions to score as text, or write some with models.generate."
            )
        tokens = batch["text"]
        if tokens.ndim not in (2, 3):
            raise ValueError(
                f"captions must have shape [batch, length] or [batch, captions, length]; got {tokens.shape}. "
                "Reshape them."
            )
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(f"captions must be integers; got {tokens.dtype}. Encode them with a tokenizer first.")
        encoder_deterministic = deterministic if encoder_deterministic is None else encoder_deterministic
        features = self.encoder(batch["image"], deterministic=encoder_deterministic)
        # [batch * captions, length - 1]
        inputs = tokens[..., :-1].reshape(-1, tokens.shape[-1] - 1)
        output = self.decoder(features, inputs, deterministic=deterministic)
        shape = (*tokens.shape[:-1], tokens.shape[-1] - 1)
        attention = None if output.attention is None else output.attention.reshape(*shape, -1)
        return CaptionerOutput(logits=output.logits.reshape(*shape, -1), attention=attention)

    def encode(self, images: jax.Array) -> Features:
        """Encodes images, with dropout off.

        Args:
            images: `[batch, height, width, channels]`.

        Returns:
            Their `Features`.
        """
        return self.encoder(images)

    def prepare(self, images: jax.Array, max_length: int) -> tuple[Any, Any]:
        """Encodes images and makes the decoder's memory and first state.

        Args:
            images: `[batch, height, width, channels]`.
            max_length: tokens that will be written at most.

        Returns:
            The memory, constant while decoding, with the batch as leading axis; and the carry with one row an image.
        """
        return self.decoder.prepare(self.encoder(images), max_length)

    def step(self, memory: Any, carry: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        """Reads one token of each row and scores the next.

        Args:
            memory: of `prepare`, for `batch` images.
            carry: of `prepare` or the last step, for `batch * copies` rows.
            tokens: `[batch * copies]`.

        Returns:
            The next carry and the logits `[batch * copies, vocab_size]`.
        """
        return self.decoder.step(memory, carry, tokens)


def generate(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Any,
    *,
    max_length: int,
    method: Literal["beam", "greedy", "sample"] = "beam",
    num_beams: int = 3,
    length_penalty: float = 1.0,
    key: jax.Array | None = None,
    num_samples: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    prompt: Sequence[int] = (),
    start_token: int = 1,
    end_token: int = 2,
    banned_tokens: Sequence[int] = (0, 1, 3),
) -> decoding.DecodingOutput | decoding.BeamSearchOutput:
    """Writes a caption for each image; the whole of it compiles as one program under `jax.jit`.

    Args:
        model: a `Captioner`, or another with its methods `prepare` and `step`.
        variables: its parameters and other collections.
        images: `[batch, height, width, channels]`, or whatever else the model's `prepare` takes.
        max_length: tokens at most, the end token included and the prompt not.
        method: `"beam"`, `"greedy"` or `"sample"`.
        num_beams: for `"beam"`.
        length_penalty: for `"beam"`: log-probabilities are divided by length to this power.
        key: random key, for `"sample"`.
        num_samples: for `"sample"`: captions of each image, one after the other in the result; the image is encoded
            once.
        temperature: for `"sample"`.
        top_k: for `"sample"`; None or 0 leaves all words.
        top_p: for `"sample"`; None leaves all words.
        prompt: tokens with which every caption begins; they are read before the first is written, and are not among
            the result's.
        start_token: what is read first.
        end_token: the token that ends a caption.
        banned_tokens: never written; by default padding, start and unknown of our tokenizers. Probabilities are those
            among the others.

    Returns:
        Tokens `[batch (* num_samples), max_length]`, their log-probabilities and lengths, one each; of a beam search
        also all beams and their scores.

    Raises:
        ValueError: an unknown method, sampling without a key, or a prompt with tokens that do not exist.

    Example:
        >>> import functools
        >>> from fusionjax import encoders, models
        >>> model = Captioner(encoders.SimpleCNN(features=(5,)), models.LSTMDecoder(vocab_size=11, features=8))
        >>> images, text = jnp.zeros((2, 6, 6, 3)), jnp.ones((2, 3), int)
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), {"image": images, "text": text})
        >>> write = functools.partial(generate, model, max_length=7, method="greedy")
        >>> jax.eval_shape(write, variables, images).tokens.shape
        (2, 7)
    """
    memory, carry = model.apply(variables, images, max_length + len(prompt), method="prepare")

    def step(carry: Any, tokens: jax.Array) -> Any:
        return model.apply(variables, memory, carry, tokens, method="step")

    batch = jax.tree.leaves(carry)[0].shape[0]
    *before, start_token = start_token, *prompt
    carry = _read(step, carry, before, batch)
    sizes: dict[str, Any] = {
        "batch": batch,
        "max_length": max_length,
        "start_token": start_token,
        "end_token": end_token,
        "banned_tokens": banned_tokens,
    }
    if method == "greedy":
        return decoding.greedy_search(step, carry, **sizes)
    if method == "beam":
        return decoding.beam_search(step, carry, num_beams=num_beams, length_penalty=length_penalty, **sizes)
    if method != "sample":
        raise ValueError(f"method must be 'beam', 'greedy' or 'sample'; got {method!r}. Choose one.")
    if key is None:
        raise ValueError("sampling needs a random key; got None. Pass key=jax.random.key(seed).")
    sizes["batch"] = batch * num_samples
    carry = jax.tree.map(lambda leaf: jnp.repeat(leaf, num_samples, axis=0), carry)
    return decoding.sample(step, carry, key, temperature=temperature, top_k=top_k or None, top_p=top_p, **sizes)


def _read(
    step: Callable[[Any, jax.Array], tuple[Any, jax.Array]], carry: Any, tokens: Sequence[int], batch: int
) -> Any:
    """Reads the same tokens in every row, one after the other, and writes none."""
    if not tokens:
        return carry
    _, logits = jax.eval_shape(step, carry, jax.ShapeDtypeStruct((batch,), jnp.int32))
    if min(tokens) < 0 or max(tokens) >= logits.shape[1]:
        raise ValueError(
            f"the prompt's tokens must lie in [0, vocab_size) = [0, {logits.shape[1]}); got {list(tokens)}. Encode it "
            "with the model's own tokenizer."
        )

    def read(carry: Any, token: jax.Array) -> tuple[Any, None]:
        return step(carry, jnp.full(batch, token))[0], None

    return jax.lax.scan(read, carry, jnp.array(tokens, jnp.int32))[0]
