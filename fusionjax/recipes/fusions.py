"""The fusions by the names that commands know them by."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn

from fusionjax import fusion

FusionName = Literal[
    "concat",
    "sum",
    "gated",
    "attention_mix",
    "deep_sets",
    "mcb",
    "mlb",
    "mutan",
    "mfb",
    "tensor",
    "low_rank_tensor",
    "film",
    "film_encoder",
    "relation_network",
    "stacked_attention",
    "co_attention",
    "cross_attention",
    "merged_attention",
    "bottleneck",
    "perceiver",
    "q_former",
    "word_by_word",
]


class FusionSizes(NamedTuple):
    """How large a fusion is.

    Attributes:
        features: its width.
        num_heads: of every attention.
        num_layers: of what has layers.
        dropout_rate: where it takes one.
        dtype: of the computation.
    """

    features: int
    num_heads: int
    num_layers: int
    dropout_rate: float
    dtype: Any


def build_fusion(name: str, sizes: FusionSizes) -> nn.Module:
    """Builds the fusion of a name for the modalities `image` and `text`.

    Args:
        name: one of `FusionName`. `film_encoder` joins what the conditioned image encoder and the text encoder give.
        sizes: how large it is.

    Returns:
        The module.

    Raises:
        KeyError: there is none of this name.

    Example:
        >>> build_fusion("mlb", FusionSizes(8, 2, 1, 0.0, None)).rank
        8
    """
    return _BUILDERS[name](sizes)


def rate_share(name: FusionName) -> float:
    """The learning rate that suits a fusion, as a share of what suits one of vectors.

    Args:
        name: of the fusion.

    Returns:
        The share.

    Example:
        >>> rate_share("mutan"), rate_share("cross_attention")
        (1.0, 0.25)
    """
    return _RATE_SHARES.get(name, 1.0)


def _wide(kind: Any, **options: Any) -> Callable[[FusionSizes], nn.Module]:
    return lambda sizes: kind(features=sizes.features, dtype=sizes.dtype, **options)


def _transformer(kind: Any, **options: Any) -> Callable[[FusionSizes], nn.Module]:
    return lambda sizes: kind(**sizes._asdict(), **options)


_BUILDERS: dict[str, Callable[[FusionSizes], nn.Module]] = {
    "concat": lambda sizes: fusion.Concat(),
    "sum": _wide(fusion.Sum),
    "gated": _wide(fusion.GatedMultimodalUnit),
    "attention_mix": _wide(fusion.AttentionMix),
    "deep_sets": _wide(fusion.DeepSets),
    "mcb": lambda sizes: fusion.CompactBilinear(4 * sizes.features, dtype=sizes.dtype),
    "mlb": lambda sizes: fusion.LowRankBilinear(sizes.features, rank=sizes.features, dtype=sizes.dtype),
    "mutan": _wide(fusion.Mutan),
    "mfb": _wide(fusion.FactorizedBilinear),
    "tensor": lambda sizes: fusion.TensorFusion(max(1, round(sizes.features**0.5) * 2), dtype=sizes.dtype),
    "low_rank_tensor": _wide(fusion.LowRankTensorFusion),
    "film": lambda sizes: fusion.FiLMBlocks(features=sizes.features, num_layers=sizes.num_layers, dtype=sizes.dtype),
    "film_encoder": lambda sizes: fusion.Concat(),
    "relation_network": lambda sizes: fusion.RelationNetwork(
        relation_features=(sizes.features,) * 3,
        features=(sizes.features,) * 2,
        dropout_rate=sizes.dropout_rate,
        dtype=sizes.dtype,
    ),
    "stacked_attention": lambda sizes: fusion.StackedAttention(
        features=sizes.features, num_layers=sizes.num_layers, dtype=sizes.dtype
    ),
    "co_attention": _transformer(fusion.CoAttention),
    "cross_attention": _transformer(fusion.CrossAttention),
    "merged_attention": _transformer(fusion.MergedAttention),
    "bottleneck": _transformer(fusion.BottleneckAttention),
    "perceiver": _transformer(fusion.PerceiverResampler),
    "q_former": _transformer(fusion.QFormer),
    "word_by_word": lambda sizes: fusion.WordByWord(
        features=sizes.features, dropout_rate=sizes.dropout_rate, dtype=sizes.dtype
    ),
}

# At the rate of the others a Transformer stays where it began, and a mix with one modality.
_RATE_SHARES = dict.fromkeys(
    (
        "attention_mix",
        "bottleneck",
        "co_attention",
        "cross_attention",
        "merged_attention",
        "perceiver",
        "q_former",
        "relation_network",
    ),
    0.25,
)
