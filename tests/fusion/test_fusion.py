import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import Features
from fusionjax.fusion import Concat, CrossAttention, WordByWord
from tests.contracts.parameters import draw_variables, run
from tests.contracts.table import IMAGE, TEXT, TEXT_MASK


def test_concat_joins_pooled_vectors_in_the_order_of_the_names() -> None:
    vectors = {"text": jnp.array([[1.0, 2.0]]), "image": jnp.array([[7.0]]), "audio": jnp.array([[5.0, 3.0]])}
    features = {name: Features(jnp.ones((1, 3, 4)), None, vector, (3,)) for name, vector in vectors.items()}
    fused = Concat().apply({}, features)
    assert fused.pooled.tolist() == [[5, 3, 7, 1, 2]]
    assert fused.tokens.tolist() == [[[5, 3, 7, 1, 2]]] and fused.mask is None and fused.grid == (1,)


def _normalise(tokens: np.ndarray, params: dict) -> np.ndarray:
    centred = tokens - tokens.mean(-1, keepdims=True)
    return centred / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


def _dense(tokens: np.ndarray, params: dict) -> np.ndarray:
    return tokens @ params["kernel"] + params["bias"]


def _marked(tokens: np.ndarray, params: dict) -> np.ndarray:
    return _dense(tokens, params["dense"]) + params["positions"]


def _attend(queries: np.ndarray, memory: np.ndarray, keep: np.ndarray, params: dict) -> np.ndarray:
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        query, key, value = (
            _dense(source, params[name])[..., head]
            for source, name in ((queries, "query"), (memory, "key"), (memory, "value"))
        )
        weights = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(3)) * keep[:, None]
        heads.append(weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30) @ value)
    return _dense(np.concatenate(heads, -1), params["out"])


def _gelu(values: np.ndarray) -> np.ndarray:
    return 0.5 * values * (1 + np.tanh(np.sqrt(2 / np.pi) * (values + 0.044715 * values**3)))


def test_cross_attention_against_numpy() -> None:
    fusion = CrossAttention(features=6, num_heads=2, pooling="mean")
    features = jax.tree.map(jnp.asarray, {"image": IMAGE, "text": TEXT})
    variables = draw_variables(fusion, features)
    params = jax.tree.map(np.float64, variables["params"])
    block = params["block_0"]
    tokens = _marked(TEXT.tokens, params["tokens_text"])
    # Every cell of the grid has a vector of its own, all words share one.
    assert [params[f"tokens_{name}"]["positions"].shape for name in ("text", "image")] == [(1, 6), (6, 6)]
    memory = _marked(IMAGE.tokens, params["tokens_image"])
    inner = _normalise(tokens, block["self_attention_norm"])
    tokens = tokens + _attend(inner, inner, TEXT_MASK, block["self_attention"])
    inner = _normalise(tokens, block["cross_attention_norm"])
    tokens = tokens + _attend(inner, memory, IMAGE.mask, block["cross_attention"])
    inner = _gelu(_dense(_normalise(tokens, block["mlp_norm"]), block["mlp_in"]))
    tokens = _normalise(tokens + _dense(inner, block["mlp_out"]), params["norm"]) * TEXT_MASK[..., None]
    fused = run(fusion, variables, features)
    np.testing.assert_allclose(fused.tokens, tokens, rtol=1e-4, atol=1e-4)
    pooled = tokens.sum(1) / np.maximum(TEXT_MASK.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(fused.pooled, pooled, rtol=1e-4, atol=1e-4)
    assert fused.grid == (7,) and bool((fused.mask == TEXT_MASK).all())


def test_cross_attention_of_one_and_of_three_modalities() -> None:
    alone = CrossAttention(features=6, num_heads=2)
    params = draw_variables(alone, {"text": TEXT})["params"]
    assert "cross_attention" not in params["block_0"]
    audio = Features(np.ones((8, 4, 2), np.float32), None, np.ones((8, 2), np.float32), (4,))
    three = CrossAttention(query="image", features=6, num_heads=2, num_layers=2)
    features = {"text": TEXT, "image": IMAGE, "audio": audio}
    params = draw_variables(three, features)["params"]
    assert {"tokens_audio", "tokens_image", "tokens_text", "block_1"} <= params.keys()
    assert jax.eval_shape(three.apply, {"params": params}, features).tokens.shape == (8, 6, 6)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def test_word_by_word_against_numpy() -> None:
    fusion = WordByWord(features=5, attention_features=3)
    audio = Features(np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 4, 2), None, np.ones((8, 2), np.float32), (4,))
    features = {"image": IMAGE, "text": TEXT, "audio": audio}
    variables = draw_variables(fusion, features)
    params = jax.tree.map(np.float64, variables["params"])
    lstm = params["lstm"]
    memory = [_marked(one.tokens, params[f"tokens_{name}"]) for name, one in (("audio", audio), ("image", IMAGE))]
    memory, keep = np.concatenate(memory, 1), np.concatenate([np.ones((8, 4), bool), IMAGE.mask], 1)
    pooled = np.concatenate([audio.pooled, IMAGE.pooled], -1)
    cell, hidden = (np.tanh(_dense(pooled, lstm[name])) for name in ("start_cell", "start_hidden"))
    keys, last, expected = _dense(memory, lstm["attend"]["memory"]), np.zeros((8, 10)), []
    for step in range(TEXT.tokens.shape[1]):
        query = hidden @ lstm["attend"]["query"]["kernel"]
        share = np.exp(np.tanh(keys + query[:, None]) @ lstm["attend"]["energy"]) * keep
        attended = ((share / share.sum(1, keepdims=True))[..., None] * memory).sum(1)
        gates = _dense(TEXT.tokens[:, step], lstm["input_gates"]) + attended @ lstm["attended_gates"]["kernel"]
        enter, forget, candidate, leave = np.split(gates + hidden @ lstm["recurrent_kernel"], 4, axis=-1)
        new_cell = _sigmoid(forget) * cell + _sigmoid(enter) * np.tanh(candidate)
        new_hidden = _sigmoid(leave) * np.tanh(new_cell)
        read = TEXT_MASK[:, step, None]
        cell, hidden = np.where(read, new_cell, cell), np.where(read, new_hidden, hidden)
        expected.append(np.concatenate([new_hidden, attended], -1) * read)
        last = np.where(read, expected[-1], last)
    fused = run(fusion, variables, features)
    np.testing.assert_allclose(fused.tokens, np.stack(expected, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fused.pooled, last, rtol=1e-4, atol=1e-5)
    assert fused.grid == (7,) and bool((fused.mask == TEXT_MASK).all())


def test_word_by_word_does_not_look_ahead() -> None:
    fusion, features = WordByWord(features=5), {"image": IMAGE, "text": TEXT}
    variables = draw_variables(fusion, features)
    later = Features(TEXT.tokens + (np.arange(7) > 3)[:, None], TEXT.mask, TEXT.pooled, TEXT.grid)
    one, other = (run(fusion, variables, {"image": IMAGE, "text": text}).tokens for text in (TEXT, later))
    np.testing.assert_array_equal(one[:, :4], other[:, :4])
    assert not np.allclose(one[0, 4:], other[0, 4:])


def test_word_by_word_needs_something_to_look_at() -> None:
    with pytest.raises(ValueError, match=r"'text' must come with another modality to look at; got it alone. Add one."):
        WordByWord().init(jax.random.key(0), {"text": TEXT})


@pytest.mark.parametrize("fusion", [Concat(), CrossAttention(), WordByWord()], ids=lambda one: type(one).__name__)
def test_errors_of_every_fusion(fusion) -> None:
    with pytest.raises(ValueError, match=r"a fusion needs the features of at least one modality; got none. Pass"):
        fusion.init(jax.random.key(0), {})
    fewer = jax.tree.map(lambda leaf: leaf[:3], IMAGE)
    with pytest.raises(ValueError, match=r"same batch size; got \{'image': 3, 'text': 8\}. Batch them together."):
        fusion.init(jax.random.key(0), {"image": fewer, "text": TEXT})


@pytest.mark.parametrize("fusion", [CrossAttention(), WordByWord()], ids=lambda one: type(one).__name__)
def test_a_fusion_needs_its_query(fusion) -> None:
    with pytest.raises(
        ValueError, match=r"this fusion needs the modality 'text'; got image. Rename it or set the field."
    ):
        fusion.init(jax.random.key(0), {"image": IMAGE})
