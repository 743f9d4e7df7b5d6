"""Visual question answering."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.models.words import repeat_rows


@flax.struct.dataclass
class AnswerOutput:
    """What a model of question answering gives.

    Attributes:
        logits: one for each answer, before the softmax, `[batch, (questions,) num_answers]`; None where it writes.
        features: the fused features that the head or the decoder read; one row for each question.
        word_logits: for each word of the answers after the first, `[batch, (questions,) length - 1, vocab_size]`; None
        where
            it chooses.
    """

    logits: jax.Array | None
    features: Features
    word_logits: jax.Array | None = None


class VisualQuestionAnswering(nn.Module):
    """Encodes an image and questions about it, fuses them, and chooses an answer or writes one.

    To choose: logits = W relu(... fusion({image, text}).pooled ...) + b. To write: p(w_1 ... w_n) = product over t of
    decoder(fusion({image, text}), w_0 ... w_{t-1}). The image is encoded once for all of its questions; with
    `is_conditioned` it is encoded for each question, by an encoder that takes the question's pooled vector as
    `condition` and repeats what does not depend on it.

    Attributes:
        image_encoder: images to `Features`.
        question_encoder: tokens to `Features`.
        fusion: maps the features of `image` and `text` to one.
        num_answers: to choose from; None to write, with a decoder.
        hidden_features: of fully connected layers with ReLU before the logits.
        decoder: one of `LSTMDecoder`, `AttentionLSTMDecoder`, `TransformerDecoder`, or another with their methods; None
        to
            choose.
        is_conditioned: the image encoder takes a condition.
        dropout_rate: on the fused vector and the fully connected layers.
        dtype: of the head's computation.
        param_dtype: of the head's parameters.

    Raises:
        ValueError: the batch lacks image, text or (to write) answer; questions have neither two nor three axes; neither
        or
            both of `num_answers` and `decoder` are given.

    Example:
        >>> from fusionjax import encoders, fusion
        >>> image, text = encoders.SimpleCNN(features=(5, 7)), encoders.RNNEncoder(vocab_size=11, features=6)
        >>> model = VisualQuestionAnswering(image, text, fusion.Mutan(features=8), num_answers=3)
        >>> batch = {"image": jnp.zeros((2, 30, 30, 3)), "text": jnp.ones((2, 5, 4), int)}
        >>> output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), batch)
        >>> output.logits.shape
        (2, 5, 3)

    References:
        Antol et al., "VQA: Visual Question Answering", 2015, arXiv:1505.00468, section 5.
    """

    image_encoder: nn.Module
    question_encoder: nn.Module
    fusion: nn.Module
    num_answers: int | None = None
    hidden_features: Sequence[int] = ()
    decoder: nn.Module | None = None
    is_conditioned: bool = False
    dropout_rate: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Makes the head."""
        if (self.num_answers is None) == (self.decoder is None):
            raise ValueError(
                "a model chooses among num_answers or writes with a decoder; got "
                f"{'neither' if self.decoder is None else 'both'}. Give one of the two."
            )
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.num_answers is not None:
            self.hidden = [nn.Dense(size, **kwargs) for size in self.hidden_features]
            self.answers = nn.Dense(self.num_answers, **kwargs)
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(
        self,
        batch: Mapping[str, jax.Array],
        *,
        masks: Mapping[str, jax.Array] | None = None,
        deterministic: bool = True,
    ) -> AnswerOutput:
        """Answers a batch of questions.

        Args:
            batch: `"image"` `[batch, height, width, channels]`; `"text"`, tokens of the questions, `[batch, length]` or
                `[batch, questions, length]`; to write also `"answer"`, tokens that begin with the start token,
                `[batch, (questions,) length]`.
            masks: True = keep, of the image's tokens `[batch, cells]` and of the questions', in their shape.
            deterministic: switches dropout off.

        Returns:
            The logits and the fused features.
        """
        questions = self._questions(batch, ("image", "text") if self.decoder is None else ("image", "text", "answer"))
        fused = self.fuse(batch, masks=masks, deterministic=deterministic)
        shape = questions.shape[:-1]
        if self.decoder is not None:
            answers = batch["answer"]
            # [batch * questions, length - 1]
            inputs = answers[..., :-1].reshape(-1, answers.shape[-1] - 1)
            words = self.decoder(fused, inputs, deterministic=deterministic).logits
            return AnswerOutput(None, fused, words.reshape(*answers.shape[:-1], answers.shape[-1] - 1, -1))
        hidden = self.dropout(fused.pooled, deterministic=deterministic)
        for layer in self.hidden:
            hidden = self.dropout(nn.relu(layer(hidden)), deterministic=deterministic)
        return AnswerOutput(self.answers(hidden).reshape(*shape, -1), fused)

    def fuse(
        self,
        batch: Mapping[str, jax.Array],
        *,
        masks: Mapping[str, jax.Array] | None = None,
        deterministic: bool = True,
    ) -> Features:
        """Fuses images and questions.

        Args:
            batch: as for the call; `"answer"` is not read.
            masks: as for the call.
            deterministic: switches dropout off.

        Returns:
            The fused features, one row for each question.
        """
        questions, masks = self._questions(batch, ("image", "text")), masks or {}
        flat = questions.reshape(-1, questions.shape[-1])
        mask = None if masks.get("text") is None else masks["text"].reshape(flat.shape)
        text = self.question_encoder(flat, mask, deterministic=deterministic)
        options: dict[str, Any] = {"condition": text.kept_pooled} if self.is_conditioned else {}
        image = self.image_encoder(batch["image"], masks.get("image"), deterministic=deterministic, **options)
        features = {"image": repeat_rows(image, len(flat)), "text": text}
        return self.fusion(features, deterministic=deterministic)

    def prepare(self, batch: Mapping[str, jax.Array], max_length: int) -> tuple[Any, Any]:
        """Fuses images and questions and makes the decoder's memory and first state; see `Captioner.prepare`.

        Args:
            batch: as for the call; `"answer"` is not read.
            max_length: tokens that will be written at most.

        Returns:
            The memory and the carry, with one row for each question.
        """
        return self._decoder("prepare").prepare(self.fuse(batch), max_length)

    def step(self, memory: Any, carry: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        """Reads one token of each row and scores the next; see `Captioner.step`.

        Args:
            memory: of `prepare`.
            carry: of `prepare` or the last step.
            tokens: `[rows]`.

        Returns:
            The next carry and the logits `[rows, vocab_size]`.
        """
        return self._decoder("step").step(memory, carry, tokens)

    @nn.nowrap
    def _decoder(self, name: str) -> Any:
        if self.decoder is None:
            raise ValueError(f"{name} writes answers; got a model without a decoder. Give it one.")
        return self.decoder

    @nn.nowrap
    def _questions(self, batch: Mapping[str, jax.Array], needed: Sequence[str]) -> jax.Array:
        missing = [name for name in needed if name not in batch]
        if missing:
            raise ValueError(
                f"the batch must hold {', '.join(needed)}; {', '.join(missing)} is missing from "
                f"{', '.join(sorted(batch)) or 'an empty batch'}. Add it."
            )
        questions = batch["text"]
        if questions.ndim not in (2, 3):
            raise ValueError(
                "questions must have shape [batch, length] or [batch, questions, length]; "
                f"got {questions.shape}. Reshape them."
            )
        return questions
