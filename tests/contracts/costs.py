"""What every fusion costs, as its docstring says, and as counted.

The formulas are those of the `Cost:` lines. Operations are those of matrix products and convolutions, two for each
multiplication and addition, of one example.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax

from fusionjax import fusion
from fusionjax.encoders import Features
from fusionjax.pretrained.counting import count_operations


@dataclasses.dataclass(frozen=True)
class Size:
    """Of one modality.

    Attributes:
        length: tokens.
        size: of each token.
        pooled: size of the pooled vector.
        axes: of the grid.
    """

    length: int
    size: int
    pooled: int
    axes: int

    def project(self, features: int) -> "Cost":
        """The cost of a `TokenProjection`."""
        marks = self.length if self.axes > 1 else 1
        return Cost((self.size + 1 + marks) * features, 2 * self.length * self.size * features)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Parameters, and operations of the products for one example."""

    parameters: int
    operations: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.operations + other.operations)


Sizes = Mapping[str, Size]


def sizes_of(features: Mapping[str, Features]) -> Sizes:
    return {
        name: Size(*one.tokens.shape[1:], one.pooled.shape[1], len(one.grid)) for name, one in sorted(features.items())
    }


def measure(module: nn.Module, variables: Any, features: Mapping[str, Features]) -> Cost:
    """Counts the parameters, and the operations in the program of the forward pass."""
    batch = len(next(iter(features.values())).pooled)
    program = jax.make_jaxpr(module.apply)(variables, features)
    operations, rest = divmod(count_operations(program.jaxpr), batch)
    assert rest == 0
    return Cost(sum(leaf.size for leaf in jax.tree.leaves(variables)), operations)


def _pooled(sizes: Sizes) -> int:
    return sum(one.pooled for one in sizes.values())


def _length(sizes: Sizes) -> int:
    return sum(one.length for one in sizes.values())


def _project(sizes: Sizes, features: int) -> Cost:
    return sum((one.project(features) for one in sizes.values()), start=Cost(0, 0))


def _without(sizes: Sizes, name: str) -> Sizes:
    return {other: size for other, size in sizes.items() if other != name}


def _layers(first: int, widths: Sequence[int]) -> Cost:
    pairs = list(pairwise((first, *widths)))
    return Cost(sum((one + 1) * other for one, other in pairs), 2 * sum(one * other for one, other in pairs))


def _attention_mix(module: fusion.AttentionMix, sizes: Sizes) -> Cost:
    pooled, count = _pooled(sizes), len(sizes)
    features, hidden = module.features, module.attention_features
    return Cost(
        (pooled + count) * features + features * hidden + 2 * hidden,
        2 * (pooled * features + count * features * hidden + count * hidden + count * features),
    )


def _bottleneck_attention(module: fusion.BottleneckAttention, sizes: Sizes) -> Cost:
    features, layers, shared = module.features, module.num_layers, module.num_bottlenecks
    lengths = [one.length + shared for one in sizes.values()]
    return _project(sizes, features) + Cost(
        shared * features + len(sizes) * layers * (12 * features**2 + 13 * features) + 2 * features,
        2 * layers * sum(12 * length * features**2 + 2 * length**2 * features for length in lengths),
    )


def _co_attention(module: fusion.CoAttention, sizes: Sizes) -> Cost:
    features, layers, total, operations = module.features, module.num_layers, _length(sizes), 0
    for length in (one.length for one in sizes.values()):
        others = total - length
        operations += 14 * length * features**2 + 2 * others * features**2
        operations += 2 * length**2 * features + 2 * length * others * features
    return _project(sizes, features) + Cost(
        len(sizes) * layers * (16 * features**2 + 19 * features) + 2 * features, 2 * layers * operations
    )


def _cross_attention(module: fusion.CrossAttention, sizes: Sizes) -> Cost:
    features, layers, length = module.features, module.num_layers, sizes[module.query].length
    others = _length(sizes) - length
    parameters, operations = 12 * features**2 + 13 * features, 12 * length * features**2 + 2 * length**2 * features
    if others:
        parameters += 4 * features**2 + 6 * features
        operations += 2 * (length + others) * features**2 + 2 * length * others * features
    return _project(sizes, features) + Cost(layers * parameters + 2 * features, 2 * layers * operations)


def _deep_sets(module: fusion.DeepSets, sizes: Sizes) -> Cost:
    features = module.features
    return _project(sizes, features) + Cost(
        3 * (features + 1) * features, 2 * features * features * (2 * _length(sizes) + 1)
    )


def _factorized_bilinear(module: fusion.FactorizedBilinear, sizes: Sizes) -> Cost:
    width = module.factors * module.features
    return Cost((_pooled(sizes) + len(sizes)) * width, 2 * _pooled(sizes) * width)


def _film_blocks(module: fusion.FiLMBlocks, sizes: Sizes) -> Cost:
    one, features, layers = sizes[module.modulated], module.features, module.num_layers
    inputs, taps, condition = one.size + one.axes, 3**one.axes, _pooled(sizes) - one.pooled
    block = features**2 + features + taps * features**2 + 2 * (condition + 1) * features
    operations = one.length * features**2 * (1 + taps) + 2 * condition * features
    return Cost((inputs + 1) * features + layers * block, 2 * (one.length * features * inputs + layers * operations))


def _gated(module: fusion.GatedMultimodalUnit, sizes: Sizes) -> Cost:
    weights = module.features * _pooled(sizes) * (1 + (1 if len(sizes) == 2 else len(sizes)))
    return Cost(weights, 2 * weights)


def _low_rank_bilinear(module: fusion.LowRankBilinear, sizes: Sizes) -> Cost:
    pooled, rank, features = _pooled(sizes), module.rank, module.features
    return Cost((pooled + len(sizes)) * rank + (rank + 1) * features, 2 * rank * (pooled + features))


def _low_rank_tensor_fusion(module: fusion.LowRankTensorFusion, sizes: Sizes) -> Cost:
    width = module.rank * module.features
    return Cost((_pooled(sizes) + len(sizes)) * width, 2 * _pooled(sizes) * width)


def _merged_attention(module: fusion.MergedAttention, sizes: Sizes) -> Cost:
    features, layers, length = module.features, module.num_layers, _length(sizes)
    return _project(sizes, features) + Cost(
        layers * (12 * features**2 + 13 * features) + 2 * features,
        2 * layers * (12 * length * features**2 + 2 * length**2 * features),
    )


def _mutan(module: fusion.Mutan, sizes: Sizes) -> Cost:
    pooled, count, hidden, core = _pooled(sizes), len(sizes), module.hidden_features, module.core_features
    return Cost(
        (pooled + count) * hidden + count * (hidden + 1) * module.rank * core + (core + 1) * module.features,
        2 * (pooled * hidden + count * hidden * module.rank * core + core * module.features),
    )


def _perceiver(module: fusion.PerceiverResampler, sizes: Sizes) -> Cost:
    features, layers, latents = module.features, module.num_layers, module.num_latents
    read = _length(sizes) + latents
    operations = 10 * latents * features**2 + 2 * read * features**2 + 2 * latents * read * features
    return _project(sizes, features) + Cost(
        latents * features + layers * (12 * features**2 + 15 * features) + 2 * features, 2 * layers * operations
    )


def _q_former(module: fusion.QFormer, sizes: Sizes) -> Cost:
    features, layers, queries = module.features, module.num_layers, module.num_queries
    words, others = sizes[module.text].length, _length(sizes) - sizes[module.text].length
    joined = queries + words
    operations = 4 * joined * features**2 + 2 * joined**2 * features + 10 * queries * features**2
    operations += 2 * others * features**2 + 2 * queries * others * features
    return _project(sizes, features) + Cost(
        queries * features
        + layers * (16 * features**2 + 19 * features)
        + (layers - 1) * (8 * features**2 + 7 * features)
        + 2 * features,
        2 * (layers * operations + (layers - 1) * 8 * words * features**2),
    )


def _relation_network(module: fusion.RelationNetwork, sizes: Sizes) -> Cost:
    one, (first, *widths) = sizes[module.objects], module.relation_features
    inputs, question = one.size + one.axes, _pooled(sizes) - one.pooled
    pairs = _layers(first, widths)
    return _layers(module.relation_features[-1], module.features) + Cost(
        (2 * inputs + question + 1) * first + pairs.parameters,
        2 * (2 * one.length * inputs * first + question * first) + one.length**2 * pairs.operations,
    )


def _stacked_attention(module: fusion.StackedAttention, sizes: Sizes) -> Cost:
    others, asked = _without(sizes, module.query), sizes[module.query].pooled
    features, hidden, layers, length = module.features, module.attention_features, module.num_layers, _length(others)
    return _project(others, features) + Cost(
        (asked + 1) * features + layers * (2 * features * hidden + 2 * hidden),
        2 * (asked * features + layers * (length + 1) * features * hidden + layers * length * (hidden + features)),
    )


def _sum(module: fusion.Sum, sizes: Sizes) -> Cost:
    features = module.features or 0
    return Cost((_pooled(sizes) + len(sizes)) * features, 2 * _pooled(sizes) * features)


def _word_by_word(module: fusion.WordByWord, sizes: Sizes) -> Cost:
    others, query = _without(sizes, module.query), sizes[module.query]
    features, hidden, length, pooled = module.features, module.attention_features, _length(others), _pooled(others)
    step = 4 * query.size * features + 8 * features**2 + features * hidden + length * (hidden + features)
    return _project(others, features) + Cost(
        2 * features * hidden
        + 2 * hidden
        + 2 * (pooled + 1) * features
        + 4 * (query.size + 1) * features
        + 8 * features**2,
        2 * (2 * pooled * features + length * features * hidden + query.length * step),
    )


FORMULAS: dict[type, Callable[[Any, Sizes], Cost]] = {
    fusion.AttentionMix: _attention_mix,
    fusion.BottleneckAttention: _bottleneck_attention,
    fusion.CoAttention: _co_attention,
    fusion.CompactBilinear: lambda module, sizes: Cost(0, 0),
    fusion.Concat: lambda module, sizes: Cost(0, 0),
    fusion.CrossAttention: _cross_attention,
    fusion.DeepSets: _deep_sets,
    fusion.FactorizedBilinear: _factorized_bilinear,
    fusion.FiLMBlocks: _film_blocks,
    fusion.GatedMultimodalUnit: _gated,
    fusion.LowRankBilinear: _low_rank_bilinear,
    fusion.LowRankTensorFusion: _low_rank_tensor_fusion,
    fusion.MergedAttention: _merged_attention,
    fusion.Mutan: _mutan,
    fusion.PerceiverResampler: _perceiver,
    fusion.QFormer: _q_former,
    fusion.RelationNetwork: _relation_network,
    fusion.StackedAttention: _stacked_attention,
    fusion.Sum: _sum,
    fusion.TensorFusion: _sum,
    fusion.WordByWord: _word_by_word,
}
