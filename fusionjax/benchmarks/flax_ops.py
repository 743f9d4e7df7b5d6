"""What a user of plain Flax or `jax.lax` would write for each operation of `bench ops`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Arrays = dict[str, jax.Array]


def _plain_conv1d(arrays: Arrays, settings: Mapping[str, Any]) -> jax.Array:
    return _convolve(arrays["inputs"], arrays, settings, 1, ("NHC", "HIO", "NHC"))


def _plain_conv2d(arrays: Arrays, settings: Mapping[str, Any]) -> jax.Array:
    return _convolve(arrays["images"], arrays, settings, 2, ("NHWC", "HWIO", "NHWC"))


def _convolve(
    inputs: jax.Array, arrays: Arrays, settings: Mapping[str, Any], axes: int, numbers: tuple[str, str, str]
) -> jax.Array:
    strides = settings.get("strides", (1,) * axes)
    outputs = lax.conv_general_dilated(
        inputs,
        arrays["kernel"],
        strides,
        settings.get("padding", "SAME"),
        rhs_dilation=settings.get("dilation"),
        dimension_numbers=numbers,
        feature_group_count=settings.get("groups", 1),
    )
    return outputs + arrays["bias"]


def _plain_conv2d_relu_max_pool(arrays: Arrays, settings: Mapping[str, Any]) -> jax.Array:
    return nn.max_pool(nn.relu(_plain_conv2d(arrays, settings)), (2, 2), (2, 2))


def _plain_max_pool2d(arrays: Arrays, settings: Mapping[str, Any]) -> jax.Array:
    return nn.max_pool(arrays["images"], settings.get("window", (2, 2)), settings.get("strides", (2, 2)))


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

PLAIN: dict[str, Any] = {
    "conv1d": _plain_conv1d,
    "conv2d": _plain_conv2d,
    "conv2d_relu_max_pool": _plain_conv2d_relu_max_pool,
    "max_pool2d": _plain_max_pool2d,
    "attention": _plain_attention,
    **{kind: partial(_plain_recurrence, kind) for kind in _PARAMETERS},
}
