"""Vision Transformers as timm, torchvision and transformers name them."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fusionjax.encoders.convolutional import IMAGENET_MEAN, IMAGENET_STD
from fusionjax.encoders.vision_transformer import VisionTransformer
from fusionjax.layers.activations import ActivationKind
from fusionjax.models import ImageClassifier
from fusionjax.pretrained.architecture import Architecture, ImagePreparation
from fusionjax.pretrained.counting import count_layers
from fusionjax.pretrained.layouts import reshaped
from fusionjax.pretrained.rows import Row, Shapes, dense_rows, norm_rows
from fusionjax.pretrained.transformer_parts import (
    BlockNames,
    activation_from,
    activation_name,
    block_rows,
    count_heads,
    has_more,
    image_side,
    patch_layout,
    side_of,
    square_patches,
)

Channels = tuple[float, ...]

_HALF = (0.5, 0.5, 0.5)
_USUAL_SIDE = 224


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTSizes:
    """The size of a Vision Transformer with a class token and a head.

    Attributes:
        features: of the tokens.
        num_layers: number of blocks.
        num_heads: of each block.
        mlp_features: hidden size of the perceptrons.
        patch_size: height and width of a patch, in pixels.
        image_size: height and width of the images that the positions were learned with, in pixels.
        num_classes: of the head.
        norm_epsilon: of the normalisations.
        activation: of the perceptrons.
        use_pre_norm: whether there is a normalisation before the blocks, and then no bias of the patches.
        mean: of the photographs' channels.
        std: of the photographs' channels.
    """

    features: int
    num_layers: int
    num_heads: int
    mlp_features: int
    patch_size: int
    image_size: int
    num_classes: int
    norm_epsilon: float
    activation: ActivationKind = "gelu_exact"
    use_pre_norm: bool = False
    mean: Channels = _HALF
    std: Channels = _HALF


class _Names(NamedTuple):
    patches: str
    class_token: str
    positions: str
    pre_norm: str | None
    block: Callable[[Any], str]
    layers: BlockNames
    norm: str
    head: str


_TIMM = _Names(
    patches="patch_embed.proj",
    class_token="cls_token",
    positions="pos_embed",
    pre_norm="norm_pre",
    block=lambda layer: f"blocks.{layer}",
    layers=BlockNames("norm1", ("attn.qkv.weight", "attn.qkv.bias"), "attn.proj", "norm2", mlp=("mlp.fc1", "mlp.fc2")),
    norm="norm",
    head="head",
)
_TORCHVISION = _Names(
    patches="conv_proj",
    class_token="class_token",
    positions="encoder.pos_embedding",
    pre_norm=None,
    block=lambda layer: f"encoder.layers.encoder_layer_{layer}",
    layers=BlockNames(
        "ln_1",
        ("self_attention.in_proj_weight", "self_attention.in_proj_bias"),
        "self_attention.out_proj",
        "ln_2",
        mlp=("mlp.0", "mlp.3"),
    ),
    norm="encoder.ln",
    head="heads.head",
)
_TORCHVISION_FILES = _TORCHVISION._replace(layers=_TORCHVISION.layers._replace(mlp=("mlp.linear_1", "mlp.linear_2")))
_TRANSFORMERS = _Names(
    patches="vit.embeddings.patch_embeddings.projection",
    class_token="vit.embeddings.cls_token",
    positions="vit.embeddings.position_embeddings",
    pre_norm=None,
    block=lambda layer: f"vit.encoder.layer.{layer}",
    layers=BlockNames(
        "layernorm_before",
        ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        "attention.output.dense",
        "layernorm_after",
        mlp=("intermediate.dense", "output.dense"),
    ),
    norm="vit.layernorm",
    head="classifier",
)


def _sizes_from(names: _Names, shapes: Shapes, config: Mapping[str, Any], **fields: Any) -> ViTSizes | None:
    """The sizes that shapes tell, and the given ones."""
    patch_size = square_patches(shapes.get(f"{names.patches}.weight", ()))
    features = shapes.get(names.class_token, (0,))[-1]
    num_layers = count_layers(shapes, f"{names.block('{}')}.{names.layers.mlp[0]}.weight")
    head, positions = shapes.get(f"{names.head}.weight", ()), shapes.get(names.positions, ())
    if not patch_size or not num_layers or len(head) != 2 or len(positions) != 3:
        return None
    num_heads, side = count_heads(features, config), side_of(positions[1] - 1)
    if num_heads is None or side is None:
        return None
    sizes = ViTSizes(
        features=features,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_features=shapes[f"{names.block(0)}.{names.layers.mlp[0]}.weight"][0],
        patch_size=patch_size,
        image_size=image_side(side, patch_size, config),
        num_classes=head[0],
        use_pre_norm=f"{names.pre_norm}.weight" in shapes,
        **fields,
    )
    return None if has_more(_rows(names, sizes), shapes) else sizes


def _channels(config: Mapping[str, Any], name: str, default: Channels) -> Channels:
    return tuple(config.get(name) or default)


def _recognise_timm(shapes: Shapes, config: Mapping[str, Any]) -> ViTSizes | None:
    settings = config.get("pretrained_cfg", {})
    if config.get("global_pool", "token") != "token":
        return None
    # There, normalisation before the blocks comes with an epsilon of its own.
    has_pre_norm = f"{_TIMM.pre_norm}.weight" in shapes
    return _sizes_from(
        _TIMM,
        shapes,
        {
            "num_attention_heads": config.get("model_args", {}).get("num_heads"),
            "image_size": settings.get("input_size", (None,))[-1],
        },
        norm_epsilon=1e-5 if has_pre_norm else 1e-6,
        activation="quick_gelu" if "quickgelu" in config.get("architecture", "") else "gelu_exact",
        mean=_channels(settings, "mean", _HALF),
        std=_channels(settings, "std", _HALF),
    )


def _recognise_torchvision(names: _Names, shapes: Shapes, config: Mapping[str, Any]) -> ViTSizes | None:
    return _sizes_from(names, shapes, {}, norm_epsilon=1e-6, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _recognise_transformers(shapes: Shapes, config: Mapping[str, Any]) -> ViTSizes | None:
    activation = activation_from(config.get("hidden_act", "gelu"))
    if activation is None or not config.get("qkv_bias", True):
        return None
    return _sizes_from(
        _TRANSFORMERS,
        shapes,
        config,
        norm_epsilon=float(config.get("layer_norm_eps", 1e-12)),
        activation=activation,
        mean=_channels(config, "image_mean", _HALF),
        std=_channels(config, "image_std", _HALF),
    )


def _build(sizes: ViTSizes) -> ImageClassifier:
    encoder = VisionTransformer(
        features=sizes.features,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        patch_size=sizes.patch_size,
        image_size=(sizes.image_size, sizes.image_size),
        mlp_features=sizes.mlp_features,
        use_patch_bias=not sizes.use_pre_norm,
        use_pre_norm=sizes.use_pre_norm,
        norm_epsilon=sizes.norm_epsilon,
        activation=sizes.activation,
        mean=sizes.mean,
        std=sizes.std,
    )
    return ImageClassifier(encoder, sizes.num_classes)


def _rows(names: _Names, sizes: ViTSizes) -> list[Row]:
    patches = patch_layout(sizes.patch_size)
    rows = dense_rows("encoder/patches", names.patches, has_bias=not sizes.use_pre_norm, layout=patches)
    cells = 1 + (sizes.image_size // sizes.patch_size) ** 2
    for ours, theirs, shape in (
        ("class_token", names.class_token, (sizes.features,)),
        ("positions", names.positions, (cells, sizes.features)),
    ):
        theirs_shape = (1,) * (3 - len(shape)) + shape
        rows.append(Row((f"params/encoder/{ours}",), theirs, reshaped(shape, theirs_shape)))
    if sizes.use_pre_norm and names.pre_norm:
        rows += norm_rows("encoder/pre_norm", names.pre_norm)
    for layer in range(sizes.num_layers):
        rows += block_rows(f"encoder/block_{layer}", names.block(layer), names.layers)
    return rows + norm_rows("encoder/norm", names.norm) + dense_rows("head", names.head)


def _hub_config(sizes: ViTSizes) -> dict[str, Any]:
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": sizes.features,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": sizes.mlp_features,
        "hidden_act": activation_name(sizes.activation),
        "layer_norm_eps": sizes.norm_epsilon,
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "num_labels": sizes.num_classes,
        # Not read there, where a file of its own has them.
        "image_mean": list(sizes.mean),
        "image_std": list(sizes.std),
    }


def _prepare_timm(sizes: ViTSizes) -> ImagePreparation:
    side = sizes.image_size
    return ImagePreparation(
        size=(side, side), shorter_side=248 if side == _USUAL_SIDE else side, interpolation="bicubic"
    )


def _prepare_torchvision(sizes: ViTSizes) -> ImagePreparation:
    side = sizes.image_size
    # H/14 and what was fine-tuned at larger sides are SWAG's.
    if side == _USUAL_SIDE and sizes.patch_size != 14:
        is_large = (sizes.features, sizes.patch_size) == (1024, 16)
        return ImagePreparation(size=(side, side), shorter_side=242 if is_large else 256)
    return ImagePreparation(size=(side, side), shorter_side=side, interpolation="bicubic")


def _architecture(name: str, names: _Names, **fields: Any) -> Architecture:
    return Architecture(
        name=name,
        build=_build,
        rows=partial(_rows, names),
        example=lambda sizes: (np.zeros((1, sizes.patch_size, sizes.patch_size, 3), np.float32),),
        **fields,
    )


VIT_TIMM = _architecture("vit-timm", _TIMM, recognise=_recognise_timm, preparation=_prepare_timm)
VIT_TORCHVISION = _architecture(
    "vit-torchvision",
    _TORCHVISION,
    recognise=partial(_recognise_torchvision, _TORCHVISION),
    preparation=_prepare_torchvision,
)
# The published files were written when the perceptron's layers had names; torchvision renames them when it loads.
VIT_TORCHVISION_FILES = _architecture(
    "vit-torchvision-files",
    _TORCHVISION_FILES,
    recognise=partial(_recognise_torchvision, _TORCHVISION_FILES),
    preparation=_prepare_torchvision,
)
VIT_TRANSFORMERS = _architecture(
    "vit-transformers",
    _TRANSFORMERS,
    recognise=_recognise_transformers,
    preparation=lambda sizes: ImagePreparation(size=(sizes.image_size, sizes.image_size)),
    hub_config=_hub_config,
)
