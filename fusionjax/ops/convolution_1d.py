"""One-dimensional convolution."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fusionjax.ops.bias import add_bias
from fusionjax.ops.convolution_depthwise import depthwise_conv2d, depthwise_obstacle
from fusionjax.ops.dtypes import check_floating
from fusionjax.ops.implementations import is_inside_loop, on_platform, select_implementation
from fusionjax.ops.manual_axes import vary_together
from fusionjax.ops.shape_classes import sequence_convolution_class

Padding1D = str | tuple[int, int]


def conv1d(
    inputs: Float[Array, "batch length channels"],
    kernel: Float[Array, "kernel_length kernel_channels features"],
    bias: Float[Array, " bias_features"] | None = None,
    *,
    strides: int = 1,
    padding: Padding1D = "SAME",
    dilation: int = 1,
    groups: int = 1,
    implementation: str | None = None,
) -> Float[Array, "batch out_length features"]:
    """Convolves sequences with a kernel, without flipping it, and adds a bias.

    output[b, t, o] = bias[o] + sum over i, c of input[b, t * strides + i * dilation, c] * kernel[i, c, o].

    Implementations: `"xla"` is XLA's convolution and the reference. `"taps"` is the sum of the products of the shifted
    inputs, without groups. `"shifted"` is the same for depthwise convolutions, as many groups as channels, with at most
    256 taps. Both have no forward-mode derivative (`jax.jvp`). None follows the table of choices (docs/speed.md); where
    that has no row: on a CPU `"taps"` for one channel, such as samples of sound, and `"shifted"` where it applies,
    otherwise `"xla"`.

    Args:
        inputs: `[batch, length, channels]`.
        kernel: `[kernel_length, channels / groups, features]`.
        bias: `[features]`, or None for none.
        strides: steps between outputs.
        padding: `"SAME"`, `"VALID"`, `"CAUSAL"` (an output reads the inputs up to its own place), or zeros to add as
            `(left, right)`.
        dilation: steps between the kernel's taps.
        groups: channels and features fall into so many groups; a group's features read its channels only.
        implementation: `"xla"`, `"taps"`, `"shifted"`, or None to choose.

    Returns:
        `[batch, out_length, features]`, in the common dtype of the inputs and the kernel.

    Raises:
        ValueError: ranks, channels, bias, strides, dilation, groups, padding or the implementation's name do not fit.
        TypeError: inputs and kernel are both integers.
        NotImplementedError: the named implementation cannot serve this call.

    Example:
        >>> inputs, kernel = jnp.arange(1.0, 5.0).reshape(1, 4, 1), jnp.ones((2, 1, 1))
        >>> conv1d(inputs, kernel, padding="CAUSAL").ravel()
        Array([1., 3., 5., 7.], dtype=float32)

    References:
        van den Oord et al., "WaveNet: A Generative Model for Raw Audio", 2016, arXiv:1609.03499, section 2.1, for
        causal and dilated convolutions.
    """
    _check_shapes(inputs, kernel, bias, groups)
    if min(strides, dilation) < 1:
        raise ValueError(
            f"strides and dilation must be at least 1; got {strides} and {dilation}. Use 1 to leave nothing out."
        )
    pads = _resolve_padding(padding, inputs.shape[1], (kernel.shape[0] - 1) * dilation + 1, strides)
    obstacle = None if groups == 1 else f"it needs one group; got {groups}"
    obstacles = {
        "xla": None,
        "taps": obstacle,
        "shifted": depthwise_obstacle(inputs[:, :, None], kernel[:, None]),
    }
    preferred, avoided = "xla", None
    if on_platform("cpu"):
        in_loop = is_inside_loop()
        preferred = "taps" if inputs.shape[2] == 1 or (in_loop and obstacle is None) else "shifted"
        avoided = "xla" if in_loop else None
    shape_class = sequence_convolution_class(inputs.shape, kernel.shape, groups=groups)
    dtype = jnp.result_type(inputs, kernel)
    check_floating("conv1d", "inputs and kernel together", dtype)
    chosen = select_implementation(
        "conv1d", implementation, obstacles, preferred, shape_class=shape_class, dtype=dtype, avoided=avoided
    )
    inputs, kernel = inputs.astype(dtype), kernel.astype(dtype)
    if chosen == "taps":
        outputs = _sum_taps(*vary_together(inputs, kernel), strides, pads, dilation)
    elif chosen == "shifted":
        # An image of width one: rows are what the gradient sums up first.
        images, weights = vary_together(inputs[:, :, None], kernel[:, None])
        outputs = depthwise_conv2d(images, weights, (strides, 1), (pads, (0, 0)), (dilation, 1))[:, :, 0]
    else:
        outputs = lax.conv_general_dilated(
            inputs,
            kernel,
            (strides,),
            (pads,),
            rhs_dilation=(dilation,),
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=groups,
        )
    return outputs if bias is None else add_bias(outputs, bias.astype(dtype))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _sum_taps(inputs: Array, kernel: Array, strides: int, pads: tuple[int, int], dilation: int) -> Array:
    shifted = _shift(inputs, kernel.shape[0], strides, pads, dilation)
    wide = jnp.promote_types(kernel.dtype, jnp.float32)
    products = [jnp.matmul(part, tap, preferred_element_type=wide) for part, tap in zip(shifted, kernel, strict=True)]
    return sum(products[1:], products[0]).astype(kernel.dtype)


def _join_taps(inputs: Array, kernel: Array, strides: int, pads: tuple[int, int], dilation: int) -> Array:
    """Computes the same as one product, whose gradients are one product each."""
    # [batch, out_length, kernel_length * channels]
    joined = jnp.concatenate(_shift(inputs, kernel.shape[0], strides, pads, dilation), axis=-1)
    return joined @ kernel.reshape(-1, kernel.shape[2])


def _forward(
    inputs: Array, kernel: Array, strides: int, pads: tuple[int, int], dilation: int
) -> tuple[Array, tuple[Array, Array]]:
    return _sum_taps.fun(inputs, kernel, strides, pads, dilation), (inputs, kernel)


def _backward(
    strides: int, pads: tuple[int, int], dilation: int, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    _, pull_back = jax.vjp(partial(_join_taps, strides=strides, pads=pads, dilation=dilation), *residuals)
    return pull_back(gradient)


_sum_taps.defvjp(_forward, _backward)


def _shift(inputs: Array, taps: int, strides: int, pads: tuple[int, int], dilation: int) -> list[Array]:
    """Returns what every tap of the kernel reads, `[batch, out_length, channels]` each."""
    inputs = lax.pad(inputs, jnp.zeros((), inputs.dtype), [(0, 0, 0), (*pads, 0), (0, 0, 0)])
    reach = inputs.shape[1] - (taps - 1) * dilation
    return [inputs[:, tap * dilation : tap * dilation + reach : strides] for tap in range(taps)]


def _check_shapes(inputs: Array, kernel: Array, bias: Array | None, groups: int) -> None:
    if inputs.ndim != 3 or kernel.ndim != 3:
        raise ValueError(
            "conv1d takes inputs [batch, length, channels] and a kernel [length, channels / groups, features]; "
            f"got {inputs.shape} and {kernel.shape}. Add the missing axes, such as samples[:, :, None]."
        )
    channels, features = inputs.shape[2], kernel.shape[2]
    if groups < 1 or channels % groups or features % groups or kernel.shape[1] != channels // groups:
        raise ValueError(
            f"groups must divide the inputs' {channels} channels and the kernel's {features} features, and the kernel "
            f"take the channels of one group on its second axis; got groups={groups} and {kernel.shape}. "
            "Inputs are [batch, length, channels]."
        )
    if bias is not None and bias.shape != (features,):
        raise ValueError(
            f"the bias must have shape [features] = ({features},); got {bias.shape}. Give one number per feature."
        )


def _resolve_padding(padding: Padding1D, length: int, reach: int, strides: int) -> tuple[int, int]:
    if padding in ("SAME", "VALID"):
        ((left, right),) = lax.padtype_to_pads((length,), (reach,), (strides,), str(padding))
    elif padding == "CAUSAL":
        left, right = reach - 1, 0
    elif not isinstance(padding, str) and len(padding) == 2:
        left, right = padding
    else:
        raise ValueError(
            f'padding must be "SAME", "VALID", "CAUSAL" or (left, right); got {padding!r}. '
            "Give a pair of numbers to pad each side."
        )
    if length + left + right < reach:
        raise ValueError(
            f"the padded length must be at least the kernel's reach, {reach}; got {length + left + right}. "
            "Use longer inputs, a shorter kernel or more padding."
        )
    return int(left), int(right)
