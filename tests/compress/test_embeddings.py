"""Folded word vectors: the same outputs by a look-up in place of a product."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import compress, encoders, fusion, layers, models
from fusionjax.models.words import WordTable
from tests.contracts.parameters import draw_variables, fast_jit, run
from tests.contracts.table import DECODERS, TEXT_MASK, TOKENS, Row, read


def assert_same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys() and expected
    for name, value in expected.items():
        assert np.linalg.norm(found[name] - value) <= 1e-6 * np.linalg.norm(value), name


def test_the_table_against_numpy() -> None:
    generator = np.random.default_rng(0)
    table, kernel, bias = (generator.normal(size=shape).astype(np.float32) for shape in ((11, 7), (7, 13), (13,)))
    found = compress.project_embedding(jnp.asarray(table), jnp.asarray(kernel), jnp.asarray(bias))
    np.testing.assert_allclose(found, np.float64(table) @ kernel + bias, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "bidirectional", "num_layers", "width"),
    [("lstm", True, 2, 3), ("gru", False, 1, None), ("elman", True, 1, 7)],
)
def test_encoders(cell: Any, bidirectional: bool, num_layers: int, width: int | None) -> None:
    encoder = encoders.RNNEncoder(
        11,
        features=5,
        cell=cell,
        num_layers=num_layers,
        bidirectional=bidirectional,
        embedding_features=width,
        pooling="last",
        dropout_rate=0.5,
    )
    variables = draw_variables(encoder, TOKENS)
    shapes = jax.tree.map(jnp.shape, variables)
    folded, folded_variables = compress.fold_embeddings(encoder, variables)
    gates = {"lstm": 4, "gru": 3, "elman": 1}[cell] * (2 if bidirectional else 1)
    assert folded_variables["params"]["embedding"]["embedding"].shape == (11, gates * 5)
    assert "input_kernel" not in folded_variables["params"]["rnn"]["layer_0_forward"]
    assert jax.tree.map(jnp.shape, variables) == shapes
    # What it holds is what it would be initialised with.
    expected = jax.eval_shape(folded.init, jax.random.key(0), TOKENS)
    assert jax.tree.map(jnp.shape, folded_variables) == jax.tree.map(jnp.shape, expected)
    before, after = run(encoder, variables, TOKENS, TEXT_MASK), run(folded, folded_variables, TOKENS, TEXT_MASK)
    assert_same(read(after), read(before))


@pytest.mark.parametrize("row", DECODERS[:2], ids=lambda row: row.name)
def test_decoders(row: Row) -> None:
    model = row.build(None)
    variables = draw_variables(model, **row.inputs)
    folded, folded_variables = compress.fold_embeddings(model, variables)
    before = fast_jit(model.apply)(variables, **row.inputs)
    after = fast_jit(folded.apply)(folded_variables, **row.inputs)
    assert_same(read(after), read(before))


def test_nothing_to_fold() -> None:
    message = "the model must be or have among its fields one of RNNEncoder, LSTMDecoder, AttentionLSTMDecoder that is"
    words = encoders.RNNEncoder(11, features=6, num_layers=0)
    folded = encoders.RNNEncoder(11, features=6, is_folded=True)
    for model in (nn.Dense(3), words, folded):
        with pytest.raises(ValueError, match=rf"{message} not folded yet; got {type(model).__name__}. Fold by project"):
            compress.fold_embeddings(model, {"params": {}})


def test_a_folded_model_is_for_inference() -> None:
    encoder = encoders.RNNEncoder(11, features=6, is_folded=True, dropout_rate=0.5)
    variables = draw_variables(encoder, TOKENS)
    with pytest.raises(ValueError, match=r"cannot drop parts of word vectors; got dropout_rate=0.5 and determini"):
        encoder.apply(variables, TOKENS, deterministic=False)
    table = WordTable(11, 6, dropout_rate=0.25, projected_features=13)
    variables = draw_variables(table, TOKENS)
    with pytest.raises(ValueError, match=r"folded words cannot be dropped in part; got dropout_rate=0.25 and determin"):
        table.apply(variables, TOKENS, deterministic=False)
    with pytest.raises(
        ValueError, match=r"a folded encoder needs a recurrent layer to fold; got num_layers=0. Pass is"
    ):
        encoder.clone(num_layers=0).init(jax.random.key(0), TOKENS)
    with pytest.raises(ValueError, match=r"a folded encoder has a table of its tokens; got is_one_hot=True. Set one"):
        encoder.clone(is_one_hot=True).init(jax.random.key(0), TOKENS)


def test_projected_inputs_of_another_width() -> None:
    layer = layers.RNN(5, cell="gru", bidirectional=True, is_projected=True)
    message = r"projected inputs must be 30 wide, gates \* features of each direction; got \(2, 3, 15\). Project them"
    with pytest.raises(ValueError, match=message):
        layer.init(jax.random.key(0), jnp.ones((2, 3, 15)))


def test_modules_are_found_by_where_they_are_attached() -> None:
    text = encoders.RNNEncoder(11, features=6, pooling="last")
    both = {
        "one": text,
        "two": text.clone(cell="gru", name="other"),
        "words": text.clone(num_layers=0),
        "bits": text.clone(is_one_hot=True),
    }
    model = models.FusionClassifier(both, fusion=fusion.Concat(), num_classes=3)
    batch = dict.fromkeys(both, TOKENS)
    folded, variables = compress.fold_embeddings(model, draw_variables(model, batch))
    assert {name for name, encoder in folded.encoders.items() if encoder.is_folded} == {"one", "two"}
    assert folded.fusion is model.fusion
    expected = jax.eval_shape(folded.init, jax.random.key(0), batch)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)
