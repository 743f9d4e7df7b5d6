"""The largest of many scores against a stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.decoding.top_k import top_k

find = jax.jit(top_k, static_argnums=1)


def sort(scores, count):
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, order, axis=1), order


@pytest.mark.parametrize(
    ("rows", "choices", "count"), [(3, 1009, 1), (5, 1009, 7), (2, 640, 5), (3, 131, 2), (2, 7, 7)]
)
def test_it_is_a_stable_sort_cut_short(rows, choices, count):
    random = np.random.default_rng(choices + count)
    scores = random.standard_normal((rows, choices), np.float32)
    ties = np.round(2 * scores) + 0.0
    # Of one row all is equal, of another all but the last choices are impossible.
    ties[0], ties[1, :-count] = 4.0, -np.inf
    for case in (scores, ties):
        for found, expected in zip(find(case, count), sort(case, count), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_choices_are_int32_and_gradients_reach_only_the_chosen():
    scores = jnp.asarray(np.random.default_rng(0).standard_normal((3, 1009)), jnp.float32)
    assert find(scores, 5)[1].dtype == jnp.int32
    gradient = jax.jit(jax.grad(lambda scores: (top_k(scores, 5)[0] * jnp.arange(1.0, 6.0)).sum()))(scores)
    expected = np.zeros((3, 1009))
    np.put_along_axis(expected, sort(np.asarray(scores), 5)[1], np.arange(1.0, 6.0)[None], axis=1)
    np.testing.assert_array_equal(gradient, expected)
