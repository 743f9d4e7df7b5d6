"""One train step over several devices in three ways that give the same numbers: sharded `jit`, `pmap`, and by hand.

Run:  python examples/data_parallel.py             (on all devices that JAX finds)
      python examples/data_parallel.py --devices 8 (on eight virtual CPU devices)
      python examples/data_parallel.py --tiny --devices 2

`fusionjax.training.make_train_step` compiles the step for a strategy. By hand it is `jax.jit` on arrays that are
already where they belong: parameters on every device, each batch split over all; the compiler adds the rest.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import fusionjax as fj

VOCABULARY, LENGTH, CLASSES = 23, 7, 5


def build_model() -> fj.models.FusionClassifier:
    return fj.models.FusionClassifier(
        encoders={
            "image": fj.encoders.SimpleCNN(features=(8, 16), pooling="mean"),
            "text": fj.encoders.RNNEncoder(VOCABULARY, features=16, pooling="last"),
        },
        fusion=fj.fusion.Concat(),
        num_classes=CLASSES,
    )


def make_batch(seed: int, batch_size: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "image": generator.integers(0, 256, (batch_size, 32, 32, 3), np.uint8),
        "text": generator.integers(1, VOCABULARY, (batch_size, LENGTH)),
        "label": generator.integers(0, CLASSES, batch_size),
    }


def make_loss(model: fj.models.FusionClassifier) -> fj.training.LossFunction:
    """The sum over the examples and their number, so that it does not matter how a batch is split."""

    def loss_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> fj.training.LossOutput:
        logits = model.apply({"params": params}, batch).logits
        loss = fj.losses.cross_entropy(logits, batch["label"])
        return fj.training.LossOutput(loss.total, loss.weight, model_state=model_state)

    return loss_fn


def train(strategy: str, mesh: Mesh, params: Any, steps: int, batch_size: int) -> tuple[Any, float]:
    """With the library: `strategy` is "jit" or "pmap"."""
    model, optimizer = build_model(), optax.adam(1e-3)
    step = fj.training.make_train_step(make_loss(model), optimizer, strategy=strategy, mesh=mesh)
    state = fj.training.TrainState.create(params=params, optimizer=optimizer, key=jax.random.key(0))
    state = step.prepare(state)
    for number in range(steps):
        state, metrics = step(state, make_batch(number, batch_size))
    return step.unprepare(state).params, float(metrics["loss"])


def train_by_hand(mesh: Mesh, params: Any, steps: int, batch_size: int) -> tuple[Any, float]:
    model, optimizer = build_model(), optax.adam(1e-3)
    everywhere, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(
            model.apply({"params": params}, batch).logits, batch["label"]
        )
        return jnp.mean(losses)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any, jax.Array]:
        loss, gradients = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = jax.device_put(params, everywhere)
    state = jax.device_put(optimizer.init(params), everywhere)
    for number in range(steps):
        params, state, loss = step(params, state, jax.device_put(make_batch(number, batch_size), split))
    return params, float(loss)


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="few steps")
    parser.add_argument("--devices", type=int, default=None, help="make so many virtual CPU devices")
    options = parser.parse_args(arguments)
    if options.devices is not None:
        jax.config.update("jax_num_cpu_devices", options.devices)
    mesh = fj.parallel.make_mesh()
    steps, batch_size = (2 if options.tiny else 20), 4 * mesh.size
    params = jax.jit(build_model().init)(jax.random.key(0), make_batch(0, 1))["params"]
    results = {
        "sharded jit": train("jit", mesh, params, steps, batch_size),
        "pmap": train("pmap", mesh, params, steps, batch_size),
        "by hand": train_by_hand(mesh, params, steps, batch_size),
    }
    expected, largest = jax.device_get(results["sharded jit"][0]), 0.0
    for name, (found, loss) in results.items():
        pairs = zip(jax.tree.leaves(jax.device_get(found)), jax.tree.leaves(expected), strict=True)
        difference = max(float(np.abs(one - other).max()) for one, other in pairs)
        largest = max(largest, difference)
        print(f"{name:12} on {mesh.size} devices: loss {loss:.6f}, largest difference of a parameter {difference:.1e}")
    return largest


if __name__ == "__main__":
    main()
