"""Cross-entropy: values and gradients against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.losses import cross_entropy

SHAPE = (3, 5, 7)  # [batch, length, classes]


def make_inputs(seed=0):
    rng = np.random.default_rng(seed)
    logits = (3 * rng.normal(size=SHAPE)).astype(np.float32)
    return jnp.asarray(logits), jnp.asarray(rng.integers(0, 7, SHAPE[:-1])), jnp.asarray(rng.random(SHAPE[:-1]) < 0.6)


def reference(logits, labels, mask, label_smoothing):
    """Total, weight and gradient, straight from -sum target log softmax."""
    logits = np.asarray(logits, np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    target = (1 - label_smoothing) * np.eye(7)[np.asarray(labels)] + label_smoothing / 7
    losses = -(target * np.log(probabilities)).sum(-1)
    kept = np.ones(losses.shape, bool) if mask is None else np.asarray(mask)
    return losses[kept].sum(), kept.sum(), (probabilities - target) * kept[..., None]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("is_masked", [False, True])
def test_values_and_gradients(label_smoothing, is_masked):
    logits, labels, mask = make_inputs()
    mask = mask if is_masked else None
    compute = jax.jit(lambda logits: cross_entropy(logits, labels, mask=mask, label_smoothing=label_smoothing))
    total, weight, gradient = reference(logits, labels, mask, label_smoothing)
    found = compute(logits)
    np.testing.assert_allclose(found.total, total, rtol=1e-6)
    np.testing.assert_allclose(found.weight, weight)
    np.testing.assert_allclose(found.mean, total / weight, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda logits: compute(logits).total)(logits), gradient, atol=2e-6)


def test_sums_add_up_over_parts():
    logits, labels, mask = make_inputs()
    whole = cross_entropy(logits, labels, mask=mask)
    parts = [cross_entropy(logits[i], labels[i], mask=mask[i]) for i in range(3)]
    np.testing.assert_allclose(whole.total, sum(part.total for part in parts), rtol=1e-6)
    np.testing.assert_allclose(whole.weight, sum(part.weight for part in parts))


def test_bfloat16_logits_are_summed_in_float32():
    logits, labels, _ = make_inputs()
    logits = logits.astype(jnp.bfloat16)
    found = cross_entropy(logits, labels)
    assert found.total.dtype == found.weight.dtype == jnp.float32
    np.testing.assert_allclose(found.total, reference(logits, labels, None, 0.0)[0], rtol=1e-6)
    assert jax.grad(lambda logits: cross_entropy(logits, labels).total)(logits).dtype == jnp.bfloat16


def test_large_logits_stay_finite_and_what_is_masked_has_no_gradient():
    logits, labels = jnp.array([[1e4, -1e4], [5.0, 5.0]]), jnp.array([1, 0])
    assert float(cross_entropy(logits, labels, mask=jnp.array([True, False])).total) == 2e4
    gradient = jax.grad(lambda logits: cross_entropy(logits, labels, mask=jnp.array([True, False])).total)(logits)
    np.testing.assert_array_equal(gradient, [[1, -1], [0, 0]])
    assert float(cross_entropy(logits, labels, mask=jnp.zeros(2, bool)).mean) == 0.0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"labels": jnp.zeros((3, 7), int)},
            ValueError,
            r"labels must have .*\(3, 5\); got \(3, 7\). Pass class numbers",
        ),
        ({"labels": jnp.zeros((3, 5))}, TypeError, "labels must be integers; got float32. Cast them"),
        ({"mask": jnp.ones((5, 3), bool)}, ValueError, r"mask must have .*\(3, 5\); got \(5, 3\). Pad it"),
        ({"mask": jnp.ones((3, 5))}, TypeError, "mask must be boolean, True = counted; got float32. Compare"),
        ({"label_smoothing": 1.0}, ValueError, r"label_smoothing must lie in \[0, 1\); got 1.0"),
        ({"label_smoothing": -0.1}, ValueError, r"label_smoothing must lie in \[0, 1\); got -0.1"),
    ],
)
def test_errors_name_the_value_and_the_fix(changes, error, message):
    logits, labels, _ = make_inputs()
    arguments = {"labels": labels} | changes
    with pytest.raises(error, match=message):
        cross_entropy(logits, arguments.pop("labels"), **arguments)
