"""What the tables of Transformers share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fusionjax.layers.activations import ActivationKind
from fusionjax.pretrained.layouts import CONV, DENSE, Layout, split
from fusionjax.pretrained.rows import Row, Shapes, dense_rows, norm_rows

# Published models whose heads have not 64 features.
_HEADS_OF_IMAGES = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
_HEADS_OF_TEXTS = {384: 12, 1152: 16}
_HEAD = 64

# As transformers calls them.
_ACTIVATIONS: dict[str, ActivationKind] = {
    "gelu": "gelu_exact",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}


class BlockNames(NamedTuple):
    """The names of the layers of a block, after its own.

    Attributes:
        attention_norm: of the attention.
        attention: three layers, query, key and value; or one weight and one bias that hold all three.
        out: the attention's last layer.
        mlp_norm: of the perceptron.
        mlp: its two layers.
    """

    attention_norm: str
    attention: tuple[str, ...]
    out: str
    mlp_norm: str
    mlp: tuple[str, str]


# Of CLIP and SigLIP.
TOWER_NAMES = BlockNames(
    "layer_norm1",
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.out_proj",
    "layer_norm2",
    ("mlp.fc1", "mlp.fc2"),
)


def block_rows(ours: str, theirs: str, names: BlockNames) -> list[Row]:
    """The rows of a block.

    Args:
        ours: path of the block below `params`.
        theirs: its name.
        names: of its layers.

    Returns:
        The rows.

    Example:
        >>> [row.theirs for row in block_rows("block_0", "layers.0", TOWER_NAMES)][:2]
        ['layers.0.layer_norm1.weight', 'layers.0.layer_norm1.bias']
    """
    rows = norm_rows(f"{ours}/self_attention_norm", f"{theirs}.{names.attention_norm}")
    rows += attention_rows(f"{ours}/self_attention", theirs, names.attention, names.out)
    rows += norm_rows(f"{ours}/mlp_norm", f"{theirs}.{names.mlp_norm}")
    for layer, name in zip(("mlp_in", "mlp_out"), names.mlp, strict=True):
        rows += dense_rows(f"{ours}/{layer}", f"{theirs}.{name}")
    return rows


def attention_rows(ours: str, theirs: str, names: Sequence[str], out: str) -> list[Row]:
    """The rows of multi-head attention.

    Args:
        ours: path of the layer below `params`.
        theirs: its name.
        names: three layers, query, key and value; or one weight and one bias that hold all three.
        out: the last layer.

    Returns:
        The rows.

    Example:
        >>> len(attention_rows("pool", "head", ("in_proj_weight", "in_proj_bias"), "out_proj"))
        4
    """
    parts = [f"{ours}/{name}" for name in ("query", "key", "value")]
    rows = []
    if len(names) == len(parts):
        for part, name in zip(parts, names, strict=True):
            rows += dense_rows(part, f"{theirs}.{name}")
    else:
        weight, bias = names
        kernels, biases = (tuple(f"params/{part}/{leaf}" for part in parts) for leaf in ("kernel", "bias"))
        rows += [
            Row(kernels, f"{theirs}.{weight}", split(len(parts), DENSE)),
            Row(biases, f"{theirs}.{bias}", split(len(parts))),
        ]
    return rows + dense_rows(f"{ours}/out", f"{theirs}.{out}")


def bert_block_rows(
    ours: str, theirs: str, *, norm: tuple[str, str] = ("weight", "bias"), has_cross_attention: bool = False
) -> list[Row]:
    """The rows of a block as BERT has it, which ends in a normalisation.

    Args:
        ours: path of the block below `params`.
        theirs: its name.
        norm: names of a normalisation's two tensors.
        has_cross_attention: whether it also reads a memory.

    Returns:
        The rows.

    Example:
        >>> [row.theirs for row in bert_block_rows("block_0", "layer.0")][-2:]
        ['layer.0.output.LayerNorm.weight', 'layer.0.output.LayerNorm.bias']
    """
    rows = []
    parts = (("self_attention", "attention"), ("cross_attention", "crossattention"))
    for part, name in parts if has_cross_attention else parts[:1]:
        name = f"{theirs}.{name}"
        rows += attention_rows(f"{ours}/{part}", name, ("self.query", "self.key", "self.value"), "output.dense")
        rows += norm_rows(f"{ours}/{part}_norm", f"{name}.output.LayerNorm", norm)
    rows += dense_rows(f"{ours}/mlp_in", f"{theirs}.intermediate.dense")
    rows += dense_rows(f"{ours}/mlp_out", f"{theirs}.output.dense")
    return rows + norm_rows(f"{ours}/mlp_norm", f"{theirs}.output.LayerNorm", norm)


def patch_layout(patch_size: int, channels: int = 3) -> Layout:
    """A convolution without overlap as the kernel of a dense layer that reads whole patches.

    Args:
        patch_size: height and width of a patch.
        channels: of the images.

    Returns:
        The layout.

    Example:
        >>> patch_layout(2).to_ours(np.ones((5, 3, 2, 2)))[0].shape
        (12, 5)
    """

    def to_ours(tensor: np.ndarray) -> list[np.ndarray]:
        return [CONV.to_ours(tensor)[0].reshape(patch_size * patch_size * channels, -1)]

    def to_theirs(ours: Sequence[np.ndarray]) -> np.ndarray:
        return CONV.to_theirs([ours[0].reshape(patch_size, patch_size, channels, -1)])

    return Layout(to_ours, to_theirs)


def count_heads(features: int, config: Mapping[str, Any], *, is_text: bool = False) -> int | None:
    """The number of heads, which no shape tells.

    Args:
        features: of the tokens.
        config: of the model; its `num_attention_heads` counts.
        is_text: of a text encoder.

    Returns:
        Without the config that of the published models of this width, mostly with 64 features each; None where that
        would be no whole number.

    Example:
        >>> count_heads(768, {}), count_heads(384, {}, is_text=True), count_heads(12, {"num_attention_heads": 2})
        (12, 12, 2)
    """
    heads = config.get("num_attention_heads")
    if heads is None:
        heads = (_HEADS_OF_TEXTS if is_text else _HEADS_OF_IMAGES).get(features, features / _HEAD)
    return int(heads) if heads and heads == int(heads) and features % int(heads) == 0 else None


def side_of(length: int) -> int | None:
    """The side of a square grid of so many cells; None where there is none.

    Args:
        length: number of cells.

    Returns:
        The number of its rows.

    Example:
        >>> side_of(49), side_of(50)
        (7, None)
    """
    side = math.isqrt(max(length, 0))
    return side if side and side * side == length else None


def square_patches(shape: Sequence[int]) -> int | None:
    """The side of the square patches that a convolution reads; None where it reads none of three channels.

    Args:
        shape: of its weight.

    Returns:
        The side, in pixels.

    Example:
        >>> square_patches((768, 3, 16, 16)), square_patches((768, 768))
        (16, None)
    """
    return shape[2] if len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3] else None


def image_side(patches: int, patch_size: int, config: Mapping[str, Any]) -> int:
    """The height and width of the images that the positions were learned with.

    Args:
        patches: along a side.
        patch_size: in pixels.
        config: of the model; its `image_size` counts where it holds as many patches.

    Returns:
        The side, in pixels.

    Example:
        >>> image_side(27, 14, {"image_size": 384}), image_side(27, 14, {})
        (384, 378)
    """
    side = config.get("image_size")
    return side if isinstance(side, int) and side // patch_size == patches else patches * patch_size


def activation_from(name: str) -> ActivationKind | None:
    """Our name of an activation of transformers.

    Args:
        name: theirs.

    Returns:
        Ours; None where there is none.

    Example:
        >>> activation_from("gelu"), activation_from("silu")
        ('gelu_exact', None)
    """
    return _ACTIVATIONS.get(name)


def activation_name(kind: ActivationKind) -> str:
    """The name in transformers of an activation.

    Args:
        kind: ours.

    Returns:
        Theirs.

    Example:
        >>> activation_name("gelu_tanh")
        'gelu_pytorch_tanh'
    """
    return next(name for name, one in _ACTIVATIONS.items() if one == kind)


def is_position_counter(name: str) -> bool:
    """Says whether a tensor only counts positions or segments.

    Args:
        name: of the tensor.

    Returns:
        True for the buffers that older versions of transformers stored.

    Example:
        >>> is_position_counter("text_model.embeddings.position_ids")
        True
    """
    return name.endswith(("embeddings.position_ids", "embeddings.token_type_ids"))


def has_more(rows: Sequence[Row], shapes: Shapes) -> bool:
    """Says whether there are tensors that no row names, such as those of a relative with other layers.

    Args:
        rows: of a table.
        shapes: of the tensors by name.

    Returns:
        Whether there is one, counters of positions aside.

    Example:
        >>> has_more([Row(("params/a",), "a")], {"a": (3,), "b": (5,)})
        True
    """
    named = {row.theirs for row in rows}
    return any(name not in named and not is_position_counter(name) for name in shapes)
