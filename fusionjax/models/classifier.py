"""Classification of several modalities together."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.models.words import WordTable, repeat_rows


@flax.struct.dataclass
class ClassifierOutput:
    """What a classifier gives.

    Attributes:
        logits: one for each class, before the softmax; `[batch, (texts,) num_classes]`.
        features: the fused features that the head read; one row for each text.
        next_word_logits: for each word after the first, `[batch, (texts,) length - 1, vocab_size]`; None where the
            model does not predict words.
    """

    logits: jax.Array
    features: Features
    next_word_logits: jax.Array | None = None


class FusionClassifier(nn.Module):
    """Encodes every modality, fuses them and classifies the fused vector.

    logits = W relu(... fusion({name: encoder_name(batch[name])}).pooled ...) + b; the class probabilities are their
    softmax.

    The fused tokens of the text can also be asked for each next word (`next_word_vocab_size`): a training can then
    teach the model to describe (Rei, 2017, for the auxiliary loss), and how surprising a text is, given the other
    modalities, goes to the head beside the fused vector: the largest and the mean -log p of its words, without
    gradient. The text encoder and the fusion must not look ahead (`RNNEncoder` one way without self-attention, and
    `WordByWord`).

    Attributes:
        encoders: one for each modality, by name.
        fusion: maps the features of all modalities to one.
        num_classes: of the result.
        hidden_features: of fully connected layers with ReLU before the last one.
        next_word_vocab_size: number of tokens of `text`, to predict each next one; None predicts classes alone.
        dropout_rate: on the fused vector and the fully connected layers.
        dtype: of the head's computation.
        param_dtype: of the head's parameters.

    Raises:
        ValueError: a modality is missing from the batch, or a mask belongs to none; next words are to be predicted and
            there is no `text`, or the fusion does not give one token for each of it.

    Example:
        >>> from fusionjax import encoders, fusion
        >>> image, text = encoders.SimpleCNN(features=(5, 7)), encoders.RNNEncoder(vocab_size=11, features=6)
        >>> model = FusionClassifier({"image": image, "text": text}, fusion.Concat(), num_classes=3)
        >>> batch = {"image": jnp.zeros((2, 30, 30, 3)), "text": jnp.ones((2, 4), int)}
        >>> output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), batch)
        >>> output.logits.shape, output.features.pooled.shape
        ((2, 3), (2, 276))

    References:
        Rei, "Semi-supervised Multitask Learning for Sequence Labeling", 2017, arXiv:1704.07156, section 3.
    """

    encoders: Mapping[str, nn.Module]
    fusion: nn.Module
    num_classes: int
    hidden_features: Sequence[int] = ()
    next_word_vocab_size: int | None = None
    dropout_rate: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        batch: Mapping[str, jax.Array],
        *,
        masks: Mapping[str, jax.Array] | None = None,
        deterministic: bool = True,
    ) -> ClassifierOutput:
        """Classifies a batch.

        Args:
            batch: the input of each modality by name; further entries (labels, ...) are not read. Tokens
                `[batch, texts, length]` are several texts for each example; the others are encoded once.
            masks: True = keep, `[batch, length]`, of the modalities that have one to give.
            deterministic: switches dropout off.

        Returns:
            The logits `[batch, (texts,) num_classes]`, the fused features, and the next words' logits where asked for.
        """
        missing = [name for name in self.encoders if name not in batch]
        if missing:
            raise ValueError(
                f"the batch must hold every modality of the model ({', '.join(sorted(self.encoders))}); "
                f"{', '.join(missing)} is missing from {', '.join(sorted(batch)) or 'an empty batch'}. Add it."
            )
        masks = masks or {}
        unknown = sorted(set(masks) - set(self.encoders))
        if unknown:
            raise ValueError(
                f"masks must be of the model's modalities ({', '.join(sorted(self.encoders))}); "
                f"got one of {', '.join(unknown)}. Rename or drop it."
            )
        features = {
            name: self._encode(encoder, batch[name], masks.get(name), deterministic)
            for name, encoder in self.encoders.items()
        }
        several = next((batch[name].shape[:2] for name in self.encoders if _holds_several(batch[name])), None)
        if several is not None:
            rows = several[0] * several[1]
            features = {
                name: one if _holds_several(batch[name]) else repeat_rows(one, rows) for name, one in features.items()
            }
        fused = self.fusion(features, deterministic=deterministic)
        drop = nn.Dropout(self.dropout_rate, deterministic=deterministic)
        hidden, words = drop(fused.pooled), None
        if self.next_word_vocab_size is not None:
            if "text" not in self.encoders:
                names = ", ".join(sorted(self.encoders))
                raise ValueError(f"next words are those of the modality 'text'; got {names}. Name one of them so.")
            tokens = batch["text"].reshape(-1, batch["text"].shape[-1])
            words, surprise = self._read(fused, tokens, self.next_word_vocab_size)
            hidden = jnp.concatenate([hidden, surprise.astype(hidden.dtype)], axis=-1)
        for layer, size in enumerate(self.hidden_features):
            dense = nn.Dense(size, dtype=self.dtype, param_dtype=self.param_dtype, name=f"hidden_{layer}")
            hidden = drop(nn.relu(dense(hidden)))
        logits = nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="logits")(hidden)
        if several is not None:
            logits = logits.reshape(*several, -1)
            words = None if words is None else words.reshape(*several, *words.shape[1:])
        return ClassifierOutput(logits=logits, features=fused, next_word_logits=words)

    def _encode(self, encoder: nn.Module, inputs: jax.Array, mask: jax.Array | None, deterministic: bool) -> Features:
        if _holds_several(inputs):
            inputs = inputs.reshape(-1, inputs.shape[-1])
            mask = None if mask is None else mask.reshape(inputs.shape)
        return encoder(inputs, mask, deterministic=deterministic)

    def _read(self, fused: Features, tokens: jax.Array, vocab_size: int) -> tuple[jax.Array, jax.Array]:
        """Predicts each next word, and measures how surprising the words are: the largest and the mean -log p.

        The classes teach the prediction nothing: their gradient would spoil it before it is of use.
        """
        if fused.tokens.shape[:2] != tokens.shape:
            raise ValueError(
                f"to predict next words the fusion must give one token for each of the text, {tokens.shape}; got "
                f"{fused.tokens.shape[:2]}. Use WordByWord, or leave next_word_vocab_size out."
            )
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        table = WordTable(vocab_size, fused.tokens.shape[-1] // 4, name="next_word", **kwargs)
        words = table.logits(fused.tokens[:, :-1])
        log_probabilities = jax.nn.log_softmax(words.astype(jnp.float32), axis=-1)
        targets = tokens[:, 1:]
        # [rows, length - 1]
        chosen = jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]
        real = targets != 0 if fused.mask is None else fused.mask[:, 1:]
        surprise = jax.lax.stop_gradient(jnp.where(real, -chosen, 0))
        mean = surprise.sum(1) / jnp.maximum(real.sum(1), 1)
        return words, jnp.stack([surprise.max(1), mean], axis=-1)


def _holds_several(inputs: jax.Array) -> bool:
    """Whether an input is several texts for each example: tokens with three axes."""
    return jnp.issubdtype(inputs.dtype, jnp.integer) and inputs.ndim == 3
