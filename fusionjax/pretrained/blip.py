"""BLIP's captioner as transformers names it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusionjax.encoders import VisionTransformer
from fusionjax.models import Captioner, TransformerDecoder
from fusionjax.pretrained.architecture import Architecture, CaptionTokens, ImagePreparation
from fusionjax.pretrained.clip import MEAN, STD
from fusionjax.pretrained.layouts import reshaped
from fusionjax.pretrained.rows import Row, Shapes, dense_rows, norm_rows
from fusionjax.pretrained.towers import FIRST_KERNEL, IMAGE, TowerSizes, config_of, tower_config, tower_sizes
from fusionjax.pretrained.transformer_parts import (
    TOWER_NAMES,
    bert_block_rows,
    block_rows,
    has_more,
    image_side,
    is_position_counter,
    patch_layout,
    side_of,
    square_patches,
)

_TEXT, _HEAD = "text_decoder.bert", "text_decoder.cls.predictions"
_FIRST_KERNEL = f"{_TEXT}.encoder.layer.{{}}.intermediate.dense.weight"
_WORDS = f"{_TEXT}.embeddings.word_embeddings.weight"
_BLOCK = TOWER_NAMES._replace(attention=("self_attn.qkv.weight", "self_attn.qkv.bias"), out="self_attn.projection")

# What a config that leaves it out means in transformers; the published models have 12 heads, and name them.
_HEADS_LEFT_OUT = {"image": 12, "text": 8}
_START, _END, _PADDING = 30522, 102, 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlipSizes:
    """The size of a captioner.

    Attributes:
        image: the encoder.
        text: the decoder.
        patch_size: height and width of a patch, in pixels.
        image_size: height and width of the images that the positions were learned with, in pixels.
        vocab_size: number of different tokens.
        max_length: number of places of a caption.
        start_id: of the token before the first word.
        end_id: of the token that ends a caption.
        padding_id: of the token after that.
    """

    image: TowerSizes
    text: TowerSizes
    patch_size: int
    image_size: int
    vocab_size: int
    max_length: int
    start_id: int
    end_id: int
    padding_id: int


def _recognise(shapes: Shapes, config: Mapping[str, Any]) -> BlipSizes | None:
    if config.get("model_type", "blip") != "blip":
        return None
    parts = {}
    for part, name in (("image", "vision"), ("text", "text")):
        parts[part] = config_of(config, name)
        if config:
            parts[part].setdefault("num_attention_heads", _HEADS_LEFT_OUT[part])
    image = tower_sizes(shapes, FIRST_KERNEL.format(IMAGE), parts["image"], act="gelu", epsilon=1e-5)
    text = tower_sizes(shapes, _FIRST_KERNEL, parts["text"], act="gelu", epsilon=1e-12, is_text=True)
    patch_size = square_patches(shapes.get(f"{IMAGE}.embeddings.patch_embedding.weight", ()))
    places = shapes.get(f"{IMAGE}.embeddings.position_embedding", ())
    side = side_of(places[1] - 1) if len(places) == 3 else None
    words, length = (
        shapes.get(f"{_TEXT}.embeddings.{kind}_embeddings.weight", (0,))[0] for kind in ("word", "position")
    )
    ids = {
        name: parts["text"].get(f"{theirs}_token_id", usual)
        for name, theirs, usual in (
            ("start_id", "bos", _START),
            ("end_id", "sep", _END),
            ("padding_id", "pad", _PADDING),
        )
    }
    if image is None or text is None or not patch_size or not side:
        return None
    if not all(isinstance(one, int) and 0 <= one < words for one in ids.values()):
        return None
    sizes = BlipSizes(
        image=image,
        text=text,
        patch_size=patch_size,
        image_size=image_side(side, patch_size, parts["image"]),
        vocab_size=words,
        max_length=length,
        **ids,
    )
    return None if has_more(_rows(sizes), shapes) else sizes


def _build(sizes: BlipSizes) -> Captioner:
    encoder = VisionTransformer(
        patch_size=sizes.patch_size,
        image_size=(sizes.image_size, sizes.image_size),
        mean=MEAN,
        std=STD,
        **dataclasses.asdict(sizes.image),
    )
    decoder = TransformerDecoder(
        sizes.vocab_size,
        max_length=sizes.max_length,
        norm_first=False,
        word_scale=1.0,
        word_activation=sizes.text.activation,
        use_word_norm=True,
        reads_pooled=True,
        **dataclasses.asdict(sizes.text),
    )
    return Captioner(encoder, decoder)


def _rows(sizes: BlipSizes) -> list[Row]:
    embeddings, width, cells = f"{IMAGE}.embeddings", sizes.image.features, (sizes.image_size // sizes.patch_size) ** 2
    rows = [
        *dense_rows("encoder/patches", f"{embeddings}.patch_embedding", layout=patch_layout(sizes.patch_size)),
        Row(("params/encoder/class_token",), f"{embeddings}.class_embedding", reshaped((width,), (1, 1, width))),
        Row(
            ("params/encoder/positions",),
            f"{embeddings}.position_embedding",
            reshaped((1 + cells, width), (1, 1 + cells, width)),
        ),
        *norm_rows("encoder/norm", f"{IMAGE}.post_layernorm"),
        Row(("params/decoder/words/table",), _WORDS),
        Row(("params/decoder/positions",), f"{_TEXT}.embeddings.position_embeddings.weight"),
        *norm_rows("decoder/embedding_norm", f"{_TEXT}.embeddings.LayerNorm"),
        *dense_rows("decoder/words/project", f"{_HEAD}.transform.dense"),
        *norm_rows("decoder/words/norm", f"{_HEAD}.transform.LayerNorm"),
        Row(("params/decoder/words/bias",), f"{_HEAD}.bias"),
    ]
    for layer in range(sizes.image.num_layers):
        rows += block_rows(f"encoder/block_{layer}", f"{IMAGE}.encoder.layers.{layer}", _BLOCK)
    for layer in range(sizes.text.num_layers):
        rows += bert_block_rows(f"decoder/blocks_{layer}", f"{_TEXT}.encoder.layer.{layer}", has_cross_attention=True)
    return rows


def _hub_config(sizes: BlipSizes) -> dict[str, Any]:
    return {
        "architectures": ["BlipForConditionalGeneration"],
        "model_type": "blip",
        "text_config": tower_config(
            sizes.text,
            model_type="blip_text_model",
            vocab_size=sizes.vocab_size,
            max_position_embeddings=sizes.max_length,
            encoder_hidden_size=sizes.image.features,
            bos_token_id=sizes.start_id,
            sep_token_id=sizes.end_id,
            pad_token_id=sizes.padding_id,
            is_decoder=True,
        ),
        "vision_config": tower_config(
            sizes.image,
            model_type="blip_vision_model",
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
        ),
    }


def _example(sizes: BlipSizes) -> tuple[dict[str, np.ndarray]]:
    image = np.zeros((1, sizes.patch_size, sizes.patch_size, 3), np.float32)
    return ({"image": image, "text": np.ones((1, 2), np.int32)},)


BLIP_TRANSFORMERS = Architecture(
    name="blip-transformers",
    recognise=_recognise,
    build=_build,
    rows=_rows,
    example=_example,
    is_ignored=is_position_counter,
    preparation=lambda sizes: ImagePreparation(size=(sizes.image_size, sizes.image_size), interpolation="bicubic"),
    tokenizer="bert",
    caption_tokens=lambda sizes: CaptionTokens(start=sizes.start_id, end=sizes.end_id, max_length=sizes.max_length),
    # The words that come out are those that go in.
    copies={f"{_HEAD}.decoder.weight": _WORDS, f"{_HEAD}.decoder.bias": f"{_HEAD}.bias"},
    hub_config=_hub_config,
)
