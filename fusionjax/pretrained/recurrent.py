"""Parameters of recurrent layers from and to PyTorch and `flax.linen`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Parameters = Mapping[str, Any]

# The gates' letters in the names of flax.linen, in the order of `fusionjax.layers`, which is PyTorch's.
_GATES = {"lstm": "ifgo", "gru": "rzn", "elman": " "}
_DIRECTIONS = {"forward": "", "backward": "_reverse"}


def rnn_from_torch(state_dict: Parameters, cell: str = "lstm") -> dict[str, dict[str, np.ndarray]]:
    """Makes the parameters of a `fusionjax.layers.RNN` from those of `torch.nn.LSTM`, `GRU` or `RNN`.

    PyTorch's two biases add up to ours, save for the GRU, which has two in both. Outputs and gradients are the same.

    Args:
        state_dict: the module's `state_dict()` with its values as NumPy arrays; layers, directions and whether there
            are biases are read off its names.
        cell: `"lstm"`, `"gru"` or `"elman"` (PyTorch's `RNN`).

    Returns:
        `params` of `RNN(features=hidden_size, cell=cell, num_layers=..., bidirectional=...)`.

    Raises:
        ValueError: there is no cell of that name, or a weight is missing, unexpected (such as those of `proj_size`)
            or of another shape.

    Example:
        >>> weights = {"weight_ih_l0": np.ones((20, 3)), "weight_hh_l0": np.ones((20, 5))}
        >>> rnn_from_torch(weights)["layer_0_forward"]["recurrent_kernel"].shape
        (5, 20)
    """
    gates = _gates_of(cell)
    remaining = {name: np.asarray(value) for name, value in state_dict.items()}
    params: dict[str, dict[str, np.ndarray]] = {}
    layer = 0
    while f"weight_ih_l{layer}" in remaining:
        for direction, suffix in _DIRECTIONS.items():
            if f"weight_ih_l{layer}{suffix}" in remaining:
                params[f"layer_{layer}_{direction}"] = _layer_from_torch(remaining, f"_l{layer}{suffix}", len(gates))
        layer += 1
    if remaining or not params:
        raise ValueError(
            "the weights must be weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0 and so on for each layer and "
            f"direction; got {', '.join(remaining) or 'none'} beside them. Pass the state_dict of an LSTM, GRU or RNN."
        )
    return params


def rnn_to_torch(params: Parameters, cell: str = "lstm") -> dict[str, np.ndarray]:
    """Makes the weights of `torch.nn.LSTM`, `GRU` or `RNN` from the parameters of a `fusionjax.layers.RNN`.

    Our one bias becomes `bias_ih`, and `bias_hh` is zero, save for the GRU.

    Args:
        params: the `params` of an `RNN`.
        cell: `"lstm"`, `"gru"` or `"elman"`.

    Returns:
        Arrays by the names of PyTorch; `{name: torch.tensor(value)}` of it goes into `load_state_dict`.

    Raises:
        ValueError: there is no cell of that name, or a parameter is missing.

    Example:
        >>> layer = {"input_kernel": np.ones((3, 20)), "recurrent_kernel": np.ones((5, 20)), "bias": np.ones(20)}
        >>> sorted(rnn_to_torch({"layer_0_forward": layer}))
        ['bias_hh_l0', 'bias_ih_l0', 'weight_hh_l0', 'weight_ih_l0']
    """
    _gates_of(cell)
    state_dict = {}
    for name in params:
        arrays = _arrays_of(params, name, cell)
        _, layer, direction = _parse(name)
        suffix = f"_l{layer}{_DIRECTIONS[direction]}"
        state_dict[f"weight_ih{suffix}"] = np.ascontiguousarray(arrays["input_kernel"].T)
        state_dict[f"weight_hh{suffix}"] = np.ascontiguousarray(arrays["recurrent_kernel"].T)
        state_dict[f"bias_ih{suffix}"] = arrays["bias"]
        state_dict[f"bias_hh{suffix}"] = arrays.get("recurrent_bias", np.zeros_like(arrays["bias"]))
    return state_dict


def rnn_from_linen(params: Parameters, cell: str = "lstm") -> dict[str, dict[str, np.ndarray]]:
    """Makes the parameters of a `fusionjax.layers.RNN` from those of cells of `flax.linen`.

    Args:
        params: for each name `layer_0_forward`, `layer_0_backward`, `layer_1_forward`, ... the parameters of an
            `LSTMCell` or `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`.
        cell: `"lstm"`, `"gru"` or `"elman"`.

    Returns:
        `params` of the `RNN`.

    Raises:
        ValueError: there is no cell of that name, or a name or a parameter is missing.

    Example:
        >>> simple = {"i": {"kernel": np.ones((3, 5)), "bias": np.ones(5)}, "h": {"kernel": np.ones((5, 5))}}
        >>> rnn_from_linen({"layer_0_forward": simple}, "elman")["layer_0_forward"]["input_kernel"].shape
        (3, 5)
    """
    gates = _gates_of(cell)
    converted = {}
    for name, layer in params.items():
        _parse(name)
        dense = {part: {leaf: np.asarray(value) for leaf, value in leaves.items()} for part, leaves in layer.items()}
        missing = [side + gate.strip() for side in "ih" for gate in gates if side + gate.strip() not in dense]
        if missing:
            raise ValueError(
                f"{name} must hold the parts of a flax.linen {cell} cell; got {', '.join(dense) or 'none'}, without "
                f"{', '.join(missing)}. Pass the params of the cell itself."
            )
        parts = {side: [dense[side + gate.strip()] for gate in gates] for side in "ih"}
        size = parts["h"][0]["kernel"].shape[0]
        kernels = {side: np.concatenate([part["kernel"] for part in parts[side]], axis=-1) for side in "ih"}
        biases = {side: np.concatenate([part.get("bias", np.zeros(size)) for part in parts[side]]) for side in "ih"}
        converted[name] = _join(kernels["i"], kernels["h"], biases["i"], biases["h"], two_biases=cell == "gru")
    return converted


def rnn_to_linen(params: Parameters, cell: str = "lstm") -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Makes the parameters of cells of `flax.linen` from those of a `fusionjax.layers.RNN`.

    Args:
        params: the `params` of an `RNN`.
        cell: `"lstm"`, `"gru"` or `"elman"`.

    Returns:
        For each name `layer_0_forward`, ... the parameters of an `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`.

    Raises:
        ValueError: there is no cell of that name, or a parameter is missing.

    Example:
        >>> layer = {"input_kernel": np.ones((3, 20)), "recurrent_kernel": np.ones((5, 20)), "bias": np.ones(20)}
        >>> sorted(rnn_to_linen({"layer_0_forward": layer})["layer_0_forward"])
        ['hf', 'hg', 'hi', 'ho', 'if', 'ig', 'ii', 'io']
    """
    gates = _gates_of(cell)
    converted = {}
    for name in params:
        _parse(name)
        arrays = _arrays_of(params, name, cell)
        split = {leaf: np.split(array, len(gates), axis=-1) for leaf, array in arrays.items()}
        layer = {}
        for index, letter in enumerate(gates):
            gate = letter.strip()
            entering, recurrent = {"kernel": split["input_kernel"][index]}, {"kernel": split["recurrent_kernel"][index]}
            bias = split["bias"][index]
            # linen keeps the bias with the recurrent part in an LSTM, with the input's otherwise, and has a second
            # one only for the GRU's candidate
            if cell == "lstm":
                recurrent["bias"] = bias
            elif gate == "n":
                entering["bias"], recurrent["bias"] = bias, split["recurrent_bias"][index]
            else:
                entering["bias"] = bias + split["recurrent_bias"][index] if cell == "gru" else bias
            layer["i" + gate], layer["h" + gate] = entering, recurrent
        converted[name] = layer
    return converted


def _gates_of(cell: str) -> str:
    if cell not in _GATES:
        raise ValueError(f"cell must be one of {', '.join(_GATES)}; got {cell!r}. Name one of them.")
    return _GATES[cell]


def _parse(name: str) -> tuple[str, str, str]:
    parts = name.split("_")
    if len(parts) != 3 or parts[0] != "layer" or not parts[1].isdigit() or parts[2] not in _DIRECTIONS:
        raise ValueError(
            f"layers must be named layer_0_forward, layer_0_backward, layer_1_forward, ...; got {name!r}. "
            "Pass the params of an RNN, without those of other modules."
        )
    return parts[0], parts[1], parts[2]


def _arrays_of(params: Parameters, name: str, cell: str) -> dict[str, np.ndarray]:
    _parse(name)
    expected = ["input_kernel", "recurrent_kernel", "bias"] + ["recurrent_bias"] * (cell == "gru")
    if sorted(params[name]) != sorted(expected):
        raise ValueError(
            f"{name} must hold {', '.join(expected)} for cell={cell!r}; got {', '.join(params[name])}. "
            "Name the cell that the RNN has."
        )
    return {leaf: np.asarray(value) for leaf, value in params[name].items()}


def _layer_from_torch(remaining: dict[str, np.ndarray], suffix: str, gates: int) -> dict[str, np.ndarray]:
    """Takes one layer and direction out of `remaining`."""
    if f"weight_hh{suffix}" not in remaining:
        raise ValueError(f"weight_ih{suffix} needs weight_hh{suffix} beside it; got none. Pass the whole state_dict.")
    entering, recurrent = remaining.pop(f"weight_ih{suffix}"), remaining.pop(f"weight_hh{suffix}")
    size = recurrent.shape[1]
    if entering.shape[0] != gates * size or recurrent.shape[0] != gates * size:
        raise ValueError(
            f"weight_ih{suffix} and weight_hh{suffix} must have {gates} * {size} rows; "
            f"got {entering.shape} and {recurrent.shape}. Name the cell that they belong to."
        )
    zeros = np.zeros(gates * size, entering.dtype)
    biases = [remaining.pop(f"bias_{side}{suffix}", zeros) for side in ("ih", "hh")]
    return _join(entering.T, recurrent.T, *biases, two_biases=gates == len(_GATES["gru"]))


def _join(
    input_kernel: np.ndarray,
    recurrent_kernel: np.ndarray,
    bias: np.ndarray,
    recurrent_bias: np.ndarray,
    *,
    two_biases: bool,
) -> dict[str, np.ndarray]:
    layer = {
        "input_kernel": np.ascontiguousarray(input_kernel),
        "recurrent_kernel": np.ascontiguousarray(recurrent_kernel),
    }
    dtype = input_kernel.dtype
    if two_biases:
        return {**layer, "bias": bias.astype(dtype), "recurrent_bias": recurrent_bias.astype(dtype)}
    return {**layer, "bias": (bias + recurrent_bias).astype(dtype)}
