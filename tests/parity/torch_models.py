"""The models in PyTorch: weights, inputs, outputs and gradients of every weight and input, as NumPy arrays.

Every function imports torch when it is called, so that this module loads where torch is missing.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

LENGTHS = (5, 2, 7)


def _run(module, inputs: Mapping, forward: Callable) -> dict[str, np.ndarray]:
    """Runs `forward(**inputs)`, pulls cosines back, and collects everything by name."""
    import torch

    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in inputs.items()}
    outputs = forward(**tensors)
    total = sum(
        (value * torch.cos(torch.arange(value.numel()).reshape(value.shape))).sum() for value in outputs.values()
    )
    total.backward()
    result = {f"input/{name}": tensor for name, tensor in tensors.items()}
    result |= {f"input_gradient/{name}": tensor.grad for name, tensor in tensors.items()}
    result |= {f"output/{name}": tensor for name, tensor in outputs.items()}
    for name, weight in module.named_parameters():
        result |= {f"weight/{name}": weight, f"weight_gradient/{name}": weight.grad}
    return {name: tensor.detach().numpy() for name, tensor in result.items()}


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def recurrent(kind: str) -> dict[str, np.ndarray]:
    """Two layers of `kind` (`"LSTM"`, `"GRU"`, `"RNN"`) in both directions over packed sequences of `LENGTHS`."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    torch.manual_seed(3)
    module = getattr(torch.nn, kind)(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    states = ("hidden", "cell") if kind == "LSTM" else ("hidden",)

    def forward(inputs, **initial):
        packed = pack_padded_sequence(inputs, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
        start = tuple(initial[name] for name in states)
        outputs, final = module(packed, start if kind == "LSTM" else start[0])
        padded, _ = pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])
        final = final if kind == "LSTM" else (final,)
        return {"outputs": padded, **dict(zip(states, final, strict=True))}

    return _run(module, {"inputs": _normal(3, 7, 3), **{name: _normal(4, 3, 5) for name in states}}, forward)


def multi_head_attention() -> dict[str, np.ndarray]:
    """Cross-attention with three heads over padded keys."""
    import torch

    torch.manual_seed(4)
    module = torch.nn.MultiheadAttention(15, 3, kdim=7, vdim=7, batch_first=True)
    torch.nn.init.normal_(module.in_proj_bias)
    padding = torch.arange(7) >= torch.tensor(LENGTHS)[:, None]

    def forward(queries, keys_values):
        values, weights = module(
            queries, keys_values, keys_values, key_padding_mask=padding, average_attn_weights=False
        )
        return {"values": values, "weights": weights}

    return _run(module, {"queries": _normal(3, 5, 15), "keys_values": _normal(3, 7, 7)}, forward)


def additive_attention() -> dict[str, np.ndarray]:
    """Additive attention written with PyTorch's linear layers."""
    import torch

    torch.manual_seed(5)
    module = torch.nn.ModuleDict(
        {
            "query": torch.nn.Linear(3, 5, bias=False),
            "memory": torch.nn.Linear(7, 5),
            "energy": torch.nn.Linear(5, 1, bias=False),
        }
    )
    padding = torch.arange(7) >= torch.tensor(LENGTHS)[:, None]

    def forward(query, memory):
        hidden = torch.tanh(module["query"](query)[:, :, None] + module["memory"](memory)[:, None])
        logits = module["energy"](hidden)[..., 0].masked_fill(padding[:, None], -torch.inf)
        weights = torch.softmax(logits, -1)
        return {"values": weights @ memory, "weights": weights}

    return _run(module, {"query": _normal(3, 2, 3), "memory": _normal(3, 7, 7)}, forward)


def cnn() -> dict[str, np.ndarray]:
    """Twice a 3x3 convolution, ReLU and 2x2 max-pooling, of odd sizes; images and outputs with channels last."""
    import torch

    torch.manual_seed(6)
    layers = [torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    layers += [torch.nn.Conv2d(5, 7, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    module = torch.nn.Sequential(*layers)

    def forward(images):
        return {"outputs": module(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)}

    return _run(module, {"images": _normal(3, 13, 17, 3)}, forward)


MODELS: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    "lstm": partial(recurrent, "LSTM"),
    "gru": partial(recurrent, "GRU"),
    "elman": partial(recurrent, "RNN"),
    "multi_head_attention": multi_head_attention,
    "additive_attention": additive_attention,
    "cnn": cnn,
}
