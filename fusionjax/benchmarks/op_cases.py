"""The operations that `bench ops` measures: shape classes, random shapes, and what a user of plain JAX would write."""

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import ops
from fusionjax.benchmarks.flax_ops import PLAIN, Arrays
from fusionjax.ops.choices import Selection, record_selections


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """An operation at one shape.

    Attributes:
        op: name in `fusionjax.ops`.
        shapes: of the arrays, by argument.
        settings: the other arguments.
        is_random: the shapes were drawn.
    """

    op: str
    shapes: dict[str, tuple[int, ...]]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    is_random: bool = False

    def arrays(self, dtype: str) -> Arrays:
        """Draws the arrays."""
        random = np.random.default_rng(0)
        drawn = {}
        for name, shape in self.shapes.items():
            scale = 1.0 if name in _INPUTS else 0.1 if len(shape) == 1 else float(np.prod(shape[:-1])) ** -0.5
            drawn[name] = jnp.asarray(scale * random.standard_normal(shape, np.float32)).astype(dtype)
        return drawn

    def ours(self, implementation: str | None) -> Callable[[Arrays], jax.Array]:
        """Returns the library's operation by one implementation; None for its own choice."""
        function: Any = getattr(ops, self.op)
        read = _READ.get(self.op, lambda output: output)
        chosen = {} if implementation is None else {"implementation": implementation}
        return lambda arrays: read(function(**arrays, **self.settings, **chosen))

    def plain(self) -> Callable[[Arrays], jax.Array]:
        """Returns what plain Flax or `jax.lax` offers for it."""
        return partial(PLAIN[self.op], settings=self.settings)

    def selection(self, dtype: str) -> Selection:
        """Asks the operation for its shape class and what it runs of its own choice."""
        with record_selections() as selections:
            jax.eval_shape(self.ours(None), self._structs(dtype))
        return selections[0] if selections else Selection(self.op, "all", dtype, "the only one", None)

    def _structs(self, dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
        return {name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for name, shape in self.shapes.items()}

    def implementations(self) -> list[str]:
        """Asks the operation for the names of its implementations; empty where there is no choice."""
        try:
            jax.eval_shape(self.ours("?"), self._structs("float32"))
        except TypeError:
            return []
        except ValueError as error:
            listed, _, _ = str(error).partition("; got")
            return re.findall(r"'([\w-]+)'", listed)
        return []


# Images and kernel, images and window, inputs and kernel, batch and length and features, query and keys: a few sizes of
# each shape class.
_CONVOLUTIONS = (
    ((8, 112, 112, 3), (3, 3, 3, 32)),
    ((8, 32, 32, 12), (3, 3, 12, 12)),
    ((8, 56, 56, 32), (3, 3, 32, 64)),
    ((2, 28, 28, 48), (3, 3, 48, 48)),
    ((8, 28, 28, 128), (3, 3, 128, 128)),
    ((2, 54, 54, 64), (3, 3, 64, 128)),
    ((32, 7, 7, 128), (3, 3, 128, 128)),
    ((8, 40, 40, 20), (1, 1, 20, 48)),
    ((4, 30, 40, 32), (1, 1, 32, 48)),
    ((8, 28, 28, 128), (1, 1, 128, 256)),
    ((8, 48, 48, 12), (5, 5, 12, 24)),
    ((8, 28, 28, 32), (5, 5, 32, 48)),
    ((4, 28, 28, 64), (5, 5, 64, 64)),
)
# A first layer whose outputs are far larger than a cache, and images too small for tiles.
_POOLED_ONLY = (
    ((16, 224, 224, 3), (3, 3, 3, 32)),
    ((8, 10, 10, 32), (3, 3, 32, 64)),
)
_POOLINGS = (
    ((8, 112, 112, 32), (2, 2)),
    ((8, 28, 28, 128), (2, 2)),
    ((1, 114, 114, 64), (3, 3)),
    ((8, 28, 28, 256), (3, 3)),
    ((8, 114, 114, 64), (3, 3)),
)
_SEQUENCE_CONVOLUTIONS = (
    ((4, 16000, 1), (25, 1, 64)),
    ((8, 400, 1), (9, 1, 32)),
    ((8, 200, 16), (3, 16, 32)),
    ((8, 400, 64), (9, 64, 64)),
)
_RECURRENCES = (
    (1, 40, 64),
    (1, 64, 256),
    (16, 30, 32),
    (28, 50, 48),
    (16, 24, 96),
    (32, 64, 128),
    (32, 64, 256),
    (32, 40, 512),
)
_ATTENTIONS = (
    ((12, 1, 8, 64), 100),
    ((8, 8, 8, 64), 64),
    ((12, 28, 8, 20), 40),
    ((9, 39, 3, 35), 29),
    ((4, 47, 1, 4), 63),
    ((8, 50, 8, 64), 50),
    ((8, 100, 1, 512), 100),
    ((2, 197, 12, 64), 197),
    ((1, 512, 8, 64), 512),
)

_INPUTS = ("images", "inputs", "query", "key", "value")


def list_cases() -> list[Case]:
    """Lists an operation and shape class each, all of one call's work in milliseconds rather than seconds.

    Returns:
        The cases.

    Example:
        >>> sorted({case.op for case in list_cases()})[:2]
        ['attention', 'conv1d']
    """
    return [
        *[_conv(images, kernel) for images, kernel in _CONVOLUTIONS],
        _conv((1, 14, 14, 256), (3, 3, 256, 256)),
        _conv((1, 7, 7, 512), (3, 3, 512, 512)),
        _conv((8, 56, 56, 32), (3, 3, 32, 64), strides=(2, 2)),
        _conv((8, 28, 28, 128), (3, 3, 128, 128), strides=(2, 2)),
        _conv((1, 14, 14, 512), (3, 3, 512, 512), strides=(2, 2)),
        _conv((8, 28, 28, 64), (1, 1, 64, 128), strides=(2, 2)),
        _conv((8, 64, 64, 3), (7, 7, 3, 32), strides=(2, 2)),
        _conv((8, 28, 28, 32), (3, 3, 32, 32), dilation=(2, 2)),
        _conv((8, 28, 28, 64), (3, 3, 1, 64), groups=64),
        _conv((8, 56, 56, 32), (3, 3, 1, 32), groups=32),
        _conv((8, 7, 7, 192), (5, 5, 1, 192), groups=192),
        _conv((8, 28, 28, 64), (3, 3, 4, 64), groups=16),
        *[_pooled_conv(images, kernel) for images, kernel in (*_CONVOLUTIONS, *_POOLED_ONLY)],
        *[_pooling(images, window) for images, window in _POOLINGS],
        *[_conv1d(inputs, kernel) for inputs, kernel in _SEQUENCE_CONVOLUTIONS],
        *[_recurrent(op, *sizes) for op in ("lstm", "gru", "elman") for sizes in _RECURRENCES],
        *[_attention(query, keys) for query, keys in _ATTENTIONS],
    ]


def draw_cases(count: int, seed: int, largest: int) -> list[Case]:
    """Draws shapes that nobody tuned for.

    Args:
        count: how many.
        seed: of the generator.
        largest: side of the images, steps and features at most.

    Returns:
        The cases.

    Example:
        >>> draw_cases(2, seed=3, largest=9) == draw_cases(2, seed=3, largest=9)
        True
    """
    random = np.random.default_rng(seed)
    return [dataclasses.replace(_draw(random, largest), is_random=True) for _ in range(count)]


def _draw(random: np.random.Generator, largest: int) -> Case:
    def below(high: int, low: int = 1) -> int:
        return int(random.integers(low, max(low + 1, high + 1)))

    op = str(random.choice(_DRAWN))
    if op.startswith(("conv2d", "max_pool2d")):
        sides, channels = (below(largest, 6), below(largest, 6)), below(largest)
        images = (below(12), *sides, channels)
        if op == "max_pool2d":
            return _pooling(images, (2, 2))
        size = int(random.choice([1, 3, 5]))
        strides = (2, 2) if random.random() < 0.25 else (1, 1)
        if op == "conv2d_relu_max_pool":
            return _pooled_conv(images, (size, size, channels, below(largest)))
        padding = str(random.choice(["SAME", "VALID"]))
        return _conv(images, (size, size, channels, below(largest)), strides=strides, padding=padding)
    if op == "attention":
        heads, head_dim = below(8), below(largest, 4)
        return _attention((below(12), below(2 * largest), heads, head_dim), below(2 * largest))
    if op == "conv1d":
        channels = 1 if random.random() < 0.25 else below(largest)
        kernel = (int(random.choice([1, 3, 9])), channels, below(largest))
        return _conv1d((below(12), below(8 * largest, 9), channels), kernel)
    return _recurrent(op, below(32), below(largest, 2), below(2 * largest, 4))


def _conv(
    images: tuple[int, ...],
    kernel: tuple[int, ...],
    *,
    strides: tuple[int, int] = (1, 1),
    **settings: Any,
) -> Case:
    shapes = {"images": images, "kernel": kernel, "bias": kernel[3:]}
    return Case(op="conv2d", shapes=shapes, settings={"strides": strides, **settings})


def _pooled_conv(images: tuple[int, ...], kernel: tuple[int, ...]) -> Case:
    shapes = {"images": images, "kernel": kernel, "bias": kernel[3:]}
    return Case(op="conv2d_relu_max_pool", shapes=shapes, settings={"padding": "VALID"})


def _pooling(images: tuple[int, ...], window: tuple[int, int]) -> Case:
    return Case(op="max_pool2d", shapes={"images": images}, settings={"window": window, "strides": (2, 2)})


def _conv1d(inputs: tuple[int, ...], kernel: tuple[int, ...]) -> Case:
    return Case(op="conv1d", shapes={"inputs": inputs, "kernel": kernel, "bias": kernel[2:]})


def _recurrent(op: str, batch: int, length: int, features: int) -> Case:
    width = features * {"lstm": 4, "gru": 3, "elman": 1}[op]
    shapes: dict[str, tuple[int, ...]] = {
        "inputs": (batch, length, features),
        "input_kernel": (features, width),
        "recurrent_kernel": (features, width),
        "bias": (width,),
    }
    if op == "gru":
        shapes["recurrent_bias"] = (width,)
    return Case(op=op, shapes=shapes)


def _attention(query: tuple[int, ...], keys: int) -> Case:
    key = (query[0], keys, *query[2:])
    return Case(op="attention", shapes={"query": query, "key": key, "value": key})


_DRAWN = ("conv1d", "conv2d", "conv2d_relu_max_pool", "max_pool2d", "lstm", "gru", "elman", "attention")

_READ: dict[str, Callable[[Any], jax.Array]] = {
    "lstm": lambda output: output.outputs,
    "gru": lambda output: output.outputs,
    "elman": lambda output: output.outputs,
    "attention": lambda output: output.values,
}
