"""Operations with their own gradients inside `jax.shard_map`: parameters are equal on all devices, the batch is not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from fusionjax import ops


def draw(*shapes):
    generator = np.random.default_rng(13)
    return tuple(jnp.asarray(0.5 * generator.normal(size=shape), jnp.float32) for shape in shapes)


def convolve(implementation):
    return lambda images, kernel, bias: ops.conv2d(images, kernel, bias, implementation=implementation)


def recur(implementation):
    def run(inputs, *parameters):
        return ops.lstm(inputs, *parameters, implementation=implementation).outputs

    return run


CASES = {
    "conv2d-taps": (convolve("taps"), ((4, 7, 5, 3), (3, 3, 3, 2), (2,))),
    "conv2d-winograd": (convolve("winograd"), ((4, 7, 5, 3), (3, 3, 3, 2), (2,))),
    "conv2d-pointwise": (convolve("pointwise"), ((4, 7, 5, 3), (1, 1, 3, 2), (2,))),
    "lstm-xla": (recur("xla"), ((4, 7, 3), (3, 20), (5, 20), (20,))),
    "lstm-chunked": (recur("chunked"), ((4, 7, 3), (3, 20), (5, 20), (20,))),
    **{
        f"conv2d_relu_max_pool-{name}": (
            lambda *arrays, name=name: ops.conv2d_relu_max_pool(*arrays, implementation=name),
            ((4, 7, 5, 3), (3, 3, 3, 2), (2,)),
        )
        for name in ("direct", "winograd", "separate", "stacked")
    },
}


@pytest.mark.parametrize("name", CASES)
def test_the_gradients_of_parameters_are_summed_over_the_devices(name):
    function, shapes = CASES[name]
    arguments = draw(*shapes)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split, same = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(function, mesh=mesh, in_specs=(split, *[same] * (len(shapes) - 1)), out_specs=split)

    @partial(jax.jit, static_argnums=0)
    def run(function):
        values, pull_back = jax.vjp(function, *arguments)
        return values, *pull_back(jnp.cos(jnp.arange(values.size, dtype=jnp.float32)).reshape(values.shape))

    for actual, expected in zip(run(mapped), run(function), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
