import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.encoders import Features
from fusionjax.fusion import Concat, CrossAttention, WordByWord
from tests.contracts.parameters import draw_variables, run
from tests.contracts.table import IMAGE, TEXT


def test_concat_joins_pooled_vectors_in_the_order_of_the_names() -> None:
    vectors = {"text": jnp.array([[1.0, 2.0]]), "image": jnp.array([[7.0]]), "audio": jnp.array([[5.0, 3.0]])}
    features = {name: Features(jnp.ones((1, 3, 4)), None, vector, (3,)) for name, vector in vectors.items()}
    fused = Concat().apply({}, features)
    assert fused.pooled.tolist() == [[5, 3, 7, 1, 2]]
    assert fused.tokens.tolist() == [[[5, 3, 7, 1, 2]]] and fused.mask is None and fused.grid == (1,)


def test_cross_attention_of_one_and_of_three_modalities() -> None:
    alone = CrossAttention(features=6, num_heads=2)
    params = draw_variables(alone, {"text": TEXT})["params"]
    assert "cross_attention" not in params["block_0"] and params["tokens_text"]["positions"].shape == (1, 6)
    audio = Features(np.ones((8, 4, 2), np.float32), None, np.ones((8, 2), np.float32), (4,))
    three = CrossAttention(query="image", features=6, num_heads=2, num_layers=2)
    features = {"text": TEXT, "image": IMAGE, "audio": audio}
    params = draw_variables(three, features)["params"]
    assert {"tokens_audio", "tokens_image", "tokens_text", "block_1"} <= params.keys()
    # Every cell of the grid has a vector of its own, all words share one.
    assert params["tokens_image"]["positions"].shape == (6, 6) and params["tokens_text"]["positions"].shape == (1, 6)
    assert jax.eval_shape(three.apply, {"params": params}, features).tokens.shape == (8, 6, 6)


def test_word_by_word_does_not_look_ahead() -> None:
    fusion, features = WordByWord(features=5), {"image": IMAGE, "text": TEXT}
    variables = draw_variables(fusion, features)
    later = Features(TEXT.tokens + (np.arange(7) > 3)[:, None], TEXT.mask, TEXT.pooled, TEXT.grid)
    one, other = (run(fusion, variables, {"image": IMAGE, "text": text}).tokens for text in (TEXT, later))
    np.testing.assert_array_equal(one[:, :4], other[:, :4])
    assert not np.allclose(one[0, 4:], other[0, 4:])
