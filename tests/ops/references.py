"""Plain differentiable references, written as the formulas stand: loops over positions, heads and steps."""

import jax
import jax.numpy as jnp


def convolve(images, kernel, bias, pads, strides=(1, 1)):
    images = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    height = (images.shape[1] - kernel.shape[0]) // strides[0] + 1
    width = (images.shape[2] - kernel.shape[1]) // strides[1] + 1
    rows = []
    for top in range(height):
        for left in range(width):
            window = images[:, top * strides[0] :, left * strides[1] :][:, : kernel.shape[0], : kernel.shape[1]]
            rows.append(jnp.tensordot(window, kernel, 3) + bias)
    return jnp.stack(rows, 1).reshape(images.shape[0], height, width, -1)


def pool(images, window, strides):
    height = (images.shape[1] - window[0]) // strides[0] + 1
    width = (images.shape[2] - window[1]) // strides[1] + 1
    rows = []
    for top in range(height):
        for left in range(width):
            patch = images[:, top * strides[0] :, left * strides[1] :][:, : window[0], : window[1]]
            rows.append(patch.max((1, 2)))
    return jnp.stack(rows, 1).reshape(images.shape[0], height, width, -1)


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


def recur(cell, states, inputs, parameters, lengths, reverse):
    """Runs every example alone over its real steps; returns outputs `[batch, length, features]` and final states."""
    outputs, finals = [], []
    for row, length in enumerate(lengths):
        state = tuple(leaf[row : row + 1] for leaf in states)
        row_outputs = [jnp.zeros_like(state[-1][0])] * inputs.shape[1]
        for step in reversed(range(length)) if reverse else range(length):
            state = cell(state, inputs[row : row + 1, step], *parameters)
            row_outputs[step] = state[-1][0]
        outputs.append(jnp.stack(row_outputs))
        finals.append(state)
    return jnp.stack(outputs), tuple(jnp.concatenate(leaves) for leaves in zip(*finals, strict=True))
