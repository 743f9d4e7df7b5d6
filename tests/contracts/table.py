"""The tables of encoders, fusions, decoders and models: every row obeys the same contract, checked in test_contract.py.

A new member is one more `Row` here. All inputs hold `BATCH` examples, one on each of the eight virtual devices; every
other size is a prime of its own where the architecture lets it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import encoders, fusion, models
from fusionjax.encoders import Features

BATCH, LENGTH, VOCABULARY, CELLS, CAPTIONS = 8, 7, 11, 6, 2
Inputs = dict[str, Any]
# Outputs in float32 whatever the computation's dtype.
VECTORS = ("image", "text")


@dataclasses.dataclass(frozen=True)
class Row:
    """One member of a table.

    Attributes:
        name: of the row.
        build: `build(dtype)` makes the module.
        inputs: the keyword arguments of its `__call__`.
        shapes: of the outputs that `read` names.
        hide: the same inputs with other content wherever a mask says that it does not count; None without masks.
        pad: the same inputs with more padding; None where the length is part of the architecture.
        trim: the outputs of padded inputs cut to the length of the others.
        stops: whether part of the gradient is stopped by design, so that it is not the slope.
        step: of finite differences; smaller where one step would take many units over the edge of a ReLU.
    """

    name: str
    build: Callable[[Any], nn.Module]
    inputs: Inputs
    shapes: dict[str, tuple[int, ...]]
    hide: Callable[[Inputs], Inputs] | None = None
    pad: Callable[[Inputs], Inputs] | None = None
    trim: Callable[[dict[str, Any]], dict[str, Any]] = dict
    stops: bool = False
    step: float = 1e-3


def read(output: Any) -> dict[str, Any]:
    """The arrays of an output that the contract compares."""
    names = ("tokens", "pooled", "logits", "attention", "next_word_logits", *VECTORS)
    return {name: getattr(output, name) for name in names if getattr(output, name, None) is not None}


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# 19 x 17 pixels become 3 x 2 cells: two stages of a 3x3 convolution without padding and a pooling.
IMAGES = np.random.default_rng(0).uniform(size=(BATCH, 19, 17, 3)).astype(np.float32)
IMAGE_MASK = np.ones((BATCH, CELLS), bool)
IMAGE_MASK[1::2, 4:] = False
# 3 x 2 cells of AlexNet.
LARGE_IMAGES = np.random.default_rng(9).uniform(size=(BATCH, 127, 95, 3)).astype(np.float32)
# Cells of encoders with strides: every pixel reaches most of them, so that nothing can be hidden by a mask.
CELL_MASK = np.random.default_rng(8).uniform(size=(BATCH, CELLS)) < 0.7
# One text fills its row, one is empty.
LENGTHS = np.array([7, 1, 3, 0, 5, 2, 6, 4])
TEXT_MASK = np.arange(LENGTH) < LENGTHS[:, None]
TOKENS = np.where(TEXT_MASK, np.random.default_rng(1).integers(1, VOCABULARY, (BATCH, LENGTH)), 0)
WORDS = np.random.default_rng(2).integers(1, VOCABULARY, (BATCH * CAPTIONS, 5))
IMAGE = Features(_normal(3, BATCH, CELLS, 5), IMAGE_MASK, _normal(4, BATCH, 5), (3, 2))
TEXT = Features(_normal(5, BATCH, LENGTH, 3), TEXT_MASK, _normal(6, BATCH, 13), (LENGTH,))


def _hide_pixels(inputs: Inputs) -> Inputs:
    """The pixels that only the masked last row of cells sees."""
    images = inputs["images"].copy()
    images[1::2, 14:] = 0.5
    return {**inputs, "images": images}


def _hide_tokens(tokens: np.ndarray) -> np.ndarray:
    return np.where(TEXT_MASK, tokens, VOCABULARY + 99)


def _hide_stored(inputs: Inputs) -> Inputs:
    """NaN in the masked tokens; their numbers come first in a row."""
    rows = inputs["rows"].copy()
    rows[1::2, 4 * 5 : CELLS * 5] = np.nan
    return {**inputs, "rows": rows}


def _pad_text(tokens: np.ndarray) -> np.ndarray:
    return np.pad(tokens, ((0, 0), (0, 4)))


def _hide_features(features: Features) -> Features:
    """NaN in masked tokens, and in the pooled vector of a missing modality."""
    tokens = np.where(features.mask[..., None], features.tokens, np.nan)
    pooled = np.where(features.mask.any(axis=1)[:, None], features.pooled, np.nan)
    return dataclasses.replace(features, tokens=tokens, pooled=pooled)


def _pad_features(features: Features) -> Features:
    tokens = np.pad(features.tokens, ((0, 0), (0, 4), (0, 0)), constant_values=9)
    return Features(tokens, np.pad(features.mask, ((0, 0), (0, 4))), features.pooled, (tokens.shape[1],))


def _trim_tokens(outputs: dict[str, Any]) -> dict[str, Any]:
    return {**outputs, "tokens": outputs["tokens"][:, :LENGTH]}


def _trim_flat(outputs: dict[str, Any]) -> dict[str, Any]:
    return {**_trim_tokens(outputs), "pooled": outputs["pooled"][:, : LENGTH * 6]}


def _simple_cnn(dtype: Any = None, **options: Any) -> nn.Module:
    return encoders.SimpleCNN(features=(5, 7), dtype=dtype, **options)


def _rnn(dtype: Any = None, **options: Any) -> nn.Module:
    return encoders.RNNEncoder(vocab_size=VOCABULARY, dtype=dtype, **options)


def _vision_transformer(dtype: Any, **options: Any) -> nn.Module:
    sizes = {"features": 6, "num_layers": 1, "num_heads": 2, "patch_size": 6, "image_size": (13, 19)}
    return encoders.VisionTransformer(**sizes, dtype=dtype, **options)


def _pad_image(inputs: Inputs) -> Inputs:
    """A row of patches more at the bottom; images of 19 x 17 pixels have three rows of two."""
    images = np.pad(inputs["images"], ((0, 0), (0, 6), (0, 0), (0, 0)), constant_values=0.5)
    return {"images": images, "mask": np.pad(inputs["mask"], ((0, 0), (0, 2)))}


def _vision_row(name: str, **options: Any) -> Row:
    return Row(
        name,
        lambda dtype: _vision_transformer(dtype, **options),
        {"images": IMAGES, "mask": IMAGE_MASK},
        {"tokens": (BATCH, CELLS, 6), "pooled": (BATCH, 6)},
        hide=_hide_pixels,
        pad=_pad_image,
        trim=lambda outputs: {**outputs, "tokens": outputs["tokens"][:, :CELLS]},
    )


def _text_row(name: str, **options: Any) -> Row:
    sizes = {"features": 6, "num_layers": 1, "num_heads": 2, "max_length": 13}
    return Row(
        name,
        lambda dtype: encoders.TextTransformer(VOCABULARY, **sizes, dtype=dtype, **options),
        {"tokens": TOKENS, "mask": TEXT_MASK},
        {"tokens": (BATCH, LENGTH, 6), "pooled": (BATCH, 6)},
        hide=lambda inputs: {**inputs, "tokens": _hide_tokens(inputs["tokens"])},
        pad=lambda inputs: {"tokens": _pad_text(inputs["tokens"])},
        trim=_trim_tokens,
    )


def _projected_row(name: str, **options: Any) -> Row:
    """Stored features of a text, of which some tokens are masked."""
    layout = encoders.FeatureLayout(grid=(LENGTH,), features=3, pooled_features=13, has_mask=True)
    rows = np.asarray(layout.pack(jax.tree.map(jnp.asarray, TEXT)))
    return Row(
        name,
        lambda dtype: encoders.Projected(encoders.StoredFeatures(layout, dtype=dtype), dtype=dtype, **options),
        {"inputs": rows},
        {"tokens": (BATCH, LENGTH, 5), "pooled": (BATCH, 5)},
    )


ENCODERS = [
    Row(
        "SimpleCNN",
        _simple_cnn,
        {"images": IMAGES, "mask": IMAGE_MASK},
        {"tokens": (BATCH, CELLS, 7), "pooled": (BATCH, CELLS * 7)},
        hide=_hide_pixels,
    ),
    Row(
        "SimpleCNN-attention",
        lambda dtype: _simple_cnn(dtype, normalization="batch", pooling="attention", hidden_features=(11,)),
        {"images": IMAGES, "mask": IMAGE_MASK},
        {"tokens": (BATCH, CELLS, 7), "pooled": (BATCH, 11)},
        hide=_hide_pixels,
    ),
    Row(
        "AlexNet",
        lambda dtype: encoders.AlexNet((2, 3, 2, 3, 5), (7, 11), pooled_grid=(2, 1), dtype=dtype),
        {"images": LARGE_IMAGES, "mask": CELL_MASK},
        {"tokens": (BATCH, CELLS, 5), "pooled": (BATCH, 11)},
        step=1e-4,
    ),
    Row(
        "ConvNeXt",
        lambda dtype: encoders.ConvNeXt((1, 1), (3, 5), scale_init=1.0, dtype=dtype),
        {"images": np.tile(IMAGES, (1, 2, 1, 1))[:, :29], "mask": CELL_MASK},
        {"tokens": (BATCH, CELLS, 5), "pooled": (BATCH, 5)},
    ),
    Row(
        "EfficientNetLite",
        lambda dtype: encoders.EfficientNetLite(
            (1, 2), (2, 3), (3, 5), (2, 2), (1, 6), stem_features=2, head_features=5, dtype=dtype
        ),
        {"images": IMAGES[:, :, :13], "mask": CELL_MASK},
        {"tokens": (BATCH, CELLS, 5), "pooled": (BATCH, 5)},
        step=1e-4,
    ),
    Row(
        "ResNet",
        lambda dtype: encoders.ResNet((1, 1), (3, 5), 2, is_bottleneck=False, dtype=dtype),
        {"images": IMAGES[:, :, :13], "mask": CELL_MASK},
        {"tokens": (BATCH, CELLS, 5), "pooled": (BATCH, 5)},
    ),
    Row(
        "VGG",
        lambda dtype: encoders.VGG(((2,), (3, 2), (5,)), (7, 11), pooled_grid=(1, 3), dtype=dtype),
        {"images": np.tile(IMAGES, (1, 2, 1, 1))[:, :29], "mask": CELL_MASK},
        {"tokens": (BATCH, CELLS, 5), "pooled": (BATCH, 11)},
    ),
    _text_row("TextTransformer", is_causal=True, pooling="last"),
    _text_row("TextTransformer-norm-last", norm_first=False, pooling="mean", num_segments=2),
    _vision_row("VisionTransformer", use_pre_norm=True, activation="quick_gelu"),
    _vision_row("VisionTransformer-attention", pooling="attention", use_class_token=False),
    Row(
        "StoredFeatures",
        lambda dtype: encoders.StoredFeatures(
            encoders.FeatureLayout(grid=(3, 2), features=5, pooled_features=7), dtype=dtype
        ),
        {"rows": _normal(7, BATCH, CELLS * 5 + 7), "mask": IMAGE_MASK},
        {"tokens": (BATCH, CELLS, 5), "pooled": (BATCH, 7)},
        hide=_hide_stored,
    ),
    _projected_row("Projected", features=5, use_positions=True),
    _projected_row("Projected-pooling", features=5, pooling="attention"),
    Row(
        "RNNEncoder",
        lambda dtype: _rnn(dtype, features=6, self_attention=True, num_heads=2),
        {"tokens": TOKENS, "mask": TEXT_MASK},
        {"tokens": (BATCH, LENGTH, 6), "pooled": (BATCH, LENGTH * 6)},
        hide=lambda inputs: {**inputs, "tokens": _hide_tokens(inputs["tokens"])},
        pad=lambda inputs: {"tokens": _pad_text(inputs["tokens"])},
        trim=_trim_flat,
    ),
    Row(
        "RNNEncoder-both-ways",
        lambda dtype: _rnn(dtype, features=5, cell="gru", bidirectional=True, pooling="mean"),
        {"tokens": TOKENS, "mask": TEXT_MASK},
        {"tokens": (BATCH, LENGTH, 10), "pooled": (BATCH, 10)},
        hide=lambda inputs: {**inputs, "tokens": _hide_tokens(inputs["tokens"])},
        pad=lambda inputs: {"tokens": _pad_text(inputs["tokens"])},
        trim=_trim_tokens,
    ),
    Row(
        "RNNEncoder-folded",
        lambda dtype: _rnn(dtype, features=5, cell="elman", bidirectional=True, pooling="mean", is_folded=True),
        {"tokens": TOKENS, "mask": TEXT_MASK},
        {"tokens": (BATCH, LENGTH, 10), "pooled": (BATCH, 10)},
        hide=lambda inputs: {**inputs, "tokens": _hide_tokens(inputs["tokens"])},
        pad=lambda inputs: {"tokens": _pad_text(inputs["tokens"])},
        trim=_trim_tokens,
    ),
    Row(
        "RNNEncoder-words-alone",
        lambda dtype: _rnn(dtype, features=6, num_layers=0, pooling="mean"),
        {"tokens": TOKENS, "mask": TEXT_MASK},
        {"tokens": (BATCH, LENGTH, 6), "pooled": (BATCH, 6)},
        hide=lambda inputs: {**inputs, "tokens": _hide_tokens(inputs["tokens"])},
        pad=lambda inputs: {"tokens": _pad_text(inputs["tokens"])},
        trim=_trim_tokens,
    ),
]

_MODALITIES = {"features": {"image": IMAGE, "text": TEXT}}


def _fusion_row(
    kind: type[nn.Module],
    pooled: int,
    length: int = 1,
    *,
    name: str | None = None,
    trim: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    **options: Any,
) -> Row:
    """A fusion of the image and the text, each as one of `BATCH`.

    Args:
        kind: of the fusion.
        pooled: size of its pooled vector and, unless a trim says otherwise, of its tokens.
        length: of its tokens.
        name: of the row; None for the kind's.
        trim: cuts the outputs of a padded text.
        options: of the fusion.
    """

    def build(dtype: Any) -> nn.Module:
        return kind(**options, **({} if kind is fusion.Concat else {"dtype": dtype}))

    return Row(
        name or kind.__name__,
        build,
        _MODALITIES,
        {"tokens": (BATCH, length, pooled), "pooled": (BATCH, pooled)},
        hide=lambda inputs: {"features": {name: _hide_features(one) for name, one in inputs["features"].items()}},
        pad=lambda inputs: {"features": {**inputs["features"], "text": _pad_features(TEXT)}},
        trim=trim,
    )


def _trim_joined(outputs: dict[str, Any]) -> dict[str, Any]:
    """Of streams one after the other, the text's the last."""
    return {**outputs, "tokens": outputs["tokens"][:, : CELLS + LENGTH]}


FUSIONS = [
    _fusion_row(fusion.AttentionMix, 3, features=3, attention_features=2),
    _fusion_row(
        fusion.BottleneckAttention,
        4,
        CELLS + LENGTH,
        features=4,
        num_heads=2,
        num_layers=1,
        num_bottlenecks=2,
        trim=_trim_joined,
    ),
    _fusion_row(fusion.CoAttention, 4, CELLS + LENGTH, features=4, num_heads=2, trim=_trim_joined),
    _fusion_row(fusion.CompactBilinear, 5, features=5),
    _fusion_row(fusion.Concat, 18),
    _fusion_row(fusion.CrossAttention, 6, LENGTH, features=6, num_heads=2, pooling="last", trim=_trim_tokens),
    _fusion_row(fusion.DeepSets, 5, features=5),
    _fusion_row(fusion.FactorizedBilinear, 3, features=3, factors=2),
    _fusion_row(fusion.FiLMBlocks, 7, CELLS, features=7, num_layers=1),
    _fusion_row(fusion.GatedMultimodalUnit, 3, features=3),
    _fusion_row(fusion.LowRankBilinear, 3, features=3, rank=5),
    _fusion_row(fusion.LowRankTensorFusion, 3, features=3, rank=2),
    _fusion_row(fusion.MergedAttention, 4, CELLS + LENGTH, features=4, num_heads=2, num_layers=1, trim=_trim_joined),
    _fusion_row(fusion.Mutan, 3, features=3, hidden_features=2, core_features=5, rank=2),
    _fusion_row(fusion.PerceiverResampler, 4, 3, features=4, num_heads=2, num_layers=1, num_latents=3),
    _fusion_row(fusion.QFormer, 6, 3, features=6, num_heads=2, num_layers=1, num_queries=3),
    _fusion_row(fusion.RelationNetwork, 5, relation_features=(5, 3), features=(5,)),
    _fusion_row(fusion.StackedAttention, 3, features=3, attention_features=2, num_layers=1),
    _fusion_row(fusion.Sum, 3, features=3),
    _fusion_row(fusion.TensorFusion, 9, features=2),
    _fusion_row(fusion.WordByWord, 10, LENGTH, features=5, attention_features=3, trim=_trim_tokens),
]


def _lstm(dtype: Any, **options: Any) -> nn.Module:
    return models.LSTMDecoder(VOCABULARY, features=5, embedding_features=7, dtype=dtype, **options)


def _attention_lstm(dtype: Any, **options: Any) -> nn.Module:
    sizes = {"features": 5, "embedding_features": 7, "attention_features": 3}
    return models.AttentionLSTMDecoder(VOCABULARY, dtype=dtype, **sizes, **options)


def _decoder_row(name: str, build: Callable[[Any], nn.Module], *, looks: bool) -> Row:
    rows, length = WORDS.shape
    attention = {"attention": (rows, length, CELLS)} if looks else {}
    return Row(
        name,
        build,
        {"features": IMAGE, "tokens": WORDS},
        {"logits": (rows, length, VOCABULARY), **attention},
        hide=lambda inputs: {**inputs, "features": _hide_features(inputs["features"])},
        pad=lambda inputs: {**inputs, "tokens": np.pad(inputs["tokens"], ((0, 0), (0, 4)))},
        trim=lambda outputs: {name: value[:, :length] for name, value in outputs.items()},
    )


DECODERS = [
    _decoder_row("LSTMDecoder", _lstm, looks=False),
    _decoder_row("AttentionLSTMDecoder", _attention_lstm, looks=True),
    _decoder_row(
        "TransformerDecoder",
        lambda dtype: models.TransformerDecoder(VOCABULARY, 6, num_layers=2, num_heads=2, max_length=13, dtype=dtype),
        looks=True,
    ),
    _decoder_row(
        "TransformerDecoder-as-BERT",
        lambda dtype: models.TransformerDecoder(
            VOCABULARY,
            14,
            num_layers=2,
            num_heads=2,
            max_length=13,
            mlp_features=11,
            norm_first=False,
            norm_epsilon=1e-5,
            activation="gelu_exact",
            word_scale=1.0,
            word_activation="gelu_exact",
            use_word_norm=True,
            dtype=dtype,
        ),
        looks=True,
    ),
]

FOLDED_DECODERS = [
    _decoder_row("LSTMDecoder-folded", lambda dtype: _lstm(dtype, is_folded=True), looks=False),
    _decoder_row("AttentionLSTMDecoder-folded", lambda dtype: _attention_lstm(dtype, is_folded=True), looks=True),
]


def _classifier(dtype: Any) -> nn.Module:
    return models.FusionClassifier(
        encoders={
            "image": _simple_cnn(dtype),
            "text": _rnn(dtype, features=6, cell="elman", num_layers=2, pooling="last"),
        },
        fusion=fusion.Concat(),
        num_classes=3,
        hidden_features=(13,),
        dtype=dtype,
    )


def _reading_classifier(dtype: Any) -> nn.Module:
    return models.FusionClassifier(
        encoders={"image": _simple_cnn(dtype), "text": _rnn(dtype, features=6, pooling="last")},
        fusion=fusion.WordByWord(features=5, attention_features=3, dtype=dtype),
        num_classes=3,
        next_word_vocab_size=VOCABULARY,
        dtype=dtype,
    )


def _two_towers(dtype: Any) -> nn.Module:
    image, text = _simple_cnn(dtype, pooling="mean"), _rnn(dtype, features=6, cell="gru", pooling="last")
    return models.DualEncoder(image, text, features=5, bias=-1.0, dtype=dtype)


def _answering(dtype: Any, **options: Any) -> nn.Module:
    image = _simple_cnn(dtype, normalization="group", pooling="mean")
    text = _rnn(dtype, features=6, cell="gru", pooling="last")
    return models.VisualQuestionAnswering(image, text, fusion.Concat(), 3, dtype=dtype, **options)


QUESTIONS = np.stack([TOKENS, TOKENS[::-1]], axis=1)
QUESTION_MASK = np.stack([TEXT_MASK, TEXT_MASK[::-1]], axis=1)


def _answering_row(name: str, build: Callable[[Any], nn.Module]) -> Row:
    return Row(
        name,
        build,
        {"batch": {"image": IMAGES, "text": QUESTIONS}, "masks": {"text": QUESTION_MASK}},
        {"logits": (BATCH, 2, 3)},
        hide=lambda inputs: {
            **inputs,
            "batch": {**inputs["batch"], "text": np.where(QUESTION_MASK, QUESTIONS, VOCABULARY + 99)},
        },
        pad=lambda inputs: {"batch": {**inputs["batch"], "text": np.pad(QUESTIONS, ((0, 0), (0, 0), (0, 4)))}},
    )


MODELS = [
    _answering_row("VisualQuestionAnswering", lambda dtype: _answering(dtype, hidden_features=(13,))),
    _answering_row("VisualQuestionAnswering-conditioned", lambda dtype: _answering(dtype, is_conditioned=True)),
    Row(
        "FusionClassifier-next-words",
        _reading_classifier,
        {"batch": {"image": IMAGES, "text": TOKENS}, "masks": {"text": TEXT_MASK}},
        {"logits": (BATCH, 3), "next_word_logits": (BATCH, LENGTH - 1, VOCABULARY)},
        hide=lambda inputs: {**inputs, "batch": {**inputs["batch"], "text": _hide_tokens(TOKENS)}},
        pad=lambda inputs: {"batch": {**inputs["batch"], "text": _pad_text(TOKENS)}},
        trim=lambda outputs: {**outputs, "next_word_logits": outputs["next_word_logits"][:, : LENGTH - 1]},
        stops=True,
    ),
    Row(
        "FusionClassifier",
        _classifier,
        {"batch": {"image": IMAGES, "text": TOKENS}, "masks": {"text": TEXT_MASK}},
        {"logits": (BATCH, 3)},
        hide=lambda inputs: {**inputs, "batch": {**inputs["batch"], "text": _hide_tokens(TOKENS)}},
        pad=lambda inputs: {"batch": {**inputs["batch"], "text": _pad_text(TOKENS)}},
    ),
    Row(
        "ImageClassifier",
        lambda dtype: models.ImageClassifier(_simple_cnn(dtype, pooling="mean"), 3, dtype=dtype),
        {"images": IMAGES, "mask": IMAGE_MASK},
        {"logits": (BATCH, 3)},
        hide=_hide_pixels,
        step=1e-4,
    ),
    Row(
        "DualEncoder",
        _two_towers,
        {"batch": {"image": IMAGES, "text": TOKENS}, "masks": {"text": TEXT_MASK}},
        {"image": (BATCH, 5), "text": (BATCH, 5)},
        hide=lambda inputs: {**inputs, "batch": {**inputs["batch"], "text": _hide_tokens(TOKENS)}},
        pad=lambda inputs: {"batch": {**inputs["batch"], "text": _pad_text(TOKENS)}},
    ),
    Row(
        "Captioner",
        lambda dtype: models.Captioner(_simple_cnn(dtype, pooling="mean"), _attention_lstm(dtype)),
        {"batch": {"image": IMAGES, "text": WORDS.reshape(BATCH, CAPTIONS, -1)}},
        {"logits": (BATCH, CAPTIONS, 4, VOCABULARY), "attention": (BATCH, CAPTIONS, 4, CELLS)},
        pad=lambda inputs: {
            "batch": {**inputs["batch"], "text": np.pad(inputs["batch"]["text"], ((0, 0), (0, 0), (0, 4)))}
        },
        trim=lambda outputs: {name: value[:, :, :4] for name, value in outputs.items()},
    ),
]

# Fusions whose parts are those of others: all checks of what they compute, on one Python, but neither eagerly nor under
# vmap nor inside NNX.
ALIKE = frozenset(row.name for row in FUSIONS) - {
    "CoAttention",
    "CompactBilinear",
    "Concat",
    "CrossAttention",
    "QFormer",
    "RelationNetwork",
    "WordByWord",
}

ROWS = [*ENCODERS, *FUSIONS, *DECODERS, *FOLDED_DECODERS, *MODELS]
