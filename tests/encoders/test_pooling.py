import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import TokenPooling
from fusionjax.encoders.pooling import mean_token

TOKENS = jnp.array([[[1.0, 2.0], [5.0, -4.0], [7.0, 8.0]], [[9.0, 9.0], [3.0, 1.0], [9.0, 9.0]]])
MASK = jnp.array([[True, True, False], [False, True, False]])


@pytest.mark.parametrize(
    ("kind", "mask", "expected"),
    [
        ("flatten", None, [[1, 2, 5, -4, 7, 8], [9, 9, 3, 1, 9, 9]]),
        ("flatten", MASK, [[1, 2, 5, -4, 0, 0], [0, 0, 3, 1, 0, 0]]),
        ("mean", None, [[13 / 3, 2], [7, 19 / 3]]),
        ("mean", MASK, [[3, -1], [3, 1]]),
        ("mean", jnp.zeros((2, 3), bool), [[0, 0], [0, 0]]),
        ("max", None, [[7, 8], [9, 9]]),
        ("max", MASK, [[5, 2], [3, 1]]),
        ("max", jnp.zeros((2, 3), bool), [[0, 0], [0, 0]]),
        ("last", None, [[7, 8], [9, 9]]),
        ("last", MASK, [[5, -4], [3, 1]]),
        ("last", jnp.zeros((2, 3), bool), [[0, 0], [0, 0]]),
    ],
)
def test_hand_computed(kind: str, mask: jnp.ndarray | None, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(TokenPooling(kind).apply({}, TOKENS, mask), expected, rtol=1e-6)


def test_attention_against_numpy() -> None:
    hidden, bias, score = np.array([[0.3, -0.2], [0.1, 0.4]]), np.array([0.5, -0.1]), np.array([[0.7], [-0.9]])
    params = {"hidden": {"kernel": hidden, "bias": bias}, "score": {"kernel": score}}
    pooled = TokenPooling("attention").apply({"params": params}, TOKENS, MASK)
    scores = np.exp(np.tanh(np.array(TOKENS) @ hidden + bias) @ score)[..., 0] * MASK
    weights = scores / scores.sum(1, keepdims=True)
    np.testing.assert_allclose(pooled, (weights[..., None] * np.array(TOKENS)).sum(1), rtol=1e-5)
    nothing = TokenPooling("attention").apply({"params": params}, TOKENS, jnp.zeros((2, 3), bool))
    assert nothing.tolist() == [[0, 0], [0, 0]]


def test_max_of_negative_tokens_and_of_nan_under_the_mask() -> None:
    tokens, mask = jnp.array([[[-5.0], [-3.0], [jnp.nan]]]), jnp.array([[True, True, False]])
    pooled, pull_back = jax.vjp(lambda tokens: TokenPooling("max").apply({}, tokens, mask), tokens)
    assert pooled.tolist() == [[-3.0]]
    assert pull_back(jnp.array([[7.0]]))[0].tolist() == [[[0.0], [7.0], [0.0]]]
    nothing = TokenPooling("max").apply({}, jnp.full((1, 3, 1), jnp.nan), jnp.zeros((1, 3), bool))
    assert nothing.tolist() == [[0.0]]
    assert TokenPooling("max").apply({}, jnp.ones((2, 3, 5), jnp.bfloat16)).dtype == jnp.bfloat16


def test_mean_accumulates_in_float32() -> None:
    tokens = jnp.full((1, 3001, 1), 1.0, jnp.bfloat16)
    assert mean_token(tokens, None).tolist() == [[1.0]] and mean_token(tokens, None).dtype == jnp.bfloat16


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"pooling must be one of flatten, mean, max, last, attention; got 'median'. Choose one."
    ):
        TokenPooling("median").apply({}, TOKENS)
