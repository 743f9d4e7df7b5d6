"""The image encoder's values and gradients equal PyTorch's, though it pools before the ReLU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.encoders import SimpleCNN
from tests.parity.reference import reference
from tests.parity.torch_simple_cnn import simple_cnn

STAGES = ("conv_0", "conv_1", "dense_0")


def convert(arrays: dict[str, np.ndarray], suffix: str = "") -> dict[str, dict[str, np.ndarray]]:
    kernels = {name: arrays[f"{name}/weight{suffix}"] for name in STAGES}
    return {
        name: {
            "kernel": kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T,
            "bias": arrays[f"{name}/bias{suffix}"],
        }
        for name, kernel in kernels.items()
    }


def test_simple_cnn_equals_pytorch() -> None:
    arrays = reference("simple_cnn", simple_cnn)
    encoder = SimpleCNN(features=(5, 7), hidden_features=(11,))
    images = arrays["images"].transpose(0, 2, 3, 1)

    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def function(params, images):
        features = encoder.apply({"params": params}, images)
        outputs = features.tokens, features.pooled
        return sum(jnp.sum(jnp.cos(jnp.arange(one.size)).reshape(one.shape) * one) for one in outputs), features

    (_, features), gradients = jax.jit(function)(convert(arrays), images)
    expected = convert(arrays, "_gradient"), arrays["images_gradient"].transpose(0, 2, 3, 1)
    assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    assert features.grid == (3, 2) and np.abs(arrays["tokens"]).max() > 0.1
    assert_close(features.tokens, arrays["tokens"])
    assert_close(features.pooled, arrays["pooled"])
    jax.tree.map(assert_close, gradients, expected)
