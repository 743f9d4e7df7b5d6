import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import TextTransformer
from fusionjax.layers import TransformerBlock
from tests.contracts.parameters import draw_variables, run

TOKENS = np.array([[3, 9, 4, 7, 10], [8, 10, 0, 0, 0], [5, 1, 10, 0, 0]])
MASK = TOKENS != 0
SIZES = {"vocab_size": 11, "features": 6, "num_layers": 1, "num_heads": 2, "max_length": 7, "mlp_features": 13}


def encoder_of(**fields) -> TextTransformer:
    return TextTransformer(**{**SIZES, **fields})


def normal(values, params, epsilon=1e-6):
    mean, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
    return (values - mean) / np.sqrt(variance + epsilon) * params["scale"] + params["bias"]


@pytest.mark.parametrize("norm_first", [True, False])
def test_embeddings_and_norms_against_their_equations(norm_first: bool) -> None:
    encoder = encoder_of(num_segments=2, norm_first=norm_first, pooling="mean")
    segments = np.array([[0, 0, 1, 1, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]])
    variables = draw_variables(encoder, TOKENS)
    params = jax.tree.map(np.asarray, variables["params"])
    word, place, segment = (params[f"{name}_embedding"]["embedding"] for name in ("token", "position", "segment"))
    states = word[TOKENS] + place[:5] + segment[segments]
    states = states if norm_first else normal(states, params["embedding_norm"])
    block = TransformerBlock(2, 13, norm_first=norm_first, activation="gelu_exact")
    states = np.asarray(run(block, {"params": params["block_0"]}, states, mask=jnp.asarray(MASK)).tokens)
    states = normal(states, params["norm"]) if norm_first else states
    features = run(encoder, variables, TOKENS, segments=segments)
    kept = np.where(MASK[..., None], states, 0)
    np.testing.assert_allclose(features.tokens, kept, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features.pooled, kept.sum(1) / MASK.sum(1, keepdims=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(features.mask, MASK)
    assert features.grid == (5,)
    first = run(encoder, variables, TOKENS)
    np.testing.assert_array_equal(first.tokens, run(encoder, variables, TOKENS, segments=np.zeros((3, 5), int)).tokens)


@pytest.mark.parametrize(
    ("pooling", "end_id", "places"),
    [("first", None, [0, 0, 0]), ("last", None, [4, 1, 2]), ("end", None, [4, 1, 2]), ("end", 1, [4, 1, 1])],
)
def test_pooling_takes_the_state_of_one_token(pooling: str, end_id: int | None, places: list[int]) -> None:
    encoder = encoder_of(pooling=pooling, end_id=end_id)
    features = run(encoder, draw_variables(encoder, TOKENS), TOKENS)
    np.testing.assert_array_equal(features.pooled, features.tokens[np.arange(3), np.array(places)])


def test_what_follows_the_end_is_padding() -> None:
    encoder = encoder_of(pooling="end", padding_id=None, is_causal=True, end_id=10)
    variables = draw_variables(encoder, TOKENS)
    features = run(encoder, variables, TOKENS)
    np.testing.assert_array_equal(features.mask, MASK)
    # Padded with the end itself, or with anything, it is the same; a mask of the caller holds as it is.
    for filler in (10, 4):
        padded = np.where(MASK, TOKENS, filler)
        found = run(encoder, variables, padded)
        np.testing.assert_allclose(found.tokens, features.tokens, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.pooled, features.pooled, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(run(encoder, variables, TOKENS, mask=np.ones((3, 5), bool)).mask, np.ones((3, 5)))


def test_padding_may_be_another_token_or_none() -> None:
    variables = draw_variables(encoder_of(), TOKENS)
    swapped = np.where(TOKENS == 0, 6, TOKENS)
    expected = run(encoder_of(pooling="mean"), variables, TOKENS)
    found = run(encoder_of(pooling="mean", padding_id=6), variables, swapped)
    np.testing.assert_allclose(found.pooled, expected.pooled, rtol=1e-5, atol=1e-6)
    whole = run(encoder_of(pooling="last", padding_id=None), variables, TOKENS)
    assert whole.mask is None
    np.testing.assert_array_equal(whole.pooled, whole.tokens[:, -1])
    given = run(encoder_of(pooling="last"), variables, TOKENS, mask=np.ones((3, 5), bool))
    np.testing.assert_allclose(given.tokens, whole.tokens, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["first", "mean", "last", "end"])
def test_masked_tokens_change_nothing_wherever_they_stand(pooling: str) -> None:
    encoder = encoder_of(pooling=pooling, norm_first=False, num_segments=2, use_pooler=True)
    variables = draw_variables(encoder, TOKENS)
    # On the left, in the middle, everywhere.
    mask = np.array([[False, True, True, False, True], [True, True, False, False, False], [False] * 5])
    noise = {"segments": np.where(mask, 1, 99), "mask": mask}
    found = run(encoder, variables, np.where(mask, TOKENS, 99), **noise)
    expected = run(encoder, variables, TOKENS, segments=np.ones((3, 5), int), mask=mask)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.pooled, expected.pooled)
    assert np.isfinite(found.pooled).all() and not np.asarray(found.kept_pooled)[2].any()


def test_a_causal_encoder_does_not_look_ahead() -> None:
    variables = draw_variables(encoder_of(), TOKENS)
    changed = np.where(np.arange(5) < 3, TOKENS[:1], 2)
    for is_causal in (True, False):
        encoder = encoder_of(is_causal=is_causal)
        before, after = (run(encoder, variables, tokens).tokens[:, :3] for tokens in (TOKENS[:1], changed))
        assert (np.abs(before - after).max() < 1e-6) == is_causal


def test_the_pooler_is_a_dense_layer_and_tanh() -> None:
    encoder = encoder_of(use_pooler=True)
    variables = draw_variables(encoder, TOKENS)
    features, pooler = run(encoder, variables, TOKENS), variables["params"]["pooler"]
    expected = np.tanh(np.asarray(features.tokens)[:, 0] @ pooler["kernel"] + pooler["bias"])
    np.testing.assert_allclose(features.pooled, expected, rtol=1e-4, atol=1e-5)


def test_a_frozen_encoder_lets_no_gradient_pass() -> None:
    encoder = encoder_of(is_frozen=True, dropout_rate=0.5)
    variables = draw_variables(encoder, TOKENS)
    gradients = jax.grad(lambda variables: encoder.apply(variables, TOKENS, deterministic=False).pooled.sum())(
        variables
    )
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))


def test_dropout_needs_a_key_and_changes_values() -> None:
    encoder = encoder_of(dropout_rate=0.5)
    variables = draw_variables(encoder, TOKENS)
    dropped = [
        run(encoder, variables, TOKENS, deterministic=False, rngs={"dropout": jax.random.key(seed)}).pooled
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(dropped[0] - dropped[2]).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "arguments", "error", "message"),
    [
        ({"pooling": "max"}, {}, ValueError, "pooling must be one of first, mean, last, end; got 'max'. Choose one."),
        ({}, {"tokens": TOKENS[0]}, ValueError, r"shape \[batch, length\]; got \(5,\). Pad and stack them."),
        ({}, {"tokens": TOKENS * 1.0}, TypeError, "text tokens must be integers; got float64. Encode the text"),
        (
            {"max_length": 4},
            {},
            ValueError,
            "at most 4 tokens, which have places; got 5. Cut them, or raise max_length",
        ),
        ({}, {"segments": TOKENS}, ValueError, r"embeddings; got \(3, 5\) and num_segments=0. Pad them together"),
        (
            {"num_segments": 2},
            {"segments": TOKENS[:, :4]},
            ValueError,
            r"shape of the tokens, \(3, 5\), and embeddings; got \(3, 4\) and num_segments=2.",
        ),
        ({"num_segments": 2}, {"segments": MASK * 1.0}, TypeError, "text segments must be integers; got float64."),
        (
            {},
            {"mask": MASK[:, :4]},
            ValueError,
            r"text mask must have shape \[batch, length\] = \(3, 5\); got \(3, 4\)",
        ),
        ({}, {"mask": MASK * 1}, TypeError, "the text mask must be boolean"),
    ],
)
def test_errors(fields, arguments, error, message: str) -> None:
    with pytest.raises(error, match=message):
        encoder_of(**fields).init(jax.random.key(0), **{"tokens": TOKENS, **arguments})


def test_bfloat16_computes_narrow_and_stores_wide() -> None:
    encoder = encoder_of(dtype=jnp.bfloat16, num_segments=2, pooling="mean")
    features, variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0), TOKENS)
    assert features.tokens.dtype == features.pooled.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
