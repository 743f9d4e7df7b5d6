"""Batch normalisation against PyTorch, Flax and automatic differentiation of its definition."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.layers import BatchNorm
from fusionjax.layers.batch_norm import _normalize

EPSILON, MOMENTUM = 1e-3, 0.7
SHAPES = [(11, 3), (2, 5, 7, 3)]


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.4, 1.7, shape).astype(np.float32)


def variables_of(features: int) -> dict[str, Any]:
    params = {"scale": draw(1, features), "bias": draw(2, features)}
    return {"params": params, "batch_stats": {"mean": draw(3, features), "var": draw(4, features) ** 2}}


def train(layer: nn.Module, variables: dict[str, Any], inputs: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
    """Outputs, updated statistics, and gradients of a drawn linear function for the parameters and the inputs."""
    weights = draw(5, *inputs.shape)

    def apply(params: Any, inputs: Any) -> tuple[Any, Any]:
        outputs, updated = layer.apply({**variables, "params": params}, inputs, mutable=["batch_stats"], **kwargs)
        return (outputs * weights).sum(), (outputs, updated["batch_stats"])

    gradients, (outputs, updated) = jax.jit(jax.grad(apply, (0, 1), has_aux=True))(variables["params"], inputs)
    return outputs, updated, gradients


@pytest.mark.parametrize("shape", SHAPES)
def test_training_is_pytorch_s(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    inputs, variables = draw(0, *shape), variables_of(3)
    layer = BatchNorm(MOMENTUM, EPSILON)
    outputs, updated, (params_gradient, inputs_gradient) = train(layer, variables, inputs, deterministic=False)

    theirs = torch.nn.BatchNorm1d(3, eps=EPSILON, momentum=1 - MOMENTUM)
    with torch.no_grad():
        for name, value in (("weight", "scale"), ("bias", "bias")):
            getattr(theirs, name).copy_(torch.tensor(variables["params"][value]))
        theirs.running_mean.copy_(torch.tensor(variables["batch_stats"]["mean"]))
        # PyTorch updates with the variance over count - 1.
        count = np.prod(shape[:-1])
        theirs.running_var.copy_(torch.tensor(variables["batch_stats"]["var"]) * count / (count - 1))
    rows = torch.tensor(inputs.reshape(-1, 3), requires_grad=True)
    expected = theirs(rows)
    (expected * torch.tensor(draw(5, *shape).reshape(-1, 3))).sum().backward()
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(outputs.reshape(-1, 3), expected.detach().numpy(), **close)
    np.testing.assert_allclose(inputs_gradient.reshape(-1, 3), rows.grad.numpy(), **close)
    np.testing.assert_allclose(params_gradient["scale"], theirs.weight.grad.numpy(), **close)
    np.testing.assert_allclose(params_gradient["bias"], theirs.bias.grad.numpy(), **close)
    np.testing.assert_allclose(updated["mean"], theirs.running_mean.numpy(), **close)
    np.testing.assert_allclose(updated["var"], theirs.running_var.numpy() * (count - 1) / count, **close)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("options", [{}, {"use_scale": False}, {"use_bias": False, "use_scale": False}])
@pytest.mark.parametrize("deterministic", [True, False])
def test_parameters_statistics_and_outputs_are_flax_s(
    dtype: Any, options: dict[str, bool], deterministic: bool
) -> None:
    inputs = jnp.asarray(draw(0, 2, 5, 7, 3), dtype)
    ours = BatchNorm(MOMENTUM, EPSILON, dtype=dtype, **options)
    flax = nn.BatchNorm(deterministic, momentum=MOMENTUM, epsilon=EPSILON, dtype=dtype, **options)
    made, expected = (layer.init(jax.random.key(0), inputs) for layer in (ours, flax))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), made) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), expected
    )
    drawn = variables_of(3)
    params = {name: drawn["params"][name] for name in made.get("params", {})}
    variables = {"params": params, "batch_stats": drawn["batch_stats"]}
    one = train(ours, variables, inputs, deterministic=deterministic)
    other = train(flax, variables, inputs)
    assert one[0].dtype == other[0].dtype and one[2][1].dtype == other[2][1].dtype
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype is None else {"rtol": 2e-2, "atol": 2e-2}
    jax.tree.map(
        lambda found, known: np.testing.assert_allclose(
            np.asarray(found, np.float32), np.asarray(known, np.float32), **close
        ),
        one,
        other,
    )


def test_all_gradients_are_those_of_the_definition() -> None:
    """Also of the statistics that it returns, twice, and over a batch of batches."""

    def define(inputs: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, ...]:
        mean, variance = inputs.mean((0, 1)), inputs.var((0, 1))
        return (inputs - mean) / jnp.sqrt(variance + EPSILON) * scale + bias, mean, variance

    arrays = [jnp.asarray(draw(seed, *shape)) for seed, shape in enumerate(((5, 7, 3), (3,), (3,)))]
    weights = draw(6, 5, 7, 3), draw(7, 3), draw(8, 3)

    def measure(function: Any) -> Any:
        def weigh(*arrays: jax.Array) -> jax.Array:
            return sum((jnp.sin(out) * weight).sum() for out, weight in zip(function(*arrays), weights, strict=True))

        def slope(*arrays: jax.Array) -> jax.Array:
            return sum(jnp.square(leaf).sum() for leaf in jax.grad(weigh, (0, 1, 2))(*arrays))

        many = [jnp.stack([array, 2 * array + 1]) for array in arrays]
        return (
            jax.grad(weigh, (0, 1, 2))(*arrays),
            jax.grad(slope, (0, 1, 2))(*arrays),
            jax.vmap(jax.grad(weigh, (0, 1, 2)))(*many),
        )

    found = jax.jit(lambda: measure(lambda *arrays: _normalize(*arrays, EPSILON)))()
    known = jax.jit(lambda: measure(define))()
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4), found, known)


def test_statistics_stay_while_parameters_are_made() -> None:
    variables = BatchNorm().init(jax.random.key(0), jnp.asarray(draw(0, 5, 3)), deterministic=False)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)


def test_inside_shard_map_each_device_has_its_own_statistics() -> None:
    """As PyTorch's and Flax's have it; gradients of shared parameters are summed over the devices."""
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    inputs, variables = jnp.asarray(draw(0, 3 * devices, 5)), variables_of(5)
    split, same = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()

    def losses(params: Any, inputs: jax.Array) -> jax.Array:
        outputs, _ = BatchNorm().apply(
            {**variables, "params": params}, inputs, deterministic=False, mutable=["batch_stats"]
        )
        return jnp.square(outputs - 1).sum(keepdims=True)[0]

    sharded = jax.shard_map(losses, mesh=mesh, in_specs=(same, split), out_specs=split)
    found = jax.jit(jax.grad(lambda *arguments: sharded(*arguments).sum()))(variables["params"], inputs)
    known = jax.grad(lambda params: sum(losses(params, part)[0] for part in inputs.reshape(devices, 3, 5)))(
        variables["params"]
    )
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4), found, known)
