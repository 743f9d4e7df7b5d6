"""The operations that `bench ops` measures: shape classes, random shapes, and what a user of plain JAX would write."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fusionjax import ops

Arrays = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """An operation at one shape.

    Attributes:
        op: name in `fusionjax.ops`.
        shape_class: what is typical of the shape, such as `wide channels`.
        shapes: of the arrays, by argument.
        settings: the other arguments.
    """

    op: str
    shape_class: str
    shapes: dict[str, tuple[int, ...]]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

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
        return partial(_PLAIN[self.op], settings=self.settings)

    def implementations(self) -> list[str]:
        """Asks the operation for the names of its implementations; empty where there is no choice."""
        arrays = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in self.shapes.items()}
        try:
            jax.eval_shape(self.ours("?"), arrays)
        except TypeError:
            return []
        except ValueError as error:
            listed, _, _ = str(error).partition("; got")
            return re.findall(r"'([\w-]+)'", listed)
        return []


_INPUTS = ("images", "inputs", "query", "key", "value")


def list_cases() -> list[Case]:
    """Lists an operation and shape class each, all of one call's work in milliseconds rather than seconds.

    Returns:
        The cases.

    Example:
        >>> sorted({case.op for case in list_cases()})[:2]
        ['attention', 'conv2d']
    """
    return [
        _conv("few channels", (8, 112, 112, 3), (3, 3, 3, 32)),
        _conv("middle channels", (8, 56, 56, 32), (3, 3, 32, 64)),
        _conv("many channels", (8, 28, 28, 128), (3, 3, 128, 128)),
        _conv("strides", (8, 56, 56, 32), (3, 3, 32, 64), strides=(2, 2)),
        _conv("pointwise", (8, 28, 28, 128), (1, 1, 128, 256)),
        _pooled_conv("few channels", (8, 112, 112, 3), (3, 3, 3, 32)),
        _pooled_conv("middle channels", (8, 56, 56, 32), (3, 3, 32, 64)),
        _pooled_conv("many channels", (8, 28, 28, 128), (3, 3, 128, 128)),
        Case(op="max_pool2d", shape_class="large", shapes={"images": (8, 112, 112, 32)}),
        Case(op="max_pool2d", shape_class="small", shapes={"images": (8, 28, 28, 128)}),
        *[_recurrent(op, "batch 1", 1, 64, 256) for op in ("lstm", "gru", "elman")],
        *[_recurrent(op, "batch 32", 32, 64, 256) for op in ("lstm", "gru", "elman")],
        _attention("short", (8, 64, 8, 64), 64),
        _attention("long", (1, 512, 8, 64), 512),
        _attention("one head", (8, 100, 1, 512), 100),
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
    return [_draw(random, largest) for _ in range(count)]


def _draw(random: np.random.Generator, largest: int) -> Case:
    def below(high: int, low: int = 1) -> int:
        return int(random.integers(low, max(low + 1, high + 1)))

    op = str(random.choice(_DRAWN))
    if op.startswith(("conv2d", "max_pool2d")):
        sides, channels = (below(largest, 6), below(largest, 6)), below(largest)
        images = (below(12), *sides, channels)
        if op == "max_pool2d":
            return Case(op=op, shape_class="random", shapes={"images": images})
        size = int(random.choice([1, 3, 5]))
        strides = (2, 2) if random.random() < 0.25 else (1, 1)
        if op == "conv2d_relu_max_pool":
            return _pooled_conv("random", images, (size, size, channels, below(largest)))
        padding = str(random.choice(["SAME", "VALID"]))
        return _conv("random", images, (size, size, channels, below(largest)), strides=strides, padding=padding)
    if op == "attention":
        heads, head_dim = below(8), below(largest, 4)
        return _attention("random", (below(12), below(2 * largest), heads, head_dim), below(2 * largest))
    return _recurrent(op, "random", below(32), below(largest, 2), below(2 * largest, 4))


def _conv(
    shape_class: str,
    images: tuple[int, ...],
    kernel: tuple[int, ...],
    *,
    strides: tuple[int, int] = (1, 1),
    **settings: Any,
) -> Case:
    shapes = {"images": images, "kernel": kernel, "bias": kernel[3:]}
    return Case(op="conv2d", shape_class=shape_class, shapes=shapes, settings={"strides": strides, **settings})


def _pooled_conv(shape_class: str, images: tuple[int, ...], kernel: tuple[int, ...]) -> Case:
    shapes = {"images": images, "kernel": kernel, "bias": kernel[3:]}
    return Case(op="conv2d_relu_max_pool", shape_class=shape_class, shapes=shapes, settings={"padding": "VALID"})


def _recurrent(op: str, shape_class: str, batch: int, length: int, features: int) -> Case:
    width = features * {"lstm": 4, "gru": 3, "elman": 1}[op]
    shapes: dict[str, tuple[int, ...]] = {
        "inputs": (batch, length, features),
        "input_kernel": (features, width),
        "recurrent_kernel": (features, width),
        "bias": (width,),
    }
    if op == "gru":
        shapes["recurrent_bias"] = (width,)
    return Case(op=op, shape_class=shape_class, shapes=shapes)


def _attention(shape_class: str, query: tuple[int, ...], keys: int) -> Case:
    key = (query[0], keys, *query[2:])
    return Case(op="attention", shape_class=shape_class, shapes={"query": query, "key": key, "value": key})


_DRAWN = ("conv2d", "conv2d_relu_max_pool", "max_pool2d", "lstm", "gru", "elman", "attention")

_READ: dict[str, Callable[[Any], jax.Array]] = {
    "lstm": lambda output: output.outputs,
    "gru": lambda output: output.outputs,
    "elman": lambda output: output.outputs,
    "attention": lambda output: output.values,
}


def _plain_conv2d(arrays: Arrays, settings: Mapping[str, Any]) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    padding = settings.get("padding", "SAME")
    outputs = lax.conv_general_dilated(
        arrays["images"], arrays["kernel"], settings.get("strides", (1, 1)), padding, dimension_numbers=numbers
    )
    return outputs + arrays["bias"]


def _plain_conv2d_relu_max_pool(arrays: Arrays, settings: Mapping[str, Any]) -> jax.Array:
    return nn.max_pool(nn.relu(_plain_conv2d(arrays, settings)), (2, 2), (2, 2))


def _plain_max_pool2d(arrays: Arrays, settings: Mapping[str, Any]) -> jax.Array:
    return nn.max_pool(arrays["images"], (2, 2), (2, 2))


def _plain_attention(arrays: Arrays, settings: Mapping[str, Any]) -> jax.Array:
    return nn.dot_product_attention(arrays["query"], arrays["key"], arrays["value"])


def _plain_recurrence(kind: str, arrays: Arrays, settings: Mapping[str, Any]) -> jax.Array:
    cells: dict[str, Any] = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}
    layer: Any = nn.RNN(cells[kind](arrays["recurrent_kernel"].shape[0]))
    return layer.apply({"params": {"cell": _PARAMETERS[kind](arrays)}}, arrays["inputs"])


def _lstm_parameters(arrays: Arrays) -> dict[str, Any]:
    parameters = {}
    for index, gate in enumerate("ifgo"):
        part = partial(_part, arrays, index, 4)
        parameters[f"i{gate}"] = {"kernel": part("input_kernel")}
        parameters[f"h{gate}"] = {"kernel": part("recurrent_kernel"), "bias": part("bias")}
    return parameters


def _gru_parameters(arrays: Arrays) -> dict[str, Any]:
    parameters = {}
    for index, gate in enumerate("rzn"):
        part = partial(_part, arrays, index, 3)
        extra = part("recurrent_bias")
        parameters[f"i{gate}"] = {"kernel": part("input_kernel"), "bias": part("bias") + (extra if gate != "n" else 0)}
        parameters[f"h{gate}"] = {"kernel": part("recurrent_kernel")} | ({"bias": extra} if gate == "n" else {})
    return parameters


def _elman_parameters(arrays: Arrays) -> dict[str, Any]:
    return {
        "i": {"kernel": arrays["input_kernel"], "bias": arrays["bias"]},
        "h": {"kernel": arrays["recurrent_kernel"]},
    }


def _part(arrays: Arrays, index: int, parts: int, name: str) -> jax.Array:
    return jnp.split(arrays[name], parts, axis=-1)[index]


_PARAMETERS: dict[str, Callable[[Arrays], dict[str, Any]]] = {
    "lstm": _lstm_parameters,
    "gru": _gru_parameters,
    "elman": _elman_parameters,
}

_PLAIN: dict[str, Any] = {
    "conv2d": _plain_conv2d,
    "conv2d_relu_max_pool": _plain_conv2d_relu_max_pool,
    "max_pool2d": _plain_max_pool2d,
    "attention": _plain_attention,
    **{kind: partial(_plain_recurrence, kind) for kind in _PARAMETERS},
}
