"""The published encoders in Keras, of its own layers, with the tensors of a folder."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax.benchmarks.workloads import Encoder

_LITE_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_LITE_EPSILON, _RESNET_EPSILON = 1e-3, 1e-5


class EncoderBuilder:
    """Builds a model layer by layer, and gives each layer its tensors.

    Attributes:
        weights: tensors by name.
    """

    def __init__(self, keras: Any, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights
        self._keras, self._layers = keras, keras.layers

    def build(self, workload: Encoder) -> Any:
        """Builds the model of a workload.

        Args:
            workload: what to compute.

        Returns:
            The model, images to logits.

        Raises:
            NotImplementedError: there is no such family here.
        """
        makers = {"resnet": self._resnet, "efficientnet-lite": self._efficientnet_lite, "vit": self._vit}
        if workload.family not in makers:
            raise NotImplementedError(f"Keras has no workload {workload.name}")
        image = self._keras.Input((workload.image_size, workload.image_size, 3))
        return self._keras.Model(image, makers[workload.family](image, workload))

    def _apply(self, layer: Any, inputs: Any, *arrays: np.ndarray) -> Any:
        outputs = layer(*inputs) if isinstance(inputs, tuple) else layer(inputs)
        if arrays:
            shapes = [each.shape for each in layer.weights]
            layer.set_weights([array.reshape(shape) for array, shape in zip(arrays, shapes, strict=True)])
        return outputs

    def _conv_norm(
        self,
        grid: Any,
        conv: str,
        norm: str,
        strides: int = 1,
        *,
        epsilon: float,
        activation: str | None = None,
        is_symmetric: bool = True,
    ) -> Any:
        """Convolution without bias, batch normalisation, activation."""
        kernel = self.weights[f"{conv}.weight"]
        outputs, channels, size, _ = kernel.shape
        padding = "same"
        # With strides TensorFlow pads more at the bottom and the right, PyTorch evenly.
        if strides > 1 and is_symmetric:
            grid, padding = self._layers.ZeroPadding2D(size // 2)(grid), "valid"
        settings: dict[str, Any] = {"strides": strides, "padding": padding, "use_bias": False}
        if channels == 1 < grid.shape[-1]:
            grid = self._apply(self._layers.DepthwiseConv2D(size, **settings), grid, kernel.transpose(2, 3, 0, 1))
        else:
            grid = self._apply(self._layers.Conv2D(outputs, size, **settings), grid, kernel.transpose(2, 3, 1, 0))
        names = ("weight", "bias", "running_mean", "running_var")
        layer = self._layers.BatchNormalization(momentum=0.9, epsilon=epsilon)
        grid = self._apply(layer, grid, *(self.weights[f"{norm}.{name}"] for name in names))
        return grid if activation is None else self._layers.Activation(activation)(grid)

    def _dense(self, inputs: Any, name: str, activation: Any = None) -> Any:
        kernel, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return self._apply(self._layers.Dense(len(bias), activation=activation), inputs, kernel.T, bias)

    def _norm(self, tokens: Any, name: str, epsilon: float) -> Any:
        layer = self._layers.LayerNormalization(epsilon=epsilon)
        return self._apply(layer, tokens, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _resnet(self, grid: Any, workload: Encoder) -> Any:
        def layer(grid: Any, name: str, strides: int = 1, activation: str | None = "relu") -> Any:
            names = f"{name}.convolution", f"{name}.normalization"
            return self._conv_norm(grid, *names, strides, epsilon=_RESNET_EPSILON, activation=activation)

        grid = layer(grid, "resnet.embedder.embedder", 2)
        # After ReLU nothing is below zero.
        grid = self._layers.MaxPooling2D(3, 2)(self._layers.ZeroPadding2D(1)(grid))
        for stage in itertools.count():
            for place in itertools.count():
                block = f"resnet.encoder.stages.{stage}.layers.{place}"
                numbers = [one for one in range(3) if f"{block}.layer.{one}.convolution.weight" in self.weights]
                if not numbers:
                    break
                strides, outputs = 2 if stage and not place else 1, grid
                for number in numbers:
                    steps = strides if number == len(numbers) - 2 else 1
                    activation = "relu" if number < numbers[-1] else None
                    outputs = layer(outputs, f"{block}.layer.{number}", steps, activation)
                if f"{block}.shortcut.convolution.weight" in self.weights:
                    grid = layer(grid, f"{block}.shortcut", strides, None)
                grid = self._layers.Activation("relu")(self._layers.Add()([grid, outputs]))
            if not place:
                break
        return self._dense(self._layers.GlobalAveragePooling2D()(grid), "classifier.1")

    def _efficientnet_lite(self, grid: Any, workload: Encoder) -> Any:
        def layer(grid: Any, conv: str, norm: str, strides: int = 1, activation: str | None = "relu6") -> Any:
            return self._conv_norm(
                grid, conv, norm, strides, epsilon=_LITE_EPSILON, activation=activation, is_symmetric=False
            )

        grid = layer(grid, "conv_stem", "bn1", 2)
        for stage, first in enumerate(_LITE_STRIDES):
            for place in itertools.count():
                block, outputs = f"blocks.{stage}.{place}", grid
                if f"{block}.conv_dw.weight" not in self.weights:
                    break
                names = ["conv_dw", "conv_pw"]
                if f"{block}.conv_pwl.weight" in self.weights:
                    names = ["conv_pw", "conv_dw", "conv_pwl"]
                strides = 1 if place else first
                for number, name in enumerate(names, 1):
                    steps, activation = strides if name == "conv_dw" else 1, "relu6" if number < len(names) else None
                    outputs = layer(outputs, f"{block}.{name}", f"{block}.bn{number}", steps, activation)
                is_same = strides == 1 and outputs.shape[-1] == grid.shape[-1]
                grid = self._layers.Add()([grid, outputs]) if is_same else outputs
        grid = layer(grid, "conv_head", "bn2")
        return self._dense(self._layers.GlobalAveragePooling2D()(grid), "classifier")

    def _vit(self, image: Any, workload: Encoder) -> Any:
        config = json.loads((Path(workload.folder) / "config.json").read_text("utf-8"))
        heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]
        name = "vit.embeddings.patch_embeddings.projection"
        kernel, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        width, size = len(bias), kernel.shape[2]
        tokens = self._apply(self._layers.Conv2D(width, size, size), image, kernel.transpose(2, 3, 1, 0), bias)
        tokens = self._layers.Reshape((-1, width))(tokens)
        places = [self.weights[f"vit.embeddings.{name}"] for name in ("cls_token", "position_embeddings")]
        tokens = self._apply(_make_places(self._keras), tokens, *places)
        for number in range(config["num_hidden_layers"]):
            block = f"vit.encoder.layer.{number}"
            normal = self._norm(tokens, f"{block}.layernorm_before", epsilon)
            attention = self._layers.MultiHeadAttention(heads, width // heads)
            arrays = []
            for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
                path = f"{block}.attention.{part}"
                arrays += [self.weights[f"{path}.weight"].T, self.weights[f"{path}.bias"]]
            tokens = self._layers.Add()([tokens, self._apply(attention, (normal, normal), *arrays)])
            normal = self._norm(tokens, f"{block}.layernorm_after", epsilon)
            hidden = self._dense(normal, f"{block}.intermediate.dense", self._keras.activations.gelu)
            hidden = self._dense(hidden, f"{block}.output.dense")
            tokens = self._layers.Add()([tokens, hidden])
        return self._dense(self._norm(tokens, "vit.layernorm", epsilon)[:, 0], "classifier")


def _make_places(keras: Any) -> Any:
    """A layer that puts the class token first and adds the positions."""

    class Places(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.token = self.add_weight(shape=(1, 1, shape[-1]))
            self.positions = self.add_weight(shape=(1, shape[1] + 1, shape[-1]))

        def call(self, tokens: Any) -> Any:
            token = keras.ops.repeat(self.token, keras.ops.shape(tokens)[0], axis=0)
            return keras.ops.concatenate([keras.ops.cast(token, tokens.dtype), tokens], axis=1) + self.positions

    return Places()
