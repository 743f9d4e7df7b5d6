"""The fast recurrences equal the plain scan: values and all gradients, whatever the sizes and options."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import rnn

from fusionjax import ops
from fusionjax.ops import lstm_cudnn, recurrent, recurrent_chunked
from tests.ops.recurrences import GATES, assert_close, draw, every_cell, make_mask, run, values_and_gradients


@pytest.fixture(params=[("cpu", 1), ("tpu", 8)], ids=["cpu", "tpu"])
def target(request):
    """For what the operations are made: platforms differ in the steps of a chunk, several devices in the sums."""
    with ops.for_platform(*request.param):
        yield


@every_cell
@pytest.mark.usefixtures("target")
@pytest.mark.parametrize(
    ("length", "reverse", "mask"), [(1, False, "scattered"), (10, True, None), (11, False, "scattered")]
)
def test_chunks_equal_the_scan(name, length, reverse, mask):
    arguments, cotangents = draw(name, 3, length, 7, 2)
    options = {"mask": make_mask(mask, 3, length), "reverse": reverse}
    expected = values_and_gradients(name, arguments, cotangents, implementation="xla", **options)
    assert_close(values_and_gradients(name, arguments, cotangents, implementation="chunked", **options), expected)


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(list(GATES)),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 23), st.integers(1, 6), st.integers(1, 6)),
    mask=st.sampled_from([None, "trailing", "scattered"]),
    reverse=st.booleans(),
    time_major=st.booleans(),
    target=st.sampled_from([("cpu", 1), ("tpu", 8)]),
)
def test_chunks_equal_the_scan_whatever_the_sizes(name, sizes, mask, reverse, time_major, target):
    arguments, cotangents = draw(name, *sizes)
    options = {"mask": make_mask(mask, *sizes[:2]), "reverse": reverse, "time_major": time_major}
    expected = values_and_gradients(name, arguments, cotangents, implementation="xla", **options)
    with ops.for_platform(*target):
        actual = values_and_gradients(name, arguments, cotangents, implementation="chunked", **options)
    assert_close(actual, expected, 3e-5)


@pytest.mark.parametrize("implementation", ["xla", "chunked"])
@pytest.mark.slow
def test_elman_with_relu(implementation):
    arguments, cotangents = draw("elman", 3, 11, 7, 2)
    options = {"activation": "relu", "implementation": implementation}
    values, gradients = values_and_gradients("elman", arguments, cotangents, **options)

    def plain(arguments):
        (input_kernel, recurrent_kernel, bias), inputs, hidden = arguments
        outputs = []
        for step in range(11):
            hidden = jnp.maximum(inputs[:, step] @ input_kernel + hidden @ recurrent_kernel + bias, 0)
            outputs.append(hidden)
        return jnp.stack(outputs, 1), hidden

    expected, pull_back = jax.vjp(plain, arguments)
    assert_close((values, gradients), (expected, pull_back(cotangents)))
    assert 0 < float((values[0] == 0).mean()) < 1


@every_cell
@pytest.mark.usefixtures("target")
@pytest.mark.slow
def test_second_derivatives(name):
    arguments, cotangents = draw(name, 3, 2, 7, 5)
    directions, _ = draw(name, 3, 2, 7, 5, seed=1)
    mask = make_mask("scattered", 3, 2)

    def curvature(implementation):
        def total(arguments):
            values = run(name, *arguments, mask=mask, implementation=implementation)
            products = jax.tree.map(lambda value, weight: jnp.sum(jnp.sin(value) * weight), values, cotangents)
            return sum(jax.tree.leaves(products))

        def along(arguments):
            products = jax.tree.map(lambda one, other: jnp.sum(one * other), jax.grad(total)(arguments), directions)
            return sum(jax.tree.leaves(products))

        return jax.jit(jax.grad(along))(arguments), jax.jit(partial(jax.jvp, jax.grad(total)))(
            (arguments,), (directions,)
        )

    expected = curvature("xla")
    assert_close(curvature("chunked"), expected, 2e-5)
    assert_close(expected[0], expected[1][1], 2e-5)


@every_cell
@pytest.mark.usefixtures("target")
@pytest.mark.slow
def test_vmap_over_weights_and_masks(name):
    pairs = [draw(name, 3, 11, 7, 2, seed) for seed in (0, 1)]
    masks = jnp.stack([make_mask("scattered", 3, 11), jnp.ones((3, 11), bool)])

    def differentiate(arguments, cotangents, mask):
        values, pull_back = jax.vjp(
            lambda arguments: run(name, *arguments, mask=mask, implementation="chunked"), arguments
        )
        return values, pull_back(cotangents)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    mapped = jax.jit(jax.vmap(differentiate))(*stacked, masks)
    for index, pair in enumerate(pairs):
        expected = values_and_gradients(name, *pair, mask=masks[index], implementation="xla")
        assert_close(jax.tree.map(lambda leaf, index=index: leaf[index], mapped), expected)


@every_cell
@pytest.mark.slow
def test_bfloat16_adds_up_in_float32(name):
    arguments, cotangents = draw(name, 3, 211, 7, 13)
    narrow, narrow_cotangents = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (arguments, cotangents))
    values, gradients = values_and_gradients(name, narrow, narrow_cotangents, implementation="chunked")
    assert {leaf.dtype for leaf in jax.tree.leaves((values, gradients))} == {jnp.dtype(jnp.bfloat16)}
    wide, wide_cotangents = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (narrow, narrow_cotangents))
    expected = values_and_gradients(name, wide, wide_cotangents, implementation="xla")
    assert_close((values, gradients), expected, 2e-2)


@pytest.mark.parametrize(
    ("length", "size"), [(1, 1), (8, 8), (9, 5), (12, 6), (16, 4), (49, 7), (64, 4), (97, 5), (100, 5)]
)
def test_chunk_sizes(length, size):
    assert recurrent_chunked._choose_chunk_size(length, recurrent_chunked._CHUNK_SIZES) == size


@pytest.mark.usefixtures("no_table")
@pytest.mark.parametrize(
    ("platform", "batch", "length", "features", "chosen"),
    [
        ("cpu", 2, 2, 91, "chunked"),
        ("cpu", 1, 2, 91, "xla"),
        ("cpu", 2, 1, 91, "xla"),
        ("cpu", 2, 2, 3, "chunked"),
        ("gpu", 32, 100, 512, "chunked"),
        ("gpu", 32, 1, 512, "xla"),
        ("tpu", 2, 2, 91, "chunked"),
    ],
)
def test_the_choice_follows_platform_and_sizes(platform, batch, length, features, chosen, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    inputs, kernel = jnp.ones((batch, length, 2)), jnp.ones((features, features))
    assert recurrent.choose_recurrence("elman", None, inputs, kernel) == chosen


@pytest.mark.usefixtures("no_table")
@pytest.mark.parametrize(
    ("dtype", "devices", "length", "obstacle", "chosen"),
    [
        ("bfloat16", 1, 2, None, "pallas"),
        ("float32", 1, 2, None, "chunked"),
        ("bfloat16", 2, 2, None, "chunked"),
        ("bfloat16", 1, 1, None, "xla"),
        ("bfloat16", 1, 2, "it cannot", "chunked"),
    ],
)
def test_the_kernel_is_chosen_where_it_serves(dtype, devices, length, obstacle, chosen):
    arrays = jnp.ones((3, length, 2), dtype), jnp.ones((5, 5), dtype)
    with ops.for_platform("gpu", devices):
        assert recurrent.choose_recurrence("elman", None, *arrays, others={"pallas": obstacle}) == chosen


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("has_state", [False, True])
def test_cudnn_gets_its_weights_in_order(reverse, time_major, has_state, monkeypatch):
    """In place of cuDNN, which needs a GPU, JAX's own reference of it reads the packed weights."""

    def stand_in(inputs, hidden, cell, weights, lengths, *sizes):
        assert sizes == (7, 5, 1, 0.0, False)
        unpacked = rnn.unpack_lstm_weights(weights, 7, 5, 1, False)
        return rnn.lstm_ref(inputs, hidden, cell, *unpacked, lengths, *sizes)

    monkeypatch.setattr(rnn, "lstm", stand_in)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    (weights, inputs, state), cotangents = draw("lstm", 3, 11, 7, 5)
    arguments = weights, inputs, state if has_state else None
    options = {"reverse": reverse, "time_major": time_major}
    actual = values_and_gradients("lstm", arguments, cotangents, implementation="cudnn", **options)
    assert_close(actual, values_and_gradients("lstm", arguments, cotangents, implementation="xla", **options))


def test_what_cudnn_cannot_do(monkeypatch):
    arrays, mask = (jnp.ones((3, 2, 7)), jnp.ones((7, 20), jnp.bfloat16)), jnp.ones((3, 2), bool)
    assert lstm_cudnn.find_cudnn_obstacle(arrays, None) == "cuDNN needs an NVIDIA GPU; JAX's backend is 'cpu'"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert lstm_cudnn.find_cudnn_obstacle(arrays[:1], None) is None
    assert lstm_cudnn.find_cudnn_obstacle(arrays[:1], mask) == "cuDNN takes no mask"
    assert "needs float32 inputs and parameters; got bfloat16, float32" in lstm_cudnn.find_cudnn_obstacle(arrays, None)


def test_names_that_cannot_be():
    arguments, _ = draw("gru", 3, 2, 7, 5)
    with pytest.raises(ValueError, match="gru has the implementations 'xla', 'chunked', 'pallas'; got 'cudnn'"):
        run("gru", *arguments, implementation="cudnn")
    arguments, _ = draw("lstm", 3, 2, 7, 5)
    with pytest.raises(NotImplementedError, match=r"lstm with implementation='cudnn' .* needs an NVIDIA GPU"):
        run("lstm", *arguments, implementation="cudnn")
