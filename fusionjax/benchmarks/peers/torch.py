"""PyTorch as a contender: eager with channels last, or `torch.compile`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from fusionjax.benchmarks.machine import count_cores
from fusionjax.benchmarks.peers.torch_decode import build_decoding
from fusionjax.benchmarks.peers.torch_encoders import load_encoder
from fusionjax.benchmarks.workloads import Decode, Depthwise, Encoder, Fusion, Recurrent, VitBlock, Workload
from fusionjax.benchmarks.workloads.fusion import CLASSES, FILTERS, WORDS

LEARNING_RATE = 1e-4

Weights = dict[str, np.ndarray]


class FusionImage(nn.Module):
    """Convolutions, ReLU and pooling; flattened in the order height, width, channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(channels, filters, 3) for channels, filters in zip((3, *FILTERS), FILTERS, strict=False)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps `[batch, channels, height, width]` to `[batch, numbers]`."""
        for stage in self.stages:
            images = functional.max_pool2d(functional.relu(stage(images)), 2)
        return images.permute(0, 2, 3, 1).flatten(1)


class FusionText(nn.Module):
    """Embedding, LSTM, self-attention, dense layers."""

    def __init__(self, vocab_size: int, features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, features)
        self.lstm = nn.LSTM(features, features, batch_first=True)
        self.hidden = nn.Linear(features, features)
        self.words = nn.Linear(features, WORDS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps `[batch, length]` to `[batch, length * 100]`."""
        states, _ = self.lstm(self.embedding(tokens))
        attended = torch.softmax(states @ states.transpose(1, 2), -1) @ states
        return torch.softmax(self.words(functional.relu(self.hidden(attended))), -1).flatten(1)


class FusionModel(nn.Module):
    """The fusion model; see `workloads.Fusion`."""

    def __init__(self, workload: Fusion) -> None:
        super().__init__()
        self.image = FusionImage() if workload.has_image else None
        self.text = FusionText(workload.vocab_size, workload.features) if workload.has_text else None
        joined = workload.image_features + (workload.length * WORDS if workload.has_text else 0)
        self.classes = nn.Linear(joined, CLASSES) if workload.train else None

    def forward(self, image: torch.Tensor | None = None, text: torch.Tensor | None = None) -> torch.Tensor:
        """Joins the branches, and classifies when it is trained."""
        parts = [part(inputs) for part, inputs in ((self.image, image), (self.text, text)) if part is not None]
        joined = torch.cat(parts, -1)
        return joined if self.classes is None else self.classes(joined)

    def load(self, weights: Weights) -> None:
        """Takes the workload's weights."""
        if self.image is not None:
            stage: Any
            for index, stage in enumerate(self.image.stages):
                put(stage.weight, weights[f"image/conv_{index}/kernel"].transpose(3, 2, 0, 1))
                put(stage.bias, weights[f"image/conv_{index}/bias"])
        if self.text is not None:
            put(self.text.embedding.weight, weights["text/embedding/embedding"])
            put_recurrent(self.text.lstm, weights, "text/lstm/")
            put_linear(self.text.hidden, weights, "text/hidden/")
            put_linear(self.text.words, weights, "text/words/")
        if self.classes is not None:
            put_linear(self.classes, weights, "classes/")


class RecurrentModel(nn.Module):
    """A recurrent layer; see `workloads.Recurrent`."""

    def __init__(self, workload: Recurrent) -> None:
        super().__init__()
        layer = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}[workload.cell]
        self.layer: nn.RNNBase = layer(workload.features, workload.features, batch_first=True)
        self._path = f"{workload.cell}/"

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps `[batch, length, features]` to the states."""
        return self.layer(inputs)[0]

    def load(self, weights: Weights) -> None:
        """Takes the workload's weights."""
        put_recurrent(self.layer, weights, self._path)


class VitBlockModel(nn.Module):
    """A Transformer block; see `workloads.VitBlock`."""

    def __init__(self, workload: VitBlock) -> None:
        super().__init__()
        width = workload.width
        self.num_heads = workload.num_heads
        self.self_attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps `[batch, length, width]` to the same shape."""
        batch, length, width = tokens.shape
        projected = self.query_key_value(self.self_attention_norm(tokens))
        # [3, batch, heads, length, head_dim]
        heads = projected.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*heads)
        tokens = tokens + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        hidden = functional.gelu(self.mlp_in(self.mlp_norm(tokens)), approximate="tanh")
        return tokens + self.mlp_out(hidden)

    def load(self, weights: Weights) -> None:
        """Takes the workload's weights."""
        for name in ("self_attention_norm", "mlp_norm"):
            norm = getattr(self, name)
            put(norm.weight, weights[f"{name}/scale"])
            put(norm.bias, weights[f"{name}/bias"])
        parts = [f"self_attention/{part}/" for part in ("query", "key", "value")]
        put(self.query_key_value.weight, np.concatenate([weights[f"{part}kernel"].T for part in parts]))
        put(self.query_key_value.bias, np.concatenate([weights[f"{part}bias"] for part in parts]))
        put_linear(self.out, weights, "self_attention/out/")
        put_linear(self.mlp_in, weights, "mlp_in/")
        put_linear(self.mlp_out, weights, "mlp_out/")


class DepthwiseModel(nn.Module):
    """A depthwise convolution; see `workloads.Depthwise`."""

    def __init__(self, workload: Depthwise) -> None:
        super().__init__()
        channels, size = workload.channels, workload.kernel_size
        self.layer = nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps `[batch, channels, height, width]` to the same shape."""
        return self.layer(images)

    def load(self, weights: Weights) -> None:
        """Takes the workload's weights."""
        put(self.layer.weight, weights["depthwise/kernel"].transpose(3, 2, 0, 1))


class Torch:
    """PyTorch on all cores, or on a GPU if there is one.

    Attributes:
        is_compiled: `torch.compile` instead of eager: its default mode on a CPU, max-autotune on a GPU.
    """

    def __init__(self, is_compiled: bool) -> None:
        self.is_compiled = is_compiled
        self._place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(count_cores())
        if self._place.type == "cuda":
            # Products of float32 round to TF32, as JAX's do.
            torch.set_float32_matmul_precision("high")

    def versions(self) -> dict[str, str]:
        """Returns the versions of its packages."""
        return {"torch": torch.__version__}

    def device(self) -> str:
        """Returns the kind of device that it computes on."""
        return torch.cuda.get_device_name() if self._place.type == "cuda" else "cpu"

    def build(self, workload: Workload) -> Callable[[], Any]:
        """Prepares a workload; see `Framework.build`."""
        torch._dynamo.reset()
        if isinstance(workload, Decode):
            return build_decoding(workload, self._place, is_compiled=self.is_compiled)
        model = self._model(workload).to(self._place, memory_format=torch.channels_last)
        arrays = workload.normal_inputs() if isinstance(workload, Encoder) else workload.inputs()
        inputs = {name: self._input(array) for name, array in arrays.items()}
        label = inputs.pop("label", None)
        # On a GPU, kernels chosen by trial and launched as one CUDA graph; on a CPU that mode gains nothing.
        mode = "max-autotune" if self._place.type == "cuda" else "default"
        called = torch.compile(model, dynamic=False, mode=mode) if self.is_compiled else model
        cast = torch.autocast(self._place.type, torch.bfloat16, enabled=workload.dtype == "bfloat16")
        if not workload.train:
            model.eval()

            @torch.inference_mode()
            def run() -> torch.Tensor:
                with cast:
                    return called(**inputs)

            return run
        if label is not None:
            return _training_steps(called, model, inputs, label.long(), cast)
        return _gradients(called, model, inputs, cast)

    def wait(self, outputs: Any) -> None:
        """Waits until the outputs of a call are there."""
        if self._place.type == "cuda":
            torch.cuda.synchronize()

    def fetch(self, outputs: Any) -> list[np.ndarray]:
        """Copies the outputs to the host, images with their channels last."""
        outputs = outputs if isinstance(outputs, list) else [outputs]
        outputs = [output.permute(0, 2, 3, 1) if output.ndim == 4 else output for output in outputs]
        outputs = [output.detach().float() if output.is_floating_point() else output for output in outputs]
        return [output.cpu().numpy() for output in outputs]

    def peak_memory_bytes(self) -> int | None:
        """Returns the most that was in use on an accelerator; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self._place.type == "cuda" else None

    def _model(self, workload: Workload) -> Any:
        if isinstance(workload, Encoder):
            return load_encoder(workload)
        for kind, model in _MODELS.items():
            if isinstance(workload, kind):
                made = model(workload)
                made.load(workload.weights())
                return made
        raise NotImplementedError(f"torch has no workload {workload.name}")

    def _input(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array).to(self._place)
        # What is in memory stays: channels last.
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def _training_steps(called: Any, model: nn.Module, inputs: Any, label: torch.Tensor, cast: Any) -> Callable[[], Any]:
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)

    def run() -> torch.Tensor:
        optimizer.zero_grad()
        with cast:
            loss = functional.cross_entropy(called(**inputs).float(), label)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def _gradients(called: Any, model: nn.Module, inputs: dict[str, torch.Tensor], cast: Any) -> Callable[[], Any]:
    for tensor in inputs.values():
        tensor.requires_grad_()
    leaves = [*inputs.values(), *model.parameters()]

    def run() -> list[Any]:
        for leaf in leaves:
            leaf.grad = None
        with cast:
            loss = called(**inputs).float().square().mean()
        loss.backward()
        return [loss, *(tensor.grad for tensor in inputs.values())]

    return run


def put(parameter: Any, array: np.ndarray) -> None:
    """Copies an array into a parameter."""
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def put_linear(layer: nn.Linear, weights: Weights, path: str) -> None:
    """Copies a kernel `[inputs, outputs]` and a bias into a layer."""
    put(layer.weight, weights[f"{path}kernel"].T)
    put(layer.bias, weights[f"{path}bias"])


def put_recurrent(layer: nn.RNNBase, weights: Weights, path: str) -> None:
    """Copies the weights of a recurrent layer, whose gates have PyTorch's order already."""
    put(layer.weight_ih_l0, weights[f"{path}input_kernel"].T)
    put(layer.weight_hh_l0, weights[f"{path}recurrent_kernel"].T)
    put(layer.bias_ih_l0, weights[f"{path}bias"])
    put(layer.bias_hh_l0, weights.get(f"{path}recurrent_bias", np.zeros_like(weights[f"{path}bias"])))


_MODELS: dict[Any, Any] = {
    Fusion: FusionModel,
    Recurrent: RecurrentModel,
    VitBlock: VitBlockModel,
    Depthwise: DepthwiseModel,
}
