"""Every weighting of tasks against its paper's algorithm on whole vectors in NumPy; sampling; refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

from fusionjax import training

TASKS = 3
SHAPES = {"kernel": (5, 7), "bias": (11,)}


def draw_gradients(seed: int = 0, tasks: int = TASKS, opposed: bool = True) -> tuple[dict[str, jax.Array], np.ndarray]:
    """Gradients `[tasks, ...]` of some parameters, and the same as rows; opposed ones point against the first."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(tasks, 46)).astype(np.float32)
    if opposed:
        rows[1:] -= 0.7 * rows[0]
    rows *= np.array([1.0, 3.0, 0.4, 2.0])[:tasks, None]
    tree = {"bias": rows[:, 35:], "kernel": rows[:, :35].reshape(tasks, 5, 7)}
    return {name: jnp.asarray(leaf, jnp.float32) for name, leaf in tree.items()}, rows


def combine(weighting: training.TaskWeighting, steps: list[tuple[Any, Any]], **options: Any) -> tuple[np.ndarray, Any]:
    """The combined gradient of the last of some steps, as a row, and the state after it."""
    link = training.combine_tasks(weighting, len(steps[0][1]), **options)
    state = link.init(None)
    update = jax.jit(lambda gradients, state, losses: link.update(gradients, state, losses=losses))
    for gradients, losses in steps:
        combined, state = update(gradients, state, jnp.asarray(losses, jnp.float32))
    return np.concatenate([np.ravel(combined["kernel"]), np.ravel(combined["bias"])]), state


def test_fixed() -> None:
    gradients, rows = draw_gradients()
    found, _ = combine(training.fixed([0.5, 0.0, 2.0]), [(gradients, np.ones(3))])
    np.testing.assert_allclose(found, 0.5 * rows[0] + 2 * rows[2], rtol=1e-5, atol=1e-6)
    found, state = combine(training.fixed(), [(gradients, [1.0, np.nan, 1.0])])
    np.testing.assert_allclose(found, rows[0] + rows[2], rtol=1e-5, atol=1e-6)
    assert state.weights.tolist() == [1, 0, 1]


def test_pc_grad_removes_what_goes_against_another_task() -> None:
    gradients, rows = draw_gradients()
    assert (rows[0] @ rows[1:].T < 0).all()
    found, _ = combine(training.pc_grad(seed=3), [(gradients, np.ones(3))])
    key, own = jax.random.split(jax.random.key(3))
    expected = np.zeros(46)
    for task, order_key in enumerate(jax.random.split(own, 3)):
        gradient = rows[task].astype(np.float64)
        for other in np.asarray(jax.random.permutation(order_key, 3)):
            product = gradient @ rows[other]
            if other != task and product < 0:
                gradient = gradient - product / (rows[other] @ rows[other]) * rows[other]
        expected += gradient
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found - rows.sum(0)).max() > 0.1
    # Other steps have other orders.
    link = training.combine_tasks(training.pc_grad(seed=3), 3)
    state = link.update(gradients, link.init(None), losses=jnp.ones(3))[1]
    assert (jax.random.key_data(state.rule) == jax.random.key_data(key)).all()


def test_pc_grad_leaves_what_agrees() -> None:
    gradients, rows = draw_gradients(opposed=False)
    rows = np.abs(rows)
    gradients = jax.tree.map(jnp.abs, gradients)
    found, _ = combine(training.pc_grad(), [(gradients, np.ones(3))])
    np.testing.assert_allclose(found, rows.sum(0), rtol=1e-5)


@pytest.mark.parametrize(("tasks", "seed"), [(2, 0), (3, 0), (3, 1), (4, 2)])
def test_mgda_finds_the_shortest_mean(tasks: int, seed: int) -> None:
    gradients, rows = draw_gradients(seed, tasks)
    found, state = combine(training.mgda(), [(gradients, np.ones(tasks))])
    solved = optimize.minimize(
        lambda weights: np.sum((weights @ rows) ** 2),
        np.full(tasks, 1 / tasks),
        bounds=[(0, 1)] * tasks,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(np.sum(found**2), solved.fun, rtol=1e-4)
    np.testing.assert_allclose(state.weights, solved.x, atol=2e-3)
    # No task's loss rises along it, to first order.
    assert (rows @ found >= 0.999 * np.sum(found**2)).all()


@pytest.mark.slow
def test_mgda_of_equal_and_of_missing_gradients() -> None:
    gradients, rows = draw_gradients()
    same = jax.tree.map(lambda leaf: jnp.stack([leaf[0], leaf[0], leaf[1]]), gradients)
    found, _ = combine(training.mgda(), [(same, np.ones(3))])
    expected, _ = combine(training.mgda(), [(jax.tree.map(lambda leaf: leaf[:2], gradients), np.ones(2))])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    without, state = combine(training.mgda(), [(gradients, [np.nan, 1.0, np.nan])])
    np.testing.assert_allclose(without, rows[1], rtol=1e-5)
    assert state.weights.tolist() == [0, 1, 0]


@pytest.mark.slow
def test_normalised_mgda_does_not_favour_the_smallest() -> None:
    gradients, _ = draw_gradients(opposed=False)
    scaled = jax.tree.map(
        lambda leaf: leaf * jnp.array([1.0, 100.0, 1e-3]).reshape(3, *[1] * (leaf.ndim - 1)), gradients
    )
    first, second = (combine(training.mgda(normalize=True), [(one, np.ones(3))])[0] for one in (gradients, scaled))
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_uncertainty_learns_the_inverse_of_twice_the_loss() -> None:
    gradients, rows = draw_gradients()
    losses = np.array([0.5, 2.0, 8.0])
    found, state = combine(training.uncertainty(0.1), [(gradients, losses)])
    np.testing.assert_allclose(found, rows.sum(0), rtol=1e-5, atol=1e-5)
    # The slope of exp(-s) L + s / 2 at 0.
    np.testing.assert_allclose(state.rule, -0.1 * (0.5 - losses), rtol=1e-5)
    _, state = combine(training.uncertainty(0.1), [(gradients, losses)] * 300)
    np.testing.assert_allclose(state.weights, 1 / (2 * losses), rtol=1e-3)
    _, state = combine(training.uncertainty(0.1), [(gradients, [0.5, np.nan, 8.0])])
    assert state.rule[1] == 0 and state.weights[1] == 0


def test_grad_norm_follows_the_slope_of_its_loss() -> None:
    gradients, rows = draw_gradients()
    steps = [(gradients, [1.0, 2.0, 4.0]), (gradients, [0.5, 1.8, 1.0])]
    _, state = combine(training.grad_norm(alpha=1.5, learning_rate=0.05), steps)
    weights, lengths = np.ones(3), np.linalg.norm(rows, axis=1)
    for losses in ([1.0, 2.0, 4.0], [0.5, 1.8, 1.0]):
        used = weights
        ratios = np.array(losses) / [1.0, 2.0, 4.0]
        targets = (weights * lengths).mean() * (ratios / ratios.mean()) ** 1.5
        slopes = np.sign(weights * lengths - targets) * lengths / lengths.mean()
        weights = weights - 0.05 * slopes
        weights = weights * 3 / weights.sum()
    np.testing.assert_allclose(state.rule.weights, weights, rtol=1e-5)
    np.testing.assert_allclose(state.weights, used, rtol=1e-5)


@pytest.mark.slow
def test_grad_norm_makes_gradients_equally_long() -> None:
    gradients, rows = draw_gradients()
    _, state = combine(training.grad_norm(alpha=0.0, learning_rate=0.01), [(gradients, np.ones(3))] * 600)
    lengths = np.asarray(state.weights) * np.linalg.norm(rows, axis=1)
    assert lengths.max() / lengths.min() < 1.3
    np.testing.assert_allclose(state.weights.sum(), 3, rtol=1e-5)


def test_only_shared_parameters_are_compared() -> None:
    gradients, rows = draw_gradients()
    found, state = combine(
        training.mgda(), [(gradients, np.ones(3))], shared=lambda path: "kernel" in jax.tree_util.keystr(path)
    )
    kernels = jnp.asarray(rows[:, :35], jnp.float32)
    np.testing.assert_allclose(
        state.weights, training.min_norm_weights(kernels @ kernels.T, jnp.ones(3, bool)), rtol=1e-5
    )
    np.testing.assert_allclose(found, np.asarray(state.weights) @ rows, rtol=1e-4, atol=1e-5)


def test_an_optimiser_follows() -> None:
    gradients, rows = draw_gradients()
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:]), gradients)
    chain = optax.chain(training.combine_tasks(training.fixed(), 3), optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    updates, _ = chain.update(gradients, chain.init(params), params, losses=jnp.ones(3))
    expected = -0.1 * rows.sum(0) / np.linalg.norm(rows.sum(0))
    np.testing.assert_allclose(np.ravel(updates["bias"]), expected[35:], rtol=1e-4)


def test_sampling() -> None:
    sizes = {"a": 900, "b": 100}
    assert training.sampling_probabilities(sizes) == pytest.approx({"a": 0.9, "b": 0.1})
    assert training.sampling_probabilities(sizes, 2.0) == pytest.approx({"a": 0.75, "b": 0.25})
    assert training.sampling_probabilities(sizes, float("inf")) == pytest.approx({"a": 0.5, "b": 0.5})


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("num_tasks must be at least 1; got 0", lambda: training.combine_tasks(training.fixed(), 0)),
        ("must not be negative; got \\[1, -2\\]", lambda: training.fixed([1, -2])),
        ("must not be negative; got \\[\\]", lambda: training.fixed([])),
        (
            "one for each of the 3 tasks; got \\[1.0, 2.0\\]",
            lambda: training.combine_tasks(training.fixed([1.0, 2.0]), 3).init({}),
        ),
        ("learning_rate of the weights must be above 0; got 0", lambda: training.uncertainty(0)),
        ("learning_rate of the weights must be above 0; got -1", lambda: training.grad_norm(learning_rate=-1)),
        ("alpha must not be negative; got -0.5", lambda: training.grad_norm(alpha=-0.5)),
        ("solves for 8 tasks at most; got 9", lambda: training.combine_tasks(training.mgda(), 9).init({})),
        ("every task needs examples, .*; got {'a': 0}", lambda: training.sampling_probabilities({"a": 0})),
        ("every task needs examples, .*; got {}", lambda: training.sampling_probabilities({})),
        ("temperature must be above 0; got 0", lambda: training.sampling_probabilities({"a": 1}, 0)),
    ],
)
def test_refusals(message: str, call: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call()
