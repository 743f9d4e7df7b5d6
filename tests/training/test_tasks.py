"""Several tasks in one step: gradients exact on any mesh and over micro-batches, tasks left out, whole batches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fusionjax import losses, parallel, training


def squares(params: Any, model_state: Any, batch: Any, key: jax.Array) -> training.LossOutput:
    """A regression whose rows have weights of their own, so that means differ over micro-batches."""
    errors = jnp.tanh(batch["x"] @ params["shared"]) @ params["square"] - batch["y"]
    total = (batch["weight"] * errors**2).sum()
    return training.LossOutput(
        total, batch["weight"].sum(), {"largest": (jnp.abs(errors).sum(), jnp.float32(errors.size))}
    )


def encode(params: Any, model_state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
    return (jnp.tanh(batch["x"] @ params["shared"]), batch["z"] @ params["other"]), model_state


def compare(params: Any, features: Any, batch: Any) -> training.LossOutput:
    loss = losses.info_nce(*features, 2.0)
    return training.LossOutput(loss.total, loss.weight)


TASKS = training.TaskLosses({"square": squares, "pair": training.BatchLoss(encode, compare)})


def make_batch() -> dict[str, Any]:
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    weight = rng.uniform(0, 3, 16).astype(np.float32)
    return {"square": {"x": draw(16, 3), "y": draw(16), "weight": weight}, "pair": {"x": draw(32, 3), "z": draw(32, 5)}}


def make_params() -> dict[str, jax.Array]:
    rng = np.random.default_rng(2)
    shapes = {"shared": (3, 7), "square": (7,), "other": (5, 7)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def step_by(batch: dict[str, Any], **options: Any) -> tuple[Any, Any, Any]:
    """Parameters after one step, metrics and the optimiser's state."""
    optimizer = optax.chain(training.combine_tasks(training.uncertainty(0.1), 2), optax.sgd(1.0))
    step = training.make_train_step(TASKS, optimizer, **options)
    state = training.TrainState.create(params=make_params(), optimizer=optimizer, key=jax.random.key(0))
    state, metrics = step(step.prepare(state), batch)
    state = step.unprepare(state)
    return state.params, metrics, state.opt_state


def expected(names: tuple[str, ...] = ("square", "pair")) -> tuple[Any, dict[str, float]]:
    """The sum of the tasks' mean losses, and one step down its gradient."""
    batch, params = jax.tree.map(jnp.asarray, make_batch()), make_params()

    def means(params: Any) -> dict[str, jax.Array]:
        outputs = {name: TASKS.tasks[name](params, {}, batch[name], jax.random.key(0)) for name in names}
        return {name: output.total / output.weight for name, output in outputs.items()}

    gradient = jax.grad(lambda params: sum(means(params).values()))(params)
    return jax.tree.map(jnp.subtract, params, gradient), {name: float(one) for name, one in means(params).items()}


@pytest.mark.parametrize(
    "options",
    [
        {"mesh": parallel.make_mesh(1)},
        {"mesh": parallel.make_mesh(8)},
        {"mesh": parallel.make_mesh(2), "accumulate": 4},
        {"mesh": parallel.make_mesh(1), "strategy": "pmap", "accumulate": 2},
    ],
    ids=["one", "eight", "accumulated", "pmap"],
)
def test_the_step_goes_down_the_sum_of_the_means(options: dict[str, Any]) -> None:
    params, metrics, (combined, _) = step_by(make_batch(), **options)
    expected_params, means = expected()
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), params, expected_params
    )
    np.testing.assert_allclose(metrics["loss"], sum(means.values()), rtol=1e-5)
    for name, mean in means.items():
        np.testing.assert_allclose(metrics[f"{name}/loss"], mean, rtol=1e-5)
    assert "square/largest" in metrics
    np.testing.assert_allclose(combined.rule, [-0.1 * (0.5 - means["square"]), -0.1 * (0.5 - means["pair"])], rtol=1e-4)


@pytest.mark.slow
def test_pmap_sums_each_task_over_the_devices() -> None:
    """The regression alone: a comparison under pmap needs its ring."""
    batch = {"square": make_batch()["square"]}
    params, metrics, _ = step_by(batch, mesh=parallel.make_mesh(8), strategy="pmap")
    expected_params, means = expected(("square",))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), params, expected_params
    )
    np.testing.assert_allclose(metrics["square/loss"], means["square"], rtol=1e-5)


@pytest.mark.slow
def test_a_task_left_out_has_no_part() -> None:
    batch = make_batch()
    del batch["square"]
    params, metrics, (combined, _) = step_by(batch, mesh=parallel.make_mesh(1))
    expected_params, means = expected(("pair",))
    np.testing.assert_allclose(params["shared"], expected_params["shared"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(params["square"], make_params()["square"])
    assert combined.weights.tolist() == [0, 1] and combined.rule[0] == 0
    np.testing.assert_allclose(metrics["loss"], means["pair"], rtol=1e-5)
    assert not any(name.startswith("square") for name in metrics)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("a model needs a task to learn; got none", lambda: training.TaskLosses({})),
        ("must hold one for each task .* square, pair; got none", lambda: TASKS.present({})),
        ("must hold one for each task .* square, pair; got triple", lambda: TASKS.present({"triple": {}, "pair": {}})),
    ],
)
def test_refusals(message: str, call: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_each_task_s_batch_divides_on_its_own() -> None:
    batch = make_batch()
    batch["square"] = {name: leaf[:15] for name, leaf in batch["square"].items()}
    with pytest.raises(ValueError, match="must be divisible by 8 device"):
        step_by(batch, mesh=parallel.make_mesh(8))
