import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import RNNEncoder
from fusionjax.layers import RNN
from tests.contracts.parameters import draw_variables, run

TOKENS = jnp.array([[5, 6, 7, 1, 2], [8, 9, 0, 0, 0], [3, 4, 1, 0, 0]])


def test_embeds_and_runs_the_recurrent_layers() -> None:
    encoder = RNNEncoder(11, features=6, cell="gru", num_layers=2, embedding_features=3, pooling="last")
    variables = draw_variables(encoder, TOKENS)
    features = run(encoder, variables, TOKENS)
    vectors = variables["params"]["embedding"]["embedding"][TOKENS]
    rnn = RNN(6, cell="gru", num_layers=2).apply({"params": variables["params"]["rnn"]}, vectors, mask=TOKENS != 0)
    np.testing.assert_allclose(features.tokens, rnn.outputs, rtol=1e-5, atol=1e-6)
    # The last kept state is the final state of the last layer.
    np.testing.assert_allclose(features.pooled, rnn.final_state[1][0], rtol=1e-5, atol=1e-6)
    assert features.grid == (5,) and features.mask.sum(1).tolist() == [5, 2, 3]


def test_without_recurrent_layers_words_stay_as_they_are() -> None:
    encoder = RNNEncoder(vocab_size=11, features=6, embedding_features=3, num_layers=0, pooling="last")
    tokens = np.array([[5, 6, 7, 0], [8, 0, 0, 0]])
    variables = draw_variables(encoder, tokens)
    table = variables["params"]["embedding"]["embedding"]
    features = run(encoder, variables, tokens)
    np.testing.assert_array_equal(features.tokens, table[tokens] * (tokens != 0)[..., None])
    np.testing.assert_array_equal(features.pooled, table[np.array([7, 8])])


@pytest.mark.parametrize("layers", [0, 1])
def test_words_as_bits(layers: int) -> None:
    encoder = RNNEncoder(11, features=6, cell="elman", num_layers=layers, is_one_hot=True, pooling="mean")
    variables = draw_variables(encoder, TOKENS)
    features = run(encoder, variables, TOKENS)
    bits = np.eye(11)[np.asarray(TOKENS)] * np.asarray(TOKENS != 0)[..., None]
    if not layers:
        assert not jax.tree.leaves(variables)
        np.testing.assert_array_equal(features.tokens, bits)
        bag = np.array([np.bincount(row[row > 0], minlength=11) / (row > 0).sum() for row in np.asarray(TOKENS)])
        np.testing.assert_allclose(features.pooled, bag, rtol=1e-6)
        return
    assert variables["params"].keys() == {"rnn"}
    rnn = RNN(6, cell="elman").apply(
        {"params": variables["params"]["rnn"]}, jnp.asarray(bits, jnp.float32), mask=TOKENS != 0
    )
    np.testing.assert_allclose(features.tokens, rnn.outputs, rtol=1e-5, atol=1e-6)


def test_word_vectors_are_drawn_as_asked() -> None:
    for init, variance in ((None, 1 / 512), (jax.nn.initializers.normal(1.0), 1)):
        encoder = RNNEncoder(
            97, 512, num_layers=0, pooling="mean", **({} if init is None else {"embedding_init": init})
        )
        table = jax.jit(encoder.init)(jax.random.key(0), TOKENS)["params"]["embedding"]["embedding"]
        assert jnp.var(table) == pytest.approx(variance, rel=0.05)


def test_self_attention_against_numpy() -> None:
    plain = RNNEncoder(11, features=6)
    encoder = plain.clone(self_attention=True, num_heads=2)
    variables = draw_variables(encoder, TOKENS)
    params = variables["params"]
    rest = {name: value for name, value in params.items() if name != "self_attention"}
    states, keep = np.array(run(plain, {"params": rest}, TOKENS).tokens), np.array(TOKENS != 0)

    def project(name: str, inputs: np.ndarray) -> np.ndarray:
        return inputs @ np.array(params["self_attention"][name]["kernel"]) + params["self_attention"][name]["bias"]

    query, key, value = (project(name, states).reshape(3, 5, 2, 3) for name in ("query", "key", "value"))
    weights = np.exp(np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(3)) * keep[:, None, None]
    weights /= weights.sum(-1, keepdims=True)
    read = np.einsum("bhqk,bkhd->bqhd", weights, value).reshape(3, 5, 6)
    expected = (states + project("out", read)) * keep[..., None]
    features = run(encoder, variables, TOKENS)
    np.testing.assert_allclose(features.tokens, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features.pooled, expected.reshape(3, 30), rtol=1e-5, atol=1e-5)


def test_a_given_mask_goes_before_padding() -> None:
    encoder = RNNEncoder(11, features=6, pooling="mean")
    variables = draw_variables(encoder, TOKENS)
    whole = run(encoder, variables, TOKENS, jnp.ones((3, 5), bool))
    assert bool(jnp.all(jnp.abs(whole.tokens[1, 4]) > 0))
    assert bool(jnp.all(run(encoder, variables, TOKENS).tokens[1, 4] == 0))


def test_dropout_needs_no_key_when_deterministic() -> None:
    encoder = RNNEncoder(11, features=6, dropout_rate=0.5)
    variables = draw_variables(encoder, TOKENS)
    one, other = (
        run(encoder, variables, TOKENS, deterministic=False, rngs={"dropout": jax.random.key(seed)}).pooled
        for seed in (0, 1)
    )
    assert not np.allclose(one, other) and not np.allclose(one, run(encoder, variables, TOKENS).pooled)


def test_errors() -> None:
    encoder = RNNEncoder(11, features=6)
    with pytest.raises(ValueError, match=r"text tokens must have shape \[batch, length\]; got \(5,\). Pad and stack"):
        encoder.init(jax.random.key(0), TOKENS[0])
    with pytest.raises(TypeError, match=r"text tokens must be integers; got float32. Encode the text with a tokenizer"):
        encoder.init(jax.random.key(0), TOKENS.astype(jnp.float32))
