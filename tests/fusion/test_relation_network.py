"""Pairs of tokens in micro-batches."""

import jax
import numpy as np
import pytest

from fusionjax.encoders import Features
from fusionjax.fusion import RelationNetwork, relation_network
from tests.contracts.parameters import draw_variables, fast_jit

RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(7, 6, 5)).astype(np.float32)
MASK = RNG.random((7, 6)) < 0.6
OBJECTS = Features(TOKENS, MASK, TOKENS.mean(1), (3, 2))
QUESTION = RNG.normal(size=(7, 11)).astype(np.float32)
MODALITIES = {"image": OBJECTS, "text": Features(QUESTION[:, None], None, QUESTION, (1,))}


def compute(monkeypatch: pytest.MonkeyPatch, numbers: int | None) -> tuple[list[np.ndarray], str]:
    """Values and gradients, with so many numbers in a micro-batch or, as on an accelerator, all at once."""
    if numbers is None:
        monkeypatch.setattr(relation_network, "on_platform", lambda name: False)
    else:
        monkeypatch.setattr(relation_network, "_NUMBERS_PER_STEP", numbers)
    fusion = RelationNetwork(relation_features=(5, 13, 3), features=(4,))
    variables = draw_variables(fusion, features=MODALITIES)

    def loss(variables, features):
        pooled = fusion.apply(variables, features).pooled
        return (pooled**2).sum(), pooled

    step = jax.value_and_grad(loss, argnums=0, has_aux=True)
    found = jax.device_get(fast_jit(step)(variables, MODALITIES))
    return jax.tree.leaves(found), str(jax.make_jaxpr(step)(variables, MODALITIES))


@pytest.mark.parametrize("examples", [1, 3])
def test_micro_batches_equal_one(monkeypatch: pytest.MonkeyPatch, examples: int) -> None:
    with monkeypatch.context() as patch:
        expected, whole = compute(patch, None)
    # 6 x 6 pairs of at most 13 numbers; a batch of 7 leaves a rest of one after two times three. Of eight devices each
    # has its share.
    with monkeypatch.context() as patch:
        patch.setattr("fusionjax.ops.micro_batches.count_devices", lambda: 1)
        found, parts = compute(patch, 36 * 13 * examples)
    assert "scan" in parts and "scan" not in whole
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)
