"""BERT, and sentence encoders that are one, as transformers names them."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fusionjax.encoders.text_transformer import TextPooling, TextTransformer
from fusionjax.layers.activations import ActivationKind
from fusionjax.pretrained.architecture import Architecture
from fusionjax.pretrained.counting import count_layers
from fusionjax.pretrained.rows import Row, Shapes, dense_rows, norm_rows
from fusionjax.pretrained.transformer_parts import (
    activation_from,
    activation_name,
    bert_block_rows,
    count_heads,
    has_more,
    is_position_counter,
)

_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertSizes:
    """The size of a BERT.

    Attributes:
        vocab_size: number of different tokens.
        features: of the states.
        num_layers: number of blocks.
        num_heads: of each block.
        mlp_features: hidden size of the perceptrons.
        max_length: number of places.
        num_segments: number of different segments.
        norm_epsilon: of the normalisations.
        activation: of the perceptrons.
        pooling: of the states.
        use_pooler: whether the pooled state goes through a dense layer.
        padding_id: the token that is masked where no mask is given.
    """

    vocab_size: int
    features: int
    num_layers: int
    num_heads: int
    mlp_features: int
    max_length: int
    num_segments: int
    norm_epsilon: float
    activation: ActivationKind
    pooling: TextPooling
    use_pooler: bool
    padding_id: int | None


class _Names(NamedTuple):
    """How files differ.

    Attributes:
        prefix: of every name.
        norm: of a normalisation's two tensors.
        pooling: what the pooled vector is made of.
    """

    prefix: str = ""
    norm: tuple[str, str] = ("weight", "bias")
    pooling: TextPooling = "first"

    def is_ignored(self, name: str) -> bool:
        """Heads of the tasks that it was trained with, and the pooler of a sentence encoder, which takes the mean."""
        has_head = bool(self.prefix) and name.startswith("cls.")
        has_pooler = self.pooling != "first" and name.startswith("pooler.")
        return is_position_counter(name) or has_head or has_pooler


_PLAIN = _Names()
_SENTENCES = _Names(pooling="mean")
_PRETRAINING = _Names(prefix="bert.")
_FIRST = _Names(prefix="bert.", norm=("gamma", "beta"))


def _recognise(names: _Names, shapes: Shapes, config: Mapping[str, Any]) -> BertSizes | None:
    embeddings = [
        shapes.get(f"{names.prefix}embeddings.{kind}_embeddings.weight", ())
        for kind in ("word", "position", "token_type")
    ]
    layers = f"{names.prefix}encoder.layer.{{}}.intermediate.dense.weight"
    activation = activation_from(config.get("hidden_act", "gelu"))
    if any(len(shape) != 2 for shape in embeddings) or activation is None or not count_layers(shapes, layers):
        return None
    if config.get("model_type", "bert") != "bert" or config.get("position_embedding_type", "absolute") != "absolute":
        return None
    features = embeddings[0][1]
    num_heads = count_heads(features, config, is_text=True)
    if num_heads is None or config.get("is_decoder"):
        return None
    sizes = BertSizes(
        vocab_size=embeddings[0][0],
        features=features,
        num_layers=count_layers(shapes, layers),
        num_heads=num_heads,
        mlp_features=shapes[layers.format(0)][0],
        max_length=embeddings[1][0],
        num_segments=embeddings[2][0],
        norm_epsilon=float(config.get("layer_norm_eps", _EPSILON)),
        activation=activation,
        pooling=names.pooling,
        use_pooler=names.pooling == "first" and f"{names.prefix}pooler.dense.weight" in shapes,
        padding_id=config.get("pad_token_id", 0),
    )
    # Such as RoBERTa's, whose heads and counting of places differ.
    relevant = {name: shape for name, shape in shapes.items() if not names.is_ignored(name)}
    return None if has_more(_rows(names, sizes), relevant) else sizes


def _build(sizes: BertSizes) -> TextTransformer:
    return TextTransformer(norm_first=False, **dataclasses.asdict(sizes))


def _rows(names: _Names, sizes: BertSizes) -> list[Row]:
    rows = [
        Row((f"params/{ours}_embedding/embedding",), f"{names.prefix}embeddings.{theirs}_embeddings.weight")
        for ours, theirs in (("token", "word"), ("position", "position"), ("segment", "token_type"))
    ]
    rows += norm_rows("embedding_norm", f"{names.prefix}embeddings.LayerNorm", names.norm)
    for layer in range(sizes.num_layers):
        rows += bert_block_rows(f"block_{layer}", f"{names.prefix}encoder.layer.{layer}", norm=names.norm)
    return rows + (dense_rows("pooler", f"{names.prefix}pooler.dense") if sizes.use_pooler else [])


def _hub_config(sizes: BertSizes) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.features,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": sizes.mlp_features,
        "max_position_embeddings": sizes.max_length,
        "type_vocab_size": sizes.num_segments,
        "hidden_act": activation_name(sizes.activation),
        "layer_norm_eps": sizes.norm_epsilon,
        "pad_token_id": sizes.padding_id,
    }


def _architecture(name: str, names: _Names) -> Architecture:
    return Architecture(
        name=name,
        recognise=partial(_recognise, names),
        build=_build,
        rows=partial(_rows, names),
        example=lambda sizes: (np.ones((1, 1), np.int32),),
        is_ignored=names.is_ignored,
        tokenizer="bert",
        hub_config=_hub_config,
    )


BERT_TRANSFORMERS = _architecture("bert-transformers", _PLAIN)
# The same tensors, pooled to their mean as sentence encoders such as MiniLM are; to be asked for by name.
SENTENCE_BERT_TRANSFORMERS = _architecture("sentence-bert-transformers", _SENTENCES)
# With heads for its training, which are left out.
BERT_PRETRAINING_TRANSFORMERS = _architecture("bert-pretraining-transformers", _PRETRAINING)
# As Google's first files were converted.
BERT_FIRST_TRANSFORMERS = _architecture("bert-first-transformers", _FIRST)
