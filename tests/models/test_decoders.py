"""The decoders: step by step as in teacher forcing, and against the equations written in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.decoding import beam_search
from fusionjax.encoders import Features
from fusionjax.models import AttentionLSTMDecoder, LSTMDecoder, TransformerDecoder
from fusionjax.models.words import WordTable
from tests.contracts.parameters import draw_variables, fast_jit, run
from tests.contracts.table import DECODERS, FOLDED_DECODERS

RNG = np.random.default_rng(0)
MASK = np.array([[True] * 5, [True, False, True, True, False]])
IMAGE = Features(
    jnp.asarray(RNG.normal(size=(2, 5, 3)), jnp.float32),
    jnp.asarray(MASK),
    jnp.asarray(RNG.normal(size=(2, 13)), jnp.float32),
    (5, 1),
)
# Three captions of each of two images.
TOKENS = jnp.asarray(RNG.integers(1, 11, (6, 7)))


@pytest.mark.parametrize(
    ("row", "dtype"),
    [*((row, None) for row in [*DECODERS, *FOLDED_DECODERS]), (DECODERS[1], jnp.bfloat16), (DECODERS[2], jnp.bfloat16)],
    ids=lambda one: getattr(one, "name", None),
)
def test_step_by_step_equals_teacher_forcing(row, dtype) -> None:
    decoder = row.build(dtype)
    variables = draw_variables(decoder, IMAGE, TOKENS)
    taught = run(decoder, variables, IMAGE, TOKENS)

    @fast_jit
    def write(variables, tokens):
        memory, carry = decoder.apply(variables, IMAGE, tokens.shape[1], method="prepare")
        carry = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), carry)
        step = functools.partial(decoder.apply, variables, memory, method="step")
        return jax.lax.scan(step, carry, tokens.T)[1].swapaxes(0, 1)

    written = write(variables, TOKENS)
    assert written.dtype == taught.logits.dtype == (dtype or jnp.float32) and written.shape == (6, 7, 11)
    tolerance = 1e-5 if dtype is None else 0.05
    largest = float(jnp.abs(taught.logits).max())
    np.testing.assert_allclose(
        np.float32(written), np.float32(taught.logits), rtol=tolerance, atol=tolerance * max(largest, 1)
    )


def test_beams_share_a_cache_as_if_each_had_its_own() -> None:
    decoder = DECODERS[2].build(None)
    variables = draw_variables(decoder, IMAGE, TOKENS)

    def search(is_shared: bool):
        memory, carry = decoder.apply(variables, IMAGE, 7, method="prepare")
        leaves, structure = jax.tree.flatten(carry)

        def step(carry, tokens):
            # Arrays alone are moved with their beams.
            carry = carry if is_shared else jax.tree.unflatten(structure, carry)
            carry, logits = decoder.apply(variables, memory, carry, tokens, method="step")
            return (carry if is_shared else jax.tree.leaves(carry)), logits

        return beam_search(step, carry if is_shared else leaves, batch=2, max_length=7, num_beams=3)

    shared, moved = fast_jit(lambda: (search(True), search(False)))()
    np.testing.assert_array_equal(shared.beams, moved.beams)
    np.testing.assert_allclose(shared.scores, moved.scores, rtol=1e-5)
    # The beams of an example differ, so that it mattered which one each continued.
    assert len({tuple(beam) for beam in shared.beams[0].tolist()}) == 3


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def _dense(inputs: np.ndarray, params: dict) -> np.ndarray:
    return inputs @ params["kernel"] + params.get("bias", 0)


def _lstm(gates: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    enter, forget, candidate, leave = np.split(gates, 4, axis=-1)
    cell = _sigmoid(forget) * cell + _sigmoid(enter) * np.tanh(candidate)
    return cell, _sigmoid(leave) * np.tanh(cell)


def _logits(hidden: np.ndarray, words: dict) -> np.ndarray:
    return 4 * np.tanh(_dense(hidden, words["project"])) @ words["table"].T + words["bias"]


def test_lstm_decoder_against_numpy() -> None:
    decoder = LSTMDecoder(11, features=5, embedding_features=7)
    variables = draw_variables(decoder, IMAGE, TOKENS)
    params = jax.tree.map(np.float64, variables["params"])
    image = np.repeat(_dense(np.float64(IMAGE.pooled), params["image"]), 3, axis=0)
    cell = hidden = np.zeros((6, 5))
    logits = []
    for inputs in (image, *(4 * params["words"]["table"][np.array(tokens)] for tokens in TOKENS.T)):
        lstm = params["lstm"]
        cell, hidden = _lstm(inputs @ lstm["input_kernel"] + hidden @ lstm["recurrent_kernel"] + lstm["bias"], cell)
        logits.append(_logits(hidden, params["words"]))
    output = run(decoder, variables, IMAGE, TOKENS)
    np.testing.assert_allclose(output.logits, np.stack(logits[1:], 1), rtol=1e-4, atol=1e-4)


def test_attention_lstm_decoder_against_numpy() -> None:
    decoder = AttentionLSTMDecoder(11, features=5, embedding_features=7, attention_features=2)
    variables = draw_variables(decoder, IMAGE, TOKENS)
    params = jax.tree.map(np.float64, variables["params"])
    cells, mask = (np.repeat(np.array(one), 3, axis=0) for one in (np.float64(IMAGE.tokens), MASK))
    pooled = np.repeat(np.float64(IMAGE.pooled), 3, axis=0)
    lstm = params["lstm"]
    cell, hidden = (np.tanh(_dense(pooled, lstm[name])) for name in ("start_cell", "start_hidden"))
    logits, shares = [], []
    for tokens in TOKENS.T:
        query = _dense(hidden, lstm["attend"]["query"])[:, None]
        energies = np.tanh(_dense(cells, lstm["attend"]["memory"]) + query) @ lstm["attend"]["energy"]
        share = np.exp(energies) * mask
        share /= share.sum(1, keepdims=True)
        attended = (share[..., None] * cells).sum(1)
        gates = _dense(4 * params["words"]["table"][np.array(tokens)], lstm["input_gates"])
        gates += attended @ lstm["attended_gates"]["kernel"] + hidden @ lstm["recurrent_kernel"]
        cell, hidden = _lstm(gates, cell)
        logits.append(_logits(np.concatenate([hidden, attended], -1), params["words"]))
        shares.append(share)
    output = run(decoder, variables, IMAGE, TOKENS)
    np.testing.assert_allclose(output.logits, np.stack(logits, 1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(output.attention, np.stack(shares, 1), rtol=1e-4, atol=1e-5)
    assert bool(jnp.all(output.attention[3:, :, [1, 4]] == 0)) and bool(jnp.all(output.attention[:3] > 0))


def test_the_forget_gate_starts_open() -> None:
    decoder = AttentionLSTMDecoder(11, features=5)
    variables = jax.jit(decoder.init)(jax.random.key(0), IMAGE, TOKENS)
    bias = variables["params"]["lstm"]["input_gates"]["bias"]
    assert bias.tolist() == [0] * 5 + [1] * 5 + [0] * 10


def test_word_table_shares_its_vectors() -> None:
    table = WordTable(11, 4, scale=3.0)
    variables = draw_variables(table, TOKENS)
    params = jax.tree.map(np.array, variables["params"])
    np.testing.assert_allclose(table.apply(variables, TOKENS), 3 * params["table"][np.array(TOKENS)], rtol=1e-6)
    params["project"] = {"kernel": np.ones((2, 4), np.float32), "bias": np.zeros(4, np.float32)}
    hidden = jnp.array([[0.5, -0.25]])
    logits = table.apply({"params": params}, hidden, method="logits")
    expected = 3 * np.tanh(0.25) * params["table"].sum(1) + params["bias"]
    np.testing.assert_allclose(logits, expected[None], rtol=1e-5)


def test_a_cache_keeps_the_precision_of_the_computation() -> None:
    decoder = TransformerDecoder(11, features=6, num_layers=1, num_heads=2)
    image = Features(IMAGE.tokens.astype(jnp.bfloat16), None, IMAGE.pooled, IMAGE.grid)
    variables = draw_variables(decoder, image, TOKENS)
    _, carry = decoder.apply(variables, image, 7, method="prepare")
    assert carry.caches[0].key.dtype == carry.caches[0].value.dtype == jnp.float32


@pytest.mark.parametrize("row", DECODERS, ids=lambda row: row.name)
def test_rows_that_are_no_multiple_of_the_images_are_refused(row) -> None:
    message = "rows of tokens must be a multiple of the 2 images; got 5. Give every image the same number"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(row.build(None).init, jax.random.key(0), IMAGE, TOKENS[:5])


def test_the_pooled_vector_is_read_as_a_cell_before_the_others() -> None:
    # An image without a kept cell misses the pooled vector too.
    image = Features(IMAGE.tokens, IMAGE.mask & jnp.array([[True], [False]]), IMAGE.pooled[:, :3], IMAGE.grid)
    cells = jnp.concatenate([image.pooled[:, None], image.tokens], 1)
    joined = Features(cells, jnp.pad(image.mask, ((0, 0), (1, 0)), constant_values=[[False]]), image.pooled, (6, 1))
    joined = joined.replace(mask=joined.mask.at[0, 0].set(True))
    decoder = TransformerDecoder(11, features=6, num_heads=2, reads_pooled=True)
    variables = draw_variables(decoder, image, TOKENS)
    found = run(decoder, variables, image, TOKENS)
    expected = run(decoder.clone(reads_pooled=False), variables, joined, TOKENS)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.attention, expected.attention[..., 1:], rtol=1e-5, atol=1e-6)
    assert bool(jnp.all(found.attention[:3].sum(-1) < 0.999))
    with pytest.raises(ValueError, match=r"that is read must be as wide as the cells, 3; got 13. Take an encoder that"):
        jax.eval_shape(decoder.init, jax.random.key(0), IMAGE, TOKENS)


def test_captions_longer_than_the_transformer_are_refused() -> None:
    decoder = TransformerDecoder(11, features=6, num_heads=2, max_length=6)
    with pytest.raises(ValueError, match=r"captions must have at most 6 tokens; got 7. Raise max_length."):
        jax.eval_shape(decoder.init, jax.random.key(0), IMAGE, TOKENS)
    variables = draw_variables(decoder, IMAGE, TOKENS[:, :5])
    with pytest.raises(ValueError, match=r"max_length must be at most the decoder's 6; got 9. Lower it."):
        decoder.apply(variables, IMAGE, 9, method="prepare")
