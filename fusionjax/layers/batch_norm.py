"""Batch normalisation."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype
from flax.typing import Dtype
from jax import lax
from jaxtyping import Array, Float

from fusionjax.ops.manual_axes import vary_together


class BatchNorm(nn.Module):
    """Brings every feature to mean zero and variance one, then scales and shifts it: `flax.linen.BatchNorm`.

    Parameters and running statistics have the same names and shapes as there. It differs in its own gradient, which
    reads the inputs again in place of what autodiff keeps: in training three quarters of the time on a CPU. With batch
    statistics it has no forward-mode derivative (`jax.jvp`).

    In training y = scale * (x - mean) / sqrt(var + epsilon) + bias, with the mean and the variance E[x^2] - mean^2 of
    the batch over all axes but the last; the running ones become momentum * running + (1 - momentum) * batch. Otherwise
    the running ones are used. Statistics are float32 whatever the dtype. Under `jax.jit` they are of the whole batch,
    however it is sharded; under `jax.pmap` and `jax.shard_map` of each device's part.

    Attributes:
        momentum: share of the running statistics that an update keeps.
        epsilon: added to the variance.
        use_scale: scale the result.
        use_bias: shift it.
        dtype: of the result; None for the common one of inputs and parameters.
        param_dtype: of the parameters.

    Example:
        >>> layer, inputs = BatchNorm(momentum=0.5), jnp.array([[1.0], [3.0]])
        >>> variables = layer.init(jax.random.key(0), inputs)
        >>> outputs, updated = layer.apply(variables, inputs, deterministic=False, mutable=["batch_stats"])
        >>> outputs.round(3).tolist(), updated["batch_stats"]["mean"].tolist()
        ([[-1.0], [1.0]], [1.0])

    References:
        Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
        Shift", 2015, arXiv:1502.03167, algorithm 1 and the gradients of section 3.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch *places features"], *, deterministic: bool = True
    ) -> Float[Array, "batch *places features"]:
        """Normalises.

        Args:
            inputs: `[batch, ..., features]`.
            deterministic: takes the running statistics; otherwise those of the batch, which also update them: the
                collection `batch_stats` must be mutable.

        Returns:
            The shape of the inputs.
        """
        shape = inputs.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype) if self.use_scale else None
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype) if self.use_bias else None
        dtype = canonicalize_dtype(inputs, scale, bias, dtype=self.dtype)
        factor = jnp.ones(shape, jnp.float32) if scale is None else jnp.asarray(scale)
        shift = jnp.zeros(shape, jnp.float32) if bias is None else jnp.asarray(bias)
        if deterministic:
            outputs = (inputs - mean.value) * (lax.rsqrt(variance.value + self.epsilon) * factor) + shift
            return outputs.astype(dtype)
        outputs, batch_mean, batch_variance = _normalize(*vary_together(inputs, factor, shift), self.epsilon)
        if not self.is_initializing():
            for running, batch in ((mean, batch_mean), (variance, batch_variance)):
                running.value = self.momentum * running.value + (1 - self.momentum) * batch
        return outputs.astype(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(inputs: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """Returns the outputs, float32 at least, and the mean and the variance of the batch."""
    return _forward(inputs, scale, bias, epsilon)[0]


def _forward(
    inputs: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    axes = tuple(range(inputs.ndim - 1))
    wide = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
    mean = wide.mean(axes)
    variance = jnp.maximum(0, jnp.square(wide).mean(axes) - jnp.square(mean))
    per_deviation = lax.rsqrt(variance + epsilon)
    factor = per_deviation * scale
    outputs = wide * factor + (bias - mean * factor)
    return (outputs, mean, variance), (inputs, scale, bias, mean, per_deviation)


def _backward(
    epsilon: float, residuals: tuple[Array, ...], gradients: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    del epsilon
    inputs, scale, bias, mean, per_deviation = residuals
    gradient, mean_gradient, variance_gradient = gradients
    axes, count = tuple(range(inputs.ndim - 1)), math.prod(inputs.shape[:-1])
    wide = inputs.astype(gradient.dtype)
    total = gradient.sum(axes)
    # Of the normalised inputs with the gradient
    product = per_deviation * ((gradient * wide).sum(axes) - mean * total)
    factor = per_deviation * scale
    slope = (2 * variance_gradient - factor * per_deviation * product) / count
    offset = (mean_gradient - factor * total) / count - mean * slope
    inputs_gradient = factor * gradient + slope * wide + offset
    return inputs_gradient.astype(inputs.dtype), product.astype(scale.dtype), total.astype(bias.dtype)


_normalize.defvjp(_forward, _backward)
