"""Every message of an operation: what was expected, what came, what to do."""

import jax.numpy as jnp
import pytest

from fusionjax import ops
from fusionjax.ops.implementations import select_implementation

ones = jnp.ones
IMAGES, KERNEL = ones((2, 7, 5, 3)), ones((3, 3, 3, 2))
QUERY, KEY = ones((2, 3, 1, 5)), ones((2, 7, 1, 5))


LSTM_SHAPES = {"inputs": (2, 7, 3), "input_kernel": (3, 20), "recurrent_kernel": (5, 20)}


def integers(array):
    return array.astype("int32")


def recurrent(**changes):
    arguments = {name: ones(shape) for name, shape in LSTM_SHAPES.items()}
    return ops.lstm(**{**arguments, "bias": ones(20), **changes})


def run_gru(**changes):
    arguments = {"inputs": ones((2, 7, 3)), "input_kernel": ones((3, 15)), "recurrent_kernel": ones((5, 15))}
    return ops.gru(**{**arguments, "bias": ones(15), "recurrent_bias": ones(15), **changes})


def run_elman(**changes):
    arguments = {"inputs": ones((2, 7, 3)), "input_kernel": ones((3, 5)), "recurrent_kernel": ones((5, 5))}
    return ops.elman(**{**arguments, "bias": ones(5), **changes})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ops.conv2d(IMAGES[0], KERNEL), r"takes images \[batch.*got \(7, 5, 3\) and"),
        (lambda: ops.conv2d(IMAGES[..., :2], KERNEL), r"must take the images' 2 channels, .*got \(3, 3, 3, 2\)"),
        (lambda: ops.conv2d(IMAGES, KERNEL, ones(3)), r"bias must have shape .*\(2,\); got \(3,\)"),
        (lambda: ops.conv2d(IMAGES, KERNEL, strides=(0, 1)), r"strides must be at least 1; got \(0, 1\)"),
        (lambda: ops.conv2d(IMAGES, KERNEL, dilation=(1, 0)), r"dilation must be at least 1; got \(1, 0\)"),
        (lambda: ops.conv2d(IMAGES, KERNEL, groups=3), "divide the 3 channels and the 2 features; got 3"),
        (lambda: ops.conv2d(IMAGES[..., :2], KERNEL, groups=2), r"2 channels, of 2 groups, .*got \(3, 3, 3, 2\)"),
        (lambda: ops.conv2d(IMAGES, KERNEL, padding="FULL"), "padding must be .*got 'FULL'"),
        (lambda: ops.conv2d(IMAGES, KERNEL, padding=(1, 2)), r"padding must be .*got \(1, 2\)"),
        (lambda: ops.conv2d(IMAGES[:, :2], KERNEL, padding="VALID"), "padded height must be .* 3; got 2"),
        (
            lambda: ops.conv2d(IMAGES, KERNEL, implementation="cudnn"),
            "conv2d has .*'xla', 'taps', 'winograd', 'pointwise', 'shifted', 'split'; got 'cudnn'",
        ),
        (lambda: ops.conv2d_relu_max_pool(IMAGES[0], KERNEL, ones(2)), "conv2d_relu_max_pool takes images"),
        (lambda: ops.conv2d_relu_max_pool(IMAGES[:, :3], KERNEL, ones(2)), "at least 2x2 .* got 1x3"),
        (lambda: ops.conv2d_relu_max_pool_stages(IMAGES, [KERNEL], []), "each kernel; got 1 kernels and 0 biases"),
        (lambda: ops.conv2d_relu_max_pool_stages(IMAGES[0], [KERNEL], [ones(2)]), "takes images"),
        (
            lambda: ops.conv2d_relu_max_pool(IMAGES, KERNEL, ones(2), implementation="onednn"),
            "'xla', 'separate', 'direct', 'winograd', 'stacked'; got 'onednn'",
        ),
        (lambda: ops.max_pool2d(IMAGES[0]), r"max_pool2d takes images .*got \(7, 5, 3\)"),
        (lambda: ops.max_pool2d(IMAGES, 3), r"two whole numbers; got 3 and 3\. Write"),
        (lambda: ops.max_pool2d(IMAGES, (2,)), r"two whole numbers; got \(2,\) and \(2,\)\. Write"),
        (lambda: ops.max_pool2d(IMAGES, strides=(2.5, 2)), r"two whole numbers; got \(2, 2\) and \(2.5, 2\)\. Write"),
        (lambda: ops.max_pool2d(IMAGES, (0, 2)), r"at least 1; got \(0, 2\)"),
        (lambda: ops.max_pool2d(IMAGES, (2, 7)), r"at least the window's size, \(2, 7\); got \(7, 5\)"),
        (lambda: ops.attention(QUERY, KEY[:1], KEY), r"equal batch axes and heads; got \(2, 3, 1, 5\)"),
        (lambda: ops.attention(QUERY, KEY, KEY[:, :3]), r"value's length; got .* value \(2, 3, 1, 5\)"),
        (lambda: ops.attention(QUERY, KEY, KEY, mask=ones((2, 7), bool)), r"\(2, 1, 3, 7\); got \(2, 7\).*\[:, None"),
        (lambda: ops.additive_attention(ones((2, 3, 5)), KEY[:, :, 0], KEY[:, :, 0], ones(3)), "same units"),
        (lambda: recurrent(inputs=ones((7, 3))), r"lstm takes inputs \[batch, length, inputs\]; got \(7, 3\)"),
        (lambda: recurrent(inputs=ones(3), time_major=True), r"takes inputs \[length, batch, inputs\]; got \(3,\)"),
        (lambda: recurrent(input_kernel=ones((3, 15))), r"an input_kernel \(3, 20\) .*got \(3, 15\)"),
        (
            lambda: recurrent(mask=ones((2, 5), bool)),
            r"mask must have shape \[batch, length\] = \(2, 7\); got \(2, 5\)",
        ),
        (lambda: ops.conv1d(ones((2, 7)), ones((3, 3, 2))), r"conv1d takes inputs .*got \(2, 7\)"),
        (
            lambda: ops.conv1d(ones((2, 7, 3)), ones((3, 3, 2)), implementation="winograd"),
            "conv1d has .*'xla', 'taps'.*; got 'winograd'",
        ),
        (lambda: ops.max_pool2d(IMAGES, implementation="taps"), "max_pool2d has .*'xla', 'codes'; got 'taps'"),
        (
            lambda: ops.attention(QUERY, KEY, KEY, implementation="flash"),
            "attention has .*'xla', 'fused', .*'packed'.*; got 'flash'",
        ),
        (lambda: recurrent(implementation="scan"), "lstm has .*'xla', 'chunked'.*; got 'scan'"),
        (lambda: run_gru(implementation="scan"), "gru has .*'xla', 'chunked'.*; got 'scan'"),
        (lambda: run_elman(implementation="cudnn"), "elman has .*'xla', 'chunked'.*; got 'cudnn'"),
        (lambda: ops.elman(ones((2, 7, 3)), ones((3, 5)), ones((5, 5)), ones(5), activation="gelu"), "got 'gelu'"),
    ],
)
def test_value_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: ops.conv2d(IMAGES, ones((3, 3, 1, 3)), groups=3, implementation="taps"),
            "needs one group; got 3",
        ),
        (lambda: ops.conv2d(IMAGES, ones((5, 3, 3, 2)), implementation="winograd"), "kernels 3x3; got 5x3"),
        (
            lambda: ops.conv2d(IMAGES, KERNEL, strides=(2, 1), implementation="winograd"),
            r"strides \(1, 1\); got \(2, 1\)",
        ),
        (
            lambda: ops.conv2d(IMAGES, KERNEL, dilation=(1, 2), implementation="winograd"),
            r"dilation \(1, 1\); got \(1, 2\)",
        ),
        (
            lambda: ops.conv2d(IMAGES, ones((3, 3, 1, 3)), groups=3, implementation="winograd"),
            "needs one group; got 3",
        ),
        (lambda: ops.conv2d(IMAGES, KERNEL, implementation="pointwise"), "takes kernels 1x1; got 3x3"),
        (
            lambda: ops.conv2d(IMAGES, ones((1, 1, 1, 3)), groups=3, implementation="pointwise"),
            "needs one group; got 3",
        ),
        (lambda: ops.conv2d(IMAGES, KERNEL, implementation="split"), "more than one group"),
        (lambda: ops.conv2d(IMAGES, KERNEL, implementation="shifted"), "as many groups as channels; got 1 for 3"),
        (
            lambda: ops.conv2d(
                IMAGES, ones((17, 16, 1, 3)), groups=3, padding=((8, 8), (8, 8)), implementation="shifted"
            ),
            "at most 256 pixels; got 17x16",
        ),
        (
            lambda: ops.conv2d_relu_max_pool(
                IMAGES.astype("bfloat16"), KERNEL.astype("bfloat16"), ones(2), implementation="winograd"
            ),
            "takes float32, .* got bfloat16",
        ),
        (
            lambda: ops.conv2d_relu_max_pool(ones((1, 9, 9, 7)), ones((3, 3, 7, 2)), ones(2), implementation="direct"),
            "at most 48 numbers a feature; got 63",
        ),
        (lambda: ops.max_pool2d(ones((1, 9, 9, 7)), (9, 3), implementation="codes"), "at most 25 pixels; got 27"),
        (lambda: ops.attention(QUERY, KEY, KEY, return_weights=True, implementation="fused"), "returns no weights"),
        (lambda: ops.attention(QUERY, KEY, KEY, return_weights=True, implementation="cudnn"), "returns no weights"),
        (lambda: ops.attention(QUERY[0], KEY[0], KEY[0], implementation="cudnn"), r"one batch axis .*got \(3, 1, 5\)"),
        (lambda: ops.attention(QUERY[0], KEY[0], KEY[0], implementation="fused"), r"one batch axis .*got \(3, 1, 5\)"),
    ],
)
def test_a_named_implementation_is_never_replaced(call, match):
    with pytest.raises(NotImplementedError, match=match):
        call()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ops.conv2d(integers(IMAGES), integers(KERNEL)), "conv2d needs images and kernel .*got int32. Convert"),
        (lambda: ops.conv1d(integers(IMAGES[0]), integers(KERNEL[0])), "conv1d needs inputs and kernel .*got int32"),
        (
            lambda: ops.conv2d_relu_max_pool(integers(IMAGES), integers(KERNEL), ones(2)),
            "conv2d_relu_max_pool needs images and kernel .*got int32",
        ),
        (lambda: ops.max_pool2d(IMAGES.astype("uint8")), "max_pool2d needs images of a floating dtype; got uint8"),
        (lambda: ops.attention(integers(QUERY), KEY, KEY), "attention needs query of a floating dtype; got int32"),
        (lambda: ops.attention(QUERY, KEY, integers(KEY)), "attention needs value of a floating dtype; got int32"),
        (
            lambda: ops.attention(QUERY, KEY, KEY, mask=jnp.zeros((1, 1, 3, 7))),
            "attention needs a boolean mask, True = keep; got float32. Compare first, such as mask > 0.",
        ),
        (
            lambda: ops.additive_attention(QUERY[:, :, 0], KEY[:, :, 0], integers(KEY[:, :, 0]), ones(5)),
            "additive_attention needs values .*got int32",
        ),
        (
            lambda: ops.additive_attention(QUERY[:, :, 0], KEY[:, :, 0], KEY[:, :, 0], ones(5), mask=ones((3, 7))),
            "additive_attention needs a boolean mask, .*got float32",
        ),
        (
            lambda: recurrent(**{name: ones(shape, int) for name, shape in LSTM_SHAPES.items()}),
            "lstm needs inputs and kernels together of a floating dtype; got int",
        ),
        (lambda: recurrent(mask=ones((2, 7), int)), "lstm needs a boolean mask, .*got int"),
        (lambda: run_gru(mask=ones((2, 7))), "gru needs a boolean mask, .*got float32"),
        (lambda: run_elman(mask=ones((2, 7))), "elman needs a boolean mask, .*got float32"),
    ],
)
def test_type_errors(call, match):
    with pytest.raises(TypeError, match=match):
        call()


@pytest.mark.usefixtures("unchecked")
def test_mixed_dtypes_compute_in_the_common_one():
    """Bytes of images and indices as inputs are common, and give what their floating values do."""
    images = jnp.arange(2 * 7 * 5 * 3).reshape(2, 7, 5, 3).astype("uint8")
    for call in (
        lambda images: ops.conv2d(images, KERNEL),
        lambda images: ops.conv2d_relu_max_pool(images, KERNEL, ones(2)),
        lambda images: ops.conv1d(images[0], KERNEL[0]),
        lambda images: recurrent(inputs=images[0, :2]).outputs,
    ):
        assert call(images).dtype == jnp.float32
        assert jnp.array_equal(call(images), call(images.astype("float32")))
    halves = ops.attention(QUERY.astype("bfloat16"), KEY, KEY).values
    assert halves.dtype == jnp.float32 and jnp.array_equal(halves, ops.attention(QUERY, KEY, KEY).values)


def test_the_choice_falls_back_to_the_reference():
    obstacles = {"plain": None, "fast": "it is Monday"}
    assert select_implementation("op", None, obstacles, "fast") == "plain"
    assert select_implementation("op", None, {"plain": None, "fast": None}, "fast") == "fast"
