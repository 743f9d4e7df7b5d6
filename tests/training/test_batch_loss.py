"""Accumulated equals full batch, for losses that compare all examples: gradients, metrics, dropout and state."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fusionjax import losses, parallel, training
from fusionjax.training.gradients import accumulate_gradients

BATCH = 16


def make_params() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    kernels = {name: jnp.asarray(rng.normal(size=size), jnp.float32) for name, size in (("a", (5, 7)), ("b", (3, 7)))}
    return {**kernels, "log_scale": jnp.float32(2.0), "bias": jnp.float32(-3.0)}


def make_batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    draw = {name: rng.normal(size=(BATCH, size)).astype(np.float32) for name, size in (("a", 5), ("b", 3))}
    return {**draw, "keep": rng.random(BATCH) < 0.8}


def encode(params: Any, model_state: Any, batch: Any, key: jax.Array, dropout_rate: float = 0.0) -> tuple[Any, Any]:
    features = {}
    for name in ("a", "b"):
        hidden = jnp.tanh(batch[name] @ params[name])
        key, own = jax.random.split(key)
        hidden *= jax.random.bernoulli(own, 1 - dropout_rate, hidden.shape)
        # What the batches so far left behind matters: both times that a micro-batch is encoded it must be the same.
        hidden += 0.1 * model_state["sum"]
        features[name] = hidden / jnp.sqrt(jnp.square(hidden).sum(-1, keepdims=True) + 1e-6)
    return features, {"sum": model_state["sum"] + batch["a"].sum(0, keepdims=True)[:, :1] * 0.01}


def make_loss(name: str, dropout_rate: float = 0.0, **options: Any) -> training.BatchLoss:
    def compare(params: Any, features: Any, batch: Any) -> training.LossOutput:
        scalars = [jnp.exp(params["log_scale"]), *([params["bias"]] if name == "sigmoid" else [])]
        function = losses.info_nce if name == "info_nce" else losses.sigmoid_contrastive
        loss = function(features["a"], features["b"], *scalars, mask=batch["keep"], **options)
        return training.LossOutput(loss.total, loss.weight, {"pairs": (loss.weight, jnp.float32(1))})

    return training.BatchLoss(functools.partial(encode, dropout_rate=dropout_rate), compare)


def gradients_by(loss_fn: training.LossFunction, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The gradient that a step subtracts, and its metrics."""
    step = training.make_train_step(loss_fn, optax.sgd(1.0), **options)
    params = make_params()
    state = training.TrainState.create(
        params=params,
        optimizer=optax.sgd(1.0),
        key=jax.random.key(0),
        model_state={"sum": jnp.zeros((1, 1))},
    )
    state, metrics = step(step.prepare(state), make_batch())
    return jax.tree.map(jnp.subtract, params, step.unprepare(state).params), metrics


def assert_close(first: Any, second: Any) -> None:
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(second))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6 * max(1, largest)), first, second)


@functools.cache
def whole(name: str) -> tuple[Any, dict[str, Any]]:
    return gradients_by(_without_state(make_loss(name)), mesh=parallel.make_mesh(1))


def _without_state(loss_fn: training.BatchLoss) -> training.BatchLoss:
    """The encoders' state stays as it is, so that the parts see what the whole saw."""

    def encode(params: Any, model_state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        return loss_fn.encode(params, model_state, batch, key)[0], model_state

    return training.BatchLoss(encode, loss_fn.compare)


@pytest.mark.parametrize("accumulate", [2, 8])
@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
def test_parts_give_the_gradient_of_the_whole(name: str, accumulate: int) -> None:
    found = gradients_by(_without_state(make_loss(name)), mesh=parallel.make_mesh(1), accumulate=accumulate)
    assert_close(found, whole(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
def test_parts_as_a_ring_over_devices(name: str) -> None:
    mesh = parallel.make_mesh(2)
    found = gradients_by(_without_state(make_loss(name, mesh=mesh)), mesh=mesh, accumulate=4)
    assert_close(found, whole(name))


def test_parts_as_a_ring_of_pmap() -> None:
    loss_fn = _without_state(make_loss("info_nce", axis_name="data"))
    mesh = parallel.make_mesh(2)
    gradients, metrics = gradients_by(loss_fn, mesh=mesh, strategy="pmap", accumulate=2)
    assert_close(gradients, whole("info_nce")[0])
    np.testing.assert_allclose(metrics["loss"], whole("info_nce")[1]["loss"], rtol=1e-6)


@pytest.mark.slow
def test_a_loss_of_parts_is_another_one() -> None:
    """Without the two parts told apart, accumulation compares the examples of each micro-batch only."""
    whole_loss = _without_state(make_loss("info_nce"))

    def loss_fn(*arguments: Any) -> training.LossOutput:
        return whole_loss(*arguments)

    found = gradients_by(loss_fn, mesh=parallel.make_mesh(1), accumulate=2)
    assert float(found[1]["loss"]) < 0.9 * float(whole("info_nce")[1]["loss"])


@pytest.mark.slow
def test_dropout_and_state_are_the_same_both_times() -> None:
    """The gradient is that of one function: all parts encoded in a row, compared together."""
    loss_fn, params, key = make_loss("info_nce", 0.4), make_params(), jax.random.key(5)
    batch, state = jax.tree.map(jnp.asarray, make_batch()), {"sum": jnp.zeros((1, 1))}
    sums, last_state = accumulate_gradients(loss_fn, params, state, batch, key, accumulate=4)

    def directly(params: Any) -> tuple[jax.Array, Any]:
        parts, left = [], state
        for part in range(4):
            micro_batch = jax.tree.map(lambda leaf, part=part: leaf[part::4], batch)
            features, left = loss_fn.encode(params, left, micro_batch, jax.random.fold_in(key, part))
            parts.append(features)
        order = jnp.argsort(jnp.concatenate([jnp.arange(BATCH)[part::4] for part in range(4)]))
        features = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *parts)
        return loss_fn.compare(params, features, batch).total, left

    gradients, left = jax.grad(directly, has_aux=True)(params)
    assert_close(sums.gradients, gradients)
    assert_close(last_state, left)


def test_one_call_is_both_parts() -> None:
    loss_fn, params, batch = make_loss("sigmoid"), make_params(), jax.tree.map(jnp.asarray, make_batch())
    state = {"sum": jnp.zeros((1, 1))}
    output = loss_fn(params, state, batch, jax.random.key(0))
    features, left = loss_fn.encode(params, state, batch, jax.random.key(0))
    np.testing.assert_allclose(output.total, loss_fn.compare(params, features, batch).total, rtol=1e-6)
    assert_close(output.model_state, left)
