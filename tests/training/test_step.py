"""Tests of `fusionjax.training.step` and `gradients`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fusionjax.parallel import make_mesh
from fusionjax.training import LossOutput, TrainState, TrainStep, make_train_step
from tests.training.small import dropout_loss_fn, loss_fn, make_batch, make_state

LAYOUTS = [
    (strategy, devices, accumulate)
    for strategy, devices in (("jit", 1), ("jit", 8), ("pmap", 8))
    for accumulate in (1, 2)
]


def run(step: TrainStep, state: TrainState, steps: int) -> tuple[TrainState, list[dict[str, float]]]:
    """Runs some steps and returns the plain state and the metrics."""
    current, rows = step.prepare(state), []
    for index in range(steps):
        current, metrics = step(current, make_batch(index))
        rows.append({name: float(value) for name, value in metrics.items()})
    return step.unprepare(current), rows


@functools.cache
def plain_run() -> tuple[Any, list[float], list[float]]:
    """Ten Adam steps written out: the mean over all kept words of the batch, one device, no helper."""
    optimizer = optax.adam(0.01)
    state = make_state(optimizer)
    params, opt_state, losses, norms = state.params, state.opt_state, [], []

    def mean_loss(params: Any, batch: Any) -> jax.Array:
        output = loss_fn(params, {}, batch, jax.random.key(0))
        return output.total / output.weight

    @jax.jit
    def update(params: Any, opt_state: Any, batch: Any) -> Any:
        loss, gradients = jax.value_and_grad(mean_loss)(params, batch)
        updates, opt_state = optimizer.update(gradients, opt_state)
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients)))
        return optax.apply_updates(params, updates), opt_state, loss, norm

    for index in range(10):
        params, opt_state, loss, norm = update(params, opt_state, make_batch(index))
        losses.append(float(loss))
        norms.append(float(norm))
    return params, losses, norms


@pytest.mark.parametrize(("strategy", "devices", "accumulate"), LAYOUTS)
def test_every_layout_equals_the_plain_loop(strategy: str, devices: int, accumulate: int) -> None:
    optimizer = optax.adam(0.01)
    step = make_train_step(loss_fn, optimizer, strategy=strategy, mesh=make_mesh(devices), accumulate=accumulate)
    state, rows = run(step, make_state(optimizer), 10)
    params, losses, norms = plain_run()
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6), state.params, params)
    np.testing.assert_allclose([row["loss"] for row in rows], losses, rtol=1e-5)
    np.testing.assert_allclose([row["grad_norm"] for row in rows], norms, rtol=1e-5)
    assert int(state.step) == 10 and state.step.shape == ()
    assert rows[9]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize(("strategy", "accumulate"), [("jit", 1), ("jit", 2), ("pmap", 2)])
def test_metrics_are_global_means_by_hand(strategy: str, accumulate: int) -> None:
    """params 2; x = 0..15; mask keeps the first 10: loss = sum(2 x) / 10 = 9, gradient = sum(x) / 10 = 4.5."""

    def weighted(params: Any, model_state: Any, batch: Any, key: jax.Array) -> LossOutput:
        kept = jnp.sum(batch["x"] * batch["keep"])
        weight = jnp.sum(batch["keep"])
        none = (jnp.float32(0), jnp.float32(0))
        return LossOutput(params * kept, weight, {"mean": (kept, weight), "none": none})

    optimizer = optax.sgd(0.25)
    mesh = make_mesh(8)
    step = make_train_step(weighted, optimizer, strategy=strategy, mesh=mesh, accumulate=accumulate)
    state = TrainState.create(params=jnp.float32(2), optimizer=optimizer, key=jax.random.key(0))
    values = np.arange(16, dtype=np.float32)
    state, metrics = step(step.prepare(state), {"x": values, "keep": (values < 10).astype(np.float32)})
    expected = {"loss": 9.0, "grad_norm": 4.5, "mean": 4.5, "none": 0.0}
    assert {name: float(value) for name, value in metrics.items()} == expected
    assert all(value.dtype == jnp.float32 and value.shape == () for value in metrics.values())
    assert float(step.unprepare(state).params) == 0.875


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_state_is_donated_and_the_given_one_survives(strategy: str) -> None:
    optimizer = optax.adam(0.01)
    step = make_train_step(loss_fn, optimizer, strategy=strategy, mesh=make_mesh(8), ema_decay=0.9)
    plain = make_state(optimizer, ema_decay=0.9)
    first = step.prepare(plain)
    second, _ = step(first, make_batch(0))
    kept = step.unprepare(second)
    third, _ = step(second, make_batch(1))
    for donated in (first, second):
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
    for alive in (plain, kept, third):
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(alive))
    assert [int(state.step) for state in (plain, kept, step.unprepare(third))] == [0, 1, 2]


def test_compiles_once() -> None:
    optimizer = optax.adam(0.01)
    traces = []

    def counted(*arguments: Any) -> LossOutput:
        traces.append(1)
        return loss_fn(*arguments)

    run(make_train_step(counted, optimizer, mesh=make_mesh(2)), make_state(optimizer), 3)
    assert len(traces) == 1


@pytest.mark.parametrize(("strategy", "devices", "accumulate"), [("jit", 1, 1), ("jit", 2, 2), ("pmap", 2, 1)])
def test_random_keys_depend_on_step_and_part(strategy: str, devices: int, accumulate: int) -> None:
    """Step t draws from fold_in(key, t); micro-batches, and the devices of pmap, fold in their number too."""

    def draw(params: Any, model_state: Any, batch: Any, key: jax.Array) -> LossOutput:
        number = jax.random.uniform(key)
        return LossOutput(params * 0.0, jnp.float32(1), {"number": (number, jnp.float32(1))})

    def expected(step: int) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(7), step)
        has_parts = strategy == "pmap" or accumulate > 1
        keys = [jax.random.fold_in(key, part) for part in range(2)] if has_parts else [key]
        return jnp.mean(jnp.stack([jax.random.uniform(key) for key in keys]))

    optimizer = optax.sgd(0.1)
    state = TrainState.create(params=jnp.float32(1), optimizer=optimizer, key=jax.random.key(7))
    step = make_train_step(draw, optimizer, strategy=strategy, mesh=make_mesh(devices), accumulate=accumulate)
    drawn = [row["number"] for row in run(step, state, 2)[1]]
    np.testing.assert_allclose(drawn, jax.jit(lambda: [expected(0), expected(1)])(), rtol=1e-6)
    assert drawn[0] != drawn[1]


def test_dropout_does_not_depend_on_the_devices_of_jit() -> None:
    optimizer = optax.sgd(0.1)
    losses = [
        run(make_train_step(dropout_loss_fn, optimizer, mesh=make_mesh(devices)), make_state(optimizer), 2)[1][1][
            "loss"
        ]
        for devices in (1, 8)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_model_state_is_carried_through_micro_batches_and_averaged(strategy: str) -> None:
    """mean moves to (mean + batch mean) / 2 per micro-batch; count counts them."""

    def counting(params: Any, model_state: Any, batch: Any, key: jax.Array) -> LossOutput:
        new = {"mean": (model_state["mean"] + jnp.mean(batch)) / 2, "count": model_state["count"] + 1}
        return LossOutput(params * jnp.sum(batch), jnp.float32(batch.size), {}, new)

    optimizer = optax.sgd(0.1)
    step = make_train_step(counting, optimizer, strategy=strategy, mesh=make_mesh(2), accumulate=2)
    model_state = {"mean": jnp.float32(0), "count": jnp.int32(0)}
    state = TrainState.create(
        params=jnp.float32(1), model_state=model_state, optimizer=optimizer, key=jax.random.key(0)
    )
    # micro-batches are [0, 2, 4, 6] and [1, 3, 5, 7], of means 3 and 4: (3 / 2 + 4) / 2.
    state, _ = step(step.prepare(state), np.arange(8, dtype=np.float32))
    plain = step.unprepare(state).model_state
    assert float(plain["mean"]) == 2.75
    assert int(plain["count"]) == 2


def test_micro_batches_stay_on_their_devices() -> None:
    """No example moves: the compiled step has all-reduces, but no gather, exchange or permutation of the batch."""
    optimizer = optax.sgd(0.1)
    step = make_train_step(loss_fn, optimizer, mesh=make_mesh(8), accumulate=2)
    state, batch = step.prepare(make_state(optimizer)), step.place(make_batch(0))
    text = step.compiled.lower(state, batch).compile().as_text()
    assert "all-reduce" in text
    for moved in ("all-gather", "all-to-all", "collective-permute"):
        assert moved not in text


def test_bfloat16_parameters_keep_their_dtype() -> None:
    def half_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> LossOutput:
        return LossOutput(jnp.sum(params["kernel"] * batch["mask"]), jnp.float32(80))

    optimizer = optax.adam(0.25)
    params = {"kernel": jnp.ones((1, 5), jnp.bfloat16)}
    state = TrainState.create(params=params, optimizer=optimizer, key=jax.random.key(0), ema_decay=0.5)
    step = make_train_step(half_fn, optimizer, mesh=make_mesh(1), accumulate=2, ema_decay=0.5)
    after, _ = run(step, state, 1)
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)
    assert after.ema_params["kernel"].dtype == jnp.float32 and after.eval_params["kernel"].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(after.params["kernel"][0, :2], np.float32), [0.75, 0.75], rtol=1e-2)


def test_batch_of_nothing_changes_nothing() -> None:
    optimizer = optax.sgd(0.1)
    step = make_train_step(loss_fn, optimizer, mesh=make_mesh(8))
    state = make_state(optimizer)
    batch = make_batch(0) | {"mask": np.zeros((16, 5), bool)}
    after, metrics = step(step.prepare(state), batch)
    assert {name: float(value) for name, value in metrics.items()} == {"loss": 0, "grad_norm": 0, "accuracy": 0}
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "pjit"}, r'strategy must be "jit" or "pmap"; got \'pjit\'. "jit" is the default'),
        ({"accumulate": 0}, "accumulate must be at least 1; got 0. 1 takes each batch whole"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\); got 1.0. 0.999 is usual"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_train_step(loss_fn, optax.sgd(0.1), **settings)


def test_batch_that_does_not_divide_is_refused() -> None:
    optimizer = optax.sgd(0.1)
    step = make_train_step(loss_fn, optimizer, accumulate=3)
    with pytest.raises(ValueError, match=r"8 device\(s\) times 3 micro-batches = 24; got 16"):
        step(step.prepare(make_state(optimizer)), make_batch(0))


@pytest.mark.parametrize(("in_state", "in_step", "said"), [(0.9, None, "an average"), (None, 0.9, "no average")])
def test_average_in_only_one_of_state_and_step_is_refused(
    in_state: float | None, in_step: float | None, said: str
) -> None:
    optimizer = optax.sgd(0.1)
    step = make_train_step(loss_fn, optimizer, mesh=make_mesh(1), ema_decay=in_step)
    with pytest.raises(ValueError, match=f"got ema_decay {in_step} and a state with {said}. Give the same ema_decay"):
        step(step.prepare(make_state(optimizer, in_state)), make_batch(0))
