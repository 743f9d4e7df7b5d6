"""Pairs of tokens in micro-batches, and the normalisation of their mean."""

import jax
import jax.numpy as jnp
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


@pytest.mark.parametrize("deterministic", [True, False])
def test_normalised_mean_equals_other_weights_of_the_next_layer(deterministic: bool) -> None:
    """A normalisation before a linear layer is another linear layer: that of running, or of the batch's statistics."""
    normalised = RelationNetwork(relation_features=(5, 3), features=(4,), normalization="batch")
    modalities = jax.tree.map(jnp.asarray, MODALITIES)
    variables = draw_variables(normalised, features=modalities)
    norm = {name: RNG.normal(size=3).astype(np.float32) for name in ("scale", "bias")}
    running = {"mean": RNG.normal(size=3).astype(np.float32), "var": RNG.random(3, np.float32) + 0.5}
    params = {**variables["params"], "norm": norm}
    found, updated = normalised.apply(
        {"params": params, "batch_stats": {"norm": running}},
        modalities,
        deterministic=deterministic,
        mutable=["batch_stats"],
    )

    plain = {name: value for name, value in params.items() if name != "norm"}
    identity = {**plain, "fused_0": {"kernel": np.eye(3, dtype=np.float32), "bias": np.zeros(3, np.float32)}}
    means = RelationNetwork(relation_features=(5, 3), features=(3,)).apply({"params": identity}, modalities).pooled
    batch = {"mean": means.mean(0), "var": means.var(0)}
    used = running if deterministic else batch
    factor = norm["scale"] / np.sqrt(used["var"] + 1e-5)
    kernel, bias = params["fused_0"]["kernel"], params["fused_0"]["bias"]
    other = {"kernel": factor[:, None] * kernel, "bias": bias + (norm["bias"] - used["mean"] * factor) @ kernel}
    fusion = RelationNetwork(relation_features=(5, 3), features=(4,))
    expected = fusion.apply({"params": {**plain, "fused_0": other}}, modalities)
    np.testing.assert_allclose(found.pooled, expected.pooled, rtol=1e-4, atol=1e-4)
    assert expected.pooled.any()
    for name, value in updated["batch_stats"]["norm"].items():
        kept = running[name] if deterministic else 0.9 * running[name] + 0.1 * batch[name]
        np.testing.assert_allclose(value, kept, rtol=1e-4, atol=1e-6)
