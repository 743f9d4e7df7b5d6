"""The published sizes, what is published of them, and what they count to here."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fusionjax.encoders.convnext import convnext
from fusionjax.encoders.convolutional import IMAGENET_MEAN, IMAGENET_STD
from fusionjax.encoders.efficientnet_lite import efficientnet_lite
from fusionjax.encoders.resnet import resnet
from fusionjax.encoders.vgg import vgg
from fusionjax.encoders.vision_transformer import vision_transformer
from fusionjax.errors import InputError
from fusionjax.ops.implementations import only_references
from fusionjax.pretrained.alexnet import ALEXNET_TORCHVISION, AlexNetSizes
from fusionjax.pretrained.architecture import Architecture
from fusionjax.pretrained.bert import BERT_TRANSFORMERS, BertSizes
from fusionjax.pretrained.blip import BLIP_TRANSFORMERS, BlipSizes
from fusionjax.pretrained.clip import CLIP_TRANSFORMERS
from fusionjax.pretrained.convnext import CONVNEXT_TORCHVISION, ConvNeXtSizes
from fusionjax.pretrained.counting import count_operations
from fusionjax.pretrained.efficientnet_lite import EFFICIENTNET_LITE_TIMM, EfficientNetLiteSizes
from fusionjax.pretrained.resnet import RESNET_TORCHVISION, ResNetSizes
from fusionjax.pretrained.siglip import SIGLIP_TRANSFORMERS
from fusionjax.pretrained.towers import TowerSizes, TwoTowerSizes
from fusionjax.pretrained.vgg import VGG_TORCHVISION, VGGSizes
from fusionjax.pretrained.vit import VIT_TIMM, VIT_TORCHVISION, ViTSizes

_CLASSES = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A published size.

    Attributes:
        name: to ask for it by, such as `"resnet50"`.
        architecture: under the names of the library that publishes it.
        sizes: of the model.
        parameters: how many it has, statistics of batch normalisation not among them.
        image_size: height and width of the photographs, in pixels; 0 for a model of text alone.
        length: of a text, in tokens; 0 for a model of photographs alone.
        giga: 10^9 multiply-adds of one example, as its source rounds it; None where it gives none.
        per_multiply_add: how many operations the source counts for one.
        source: where both are published: `num_params` and `_ops` of the weights in torchvision 0.28; timm's
            `results/benchmark-infer-amp-nhwc-pt113-cu117-rtx3090.csv`, where each normalised number counts as two;
            timm's model cards of DeiT; `docs/model_profile.csv` of open_clip; the parameters of transformers' model.
    """

    name: str
    architecture: Architecture
    sizes: Any
    parameters: int
    image_size: int = 0
    length: int = 0
    giga: str | None = None
    per_multiply_add: int = 1
    source: str

    @property
    def family(self) -> str:
        """The architecture's name without that of the library, such as `"resnet"`."""
        return self.architecture.name.rpartition("-")[0]

    def example(self) -> Sequence[Any]:
        """Zeros of one photograph, one text, or both, at the published size: arguments of the model."""

        def enlarge(array: np.ndarray) -> np.ndarray:
            size = (1, self.image_size, self.image_size, 3) if array.ndim == 4 else (1, self.length)
            return np.zeros(size, array.dtype)

        return jax.tree.map(enlarge, self.architecture.example(self.sizes))


def count_parameters(published: Published) -> int:
    """Counts the parameters of a published size as it is built here.

    Args:
        published: of `PUBLISHED`.

    Returns:
        How many numbers are learned.

    Example:
        >>> count_parameters(find_published("resnet18"))
        11689512
    """
    return sum(leaf.size for leaf in jax.tree.leaves(_variables(published)["params"]))


def count_multiply_adds(published: Published) -> int:
    """Counts the multiply-adds of the forward pass of one example at the published size.

    Those of matrix products and convolutions as the equations have them, padding included, whatever implementation
    runs; normalisations, activations and sums are not counted.

    Args:
        published: of `PUBLISHED`.

    Returns:
        Multiplications with an addition each.

    Example:
        >>> count_multiply_adds(find_published("alexnet"))
        714188480
    """
    return _operations(published) // 2


def find_published(name: str) -> Published:
    """Finds a published size.

    Args:
        name: such as `"vit-b16"`.

    Returns:
        The size.

    Raises:
        InputError: there is none of that name.
    """
    for one in PUBLISHED:
        if one.name == name:
            return one
    raise InputError(
        f"the published size must be one of {', '.join(one.name for one in PUBLISHED)}; got {name!r}. Choose one."
    )


def published_table() -> str:
    """Makes a table of all published sizes in Markdown: counts of ours beside those of their sources.

    Returns:
        Lines of text.
    """
    heading = "| size | parameters | input | 10^9 multiply-adds | as published | source |"
    return "\n".join([heading, "| --- | --- | --- | --- | --- | --- |", *(table_row(one) for one in PUBLISHED)])


def table_row(one: Published) -> str:
    """Makes a line of `published_table`.

    Args:
        one: of `PUBLISHED`.

    Returns:
        The line.
    """
    sides = [f"{one.image_size}x{one.image_size}"] * bool(one.image_size) + [f"{one.length} tokens"] * bool(one.length)
    published = "-" if one.giga is None else one.giga
    published += f" / {one.per_multiply_add}" if one.per_multiply_add > 1 else ""
    giga = count_multiply_adds(one) / 1e9
    cells = one.name, f"{count_parameters(one):,}", ", ".join(sides), f"{giga:.3f}", published, one.source
    return f"| {' | '.join(cells)} |"


@functools.cache
def _operations(published: Published) -> int:
    model = published.architecture.build(published.sizes)
    with only_references():
        program = jax.make_jaxpr(model.apply)(_variables(published), *published.example())
    return count_operations(program.jaxpr)


@functools.cache
def _variables(published: Published) -> Any:
    model, example = published.architecture.build(published.sizes), published.architecture.example(published.sizes)
    return jax.eval_shape(model.init, jax.random.key(0), *example)


def _resnet(depth: int) -> ResNetSizes:
    encoder = resnet(depth)
    return ResNetSizes(
        stage_sizes=tuple(encoder.stage_sizes),
        features=tuple(encoder.features),
        stem_features=encoder.stem_features,
        is_bottleneck=encoder.is_bottleneck,
        num_classes=_CLASSES,
    )


def _vgg(depth: int) -> VGGSizes:
    stages = tuple(tuple(stage) for stage in vgg(depth).stages)
    return VGGSizes(stages=stages, hidden_features=(4096, 4096), pooled_side=7, num_classes=_CLASSES)


def _lite(variant: int) -> EfficientNetLiteSizes:
    encoder = efficientnet_lite(variant)
    return EfficientNetLiteSizes(
        stage_sizes=tuple(encoder.stage_sizes),
        features=tuple(encoder.features),
        stem_features=encoder.stem_features,
        head_features=encoder.head_features,
        num_classes=_CLASSES,
    )


def _convnext(size: Any) -> ConvNeXtSizes:
    encoder = convnext(size)
    return ConvNeXtSizes(
        stage_sizes=tuple(encoder.stage_sizes),
        features=tuple(encoder.features),
        pooled_epsilon=1e-6,
        num_classes=_CLASSES,
    )


def _vit(size: Any, patch_size: int, image_size: int = 224, *, is_torchvision: bool = True) -> ViTSizes:
    encoder = vision_transformer(size)
    channels: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if is_torchvision else {}
    return ViTSizes(
        features=encoder.features,
        num_layers=encoder.num_layers,
        num_heads=encoder.num_heads,
        mlp_features=4 * encoder.features,
        patch_size=patch_size,
        image_size=image_size,
        num_classes=_CLASSES,
        norm_epsilon=1e-6,
        **channels,
    )


def _bert(features: int, num_layers: int, num_heads: int) -> BertSizes:
    return BertSizes(
        vocab_size=30522,
        features=features,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_features=4 * features,
        max_length=512,
        num_segments=2,
        norm_epsilon=1e-12,
        activation="gelu_exact",
        pooling="first",
        use_pooler=True,
        padding_id=0,
    )


def _clip_tower(features: int, num_layers: int) -> TowerSizes:
    return TowerSizes(
        features=features,
        num_layers=num_layers,
        num_heads=features // 64,
        mlp_features=4 * features,
        norm_epsilon=1e-5,
        activation="quick_gelu",
    )


def _clip(image: TowerSizes, text: TowerSizes, patch_size: int, image_size: int = 224) -> TwoTowerSizes:
    return TwoTowerSizes(
        image=image,
        text=text,
        patch_size=patch_size,
        image_size=image_size,
        vocab_size=49408,
        max_length=77,
        features=text.features,
        end_id=None,
    )


def _blip(features: int, num_layers: int) -> BlipSizes:
    def tower(features: int, num_layers: int, epsilon: float) -> TowerSizes:
        return TowerSizes(
            features=features,
            num_layers=num_layers,
            num_heads=features // 64,
            mlp_features=4 * features,
            norm_epsilon=epsilon,
            activation="gelu_exact",
        )

    return BlipSizes(
        image=tower(features, num_layers, 1e-5),
        text=tower(768, 12, 1e-12),
        patch_size=16,
        image_size=384,
        vocab_size=30524,
        max_length=512,
        start_id=30522,
        end_id=102,
        padding_id=0,
    )


def _siglip(
    features: int, num_layers: int, num_heads: int, mlp_features: int, patch_size: int, image_size: int
) -> TwoTowerSizes:
    tower = TowerSizes(
        features=features,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_features=mlp_features,
        norm_epsilon=1e-6,
        activation="gelu_tanh",
    )
    return TwoTowerSizes(
        image=tower,
        text=tower,
        patch_size=patch_size,
        image_size=image_size,
        vocab_size=32000,
        max_length=64,
        features=features,
        end_id=None,
    )


_TORCHVISION, _TIMM, _CARDS, _OPEN_CLIP, _TRANSFORMERS = (
    "torchvision",
    "timm",
    "timm's cards",
    "open_clip",
    "transformers",
)


def _torchvision(
    architecture: Architecture, name: str, sizes: Any, parameters: int, giga: str, image_size: int = 224
) -> Published:
    return Published(
        name=name,
        architecture=architecture,
        sizes=sizes,
        parameters=parameters,
        image_size=image_size,
        giga=giga,
        source=_TORCHVISION,
    )


def _two_towers(
    architecture: Architecture, name: str, sizes: TwoTowerSizes, parameters: int, giga: str | None
) -> Published:
    return Published(
        name=name,
        architecture=architecture,
        sizes=sizes,
        parameters=parameters,
        image_size=sizes.image_size,
        length=sizes.max_length,
        giga=giga,
        per_multiply_add=1 if giga is None else 2,
        source=_OPEN_CLIP,
    )


_ALEXNET = AlexNetSizes(
    features=(64, 192, 384, 256, 256), hidden_features=(4096, 4096), pooled_side=6, num_classes=_CLASSES
)

PUBLISHED: tuple[Published, ...] = (
    _torchvision(ALEXNET_TORCHVISION, "alexnet", _ALEXNET, 61_100_840, "0.714"),
    _torchvision(VGG_TORCHVISION, "vgg11", _vgg(11), 132_863_336, "7.609"),
    _torchvision(VGG_TORCHVISION, "vgg13", _vgg(13), 133_047_848, "11.308"),
    _torchvision(VGG_TORCHVISION, "vgg16", _vgg(16), 138_357_544, "15.47"),
    _torchvision(VGG_TORCHVISION, "vgg19", _vgg(19), 143_667_240, "19.632"),
    _torchvision(RESNET_TORCHVISION, "resnet18", _resnet(18), 11_689_512, "1.814"),
    _torchvision(RESNET_TORCHVISION, "resnet34", _resnet(34), 21_797_672, "3.664"),
    _torchvision(RESNET_TORCHVISION, "resnet50", _resnet(50), 25_557_032, "4.089"),
    _torchvision(RESNET_TORCHVISION, "resnet101", _resnet(101), 44_549_160, "7.801"),
    _torchvision(RESNET_TORCHVISION, "resnet152", _resnet(152), 60_192_808, "11.514"),
    *(
        Published(
            name=f"efficientnet-lite{variant}",
            architecture=EFFICIENTNET_LITE_TIMM,
            sizes=_lite(variant),
            parameters=parameters,
            image_size=side,
            giga=giga,
            source=_TIMM,
        )
        for variant, (parameters, side, giga) in enumerate(
            (
                (4_652_008, 224, "0.40"),
                (5_416_680, 240, "0.62"),
                (6_092_072, 260, "0.89"),
                (8_197_096, 300, "1.65"),
                (13_006_568, 380, "4.04"),
            )
        )
    ),
    _torchvision(CONVNEXT_TORCHVISION, "convnext-t", _convnext("tiny"), 28_589_128, "4.456"),
    _torchvision(CONVNEXT_TORCHVISION, "convnext-s", _convnext("small"), 50_223_688, "8.684"),
    _torchvision(CONVNEXT_TORCHVISION, "convnext-b", _convnext("base"), 88_591_464, "15.355"),
    _torchvision(CONVNEXT_TORCHVISION, "convnext-l", _convnext("large"), 197_767_336, "34.361"),
    *(
        Published(
            name=f"vit-{size[:2] if size == 'tiny' else size[:1]}16",
            architecture=VIT_TIMM,
            sizes=_vit(size, 16, is_torchvision=False),
            parameters=parameters,
            image_size=224,
            giga=giga,
            source=_CARDS,
        )
        for size, parameters, giga in (("tiny", 5_717_416, "1.3"), ("small", 22_050_664, "4.6"))
    ),
    _torchvision(VIT_TORCHVISION, "vit-b16", _vit("base", 16), 86_567_656, "17.564"),
    _torchvision(VIT_TORCHVISION, "vit-b16-384", _vit("base", 16, 384), 86_859_496, "55.484", 384),
    _torchvision(VIT_TORCHVISION, "vit-b32", _vit("base", 32), 88_224_232, "4.409"),
    _torchvision(VIT_TORCHVISION, "vit-l16", _vit("large", 16), 304_326_632, "61.555"),
    _torchvision(VIT_TORCHVISION, "vit-l32", _vit("large", 32), 306_535_400, "15.378"),
    _torchvision(VIT_TORCHVISION, "vit-h14", _vit("huge", 14), 632_045_800, "167.295"),
    *(
        Published(
            name=name,
            architecture=BERT_TRANSFORMERS,
            sizes=_bert(*sizes),
            parameters=parameters,
            length=length,
            source=_TRANSFORMERS,
        )
        for name, sizes, parameters, length in (
            ("bert-base", (768, 12, 12), 109_482_240, 512),
            ("bert-large", (1024, 24, 16), 335_141_888, 512),
            ("minilm-l6", (384, 6, 12), 22_713_216, 256),
        )
    ),
    _two_towers(
        CLIP_TRANSFORMERS, "clip-vit-b32", _clip(_clip_tower(768, 12), _clip_tower(512, 12), 32), 151_277_313, "14.78"
    ),
    _two_towers(
        CLIP_TRANSFORMERS, "clip-vit-b16", _clip(_clip_tower(768, 12), _clip_tower(512, 12), 16), 149_620_737, "41.09"
    ),
    _two_towers(
        CLIP_TRANSFORMERS, "clip-vit-l14", _clip(_clip_tower(1024, 24), _clip_tower(768, 12), 14), 427_616_513, "175.33"
    ),
    _two_towers(
        CLIP_TRANSFORMERS,
        "clip-vit-l14-336",
        _clip(_clip_tower(1024, 24), _clip_tower(768, 12), 14, 336),
        427_944_193,
        "395.22",
    ),
    _two_towers(SIGLIP_TRANSFORMERS, "siglip-b16", _siglip(768, 12, 12, 3072, 16, 224), 203_155_970, "46.44"),
    _two_towers(SIGLIP_TRANSFORMERS, "siglip-so400m-384", _siglip(1152, 27, 16, 4304, 14, 378), 877_960_498, "723.48"),
    *(
        Published(
            name=name,
            architecture=BLIP_TRANSFORMERS,
            sizes=_blip(*shape),
            parameters=parameters,
            image_size=384,
            length=20,
            source=_TRANSFORMERS,
        )
        for name, shape, parameters in (
            ("blip-base", (768, 12), 223_971_644),
            ("blip-large", (1024, 24), 446_290_492),
        )
    ),
)
