"""Classification of images by one encoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.models.classifier import ClassifierOutput


class ImageClassifier(nn.Module):
    """Encodes an image and classifies its pooled vector: logits = W encoder(image).pooled + b.

    Attributes:
        encoder: images to `Features`.
        num_classes: of the result.
        dropout_rate: on the pooled vector.
        dtype: of the head's computation.
        param_dtype: of the head's parameters.

    Example:
        >>> from fusionjax import encoders
        >>> model = ImageClassifier(encoders.SimpleCNN(features=(5, 7)), num_classes=3)
        >>> images = jnp.zeros((2, 30, 30, 3))
        >>> output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        >>> output.logits.shape
        (2, 3)
    """

    encoder: nn.Module
    num_classes: int
    dropout_rate: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, mask: jax.Array | None = None, *, deterministic: bool = True
    ) -> ClassifierOutput:
        """Classifies images.

        Args:
            images: `[batch, height, width, channels]`, uint8 or floating point in [0, 1].
            mask: True = keep, of the image's tokens `[batch, length]`.
            deterministic: switches dropout off, and batch statistics to the stored ones.

        Returns:
            The logits `[batch, num_classes]`, and the encoder's features.
        """
        features = self.encoder(images, mask, deterministic=deterministic)
        pooled = nn.Dropout(self.dropout_rate)(features.kept_pooled, deterministic=deterministic)
        head = nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="head")
        return ClassifierOutput(head(pooled), features)
