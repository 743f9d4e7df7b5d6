"""The second stage of captioning: sentences that the model samples itself, rewarded by their CIDEr-D."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import data, losses, metrics, models, training
from fusionjax.errors import InputError
from fusionjax.recipes.config import require_not_negative, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """How to learn from a reward, after learning from the captions themselves.

    Attributes:
        epochs: passes over the training part; 0 leaves the stage out.
        samples: sentences for each image; the baseline of one is the mean reward of the others.
        learning_rate: at the start, falling in a straight line to 0.
        batch_size: images in a step.
        caption_weight: of a word of the true captions, beside a reward of 1 for a sampled one; keeps the sentences
            from becoming all alike.
    """

    epochs: float = 0.0
    samples: int = 5
    learning_rate: float = 3e-4
    batch_size: int = 16
    caption_weight: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        require_positive(self, "learning_rate", "batch_size")
        require_not_negative(self, "caption_weight")
        if self.epochs < 0 or self.samples < 2:
            raise InputError(
                f"reward.epochs must be at least 0 and reward.samples at least 2; got {self.epochs} and "
                f"{self.samples}. Correct them."
            )


class CaptionReward:
    """The CIDEr-D of sampled sentences, as a function of tokens; the end token counts as a word, so endings pay too.

    Args:
        tokenizer: the tokens'.
        captions: of each training example.
        length: tokens of a sentence, start and end included.
    """

    def __init__(self, tokenizer: data.Tokenizer, captions: Sequence[Sequence[str]], length: int) -> None:
        references = [[_words(row[1:]) for row in tokenizer.encode_batch(list(texts), length)] for texts in captions]
        self._scorer = metrics.CiderScorer(references)

    def __call__(self, tokens: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Scores sentences.

        Args:
            tokens: `[examples, samples, length]`, without the start token; 0 = padding.
            places: which training example each row belongs to, `[examples]`.

        Returns:
            float32 `[examples, samples]`, from 0 to 10.
        """
        tokens, places = np.asarray(tokens), np.asarray(places)
        scores = [
            [self._scorer.score(_words(row), int(place)) for row in rows]
            for rows, place in zip(tokens, places, strict=True)
        ]
        return np.asarray(scores, np.float32)


def _words(row: np.ndarray) -> list[Any]:
    return [int(token) for token in row if token]


def make_reward_loss(
    model: models.Captioner,
    reward: CaptionReward,
    *,
    samples: int,
    max_length: int,
    caption_weight: float = 0.0,
    label_smoothing: float = 0.0,
) -> training.LossFunction:
    """Makes the loss whose gradient raises the expected reward.

    In one compiled step: encode the images, sample sentences from the model as it is, let the host score them, and
    weigh the gradient of each sentence's log-probability with its advantage over the image's other samples. Batch
    statistics stay as they are, and dropout acts on the decoder alone, while the gradient is taken, not while sampling.
    The loss is -advantage log p(word) of every sampled word plus `caption_weight` times the cross-entropy of every word
    of the true captions, summed, over the number of sampled words.

    Args:
        model: the captioner.
        reward: of sentences.
        samples: sentences for each image.
        max_length: tokens of a sentence, start and end included.
        caption_weight: of the true captions' words; 0 leaves them out.
        label_smoothing: of those words.

    Returns:
        `(params, model_state, batch, key) -> LossOutput`; the batch has `image`, `place` and, with a caption weight,
        `text`; the metric `reward` is the mean CIDEr-D of the samples.

    References:
        Rennie et al., "Self-critical Sequence Training for Image Captioning", 2017, arXiv:1612.00563; the baseline is
        that of Kool et al., 2019, in place of the greedy sentence's reward.
    """

    def loss_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> training.LossOutput:
        sample_key, dropout_key = jax.random.split(key)
        variables = {"params": params, **model_state}
        count = len(batch["image"])
        output = models.generate(
            model,
            jax.lax.stop_gradient(variables),
            batch["image"],
            max_length=max_length - 1,
            method="sample",
            key=sample_key,
            num_samples=samples,
        )
        # [batch, samples, length - 1]
        tokens = output.tokens.reshape(count, samples, -1)
        shape = jax.ShapeDtypeStruct((count, samples), jnp.float32)
        rewards = jax.pure_callback(reward, shape, tokens, batch["place"])
        text = jnp.concatenate([jnp.ones_like(tokens[..., :1]), tokens], axis=-1)
        if caption_weight:
            text = jnp.concatenate([text, batch["text"]], axis=1)
        scored: Any = model.apply(
            variables,
            {"image": batch["image"], "text": text},
            deterministic=False,
            encoder_deterministic=True,
            rngs={"dropout": dropout_key},
        )
        advantages = losses.leave_one_out(rewards).reshape(-1)
        rows = tokens.reshape(count * samples, -1)
        logits = scored.logits[:, :samples].reshape(*rows.shape, -1)
        loss = losses.policy_gradient(logits, rows, advantages, mask=rows != 0)
        if caption_weight:
            targets = batch["text"][..., 1:]
            known = losses.cross_entropy(
                scored.logits[:, samples:], targets, mask=targets != 0, label_smoothing=label_smoothing
            )
            loss = losses.Loss(loss.total + caption_weight * known.total, loss.weight)
        mean = (rewards.sum(), jnp.float32(rewards.size))
        return training.LossOutput(loss.total, loss.weight, {"reward": mean}, model_state)

    return loss_fn
