"""CLIP as transformers names it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fusionjax.encoders import TextTransformer, VisionTransformer
from fusionjax.models import DualEncoder
from fusionjax.pretrained.architecture import Architecture, ImagePreparation
from fusionjax.pretrained.rows import Row, Shapes, dense_rows, norm_rows
from fusionjax.pretrained.towers import (
    IMAGE,
    TwoTowerSizes,
    config_of,
    example_of,
    tower_config,
    tower_rows,
    two_tower_sizes,
)
from fusionjax.pretrained.transformer_parts import has_more, is_position_counter, patch_layout

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# As the first configs have it, whose texts nevertheless end with the highest token.
_WRONG_END = 2


def _recognise(shapes: Shapes, config: Mapping[str, Any]) -> TwoTowerSizes | None:
    projections = [shapes.get(f"{name}_projection.weight", ()) for name in ("visual", "text")]
    if any(len(shape) != 2 for shape in projections) or f"{IMAGE}.embeddings.class_embedding" not in shapes:
        return None
    end = config_of(config, "text").get("eos_token_id", _WRONG_END)
    sizes = two_tower_sizes(
        shapes,
        config,
        act="quick_gelu",
        epsilon=1e-5,
        class_tokens=1,
        features=projections[0][0],
        end_id=end if isinstance(end, int) and end != _WRONG_END else None,
    )
    return None if sizes is None or has_more(_rows(sizes), shapes) else sizes


def _build(sizes: TwoTowerSizes) -> DualEncoder:
    image = VisionTransformer(
        patch_size=sizes.patch_size,
        image_size=(sizes.image_size, sizes.image_size),
        use_patch_bias=False,
        use_pre_norm=True,
        mean=MEAN,
        std=STD,
        **dataclasses.asdict(sizes.image),
    )
    text = TextTransformer(
        sizes.vocab_size,
        max_length=sizes.max_length,
        is_causal=True,
        pooling="end",
        padding_id=None,
        end_id=sizes.end_id,
        **dataclasses.asdict(sizes.text),
    )
    return DualEncoder(image, text, features=sizes.features)


def _rows(sizes: TwoTowerSizes) -> list[Row]:
    image, embeddings = "image_encoder", f"{IMAGE}.embeddings"
    rows = dense_rows(
        f"{image}/patches", f"{embeddings}.patch_embedding", has_bias=False, layout=patch_layout(sizes.patch_size)
    )
    rows += [
        Row((f"params/{image}/class_token",), f"{embeddings}.class_embedding"),
        Row((f"params/{image}/positions",), f"{embeddings}.position_embedding.weight"),
        *norm_rows(f"{image}/pre_norm", f"{IMAGE}.pre_layrnorm"),
        *tower_rows(sizes),
        *dense_rows("image_projection", "visual_projection", has_bias=False),
        *dense_rows("text_projection", "text_projection", has_bias=False),
        Row(("params/log_scale",), "logit_scale"),
    ]
    return rows


def _hub_config(sizes: TwoTowerSizes) -> dict[str, Any]:
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": sizes.features,
        "text_config": tower_config(
            sizes.text,
            model_type="clip_text_model",
            vocab_size=sizes.vocab_size,
            max_position_embeddings=sizes.max_length,
            projection_dim=sizes.features,
            eos_token_id=_WRONG_END if sizes.end_id is None else sizes.end_id,
            bos_token_id=None,
            pad_token_id=None,
        ),
        "vision_config": tower_config(
            sizes.image,
            model_type="clip_vision_model",
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
            projection_dim=sizes.features,
            num_channels=3,
        ),
    }


CLIP_TRANSFORMERS = Architecture(
    name="clip-transformers",
    recognise=_recognise,
    build=_build,
    rows=_rows,
    example=example_of,
    is_ignored=is_position_counter,
    preparation=lambda sizes: ImagePreparation(
        size=(sizes.image_size, sizes.image_size),
        shorter_side=sizes.image_size,
        interpolation="bicubic",
        rounding="down",
    ),
    tokenizer="clip",
    hub_config=_hub_config,
)
