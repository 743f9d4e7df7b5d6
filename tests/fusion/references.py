"""Every fusion in plain NumPy, float64, one example at a time, written from the equations.

Here nothing is masked: a masked token is left out, and so is a missing modality. What a masked token holds can not
count, and what the fusions make of masks is compared with what they would give without the tokens.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from fusionjax import fusion
from fusionjax.encoders import Features
from fusionjax.fusion.compact_bilinear import count_sketch

Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Modality:
    """What one example has of one modality.

    Attributes:
        tokens: those that are kept, `[kept, size]`.
        cells: which of the grid's cells they are, counted row by row.
        pooled: zeros where the modality is missing.
        grid: of all tokens.
    """

    tokens: np.ndarray
    cells: list[int]
    pooled: np.ndarray
    grid: tuple[int, ...]

    @property
    def is_present(self) -> bool:
        return len(self.cells) > 0

    @property
    def length(self) -> int:
        return int(np.prod(self.grid))

    def spread(self, tokens: np.ndarray) -> np.ndarray:
        """What the kept tokens became, at their places among zeros."""
        spread = np.zeros((self.length, tokens.shape[-1]))
        spread[self.cells] = tokens
        return spread


Modalities = dict[str, Modality]
# The tokens `[length, features]` and the pooled vector of one example.
Fused = tuple[np.ndarray, np.ndarray]


def take_example(features: Mapping[str, Features], row: int) -> Modalities:
    """One example of a batch, its modalities in sorted order."""
    example = {}
    for name in sorted(features):
        one = features[name]
        cells = [at for at in range(one.tokens.shape[1]) if one.mask is None or one.mask[row, at]]
        pooled = np.float64(one.pooled[row]) if cells else np.zeros(one.pooled.shape[1])
        example[name] = Modality(np.float64(one.tokens[row])[cells], cells, pooled, one.grid)
    return example


def compute(module: nn.Module, params: Params, features: Mapping[str, Features]) -> tuple[np.ndarray, np.ndarray]:
    """The tokens and pooled vectors that a fusion must give."""
    reference = REFERENCES[type(module)]
    examples = (take_example(features, row) for row in range(len(next(iter(features.values())).pooled)))
    tokens, pooled = zip(*(reference(module, params, example) for example in examples), strict=True)
    return np.stack(tokens), np.stack(pooled)


# The small pieces.


def dense(values: np.ndarray, params: Params) -> np.ndarray:
    return values @ params["kernel"] + params.get("bias", 0)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)


def gelu(values: np.ndarray) -> np.ndarray:
    return 0.5 * values * (1 + np.tanh(np.sqrt(2 / np.pi) * (values + 0.044715 * values**3)))


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores)
    return weights / weights.sum()


def normalise(tokens: np.ndarray, params: Params | None = None) -> np.ndarray:
    """Layer normalisation."""
    centred = tokens - tokens.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled if params is None else scaled * params["scale"] + params["bias"]


def average(tokens: np.ndarray) -> np.ndarray:
    """The mean token; zeros of no tokens."""
    return tokens.sum(0) / max(1, len(tokens))


def pool(kind: str, tokens: np.ndarray) -> np.ndarray:
    """Of kept tokens to one vector."""
    if not len(tokens):
        return np.zeros(tokens.shape[-1])
    return {"mean": average, "max": lambda kept: kept.max(0), "last": lambda kept: kept[-1]}[kind](tokens)


def attend(queries: np.ndarray, memory: np.ndarray, params: Params, num_heads: int) -> np.ndarray:
    """Multi-head attention; who sees nothing reads zeros."""
    query, key, value = dense(queries, params["query"]), dense(memory, params["key"]), dense(memory, params["value"])
    size = query.shape[-1] // num_heads
    read = np.zeros_like(query)
    for row, start in itertools.product(range(len(query) if len(memory) else 0), range(0, size * num_heads, size)):
        head = slice(start, start + size)
        weights = softmax(np.array([query[row, head] @ one for one in key[:, head]]) / np.sqrt(size))
        read[row, head] = sum(weight * one for weight, one in zip(weights, value[:, head], strict=True))
    return dense(read, params["out"])


def transform(tokens: np.ndarray, params: Params, num_heads: int, memory: np.ndarray | None = None) -> np.ndarray:
    """A pre-norm Transformer block."""
    inner = normalise(tokens, params["self_attention_norm"])
    tokens = tokens + attend(inner, inner, params["self_attention"], num_heads)
    if memory is not None:
        inner = normalise(tokens, params["cross_attention_norm"])
        tokens = tokens + attend(inner, memory, params["cross_attention"], num_heads)
    inner = normalise(tokens, params["mlp_norm"])
    return tokens + dense(gelu(dense(inner, params["mlp_in"])), params["mlp_out"])


def perceive(tokens: np.ndarray, params: Params) -> np.ndarray:
    return dense(gelu(dense(normalise(tokens, params["norm"]), params["in"])), params["out"])


def mark(modality: Modality, params: Params) -> np.ndarray:
    """Projected tokens; the cells of a picture or a video are marked one by one, those of a sequence all alike."""
    marks = params["positions"]
    assert marks.shape[0] == (modality.length if len(modality.grid) > 1 else 1)
    own = [marks[cell if len(modality.grid) > 1 else 0] for cell in modality.cells]
    return dense(modality.tokens, params["dense"]) + np.reshape(own, (-1, marks.shape[1]))


def mark_all(example: Modalities, params: Params) -> dict[str, np.ndarray]:
    return {name: mark(one, params[f"tokens_{name}"]) for name, one in example.items()}


def join(streams: Mapping[str, np.ndarray], without: str | None = None) -> np.ndarray:
    return np.concatenate([tokens for name, tokens in streams.items() if name != without])


def coordinates(modality: Modality) -> np.ndarray:
    """Where its kept tokens lie, from -1 to 1 along each axis."""
    places = []
    for cell in modality.cells:
        indices = np.unravel_index(cell, modality.grid)
        places.append(
            [2 * at / (size - 1) - 1 if size > 1 else 0 for at, size in zip(indices, modality.grid, strict=True)]
        )
    return np.reshape(places, (-1, len(modality.grid)))


def root_and_scale(vector: np.ndarray) -> np.ndarray:
    """Signed square root, then Euclidean norm one."""
    rooted = np.sign(vector) * np.sqrt(np.abs(vector))
    return rooted / np.linalg.norm(rooted)


def as_one_token(pooled: np.ndarray) -> Fused:
    return pooled[None], pooled


def pool_others(example: Modalities, name: str) -> np.ndarray:
    return np.concatenate([one.pooled for other, one in example.items() if other != name])


# Of pooled vectors.


def concat(module: fusion.Concat, params: Params, example: Modalities) -> Fused:
    return as_one_token(np.concatenate([one.pooled for one in example.values()]))


def add(module: fusion.Sum, params: Params, example: Modalities) -> Fused:
    total = 0 * (next(iter(example.values())).pooled if module.features is None else np.zeros(module.features))
    for name, one in example.items():
        if one.is_present:
            total = total + (one.pooled if module.features is None else dense(one.pooled, params[f"vector_{name}"]))
    return as_one_token(total)


def gated(module: fusion.GatedMultimodalUnit, params: Params, example: Modalities) -> Fused:
    hidden = [np.tanh(params[f"vector_{name}"]["kernel"].T @ one.pooled) for name, one in example.items()]
    gates = sigmoid(params["gates"]["kernel"].T @ np.concatenate([one.pooled for one in example.values()]))
    if len(hidden) == 2:
        return as_one_token(gates * hidden[0] + (1 - gates) * hidden[1])
    size = module.features
    return as_one_token(sum(gates[at * size : (at + 1) * size] * one for at, one in enumerate(hidden)))


def attention_mix(module: fusion.AttentionMix, params: Params, example: Modalities) -> Fused:
    hidden = [dense(one.pooled, params[f"vector_{name}"]) for name, one in example.items() if one.is_present]
    if not hidden:
        return as_one_token(np.zeros(module.features))
    scores = [params["score"]["kernel"][:, 0] @ np.tanh(dense(one, params["attention"])) for one in hidden]
    return as_one_token(sum(weight * one for weight, one in zip(softmax(np.array(scores)), hidden, strict=True)))


def tensor_fusion(module: fusion.TensorFusion, params: Params, example: Modalities) -> Fused:
    product = np.ones(())
    for name, one in example.items():
        hidden = dense(one.pooled, params[f"vector_{name}"]) if one.is_present else np.zeros(module.features)
        product = np.multiply.outer(product, np.append(hidden, 1))
    return as_one_token(product.ravel())


def low_rank_tensor_fusion(module: fusion.LowRankTensorFusion, params: Params, example: Modalities) -> Fused:
    """The whole weight tensor times the whole outer product."""
    product = np.ones(())
    for one in example.values():
        product = np.multiply.outer(product, np.append(one.pooled, 1))
    result = np.zeros(module.features)
    for feature in range(module.features):
        weights = np.zeros(product.shape)
        for rank in range(module.rank):
            place, part = rank * module.features + feature, np.ones(())
            for name in example:
                factor = np.append(
                    params[f"vector_{name}"]["kernel"][:, place], params[f"vector_{name}"]["bias"][place]
                )
                part = np.multiply.outer(part, factor)
            weights += part
        result[feature] = (weights * product).sum()
    return as_one_token(result)


def low_rank_bilinear(module: fusion.LowRankBilinear, params: Params, example: Modalities) -> Fused:
    factors = [np.tanh(dense(one.pooled, params[f"vector_{name}"])) for name, one in example.items() if one.is_present]
    return as_one_token(dense(np.prod([np.ones(module.rank), *factors], axis=0), params["out"]))


def factorized_bilinear(module: fusion.FactorizedBilinear, params: Params, example: Modalities) -> Fused:
    result = np.zeros(module.features)
    for feature, factor in itertools.product(range(module.features), range(module.factors)):
        product, place = 1.0, feature * module.factors + factor
        for name, one in example.items():
            if one.is_present:
                product *= (
                    params[f"vector_{name}"]["kernel"][:, place] @ one.pooled + params[f"vector_{name}"]["bias"][place]
                )
        result[feature] += product
    return as_one_token(root_and_scale(result))


def mutan(module: fusion.Mutan, params: Params, example: Modalities) -> Fused:
    core, size = np.zeros(module.core_features), module.core_features
    for rank in range(module.rank):
        product, places = np.ones(size), slice(rank * size, (rank + 1) * size)
        for name, one in example.items():
            if one.is_present:
                mixing = params[f"core_{name}"]
                hidden = np.tanh(dense(one.pooled, params[f"vector_{name}"]))
                product *= hidden @ mixing["kernel"][:, places] + mixing["bias"][places]
        core += product
    return as_one_token(dense(core, params["out"]))


def compact_bilinear(module: fusion.CompactBilinear, params: Params, example: Modalities) -> Fused:
    """Every entry of the outer product at the place and with the sign that its factors' sum and product give."""
    entries = []
    for index, one in enumerate(example.values()):
        # How a sketch places the unit vectors.
        sketch = np.asarray(
            count_sketch(np.eye(len(one.pooled), dtype=np.float32), module.features, (module.seed, index))
        )
        places, signs = np.abs(sketch).argmax(1), sketch.sum(1)
        np.testing.assert_array_equal(np.abs(sketch), np.eye(module.features)[places])
        if one.is_present:
            entries.append(list(zip(places, signs * one.pooled, strict=True)))
    result = np.zeros(module.features)
    for product in itertools.product(*entries):
        result[sum(place for place, _ in product) % module.features] += np.prod([value for _, value in product])
    return as_one_token(root_and_scale(result))


# Of tokens to one vector.


def deep_sets(module: fusion.DeepSets, params: Params, example: Modalities) -> Fused:
    elements = [
        relu(dense(relu(dense(token, params["element_0"])), params["element_1"]))
        for token in join(mark_all(example, params))
    ]
    mean = average(np.reshape(elements, (-1, module.features)))
    return as_one_token(relu(dense(mean, params["set"])))


def relation_network(module: fusion.RelationNetwork, params: Params, example: Modalities) -> Fused:
    objects = np.concatenate([example[module.objects].tokens, coordinates(example[module.objects])], axis=1)
    question = pool_others(example, module.objects)
    kernel = np.concatenate([params[name]["kernel"] for name in ("first", "second", "question")])
    relations = []
    for one, other in itertools.product(objects, objects):
        relation = relu(np.concatenate([one, other, question]) @ kernel + params["question"]["bias"])
        for layer in range(1, len(module.relation_features)):
            relation = relu(dense(relation, params[f"relation_{layer}"]))
        relations.append(relation)
    fused = average(np.reshape(relations, (-1, module.relation_features[-1])))
    for layer in range(len(module.features)):
        fused = relu(dense(fused, params[f"fused_{layer}"]))
    return as_one_token(fused)


def stacked_attention(module: fusion.StackedAttention, params: Params, example: Modalities) -> Fused:
    others = {name: one for name, one in example.items() if name != module.query}
    memory = join(mark_all(others, params))
    state = dense(example[module.query].pooled, params["query"])
    for layer in range(module.num_layers if len(memory) else 0):
        asked = dense(state, params[f"asked_{layer}"])
        hidden = [np.tanh(token @ params[f"keys_{layer}"]["kernel"] + asked) for token in memory]
        weights = softmax(np.array([one @ params[f"score_{layer}"]["kernel"][:, 0] for one in hidden]))
        state = state + sum(weight * token for weight, token in zip(weights, memory, strict=True))
    return as_one_token(state)


# Of tokens to tokens.


def word_by_word(module: fusion.WordByWord, params: Params, example: Modalities) -> Fused:
    lstm, query = params["lstm"], example[module.query]
    memory = join(mark_all({name: one for name, one in example.items() if name != module.query}, params))
    cell, hidden = (
        np.tanh(dense(pool_others(example, module.query), lstm[name])) for name in ("start_cell", "start_hidden")
    )
    fused = []
    for token in query.tokens:
        asked, attended = dense(hidden, lstm["attend"]["query"]), np.zeros(module.features)
        if len(memory):
            scores = [
                np.tanh(dense(one, lstm["attend"]["memory"]) + asked) @ lstm["attend"]["energy"] for one in memory
            ]
            attended = softmax(np.array(scores)) @ memory
        gates = dense(token, lstm["input_gates"]) + dense(attended, lstm["attended_gates"])
        enter, forget, candidate, leave = np.split(gates + hidden @ lstm["recurrent_kernel"], 4)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(candidate)
        hidden = sigmoid(leave) * np.tanh(cell)
        fused.append(np.concatenate([hidden, attended]))
    kept = np.reshape(fused, (-1, 2 * module.features))
    return query.spread(kept), pool("last", kept)


def film_blocks(module: fusion.FiLMBlocks, params: Params, example: Modalities) -> Fused:
    modulated, condition = example[module.modulated], pool_others(example, module.modulated)
    tokens = dense(np.concatenate([modulated.tokens, coordinates(modulated)], axis=1), params["tokens"])
    cells = [np.unravel_index(cell, modulated.grid) for cell in modulated.cells]
    for layer in range(module.num_layers):
        hidden = relu(dense(tokens, params[f"dense_{layer}"]))
        kernel = params[f"conv_{layer}"]["kernel"]
        convolved = np.zeros_like(hidden)
        # The neighbour that stands at offset (0, 0) of the kernel is the one before along each axis.
        for (place, here), (neighbour, there) in itertools.product(enumerate(cells), repeat=2):
            offset = tuple(int(other) - int(one) + 1 for one, other in zip(here, there, strict=True))
            if all(0 <= one <= 2 for one in offset):
                convolved[place] += hidden[neighbour] @ kernel[offset]
        scale, shift = np.split(dense(condition, params[f"film_{layer}"]["dense"]), 2)
        tokens = tokens + relu((1 + scale) * normalise(convolved) + shift)
    return modulated.spread(tokens), pool(module.pooling, tokens)


def cross_attention(module: fusion.CrossAttention, params: Params, example: Modalities) -> Fused:
    streams, query = mark_all(example, params), example[module.query]
    tokens = streams[module.query]
    memory = join(streams, without=module.query) if len(streams) > 1 else None
    for layer in range(module.num_layers):
        tokens = transform(tokens, params[f"block_{layer}"], module.num_heads, memory)
    tokens = normalise(tokens, params["norm"])
    return query.spread(tokens), pool(module.pooling, tokens)


def _end(example: Modalities, streams: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([example[name].spread(tokens) for name, tokens in streams.items()])


def merged_attention(module: fusion.MergedAttention, params: Params, example: Modalities) -> Fused:
    streams = mark_all(example, params)
    tokens = join(streams)
    for layer in range(module.num_layers):
        tokens = transform(tokens, params[f"block_{layer}"], module.num_heads)
    tokens = normalise(tokens, params["norm"])
    ends = np.cumsum([len(one) for one in streams.values()])[:-1]
    parts = dict(zip(streams, np.split(tokens, ends), strict=True))
    return _end(example, parts), pool(module.pooling, tokens)


def co_attention(module: fusion.CoAttention, params: Params, example: Modalities) -> Fused:
    streams = mark_all(example, params)
    for layer in range(module.num_layers):
        streams = {
            name: transform(tokens, params[f"block_{name}_{layer}"], module.num_heads, join(streams, without=name))
            for name, tokens in streams.items()
        }
    streams = {name: normalise(tokens, params["norm"]) for name, tokens in streams.items()}
    product = np.ones(module.features)
    for name, tokens in streams.items():
        if example[name].is_present:
            product = product * average(tokens)
    return _end(example, streams), product


def bottleneck_attention(module: fusion.BottleneckAttention, params: Params, example: Modalities) -> Fused:
    streams, shared = mark_all(example, params), params["bottlenecks"]
    for layer in range(module.num_layers):
        spoken = []
        for name, tokens in streams.items():
            joined = np.concatenate([tokens, shared])
            joined = transform(joined, params[f"block_{name}_{layer}"], module.num_heads)
            streams[name] = joined[: len(tokens)]
            if example[name].is_present:
                spoken.append(joined[len(tokens) :])
        shared = np.mean(spoken, axis=0) if spoken else shared
    streams = {name: normalise(tokens, params["norm"]) for name, tokens in streams.items()}
    return _end(example, streams), pool(module.pooling, join(streams))


def perceiver(module: fusion.PerceiverResampler, params: Params, example: Modalities) -> Fused:
    memory, latents = join(mark_all(example, params)), params["latents"]
    for layer in range(module.num_layers):
        asking = normalise(latents, params[f"latents_norm_{layer}"])
        read = np.concatenate([normalise(memory, params[f"memory_norm_{layer}"]), asking])
        latents = latents + attend(asking, read, params[f"attention_{layer}"], module.num_heads)
        latents = latents + perceive(latents, params[f"mlp_{layer}"])
    latents = normalise(latents, params["norm"])
    return latents, pool(module.pooling, latents)


def q_former(module: fusion.QFormer, params: Params, example: Modalities) -> Fused:
    streams, queries = mark_all(example, params), params["queries"]
    words = streams.pop(module.text, np.zeros((0, module.features)))
    memory, count = join(streams), len(queries)
    for layer in range(module.num_layers):
        tokens = np.concatenate([queries, words])
        inner = normalise(tokens, params[f"self_norm_{layer}"])
        tokens = tokens + attend(inner, inner, params[f"self_{layer}"], module.num_heads)
        queries, words = tokens[:count], tokens[count:]
        inner = normalise(queries, params[f"cross_norm_{layer}"])
        queries = queries + attend(inner, memory, params[f"cross_{layer}"], module.num_heads)
        queries = queries + perceive(queries, params[f"query_mlp_{layer}"])
        if layer < module.num_layers - 1 and len(words):
            words = words + perceive(words, params[f"text_mlp_{layer}"])
    queries = normalise(queries, params["norm"])
    return queries, pool(module.pooling, queries)


REFERENCES: dict[type, Callable[[Any, Params, Modalities], Fused]] = {
    fusion.AttentionMix: attention_mix,
    fusion.BottleneckAttention: bottleneck_attention,
    fusion.CoAttention: co_attention,
    fusion.CompactBilinear: compact_bilinear,
    fusion.Concat: concat,
    fusion.CrossAttention: cross_attention,
    fusion.DeepSets: deep_sets,
    fusion.FactorizedBilinear: factorized_bilinear,
    fusion.FiLMBlocks: film_blocks,
    fusion.GatedMultimodalUnit: gated,
    fusion.LowRankBilinear: low_rank_bilinear,
    fusion.LowRankTensorFusion: low_rank_tensor_fusion,
    fusion.MergedAttention: merged_attention,
    fusion.Mutan: mutan,
    fusion.PerceiverResampler: perceiver,
    fusion.QFormer: q_former,
    fusion.RelationNetwork: relation_network,
    fusion.StackedAttention: stacked_attention,
    fusion.Sum: add,
    fusion.TensorFusion: tensor_fusion,
    fusion.WordByWord: word_by_word,
}
