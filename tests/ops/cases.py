"""The table of operations: every row gives a call, its plain reference, and the arrays that it takes."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import ops
from tests.ops import references


@dataclass(frozen=True)
class Case:
    """One operation with one implementation and one set of options."""

    name: str
    call: Callable[..., object]
    reference: Callable[..., object]
    shapes: tuple[tuple[int, ...], ...]
    batched: int  # how many of the arguments, the first ones, have the batch axis
    takes_bfloat16: bool = True  # False where its dtype is none, or where rounding makes ties of maxima

    def arguments(self):
        generator = np.random.default_rng(11)
        # bfloat16 holds all of them, so that both dtypes compute the same thing
        arrays = [jnp.asarray(0.5 * generator.normal(size=shape), jnp.bfloat16) for shape in self.shapes]
        return tuple(array.astype(jnp.float32) for array in arrays)


def _convolutions():
    for implementation, padding, pads in (
        ("xla", "SAME", ((1, 1), (2, 2))),
        ("taps", "SAME", ((1, 1), (2, 2))),
        ("taps", "VALID", ((0, 0), (0, 0))),
        ("taps", ((4, 3), (0, 6)), ((4, 3), (0, 6))),
        ("taps", ((2, 1), (0, 3)), ((2, 1), (0, 3))),
    ):
        kernel = (2, 1, 3, 2) if padding == ((2, 1), (0, 3)) else (3, 5, 3, 2)
        yield Case(
            f"conv2d-{implementation}-{padding}",
            partial(ops.conv2d, padding=padding, implementation=implementation),
            partial(references.convolve, pads=pads),
            ((8, 11, 7, 3), kernel, (2,)),
            1,
        )
    for padding, pads in (("SAME", ((1, 1), (1, 1))), (((0, 3), (2, 0)), ((0, 3), (2, 0)))):
        yield Case(
            f"conv2d-winograd-{padding}",
            partial(ops.conv2d, padding=padding, implementation="winograd"),
            partial(references.convolve, pads=pads),
            ((8, 11, 7, 3), (3, 3, 3, 2), (2,)),
            1,
            False,
        )
    for strides, pads in (((1, 1), ((0, 0), (0, 0))), ((2, 3), ((1, 2), (0, 3)))):
        yield Case(
            f"conv2d-pointwise-strides{strides}",
            partial(ops.conv2d, padding=pads, strides=strides, implementation="pointwise"),
            partial(references.convolve, pads=pads, strides=strides),
            ((8, 11, 7, 3), (1, 1, 3, 5), (5,)),
            1,
        )
    for implementation, strides, dilation, groups in (
        ("taps", (2, 3), (1, 1), 1),
        ("taps", (2, 1), (1, 2), 1),
        ("shifted", (1, 1), (1, 1), 3),
        ("shifted", (1, 2), (2, 1), 3),
        ("xla", (1, 2), (2, 1), 3),
    ):
        options = {"strides": strides, "dilation": dilation, "groups": groups}
        yield Case(
            f"conv2d-{implementation}-strides{strides}-dilation{dilation}-groups{groups}",
            partial(ops.conv2d, padding=((1, 2), (0, 3)), implementation=implementation, **options),
            partial(references.convolve, pads=((1, 2), (0, 3)), **options),
            ((8, 11, 7, 3), (3, 2, 3 // groups, 6), (6,)),
            1,
        )

    # Two joint kernels of two groups and one of a single group
    yield Case(
        "conv2d-split",
        partial(ops.conv2d, padding=((1, 2), (0, 3)), implementation="split", groups=5),
        partial(references.convolve, pads=((1, 2), (0, 3)), groups=5),
        ((8, 5, 7, 40), (3, 2, 8, 15), (15,)),
        1,
    )


def _pooled_convolutions():
    for implementation, kernel, padding, pads in (
        ("xla", (3, 5, 3, 2), "VALID", ((0, 0), (0, 0))),
        ("separate", (3, 5, 3, 2), "SAME", ((1, 1), (2, 2))),
        ("direct", (3, 5, 3, 2), "SAME", ((1, 1), (2, 2))),
        ("direct", (2, 1, 3, 5), ((2, 1), (0, 3)), ((2, 1), (0, 3))),
        ("winograd", (3, 3, 3, 2), "VALID", ((0, 0), (0, 0))),
        ("winograd", (3, 3, 3, 5), ((0, 4), (3, 2)), ((0, 4), (3, 2))),
        ("stacked", (3, 5, 3, 2), "SAME", ((1, 1), (2, 2))),
        ("stacked", (2, 1, 3, 5), ((2, 1), (0, 3)), ((2, 1), (0, 3))),
    ):
        yield Case(
            f"conv2d_relu_max_pool-{implementation}-{kernel}-{padding}",
            partial(ops.conv2d_relu_max_pool, padding=padding, implementation=implementation),
            partial(references.convolve_and_pool, pads=pads),
            ((8, 11, 13, 3), kernel, kernel[3:]),
            1,
            False,
        )

    def stages(images, *parameters):
        return ops.conv2d_relu_max_pool_stages(images, parameters[::2], parameters[1::2])

    def reference(images, *parameters):
        for kernel, bias in zip(parameters[::2], parameters[1::2], strict=True):
            images = references.convolve_and_pool(images, kernel, bias, ((0, 0), (0, 0)))
        return images

    shapes = ((8, 11, 13, 3), (3, 3, 3, 5), (5,), (2, 3, 5, 7), (7,))
    yield Case("conv2d_relu_max_pool_stages", stages, reference, shapes, 1, False)


def _poolings():
    for implementation, window, strides in (
        ("xla", (2, 2), (2, 2)),
        ("codes", (2, 2), (2, 2)),
        ("xla", (3, 2), (2, 1)),
        ("codes", (3, 2), (2, 1)),
        ("codes", (2, 1), (5, 3)),
        (None, (2, 3), (2, 3)),
    ):
        yield Case(
            f"max_pool2d-{implementation}-{window}-{strides}",
            partial(ops.max_pool2d, window=window, strides=strides, implementation=implementation),
            partial(references.pool, window=window, strides=strides),
            ((8, 11, 7, 3),),
            1,
        )


def _attentions():
    keep = np.random.default_rng(5).random((8, 3, 5, 7)) > 0.4
    keep[1, :, 2] = False  # a query that sees nothing
    causal = np.tril(np.ones((5, 7), bool))
    for implementation, is_causal, mask in (
        ("xla", True, keep),
        ("fused", False, keep),
        ("fused", True, keep[:, :1]),
        (None, True, None),
    ):
        full = np.broadcast_to(True if mask is None else mask, keep.shape) & (causal if is_causal else True)
        kept = None if mask is None else jnp.asarray(mask)

        def call(query, key, value, kept=kept, is_causal=is_causal, implementation=implementation):
            return ops.attention(
                query, key, value, mask=kept, is_causal=is_causal, implementation=implementation
            ).values

        yield Case(
            f"attention-{implementation}-causal{is_causal}-mask{None if mask is None else mask.shape}",
            call,
            lambda query, key, value, full=full: references.attend(query, key, value, full)[0],
            ((8, 5, 3, 11), (8, 7, 3, 11), (8, 7, 3, 11)),
            3,
        )


def _additive_attentions():
    keep = np.random.default_rng(6).random((8, 5, 7)) > 0.4
    keep[:, :, 3] = True

    def call(query, keys, values, energy):
        return tuple(ops.additive_attention(query, keys, values, energy, mask=jnp.asarray(keep)))

    yield Case(
        "additive_attention",
        call,
        partial(references.attend_additively, mask=keep),
        ((8, 5, 11), (8, 7, 11), (8, 7, 3), (11,)),
        3,
    )


def _recurrences():
    mask = np.arange(11) < np.array((9, 2, 11, 1, 3, 7, 4, 6))[:, None]
    table = (
        ("lstm", ops.lstm, references.lstm_cell, 4, 2, 1),
        ("gru", ops.gru, references.gru_cell, 3, 1, 2),
        ("elman", ops.elman, references.elman_cell, 1, 1, 1),
    )
    for name, operation, cell, gates, num_states, num_biases in table:
        for implementation, reverse in itertools.product(("xla", "chunked"), (False, True)):

            def call(*arguments, options=(operation, num_states, reverse, implementation)):
                operation, num_states, reverse, implementation = options
                *states, inputs = arguments[: num_states + 1]
                output = operation(
                    inputs.swapaxes(0, 1) if reverse else inputs,
                    *arguments[num_states + 1 :],
                    initial_state=ops.LSTMState(*states) if num_states == 2 else states[0],
                    mask=jnp.asarray(mask),
                    reverse=reverse,
                    time_major=reverse,
                    implementation=implementation,
                )
                outputs = output.outputs.swapaxes(0, 1) if reverse else output.outputs
                return outputs, tuple(jax.tree.leaves(output.final_state))

            def reference(*arguments, options=(cell, num_states, reverse)):
                cell, num_states, reverse = options
                inputs, parameters = arguments[num_states], arguments[num_states + 1 :]
                return references.recur(cell, arguments[:num_states], inputs, parameters, mask, reverse)

            width = gates * 5
            shapes = (*[(8, 5)] * num_states, (8, 11, 3), (3, width), (5, width), *[(width,)] * num_biases)
            title = f"{name}-{implementation}{'-reverse-time_major' * reverse}"
            yield Case(title, call, reference, shapes, num_states + 1)


def _projected_recurrences():
    mask = np.arange(11) < np.array((9, 2, 11, 1, 3, 7, 4, 6))[:, None]

    def call_lstm(cell, hidden, inputs, recurrent_kernel):
        output = ops.lstm(
            inputs,
            None,
            recurrent_kernel,
            None,
            initial_state=ops.LSTMState(cell, hidden),
            mask=jnp.asarray(mask),
            implementation="chunked",
        )
        return output.outputs, tuple(output.final_state)

    def refer_lstm(cell, hidden, inputs, recurrent_kernel):
        parameters = jnp.eye(20), recurrent_kernel, 0
        return references.recur(references.lstm_cell, (cell, hidden), inputs, parameters, mask, False)

    yield Case("lstm-chunked-projected", call_lstm, refer_lstm, ((8, 5), (8, 5), (8, 11, 20), (5, 20)), 3)

    def call_gru(hidden, inputs, recurrent_kernel, recurrent_bias):
        output = ops.gru(
            inputs,
            None,
            recurrent_kernel,
            None,
            recurrent_bias,
            initial_state=hidden,
            mask=jnp.asarray(mask),
            implementation="xla",
        )
        return output.outputs, (output.final_state,)

    def refer_gru(hidden, inputs, recurrent_kernel, recurrent_bias):
        parameters = jnp.eye(15), recurrent_kernel, 0, recurrent_bias
        return references.recur(references.gru_cell, (hidden,), inputs, parameters, mask, False)

    yield Case("gru-xla-projected", call_gru, refer_gru, ((8, 5), (8, 11, 15), (5, 15), (15,)), 2)


CASES = (
    *_convolutions(),
    *_pooled_convolutions(),
    *_poolings(),
    *_attentions(),
    *_additive_attentions(),
    *_recurrences(),
    *_projected_recurrences(),
)
