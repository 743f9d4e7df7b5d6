"""Low-rank adapters against NumPy, and in the train step beside whole tuning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fusionjax import parallel, training
from fusionjax.training import FROZEN, LoRAConfig, LossOutput, adapt_loss, init_lora, merge_lora

RNG = np.random.default_rng(0)
PARAMS = {
    "conv": {"kernel": RNG.normal(size=(3, 2, 5, 7)).astype(np.float32)},
    "query": {"kernel": RNG.normal(size=(7, 11)).astype(np.float32), "bias": np.ones(11, np.float32)},
    "head": {"kernel": RNG.normal(size=(11, 1)).astype(np.float32)},
}


def test_adapters_start_at_nothing_and_name_what_is_asked_for() -> None:
    adapters = init_lora(jax.random.key(0), PARAMS, LoRAConfig(rank=3, kernels="conv|query", tuned="head|bias"))
    assert sorted(adapters) == ["conv/kernel", "query/kernel", "tuned"]
    assert sorted(adapters["tuned"]) == ["head/kernel", "query/bias"]
    assert adapters["conv/kernel"]["down"].shape == (30, 3) and adapters["conv/kernel"]["up"].shape == (3, 7)
    assert jnp.var(init_lora(jax.random.key(1), PARAMS, LoRAConfig(rank=97))["conv/kernel"]["down"]) == pytest.approx(
        1 / 30, rel=0.1
    )
    merged = merge_lora(PARAMS, adapters, LoRAConfig(rank=3))
    jax.tree.map(np.testing.assert_array_equal, merged, PARAMS)


def test_merged_kernels_against_numpy() -> None:
    config = LoRAConfig(rank=3, alpha=6.0, kernels="conv", tuned="bias")
    adapters = init_lora(jax.random.key(0), PARAMS, config)
    down, up = RNG.normal(size=(30, 3)), RNG.normal(size=(3, 7))
    adapters["conv/kernel"] = {"down": jnp.asarray(down), "up": jnp.asarray(up)}
    adapters["tuned"]["query/bias"] = jnp.full(11, 5.0)
    merged = merge_lora(PARAMS, adapters, config)
    expected = PARAMS["conv"]["kernel"] + 6 / 3 * (down @ up).reshape(3, 2, 5, 7)
    np.testing.assert_allclose(merged["conv"]["kernel"], expected, rtol=1e-5, atol=1e-5)
    assert merged["query"]["bias"].tolist() == [5.0] * 11
    np.testing.assert_array_equal(merged["query"]["kernel"], PARAMS["query"]["kernel"])


def predict(params, batch):
    return jnp.tanh(batch["x"] @ params["query"]["kernel"] + params["query"]["bias"]) @ params["head"]["kernel"]


def squared(params, model_state, batch, key):
    errors = predict(params, batch)[:, 0] - batch["y"]
    return LossOutput(jnp.square(errors).sum(), jnp.float32(len(errors)), model_state={"seen": model_state["seen"] + 1})


def compared(scale_name):
    def encode(params, model_state, batch, key):
        return predict(params, batch), {"seen": model_state["seen"] + 1}

    def compare(params, features, batch):
        return LossOutput(
            (params[scale_name]["bias"].sum() * jnp.square(features - features.mean())).sum(), jnp.float32(8)
        )

    return training.BatchLoss(encode, compare)


@pytest.mark.parametrize("loss_fn", [squared, compared("query")], ids=["plain", "batch"])
def test_gradients_are_those_of_the_merged_model(loss_fn) -> None:
    config = LoRAConfig(rank=2, kernels="query", tuned="head")
    batch = {"x": RNG.normal(size=(8, 7)).astype(np.float32), "y": RNG.normal(size=8).astype(np.float32)}
    adapters = init_lora(jax.random.key(0), PARAMS, config)
    adapters["query/kernel"]["up"] = jnp.asarray(RNG.normal(size=(2, 11)), jnp.float32)
    state = {"seen": jnp.int32(4)}
    adapted, key = adapt_loss(loss_fn, PARAMS, config), jax.random.key(1)

    def whole(adapters):
        return loss_fn(merge_lora(PARAMS, adapters, config), state, batch, key).total

    def small(adapters):
        output = adapted(adapters, {**state, FROZEN: PARAMS}, batch, key)
        return output.total, output.model_state

    (total, new_state), gradients = jax.jit(jax.value_and_grad(small, has_aux=True))(adapters)
    expected_total, expected = jax.value_and_grad(whole)(adapters)
    np.testing.assert_allclose(total, expected_total, rtol=1e-6)
    # Sums of numbers of this size.
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5 * largest)
    jax.tree.map(close, gradients, expected)
    assert new_state["seen"] == 5
    jax.tree.map(np.testing.assert_array_equal, new_state[FROZEN], PARAMS)


@pytest.mark.parametrize(("accumulate", "strategy"), [(1, "jit"), (2, "jit"), (1, "pmap"), (2, "pmap")])
def test_a_train_step_learns_the_adapters_alone(accumulate: int, strategy: str) -> None:
    config = LoRAConfig(rank=2, kernels="query", tuned="head")
    optimizer = optax.adam(3e-2)
    # Of seven numbers, a mean may not be the number itself.
    mesh = parallel.make_mesh(8 // accumulate if strategy == "jit" else 7)
    step = training.make_train_step(
        adapt_loss(squared, PARAMS, config), optimizer, accumulate=accumulate, strategy=strategy, mesh=mesh
    )
    state = step.prepare(
        training.TrainState.create(
            params=init_lora(jax.random.key(0), PARAMS, config),
            optimizer=optimizer,
            model_state={"seen": jnp.int32(0), FROZEN: PARAMS},
            key=jax.random.key(2),
        )
    )
    batch = {"x": RNG.normal(size=(56, 7)).astype(np.float32), "y": np.sin(np.arange(56.0)).astype(np.float32)}
    batch = batch if strategy == "pmap" else {name: value[:16] for name, value in batch.items()}
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    state = step.unprepare(state)
    assert losses[-1] < (0.1 if strategy == "jit" else 0.5) * losses[0]
    jax.tree.map(np.testing.assert_array_equal, state.model_state[FROZEN], PARAMS)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * (7 * 2 + 2 * 11 + 11)


def test_a_comparison_takes_no_more_of_the_model_into_the_program_than_it_needs() -> None:
    """Parameters that only the encoding reads are arguments of the compiled step, not numbers written into it."""
    big = {**PARAMS, "query": {**PARAMS["query"], "kernel": RNG.normal(size=(7, 50_021)).astype(np.float32)}}
    config = LoRAConfig(rank=2, kernels="query", tuned="bias")

    def encode(params, model_state, batch, key):
        return (batch["x"] @ params["query"]["kernel"]).sum(1), model_state

    def compare(params, features, batch):
        return LossOutput(params["query"]["bias"].sum() * jnp.square(features).sum(), jnp.float32(8))

    adapters = init_lora(jax.random.key(0), big, config)
    adapted = adapt_loss(training.BatchLoss(encode, compare), big, config)
    step = training.make_train_step(adapted, optax.sgd(0.1), accumulate=2, mesh=parallel.make_mesh(1))
    state = training.TrainState.create(
        params=adapters, optimizer=optax.sgd(0.1), model_state={FROZEN: big}, key=jax.random.key(0)
    )
    text = step.compiled.lower(state, {"x": np.ones((8, 7), np.float32)}).as_text()
    assert len(text) < 100_000


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rank must be at least 1; got 0. Try 8"):
        LoRAConfig(rank=0)
    with pytest.raises(ValueError, match=r"alpha must be above 0; got 0.0. None scales by 1"):
        LoRAConfig(alpha=0.0)
    with pytest.raises(
        ValueError, match=r"kernels must name a kernel of the model; 'key' names none. Look at the paths"
    ):
        init_lora(jax.random.key(0), PARAMS, LoRAConfig(kernels="key"))
