"""Fusions: the `Features` of several modalities to one `Features`.

A fusion is a Linen module `(features: Mapping[str, Features], *, deterministic=True) -> Features`. docs/fusion.md helps
to choose one. An example that misses a modality, because no token of it is kept, is fused as if nothing stood there.
"""

from fusionjax.fusion.attention_mix import AttentionMix
from fusionjax.fusion.bottleneck_attention import BottleneckAttention
from fusionjax.fusion.co_attention import CoAttention
from fusionjax.fusion.compact_bilinear import CompactBilinear
from fusionjax.fusion.concat import Concat
from fusionjax.fusion.cross_attention import CrossAttention
from fusionjax.fusion.deep_sets import DeepSets
from fusionjax.fusion.factorized_bilinear import FactorizedBilinear
from fusionjax.fusion.film_blocks import FiLMBlocks
from fusionjax.fusion.gated import GatedMultimodalUnit
from fusionjax.fusion.low_rank_bilinear import LowRankBilinear
from fusionjax.fusion.low_rank_tensor_fusion import LowRankTensorFusion
from fusionjax.fusion.merged_attention import MergedAttention
from fusionjax.fusion.mutan import Mutan
from fusionjax.fusion.perceiver import PerceiverResampler
from fusionjax.fusion.q_former import QFormer
from fusionjax.fusion.relation_network import RelationNetwork
from fusionjax.fusion.stacked_attention import StackedAttention
from fusionjax.fusion.sum import Sum
from fusionjax.fusion.tensor_fusion import TensorFusion
from fusionjax.fusion.tokens import TokenProjection
from fusionjax.fusion.word_by_word import WordByWord

__all__ = [
    "AttentionMix",
    "BottleneckAttention",
    "CoAttention",
    "CompactBilinear",
    "Concat",
    "CrossAttention",
    "DeepSets",
    "FactorizedBilinear",
    "FiLMBlocks",
    "GatedMultimodalUnit",
    "LowRankBilinear",
    "LowRankTensorFusion",
    "MergedAttention",
    "Mutan",
    "PerceiverResampler",
    "QFormer",
    "RelationNetwork",
    "StackedAttention",
    "Sum",
    "TensorFusion",
    "TokenProjection",
    "WordByWord",
]
