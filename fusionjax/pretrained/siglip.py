"""SigLIP, and SigLIP 2 of fixed resolution, as transformers names them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fusionjax.encoders import TextTransformer, VisionTransformer
from fusionjax.models import DualEncoder
from fusionjax.pretrained.architecture import Architecture, ImagePreparation
from fusionjax.pretrained.layouts import reshaped
from fusionjax.pretrained.rows import Row, Shapes, dense_rows, norm_rows
from fusionjax.pretrained.towers import (
    IMAGE,
    TEXT,
    TwoTowerSizes,
    config_of,
    example_of,
    tower_config,
    tower_rows,
    two_tower_sizes,
)
from fusionjax.pretrained.transformer_parts import attention_rows, has_more, is_position_counter, patch_layout


def _recognise(shapes: Shapes, config: Mapping[str, Any]) -> TwoTowerSizes | None:
    head = shapes.get(f"{TEXT}.head.weight", ())
    has_pooling = f"{IMAGE}.head.probe" in shapes and config_of(config, "vision").get("vision_use_head", True)
    if len(head) != 2 or not has_pooling:
        return None
    sizes = two_tower_sizes(
        shapes, config, act="gelu_pytorch_tanh", epsilon=1e-6, class_tokens=0, features=head[0], end_id=None
    )
    if sizes is None or sizes.features != sizes.image.features:
        return None
    return None if has_more(_rows(sizes), shapes) else sizes


def _build(sizes: TwoTowerSizes) -> DualEncoder:
    image = VisionTransformer(
        patch_size=sizes.patch_size,
        image_size=(sizes.image_size, sizes.image_size),
        pooling="attention",
        use_class_token=False,
        **dataclasses.asdict(sizes.image),
    )
    text = TextTransformer(
        sizes.vocab_size,
        max_length=sizes.max_length,
        pooling="last",
        padding_id=None,
        **dataclasses.asdict(sizes.text),
    )
    return DualEncoder(
        image,
        text,
        features=sizes.features,
        scale=10.0,
        max_scale=math.inf,
        bias=-10.0,
        use_image_projection=False,
        use_projection_bias=True,
    )


def _rows(sizes: TwoTowerSizes) -> list[Row]:
    image, embeddings, head = "image_encoder", f"{IMAGE}.embeddings", f"{IMAGE}.head"
    width = sizes.image.features
    rows = dense_rows(f"{image}/patches", f"{embeddings}.patch_embedding", layout=patch_layout(sizes.patch_size))
    rows += [
        Row((f"params/{image}/positions",), f"{embeddings}.position_embedding.weight"),
        *tower_rows(sizes),
        Row((f"params/{image}/pool/query",), f"{head}.probe", reshaped((width,), (1, 1, width))),
        *attention_rows(
            f"{image}/pool/attention",
            head,
            ("attention.in_proj_weight", "attention.in_proj_bias"),
            "attention.out_proj",
        ),
        *norm_rows(f"{image}/pool/norm", f"{head}.layernorm"),
        *dense_rows(f"{image}/pool/mlp_in", f"{head}.mlp.fc1"),
        *dense_rows(f"{image}/pool/mlp_out", f"{head}.mlp.fc2"),
        *dense_rows("text_projection", f"{TEXT}.head"),
        Row(("params/log_scale",), "logit_scale", reshaped((), (1,))),
        Row(("params/bias",), "logit_bias", reshaped((), (1,))),
    ]
    return rows


def _hub_config(sizes: TwoTowerSizes) -> dict[str, Any]:
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": tower_config(
            sizes.text,
            model_type="siglip_text_model",
            vocab_size=sizes.vocab_size,
            max_position_embeddings=sizes.max_length,
            projection_size=sizes.features,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        ),
        "vision_config": tower_config(
            sizes.image,
            model_type="siglip_vision_model",
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
            num_channels=3,
            vision_use_head=True,
        ),
    }


SIGLIP_TRANSFORMERS = Architecture(
    name="siglip-transformers",
    recognise=_recognise,
    build=_build,
    rows=_rows,
    example=example_of,
    is_ignored=is_position_counter,
    preparation=lambda sizes: ImagePreparation(size=(sizes.image_size, sizes.image_size), interpolation="bicubic"),
    tokenizer="siglip",
    hub_config=_hub_config,
)
