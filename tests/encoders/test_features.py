import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import Features, RNNEncoder, SimpleCNN, TokenPooling
from tests.contracts.parameters import draw_variables


def test_features_are_a_pytree_whose_grid_is_static() -> None:
    features = Features(jnp.ones((2, 6, 5)), None, jnp.ones((2, 5)), (2, 3))
    doubled = jax.jit(lambda one: jax.tree.map(lambda leaf: 2 * leaf, one))(features)
    assert doubled.grid == (2, 3) and doubled.mask is None
    assert float(doubled.tokens[1, 5, 4]) == 2 and len(jax.tree.leaves(doubled)) == 2


def test_kept_tokens_are_zero_where_masked_even_for_nan() -> None:
    tokens = jnp.array([[[3.0], [jnp.nan]]])
    assert Features(tokens, jnp.array([[True, False]]), tokens[:, 0], (2,)).kept_tokens.tolist() == [[[3.0], [0.0]]]
    assert Features(tokens, None, tokens[:, 0], (2,)).kept_tokens is tokens


@pytest.mark.parametrize(
    ("module", "inputs", "length", "name"),
    [
        (SimpleCNN(features=(5,)), np.zeros((4, 8, 12, 3), np.float32), 15, "image"),
        (RNNEncoder(11, features=6), np.ones((4, 12), np.int32), 12, "text"),
        (TokenPooling("mean"), np.ones((4, 7, 2), np.float32), 7, "pooling"),
    ],
)
def test_masks_of_another_shape_or_dtype_are_refused(module, inputs, length: int, name: str) -> None:
    variables = draw_variables(module, inputs)
    message = rf"the {name} mask must have shape \[batch, length\] = \(4, {length}\); got \(4, 10\)\. Pad it"
    with pytest.raises(ValueError, match=message):
        module.apply(variables, inputs, jnp.ones((4, 10), bool))
    with pytest.raises(TypeError, match=f"the {name} mask must be boolean, True = keep; got float32. Compare it"):
        module.apply(variables, inputs, jnp.ones((4, length)))
