"""Plain differentiable references, written as the formulas stand: loops over positions, heads and steps."""

import jax
import jax.numpy as jnp


def convolve(images, kernel, bias, pads, strides=(1, 1), dilation=(1, 1), groups=1):
    images = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    height = (images.shape[1] - (kernel.shape[0] - 1) * dilation[0] - 1) // strides[0] + 1
    width = (images.shape[2] - (kernel.shape[1] - 1) * dilation[1] - 1) // strides[1] + 1
    parts = []
    for part, weights in zip(jnp.split(images, groups, 3), jnp.split(kernel, groups, 3), strict=True):
        total = 0
        for top in range(kernel.shape[0]):
            for left in range(kernel.shape[1]):
                shifted = part[:, top * dilation[0] :: strides[0], left * dilation[1] :: strides[1]]
                total += shifted[:, :height, :width] @ weights[top, left]
        parts.append(total)
    return jnp.concatenate(parts, -1) + bias


def convolve_and_pool(images, kernel, bias, pads):
    return jax.nn.relu(pool(convolve(images, kernel, bias, pads), (2, 2), (2, 2)))


def pool(images, window, strides):
    height = (images.shape[1] - window[0]) // strides[0] + 1
    width = (images.shape[2] - window[1]) // strides[1] + 1
    candidates = jnp.stack(
        [
            images[:, top :: strides[0], left :: strides[1]][:, :height, :width]
            for top in range(window[0])
            for left in range(window[1])
        ]
    )
    first = jnp.argmax(candidates, axis=0, keepdims=True)
    return jnp.take_along_axis(candidates, first, axis=0)[0]


def attend(query, key, value, mask):
    """Returns values and weights for `[batch, length, heads, head_dim]`; `mask` is `[batch, heads, queries, keys]`."""
    values, weights = [], []
    for head in range(query.shape[2]):
        logits = query[:, :, head] @ key[:, :, head].swapaxes(1, 2) / query.shape[-1] ** 0.5
        exponentials = jnp.where(mask[:, head], jnp.exp(logits), 0)
        weight = exponentials / jnp.maximum(exponentials.sum(-1, keepdims=True), 1e-30)
        weights.append(weight)
        values.append(weight @ value[:, :, head])
    return jnp.stack(values, 2), jnp.stack(weights, 1)


def attend_additively(query, keys, values, energy, mask):
    weights = []
    for index in range(query.shape[1]):
        logits = jnp.tanh(query[:, index : index + 1] + keys) @ energy
        exponentials = jnp.where(mask[:, index], jnp.exp(logits), 0)
        weights.append(exponentials / exponentials.sum(-1, keepdims=True))
    weights = jnp.stack(weights, 1)
    return weights @ values, weights


def lstm_cell(state, inputs, input_kernel, recurrent_kernel, bias):
    cell, hidden = state
    size = hidden.shape[-1]
    gates = inputs @ input_kernel + hidden @ recurrent_kernel + bias
    enter, forget, candidate, leave = (gates[:, size * gate : size * (gate + 1)] for gate in range(4))
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
    return cell, jax.nn.sigmoid(leave) * jnp.tanh(cell)


def gru_cell(state, inputs, input_kernel, recurrent_kernel, bias, recurrent_bias):
    (hidden,) = state
    size = hidden.shape[-1]
    entering, recurrent = inputs @ input_kernel + bias, hidden @ recurrent_kernel + recurrent_bias
    reset = jax.nn.sigmoid(entering[:, :size] + recurrent[:, :size])
    update = jax.nn.sigmoid(entering[:, size : 2 * size] + recurrent[:, size : 2 * size])
    candidate = jnp.tanh(entering[:, 2 * size :] + reset * recurrent[:, 2 * size :])
    return ((1 - update) * candidate + update * hidden,)


def elman_cell(state, inputs, input_kernel, recurrent_kernel, bias):
    return (jnp.tanh(inputs @ input_kernel + state[0] @ recurrent_kernel + bias),)


def recur(cell, state, inputs, parameters, mask, reverse):
    """Returns outputs `[batch, length, features]` and the final state; a masked step only puts out zeros."""
    outputs = [None] * inputs.shape[1]
    for step in reversed(range(inputs.shape[1])) if reverse else range(inputs.shape[1]):
        keep = mask[:, step, None]
        moved = cell(state, inputs[:, step], *parameters)
        outputs[step] = keep * moved[-1]
        state = tuple(keep * new + ~keep * old for new, old in zip(moved, state, strict=True))
    return jnp.stack(outputs, 1), state
