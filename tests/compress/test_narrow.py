"""Products in bfloat16: what is cast, what stays, and how far outputs move."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import compress, encoders, models
from tests.contracts.parameters import draw_variables, fast_jit
from tests.contracts.table import MODELS, read

CLASSIFIER = next(row for row in MODELS if row.name == "FusionClassifier")


def dtypes(tree: object) -> set[str]:
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


def test_a_whole_folded_model() -> None:
    model = CLASSIFIER.build(None)
    variables = draw_variables(model, **CLASSIFIER.inputs)
    exact = read(fast_jit(model.apply)(variables, **CLASSIFIER.inputs))["logits"]
    narrow, narrow_variables = compress.to_bfloat16(*compress.fold_embeddings(model, variables))
    for leaf in jax.tree.leaves(narrow_variables["params"]):
        assert leaf.dtype == (jnp.bfloat16 if leaf.ndim > 1 else jnp.float32)
    assert narrow.dtype == narrow.encoders["text"].dtype == narrow.encoders["image"].dtype == jnp.bfloat16
    found = read(fast_jit(narrow.apply)(narrow_variables, **CLASSIFIER.inputs))["logits"]
    assert found.dtype == jnp.bfloat16
    difference = np.linalg.norm(np.float32(found) - exact) / np.linalg.norm(exact)
    assert 1e-4 < difference < 2e-2
    assert dtypes(variables) == {"float32"}


def test_only_some_modules() -> None:
    model = CLASSIFIER.build(None)
    variables = draw_variables(model, **CLASSIFIER.inputs)
    narrow, narrow_variables = compress.to_bfloat16(model, variables, only=(encoders.RNNEncoder,))
    params = narrow_variables["params"]
    assert narrow.encoders["image"] is model.encoders["image"] and narrow.dtype is None
    assert narrow.encoders["text"].dtype == jnp.bfloat16
    assert params["encoders_text"]["embedding"]["embedding"].dtype == jnp.bfloat16
    others = {name: tree for name, tree in params.items() if name != "encoders_text"}
    assert dtypes(others) == {"float32"}
    output = jax.eval_shape(narrow.apply, narrow_variables, **CLASSIFIER.inputs)
    assert output.logits.dtype == jnp.float32


def test_statistics_stay_as_they_are() -> None:
    encoder, images = encoders.SimpleCNN(features=(5,), normalization="batch"), jnp.ones((2, 10, 10, 3))
    _, variables = compress.to_bfloat16(encoder, draw_variables(encoder, images))
    assert dtypes(variables["batch_stats"]) == dtypes(variables["params"]["norm_0"]) == {"float32"}
    assert dtypes(variables["params"]["conv_0"]) == {"bfloat16"}


def test_nothing_to_change() -> None:
    message = r"the model must have RNNEncoder or Dense among its fields; got LSTMDecoder. Set its dtype where it is m"
    with pytest.raises(ValueError, match=message):
        compress.to_bfloat16(models.LSTMDecoder(11), {"params": {}}, only=(encoders.RNNEncoder, nn.Dense))
    with pytest.raises(ValueError, match=r"the model must have a field dtype; got Sequential. Set its dtype where"):
        compress.to_bfloat16(nn.Sequential([jnp.tanh]), {})


@pytest.mark.parametrize("function", [compress.to_bfloat16, compress.fold_embeddings, compress.fold_batch_norms])
def test_variables_in_the_place_of_the_model(function) -> None:
    with pytest.raises(TypeError, match=r"must be a flax.linen.Module; got dict. Give the model first"):
        function({}, nn.Dense(3))
