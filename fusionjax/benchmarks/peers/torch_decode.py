"""Captions by PyTorch: the models of `workloads.Decode`, greedy and beam search."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from fusionjax.benchmarks.workloads.decode import END, HEADS, LAYERS, START, Decode

Weights = dict[str, np.ndarray]


class LSTMCaptioner(nn.Module):
    """An LSTM with additive attention."""

    def __init__(self, workload: Decode) -> None:
        super().__init__()
        width = workload.width
        self.words = nn.Embedding(workload.vocab_size, width)
        self.start_cell, self.start_hidden = nn.Linear(width, width), nn.Linear(width, width)
        self.memory = nn.Linear(width, width)
        self.query = nn.Linear(width, width, bias=False)
        self.energy = nn.Linear(width, 1, bias=False)
        self.cell = nn.LSTMCell(2 * width, width)
        self.logits = nn.Linear(width, workload.vocab_size)

    def prepare(self, features: torch.Tensor, beams: int) -> tuple[Any, list[torch.Tensor]]:
        """Projects the cells once; the first hidden state and cell, one row a beam."""
        mean = features.mean(1)
        first = torch.tanh(self.start_hidden(mean)), torch.tanh(self.start_cell(mean))
        return (features, self.memory(features)), [part.repeat_interleave(beams, 0) for part in first]

    def forward(self, tokens: torch.Tensor, memory: Any, state: list[torch.Tensor], position: Any) -> Any:
        """Reads a word of each row: logits and the next state."""
        features, keys = memory
        # [batch, beams, cells, width]
        units = keys.unsqueeze(1) + self.query(state[0]).view(len(features), -1, 1, keys.shape[-1])
        weights = torch.softmax(self.energy(units.tanh()).squeeze(-1), -1)
        attended = (weights @ features).flatten(0, 1)
        hidden, cell = self.cell(torch.cat([self.words(tokens), attended], -1), (state[0], state[1]))
        return self.logits(hidden), [hidden, cell]

    def follow(self, state: list[torch.Tensor], rows: torch.Tensor, position: Any) -> list[torch.Tensor]:
        """Takes the state of the chosen rows."""
        return [part[rows] for part in state]

    def load(self, weights: Weights) -> None:
        """Takes the workload's weights."""
        _put(self.words.weight, weights["words/embedding"])
        for name, layer in {
            "lstm/start_cell": self.start_cell,
            "lstm/start_hidden": self.start_hidden,
            "lstm/attend/memory": self.memory,
            "logits": self.logits,
        }.items():
            _put_linear(layer, weights, name)
        _put(self.query.weight, weights["lstm/attend/query/kernel"].T)
        _put(self.energy.weight, weights["lstm/attend/energy"][None])
        inputs = np.concatenate([weights["lstm/input_gates/kernel"], weights["lstm/attended_gates/kernel"]])
        _put(self.cell.weight_ih, inputs.T)
        _put(self.cell.weight_hh, weights["lstm/recurrent_kernel"].T)
        _put(self.cell.bias_ih, weights["lstm/input_gates/bias"])
        _put(self.cell.bias_hh, np.zeros_like(weights["lstm/input_gates/bias"]))


class Block(nn.Module):
    """A block of the Transformer, one word at a time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.query_key_value, self.self_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key_value, self.cross_out = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Keys and values of the cells, `[2, batch, heads, cells, head_dim]`."""
        return self.key_value(features).unflatten(-1, (2, HEADS, -1)).permute(2, 0, 3, 1, 4).contiguous()

    def forward(self, tokens: torch.Tensor, cells: torch.Tensor, cache: torch.Tensor, position: Any) -> torch.Tensor:
        """Transforms `[rows, width]`; the cache `[2, rows, heads, steps, head_dim]` is written in place."""
        rows, width = tokens.shape
        # [3, rows, heads, 1, head_dim]
        new = self.query_key_value(self.self_norm(tokens)).view(rows, 3, HEADS, 1, -1).transpose(0, 1)
        if isinstance(position, int):
            cache[:, :, :, position : position + 1] = new[1:]
            seen, mask = cache[:, :, :, : position + 1], None
        else:
            cache.index_copy_(3, position, new[1:])
            seen, mask = cache, (torch.arange(cache.shape[3], device=cache.device) <= position)[None]
        attended = functional.scaled_dot_product_attention(new[0], seen[0], seen[1], attn_mask=mask)
        tokens = tokens + self.self_out(attended.reshape(rows, width))
        # The beams of an image stand side by side, as so many queries of one row: [batch, heads, beams, head_dim]
        query = self.query(self.cross_norm(tokens)).view(cells.shape[1], -1, HEADS, width // HEADS).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(query, cells[0], cells[1])
        tokens = tokens + self.cross_out(attended.transpose(1, 2).reshape(rows, width))
        return tokens + self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(tokens)), approximate="tanh"))

    def load(self, weights: Weights, path: str) -> None:
        """Takes the workload's weights."""
        for name, norm in {
            "self_attention": self.self_norm,
            "cross_attention": self.cross_norm,
            "mlp": self.mlp_norm,
        }.items():
            _put_norm(norm, weights, f"{path}/{name}_norm")
        attention = {part: f"{path}/{part}_attention" for part in ("self", "cross")}
        _put_joined(
            self.query_key_value, weights, [f"{attention['self']}/{part}" for part in ("query", "key", "value")]
        )
        _put_joined(self.key_value, weights, [f"{attention['cross']}/{part}" for part in ("key", "value")])
        _put_linear(self.query, weights, f"{attention['cross']}/query")
        _put_linear(self.self_out, weights, f"{attention['self']}/out")
        _put_linear(self.cross_out, weights, f"{attention['cross']}/out")
        _put_linear(self.mlp_in, weights, f"{path}/mlp_in")
        _put_linear(self.mlp_out, weights, f"{path}/mlp_out")


class TransformerCaptioner(nn.Module):
    """Blocks over a cache of keys and values."""

    def __init__(self, workload: Decode) -> None:
        super().__init__()
        self.words = nn.Embedding(workload.vocab_size, workload.width)
        self.positions = nn.Parameter(torch.zeros(workload.steps, workload.width))
        self.blocks = nn.ModuleList(Block(workload.width) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(workload.width, eps=1e-6)
        self.logits = nn.Linear(workload.width, workload.vocab_size)

    def prepare(self, features: torch.Tensor, beams: int) -> tuple[Any, list[torch.Tensor]]:
        """Projects the cells for each block once; empty caches, one row a beam."""
        batch, _, width = features.shape
        shape = (2, batch * beams, HEADS, len(self.positions), width // HEADS)
        blocks: list[Any] = list(self.blocks)
        return [block.project(features) for block in blocks], [features.new_zeros(shape) for _ in blocks]

    def forward(self, tokens: torch.Tensor, memory: Any, state: list[torch.Tensor], position: Any) -> Any:
        """Reads a word of each row: logits and the caches."""
        hidden = self.words(tokens) + self.positions[position]
        for block, cells, cache in zip(self.blocks, memory, state, strict=True):
            hidden = block(hidden, cells, cache, position)
        return self.logits(self.norm(hidden)), state

    def follow(self, state: list[torch.Tensor], rows: torch.Tensor, position: Any) -> list[torch.Tensor]:
        """Takes the caches of the chosen rows: of one length for all positions if compiled, else what is filled."""
        if not isinstance(position, int):
            return [cache[:, rows] for cache in state]
        for cache in state:
            cache[:, :, :, : position + 1] = cache[:, rows, :, : position + 1]
        return state

    def load(self, weights: Weights) -> None:
        """Takes the workload's weights."""
        _put(self.words.weight, weights["words/embedding"])
        _put(self.positions, weights["positions"])
        block: Any
        for index, block in enumerate(self.blocks):
            block.load(weights, f"block_{index}")
        _put_norm(self.norm, weights, "norm")
        _put_linear(self.logits, weights, "logits")


def build_decoding(workload: Decode, place: torch.device, *, is_compiled: bool) -> Callable[[], torch.Tensor]:
    """Prepares captions by PyTorch.

    Compiled, one step (model, choice and reordering) is one graph for all positions, so the caches have their full
    length and a mask. Eager, they are cut to what is filled.

    Args:
        workload: model, search and sizes.
        place: the device.
        is_compiled: by `torch.compile`.

    Returns:
        A function that writes words `[batch, steps]`.
    """
    model: Any = (LSTMCaptioner if workload.model == "lstm" else TransformerCaptioner)(workload)
    model.load(workload.weights())
    model = model.to(place).eval().requires_grad_(False)
    features = torch.from_numpy(workload.inputs()["features"]).to(place)
    positions: list[Any] = list(range(workload.steps))
    if is_compiled:
        positions = [torch.tensor([position], device=place) for position in positions]
    cast = torch.autocast(place.type, torch.bfloat16, enabled=workload.dtype == "bfloat16")
    step: Any = _greedy_step if workload.num_beams == 1 else _beam_step
    step = torch.compile(step, fullgraph=True, dynamic=False) if is_compiled else step
    search = _greedy if workload.num_beams == 1 else _search

    @torch.inference_mode()
    def run() -> torch.Tensor:
        with cast:
            return search(model, step, features, positions, workload.num_beams)

    return run


def _greedy_step(model: Any, tokens: torch.Tensor, memory: Any, state: Any, position: Any) -> tuple[Any, Any]:
    logits, state = model(tokens, memory, state, position)
    return logits.argmax(-1), state


def _greedy(model: Any, step: Any, features: torch.Tensor, positions: list[Any], beams: int) -> torch.Tensor:
    memory, state = model.prepare(features, beams)
    tokens = torch.full((len(features),), START, device=features.device)
    written = []
    for position in positions:
        tokens, state = step(model, tokens, memory, state, position)
        written.append(tokens)
    return torch.stack(written, 1)


def _beam_step(model: Any, tokens: torch.Tensor, memory: Any, state: Any, position: Any, beams: Any) -> Any:
    """Beams are their sums, lengths and whether they ended, each `[batch, beams]`."""
    sums, lengths, ended = beams
    logits, state = model(tokens, memory, state, position)
    vocab_size = logits.shape[-1]
    gains = functional.log_softmax(logits.float(), -1).view(*sums.shape, vocab_size)
    # What has ended goes on with the end, for free.
    is_end = torch.arange(vocab_size, device=gains.device) == END
    gains = torch.where(ended.unsqueeze(-1), torch.where(is_end, 0.0, -torch.inf), gains)
    sums, index = (sums.unsqueeze(-1) + gains).flatten(1).topk(sums.shape[1])
    parents, tokens = index // vocab_size, index % vocab_size
    ended = ended.gather(1, parents)
    lengths = lengths.gather(1, parents) + torch.where(ended, 0.0, 1.0)
    rows = parents + sums.shape[1] * torch.arange(len(sums), device=sums.device).unsqueeze(1)
    state = model.follow(state, rows.flatten(), position)
    return tokens, parents, state, (sums, lengths, ended | (tokens == END))


def _search(model: Any, step: Any, features: torch.Tensor, positions: list[Any], beams: int) -> torch.Tensor:
    batch, device = len(features), features.device
    memory, state = model.prepare(features, beams)
    sums = torch.full((batch, beams), -torch.inf, device=device)
    sums[:, 0] = 0
    kept = sums, torch.zeros(batch, beams, device=device), torch.zeros(batch, beams, dtype=torch.bool, device=device)
    tokens = torch.full((batch, beams), START, device=device)
    trail = []
    for position in positions:
        tokens, parents, state, kept = step(model, tokens.flatten(), memory, state, position, kept)
        trail.append((tokens, parents))
    best = (kept[0] / kept[1]).argmax(1, keepdim=True)
    words = []
    for tokens, parents in reversed(trail):
        words.append(tokens.gather(1, best))
        best = parents.gather(1, best)
    return torch.cat(words[::-1], 1)


def _put(parameter: Any, array: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def _put_linear(layer: nn.Linear, weights: Weights, path: str) -> None:
    _put_joined(layer, weights, [path])


def _put_joined(layer: nn.Linear, weights: Weights, paths: list[str]) -> None:
    _put(layer.weight, np.concatenate([weights[f"{path}/kernel"].T for path in paths]))
    _put(layer.bias, np.concatenate([weights[f"{path}/bias"] for path in paths]))


def _put_norm(norm: nn.LayerNorm, weights: Weights, path: str) -> None:
    _put(norm.weight, weights[f"{path}/scale"])
    _put(norm.bias, weights[f"{path}/bias"])
