"""Keras as a contender, on TensorFlow (`tf.function`, with XLA or without) or on JAX (`jax.jit`)."""

import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from fusionjax.benchmarks.peers.keras_encoders import EncoderBuilder
from fusionjax.benchmarks.workloads import Depthwise, Encoder, Fusion, Recurrent, VitBlock, Workload
from fusionjax.benchmarks.workloads.fusion import CLASSES, FILTERS, WORDS

LEARNING_RATE = 1e-4


class Keras:
    """Keras on one of its backends.

    Attributes:
        backend: `tensorflow` (whose functions XLA may compile) or `jax`.
    """

    def __init__(self, backend: str, uses_xla: bool = False) -> None:
        self.backend = backend
        os.environ["KERAS_BACKEND"] = backend
        self._runtime: Any = _OnTensorFlow(uses_xla) if backend == "tensorflow" else _OnJax()
        import keras

        self._keras = keras

    def versions(self) -> dict[str, str]:
        """Returns the versions of its packages."""
        return {"keras": self._keras.__version__, self.backend: self._runtime.version}

    def device(self) -> str:
        """Returns the kind of device that it computes on."""
        return self._runtime.device()

    def build(self, workload: Workload) -> Callable[[], Any]:
        """Prepares a workload; see `Framework.build`."""
        keras = self._keras
        keras.config.set_dtype_policy("mixed_bfloat16" if workload.dtype == "bfloat16" else "float32")
        model = self._model(workload)
        arrays = workload.normal_inputs() if isinstance(workload, Encoder) else workload.inputs()
        label = arrays.pop("label", None)
        inputs = [self._runtime.put(array) for array in arrays.values()]
        if not workload.train:
            return self._runtime.forward(model, inputs)
        if label is not None:
            optimizer = keras.optimizers.Adam(LEARNING_RATE, epsilon=1e-8)
            optimizer.build(model.trainable_variables)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            return self._runtime.training(model, optimizer, loss, inputs, self._runtime.put(label))
        return self._runtime.gradients(model, inputs)

    def wait(self, outputs: Any) -> None:
        """Waits until the outputs of a call are there."""
        self._runtime.wait(outputs)

    def fetch(self, outputs: Any) -> list[np.ndarray]:
        """Copies the outputs to the host."""
        return [np.asarray(output, np.float32) for output in (outputs if isinstance(outputs, list) else [outputs])]

    def peak_memory_bytes(self) -> int | None:
        """Returns the most that was in use on an accelerator; None on a CPU."""
        return self._runtime.peak_memory_bytes()

    def _model(self, workload: Workload) -> Any:
        makers: dict[type, Any] = {
            Fusion: self._fusion,
            Recurrent: self._recurrent,
            VitBlock: self._vit_block,
            Depthwise: self._depthwise,
            Encoder: self._encoder,
        }
        if type(workload) not in makers:
            raise NotImplementedError(f"Keras has no workload {workload.name}")
        return makers[type(workload)](workload)

    def _encoder(self, workload: Encoder) -> Any:
        return EncoderBuilder(self._keras, workload.weights()).build(workload)

    def _recurrent(self, workload: Recurrent) -> Any:
        keras, layers = self._keras, self._keras.layers
        layer = {"lstm": layers.LSTM, "gru": layers.GRU, "elman": layers.SimpleRNN}[workload.cell]
        inputs = keras.Input((workload.length, workload.features))
        model = keras.Model(inputs, layer(workload.features, return_sequences=True, name=workload.cell)(inputs))
        weights = workload.weights()
        if workload.cell == "gru":
            # Its gates come in another order, and its two biases in one array.
            for path, array in weights.items():
                reset, update, candidate = np.split(array, 3, axis=-1)
                weights[path] = np.concatenate([update, reset, candidate], -1)
            weights["gru/bias"] = np.stack([weights["gru/bias"], weights.pop("gru/recurrent_bias")])
        _put(model, weights)
        return model

    def _vit_block(self, workload: VitBlock) -> Any:
        keras, layers = self._keras, self._keras.layers
        inputs = tokens = keras.Input((workload.length, workload.width))
        normalised = layers.LayerNormalization(epsilon=1e-6, name="self_attention_norm")(tokens)
        attention = layers.MultiHeadAttention(
            workload.num_heads, workload.width // workload.num_heads, name="self_attention"
        )
        tokens = tokens + attention(normalised, normalised)
        normalised = layers.LayerNormalization(epsilon=1e-6, name="mlp_norm")(tokens)
        hidden = layers.Dense(4 * workload.width, name="mlp_in")(normalised)
        hidden = keras.activations.gelu(hidden, approximate=True)
        tokens = tokens + layers.Dense(workload.width, name="mlp_out")(hidden)
        model = keras.Model(inputs, tokens)
        _put(model, workload.weights())
        return model

    def _depthwise(self, workload: Depthwise) -> Any:
        keras, layers = self._keras, self._keras.layers
        inputs = keras.Input((workload.image_size, workload.image_size, workload.channels))
        layer = layers.DepthwiseConv2D(workload.kernel_size, padding="same", use_bias=False, name="depthwise")
        model = keras.Model(inputs, layer(inputs))
        _put(model, workload.weights())
        return model

    def _fusion(self, workload: Fusion) -> Any:
        keras, layers = self._keras, self._keras.layers
        inputs, parts = [], []
        if workload.has_image:
            image = keras.Input((workload.image_size, workload.image_size, 3))
            grid = image
            for stage, filters in enumerate(FILTERS):
                grid = layers.Conv2D(filters, 3, activation="relu", name=f"conv_{stage}")(grid)
                grid = layers.MaxPooling2D(2)(grid)
            inputs.append(image)
            parts.append(layers.Flatten()(grid))
        if workload.has_text:
            text = keras.Input((workload.length,), dtype="int32")
            vectors = layers.Embedding(workload.vocab_size, workload.features, name="embedding")(text)
            states = layers.LSTM(workload.features, return_sequences=True, name="lstm")(vectors)
            attended = layers.Attention()([states, states])
            hidden = layers.Dense(workload.features, activation="relu", name="hidden")(attended)
            words = layers.Dense(WORDS, activation="softmax", name="words")(hidden)
            inputs.append(text)
            parts.append(layers.Flatten()(words))
        joined = layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
        model = keras.Model(inputs, layers.Dense(CLASSES, name="classes")(joined) if workload.train else joined)
        _put(model, workload.weights())
        return model


class _OnTensorFlow:
    """TensorFlow beneath Keras."""

    def __init__(self, uses_xla: bool) -> None:
        import tensorflow

        self._tf, self.version = tensorflow, tensorflow.__version__
        self._compile = tensorflow.function(jit_compile=uses_xla or None)

    def device(self) -> str:
        return "gpu" if self._tf.config.list_physical_devices("GPU") else "cpu"

    def put(self, array: np.ndarray) -> Any:
        return self._tf.constant(array)

    def forward(self, model: Any, inputs: list[Any]) -> Callable[[], Any]:
        called = self._compile(lambda *inputs: model(list(inputs), training=False))
        return lambda: called(*inputs)

    def training(self, model: Any, optimizer: Any, loss: Any, inputs: list[Any], label: Any) -> Callable[[], Any]:
        @self._compile
        def step(inputs: Any, label: Any) -> Any:
            with self._tf.GradientTape() as tape:
                value = loss(label, model(inputs, training=True))
            gradients = tape.gradient(value, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return value

        return lambda: step(inputs, label)

    def gradients(self, model: Any, inputs: list[Any]) -> Callable[[], Any]:
        @self._compile
        def step(*inputs: Any) -> Any:
            with self._tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = self._tf.cast(model(list(inputs), training=True), "float32")
                loss = self._tf.reduce_mean(self._tf.square(outputs))
            found = tape.gradient(loss, [*inputs, *model.trainable_variables])
            return [loss, *found]

        # The host gets the gradients of the inputs only; those of the weights are computed all the same.
        return lambda: step(*inputs)[: 1 + len(inputs)]

    def wait(self, outputs: Any) -> None:
        self._tf.test.experimental.sync_devices()

    def peak_memory_bytes(self) -> int | None:
        gpus = self._tf.config.list_physical_devices("GPU")
        return self._tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpus else None


class _OnJax:
    """JAX beneath Keras."""

    def __init__(self) -> None:
        import jax

        self._jax, self.version = jax, importlib.metadata.version("jax")

    def device(self) -> str:
        return self._jax.devices()[0].device_kind

    def put(self, array: np.ndarray) -> Any:
        return self._jax.numpy.asarray(array)

    def forward(self, model: Any, inputs: list[Any]) -> Callable[[], Any]:
        trainable, fixed = ([each.value for each in group] for group in _variables(model))
        called = self._jax.jit(lambda *state: model.stateless_call(*state, training=False)[0])
        return lambda: called(trainable, fixed, inputs)

    def training(self, model: Any, optimizer: Any, loss: Any, inputs: list[Any], label: Any) -> Callable[[], Any]:
        def objective(trainable: Any, fixed: Any, inputs: Any, label: Any) -> tuple[Any, Any]:
            outputs, fixed = model.stateless_call(trainable, fixed, inputs, training=True)
            return loss(label, outputs), fixed

        def step(trainable: Any, fixed: Any, state: Any, inputs: Any, label: Any) -> tuple[Any, Any, Any, Any]:
            gradient = self._jax.value_and_grad(objective, has_aux=True)
            (value, fixed), gradients = gradient(trainable, fixed, inputs, label)
            trainable, state = optimizer.stateless_apply(state, gradients, trainable)
            return trainable, fixed, state, value

        compiled = self._jax.jit(step, donate_argnums=(0, 1, 2))
        carry = [[each.value for each in group] for group in (*_variables(model), optimizer.variables)]

        def run() -> Any:
            *carry[:], value = compiled(*carry, inputs, label)
            return value

        return run

    def gradients(self, model: Any, inputs: list[Any]) -> Callable[[], Any]:
        def objective(trainable: Any, inputs: Any, fixed: Any) -> Any:
            outputs, _ = model.stateless_call(trainable, fixed, inputs, training=True)
            return self._jax.numpy.square(outputs.astype("float32")).mean()

        trainable, fixed = ([each.value for each in group] for group in _variables(model))
        compiled = self._jax.jit(self._jax.value_and_grad(objective, argnums=(0, 1)))

        def run() -> Any:
            loss, (_, found) = compiled(trainable, inputs, fixed)
            return [loss, *found]

        return run

    def wait(self, outputs: Any) -> None:
        self._jax.block_until_ready(outputs)

    def peak_memory_bytes(self) -> int | None:
        statistics = self._jax.local_devices()[0].memory_stats()
        return statistics["peak_bytes_in_use"] if statistics else None


def _variables(model: Any) -> tuple[list[Any], list[Any]]:
    return model.trainable_variables, model.non_trainable_variables


def _put(model: Any, weights: dict[str, np.ndarray]) -> None:
    """Gives each layer the arrays whose path names it, in their order, which is Keras's own."""
    for layer in model.layers:
        arrays = [array for path, array in weights.items() if layer.name in path.split("/")[:-1]]
        if arrays:
            shapes = [variable.shape for variable in layer.weights]
            layer.set_weights([array.reshape(shape) for array, shape in zip(arrays, shapes, strict=True)])
