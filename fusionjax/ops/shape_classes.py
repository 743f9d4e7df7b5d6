"""Shape classes: calls of an operation for which the same implementation is the best, as far as has been measured."""

import math
from collections.abc import Sequence

from fusionjax.ops.convolution_direct import MOST_TERMS

# Where the bands of widths end. A convolution is as wide as the fewer of its channels and features.
_FEW_CHANNELS, _SOME_CHANNELS = 24, 64
_NARROW_STATE, _MIDDLE_STATE = 64, 256
_LONG_SEQUENCE = 4096
_FEW_QUERIES = 16
_MANY_LOGITS = 2**13  # of a head
_SMALL_SIDE = 12  # of an image; much of Winograd's tiles of 4x4 outputs would be empty
_TILE, _MOST_OF_FEW_TILES = 4, 31  # for fewer tiles of 4x4 outputs Winograd's transformed kernel is most of the work


def convolution_class(
    images: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int] = (1, 1),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> str:
    """Classifies a two-dimensional convolution.

    Args:
        images: shape `[batch, height, width, channels]`.
        kernel: shape `[kernel_height, kernel_width, channels / groups, features]`.
        strides: of the call.
        dilation: of the call.
        groups: of the call.

    Returns:
        The class, in words.

    Example:
        >>> convolution_class((8, 56, 56, 32), (3, 3, 32, 64))
        '3x3, some channels'
    """
    if groups > 1:
        return "depthwise" if kernel[2] == 1 else "groups"
    # With steps a kernel of one pixel does the same to fewer pixels.
    if (kernel[0], kernel[1]) != (1, 1):
        if tuple(strides) != (1, 1):
            return f"strides, {_width(kernel[2:])} channels"
        if tuple(dilation) != (1, 1):
            return "dilation"
    tiles = images[0] * math.prod(-(-side // _TILE) for side in images[1:3])
    has_few_tiles = (kernel[0], kernel[1]) == (3, 3) and tiles <= _MOST_OF_FEW_TILES
    return "3x3, few tiles" if has_few_tiles and min(kernel[2:]) >= _FEW_CHANNELS else _kernel_class(kernel)


def pooled_convolution_class(images: Sequence[int], kernel: Sequence[int]) -> str:
    """Classifies a convolution with ReLU and pooling.

    Args:
        images: shape `[batch, height, width, channels]`.
        kernel: shape `[kernel_height, kernel_width, channels, features]`.

    Returns:
        The class, in words.

    Example:
        >>> pooled_convolution_class((8, 112, 112, 3), (3, 3, 3, 32))
        'few terms'
    """
    if kernel[0] * kernel[1] == 1:
        return _kernel_class(kernel)
    if math.prod(kernel[:3]) <= MOST_TERMS:
        return "few terms"
    return "small images" if min(images[1:3]) < _SMALL_SIDE else _kernel_class(kernel)


def sequence_convolution_class(inputs: Sequence[int], kernel: Sequence[int], *, groups: int = 1) -> str:
    """Classifies a one-dimensional convolution.

    Args:
        inputs: shape `[batch, length, channels]`.
        kernel: shape `[kernel_length, channels / groups, features]`.
        groups: of the call.

    Returns:
        The class, in words.

    Example:
        >>> sequence_convolution_class((8, 16000, 1), (25, 1, 64))
        'one channel, long'
    """
    if groups > 1:
        return "depthwise" if kernel[1] == 1 else "groups"
    if kernel[1] > 1:
        return "more channels"
    return f"one channel, {'long' if inputs[1] >= _LONG_SEQUENCE else 'short'}"


def pooling_class(images: Sequence[int], window: Sequence[int], strides: Sequence[int]) -> str:
    """Classifies a max-pooling.

    Args:
        images: shape `[batch, height, width, channels]`.
        window: of the call.
        strides: of the call.

    Returns:
        The class, in words.

    Example:
        >>> pooling_class((8, 56, 56, 32), (2, 2), (2, 2))
        '2x2'
    """
    return "2x2" if tuple(window) == (2, 2) == tuple(strides) else "other windows"


def recurrence_class(batch: int, length: int, features: int) -> str:
    """Classifies a recurrence over time.

    Args:
        batch: examples.
        length: steps.
        features: of the state.

    Returns:
        The class, in words.

    Example:
        >>> recurrence_class(32, 100, 512)
        'wide state'
    """
    if length == 1:
        return "one step"
    if batch == 1:
        return "one example"
    return f"{'narrow' if features < _NARROW_STATE else 'middle' if features < _MIDDLE_STATE else 'wide'} state"


def attention_class(query: Sequence[int], key: Sequence[int]) -> str:
    """Classifies an attention.

    Args:
        query: shape `[..., queries, heads, head_dim]`.
        key: shape `[..., keys, heads, head_dim]`.

    Returns:
        The class, in words.

    Example:
        >>> attention_class((8, 1, 8, 64), (8, 100, 8, 64))
        'few queries'
    """
    if query[-3] < _FEW_QUERIES:
        return "few queries"
    return "long" if query[-3] * key[-3] >= _MANY_LOGITS else "short"


def _kernel_class(kernel: Sequence[int]) -> str:
    size = {(1, 1): "pointwise", (3, 3): "3x3"}.get((kernel[0], kernel[1]), "other kernels")
    return f"{size}, {_width(kernel[2:])} channels"


def _width(channels: Sequence[int]) -> str:
    width = min(channels)
    return "few" if width < _FEW_CHANNELS else "some" if width < _SOME_CHANNELS else "many"
