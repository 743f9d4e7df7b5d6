"""Folded batch normalisation against Flax and PyTorch in evaluation."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fusionjax import compress, encoders
from tests.contracts.parameters import draw_variables, run
from tests.contracts.table import BATCH, IMAGE_MASK, IMAGES, read

EPSILON = 1e-3


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Pair(nn.Module):
    """Layers with their normalisations, by other names than the library's; without them, layers alone."""

    layers: tuple[Any, ...]
    is_folded: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        for index, (kind, options) in enumerate(self.layers):
            options = {**options, "use_bias": True} if self.is_folded else options
            inputs = kind(name=f"layer_{index}", **options)(inputs)
            if not self.is_folded:
                norm = nn.BatchNorm(use_running_average=True, epsilon=EPSILON, use_scale=index != 1, name=f"bn_{index}")
                inputs = norm(inputs)
        return nn.gelu(inputs)


CHAIN = (
    (nn.Conv, {"features": 6, "kernel_size": (3, 2), "use_bias": False}),
    (nn.Conv, {"features": 12, "kernel_size": (2, 3), "feature_group_count": 3, "strides": (2, 1)}),
    (nn.Conv, {"features": 12, "kernel_size": (3, 3), "feature_group_count": 12, "padding": "VALID"}),
    (nn.Dense, {"features": 5}),
)


def test_a_chain_of_layers_against_flax() -> None:
    model, images = Pair(CHAIN), random(0, 2, 11, 7, 3)
    variables = draw_variables(model, images)
    layers = {f"layer_{index}": f"bn_{index}" for index in range(len(CHAIN))}
    folded = compress.fold_batch_norm_layers(variables, layers, epsilon=EPSILON)
    assert list(folded) == ["params"] and set(folded["params"]) == set(layers)
    expected, found = run(model, variables, images), run(model.clone(is_folded=True), folded, images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert "bias" not in variables["params"]["layer_0"]


def test_only_what_is_named_is_folded() -> None:
    variables = draw_variables(Pair(CHAIN), random(0, 2, 11, 7, 3))
    folded = compress.fold_batch_norm_layers(
        {"params": {"a": variables["params"]}, "batch_stats": {"a": variables["batch_stats"]}}, {"a/layer_1": "a/bn_1"}
    )
    assert sorted(folded["batch_stats"]["a"]) == ["bn_0", "bn_2", "bn_3"]
    assert folded["params"]["a"]["layer_0"]["kernel"] is variables["params"]["layer_0"]["kernel"]
    assert "bn_1" not in folded["params"]["a"]


@pytest.mark.parametrize(("groups", "has_bias"), [(1, True), (3, False)])
def test_a_convolution_against_torch(groups: int, has_bias: bool) -> None:
    torch = pytest.importorskip("torch")
    conv = torch.nn.Conv2d(6, 9, (3, 2), groups=groups, bias=has_bias)
    norm = torch.nn.BatchNorm2d(9, eps=EPSILON).eval()
    for array, values in ((norm.running_mean, random(1, 9)), (norm.running_var, random(2, 9) ** 2)):
        array.copy_(torch.tensor(values))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(random(3, 9)))
        norm.bias.copy_(torch.tensor(random(4, 9)))
        images = random(5, 2, 6, 11, 7)
        expected = norm(conv(torch.tensor(images))).numpy()

    def numbers(tensor: Any) -> jax.Array:
        return jnp.asarray(tensor.detach().numpy())

    kernel, bias = compress.fold_batch_norm(
        numbers(conv.weight).transpose(2, 3, 1, 0),
        numbers(conv.bias) if has_bias else None,
        mean=numbers(norm.running_mean),
        var=numbers(norm.running_var),
        scale=numbers(norm.weight),
        offset=numbers(norm.bias),
        epsilon=EPSILON,
    )
    assert float(numbers(norm.weight).min()) < 0
    layout = ("NCHW", "HWIO", "NCHW")
    found = lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=layout, feature_group_count=groups
    )
    np.testing.assert_allclose(found + bias[:, None, None], expected, rtol=1e-4, atol=1e-5)


def test_simple_cnn() -> None:
    encoder = encoders.SimpleCNN(features=(5, 7), normalization="batch", pooling="mean")
    variables = draw_variables(encoder, IMAGES)
    folded, folded_variables = compress.fold_batch_norms(encoder, variables)
    assert folded.normalization is None and list(folded_variables) == ["params"]
    found, expected = (
        read(run(*pair, IMAGES, IMAGE_MASK)) for pair in ((folded, folded_variables), (encoder, variables))
    )
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6 * np.abs(value).max())
        assert value.shape[0] == BATCH


def test_simple_cnn_with_a_negative_scale_keeps_its_norm() -> None:
    encoder = encoders.SimpleCNN(features=(5, 7), normalization="batch")
    variables = draw_variables(encoder, IMAGES)
    variables["params"]["norm_1"]["scale"] = variables["params"]["norm_1"]["scale"].at[3].set(-0.5)
    message = r"the scales of norm_1 must not be negative, since the largest is taken before them; got -0.5. Keep"
    with pytest.raises(ValueError, match=message):
        compress.fold_batch_norms(encoder, variables)


def test_errors() -> None:
    vectors = {"mean": jnp.ones(5), "var": jnp.ones(5)}
    message = r"offset must have shape \[features\] = \(5,\), as the kernel \(3, 5\) has; got \(3,\). Pair the layer"
    with pytest.raises(ValueError, match=message):
        compress.fold_batch_norm(jnp.ones((3, 5)), None, **vectors, offset=jnp.ones(3))
    variables = {"params": {"conv": {"kernel": jnp.ones((3, 5))}}, "batch_stats": {"norm": vectors}}
    for layers, message in (
        ({"con": "norm"}, r"there must be a kernel at each path of layers; got 'con', known are conv. Give paths"),
        ({"conv": "nor"}, r"there must be a mean at each path of layers; got 'nor', known are norm. Give paths"),
        ({"conv": "norm", "b": "norm"}, r"every layer must have a normalisation of its own; got \{'conv': 'norm', "),
    ):
        with pytest.raises(ValueError, match=message):
            compress.fold_batch_norm_layers(variables, layers)
    plain = encoders.SimpleCNN(features=(5, 7))
    with pytest.raises(ValueError, match=r"a SimpleCNN with normalization='batch'; got SimpleCNN. Fold others by fold"):
        compress.fold_batch_norms(plain, {"params": {}})
