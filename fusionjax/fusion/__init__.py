"""Fusions: the `Features` of several modalities to one `Features`.

A fusion is a Linen module `(features: Mapping[str, Features], *, deterministic=True) -> Features`.
"""

from fusionjax.fusion.concat import Concat
from fusionjax.fusion.cross_attention import CrossAttention
from fusionjax.fusion.tokens import TokenProjection
from fusionjax.fusion.word_by_word import WordByWord

__all__ = ["Concat", "CrossAttention", "TokenProjection", "WordByWord"]
