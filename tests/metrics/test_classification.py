"""Accuracy, confusion matrix and perplexity."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.metrics import accuracy, confusion_matrix, perplexity

LOGITS = jnp.array([[[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]], [[5.0, 4.0, 6.0], [1.0, 0.0, 0.5]]])
LABELS = jnp.array([[1, 0], [0, 0]])


def test_accuracy_counts_the_highest_logit():
    total, weight = accuracy(LOGITS, LABELS)
    assert (float(total), float(weight), total.dtype, weight.dtype) == (3.0, 4.0, jnp.float32, jnp.float32)
    found = accuracy(LOGITS.astype(jnp.bfloat16), LABELS, jnp.array([[True, False], [True, False]]))
    assert (float(found.total), float(found.weight), float(found.mean)) == (1.0, 2.0, 0.5)
    assert float(accuracy(LOGITS, LABELS, jnp.zeros((2, 2), bool)).mean) == 0.0


def test_accuracy_checks_shapes():
    with pytest.raises(ValueError, match=r"labels must have the shape .*\(2, 2\); got \(2,\). Pass one entry"):
        accuracy(LOGITS, LABELS[:, 0])
    with pytest.raises(ValueError, match=r"mask must have the shape .*\(2, 2\); got \(2, 3\)"):
        accuracy(LOGITS, LABELS, jnp.ones((2, 3), bool))


def test_confusion_matrix_has_true_rows_and_predicted_columns():
    found = confusion_matrix([0, 2, 2, 2], [1, 2, 0, 2], num_classes=4)
    np.testing.assert_array_equal(found, [[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]])
    assert found.dtype == np.int64


@pytest.mark.parametrize("seed", range(3))
def test_the_diagonal_of_the_confusion_matrix_is_the_accuracy(seed):
    rng = np.random.default_rng(seed)
    labels, logits = rng.integers(0, 5, 101), rng.normal(size=(101, 5)).astype(np.float32)
    matrix = confusion_matrix(labels, logits.argmax(1), num_classes=5)
    found = accuracy(jnp.asarray(logits), jnp.asarray(labels))
    assert matrix.sum() == 101 and matrix.trace() == float(found.total)
    np.testing.assert_array_equal(matrix.sum(1), np.bincount(labels, minlength=5))


def test_confusion_matrix_checks_its_input():
    with pytest.raises(ValueError, match=r"same shape \[examples\]; got \(3,\) and \(2,\)"):
        confusion_matrix([0, 1, 1], [0, 1], num_classes=2)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, num_classes\) = \[0, 2\); got 2. Raise num_classes"):
        confusion_matrix([0, 2], [0, 1], num_classes=2)
    with pytest.raises(ValueError, match=r"predictions must lie in .*; got -1"):
        confusion_matrix([0, 1], [0, -1], num_classes=2)


def test_perplexity_is_the_exponential_of_the_mean():
    assert perplexity(3 * math.log(7.0), 3) == pytest.approx(7.0)
    assert perplexity(jnp.float32(0.0), jnp.float32(5.0)) == 1.0
    assert perplexity(1e6, 1.0) == math.inf
    with pytest.raises(ValueError, match=r"weight must be positive; got 0.0. Evaluate at least one batch"):
        perplexity(1.0, 0.0)
    with pytest.raises(ValueError, match="weight must be positive; got nan"):
        perplexity(1.0, float("nan"))
