"""Classification of several modalities together."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features


@flax.struct.dataclass
class ClassifierOutput:
    """What a classifier gives.

    Attributes:
        logits: one for each class, before the softmax; `[batch, num_classes]`.
        features: the fused features that the head read.
    """

    logits: jax.Array
    features: Features


class FusionClassifier(nn.Module):
    """Encodes every modality, fuses them and classifies the fused vector.

    logits = W relu(... fusion({name: encoder_name(batch[name])}).pooled ...) + b; the class probabilities are their
    softmax.

    Attributes:
        encoders: one for each modality, by name.
        fusion: maps the features of all modalities to one.
        num_classes: of the result.
        hidden_features: of fully connected layers with ReLU before the last one.
        dropout_rate: on the fused vector and the fully connected layers.
        dtype: of the head's computation.
        param_dtype: of the head's parameters.

    Raises:
        ValueError: a modality is missing from the batch, or a mask belongs to none.

    Example:
        >>> from fusionjax import encoders, fusion
        >>> image, text = encoders.SimpleCNN(features=(5, 7)), encoders.RNNEncoder(vocab_size=11, features=6)
        >>> model = FusionClassifier({"image": image, "text": text}, fusion.Concat(), num_classes=3)
        >>> batch = {"image": jnp.zeros((2, 30, 30, 3)), "text": jnp.ones((2, 4), int)}
        >>> output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), batch)
        >>> output.logits.shape, output.features.pooled.shape
        ((2, 3), (2, 276))
    """

    encoders: Mapping[str, nn.Module]
    fusion: nn.Module
    num_classes: int
    hidden_features: Sequence[int] = ()
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
            batch: the input of each modality by name; further entries (labels, ...) are not read.
            masks: True = keep, `[batch, length]`, of the modalities that have one to give.
            deterministic: switches dropout off.

        Returns:
            The logits `[batch, num_classes]` and the fused features.
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
            name: encoder(batch[name], masks.get(name), deterministic=deterministic)
            for name, encoder in self.encoders.items()
        }
        fused = self.fusion(features, deterministic=deterministic)
        drop = nn.Dropout(self.dropout_rate, deterministic=deterministic)
        hidden = drop(fused.pooled)
        for layer, size in enumerate(self.hidden_features):
            dense = nn.Dense(size, dtype=self.dtype, param_dtype=self.param_dtype, name=f"hidden_{layer}")
            hidden = drop(nn.relu(dense(hidden)))
        logits = nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="logits")(hidden)
        return ClassifierOutput(logits=logits, features=fused)
