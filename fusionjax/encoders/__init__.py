"""Encoders: image and text to `Features`.

An encoder is a Linen module `(inputs, mask=None, *, deterministic=True) -> Features`.
"""

from fusionjax.encoders.features import Features
from fusionjax.encoders.pooling import PoolingKind, TokenPooling
from fusionjax.encoders.rnn import RNNEncoder
from fusionjax.encoders.simple_cnn import SimpleCNN, as_unit_images

__all__ = ["Features", "PoolingKind", "RNNEncoder", "SimpleCNN", "TokenPooling", "as_unit_images"]
