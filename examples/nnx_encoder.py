"""A fusionjax encoder inside a Flax NNX model, trained with `nnx.Optimizer`: which colours are in the picture?

Run:  python examples/nnx_encoder.py             (a minute or two on two CPU cores)
      python examples/nnx_encoder.py --tiny      (seconds, to see that it runs)

`nnx.bridge.ToNNX` makes an NNX module of any Linen module. Its variables are created by `lazy_init` with an example
input; from then on it is a module as any other: its parameters are in `nnx.state`, and the optimizer trains them.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fusionjax as fj

COLORS = ("red", "green", "blue", "yellow", "purple", "orange")


class ColorFinder(nnx.Module):
    """An encoder of fusionjax and a linear layer of NNX: one logit for each colour."""

    def __init__(self, example: jax.Array, features: tuple[int, ...], rngs: nnx.Rngs) -> None:
        encoder = fj.encoders.SimpleCNN(features=features, pooling="attention")
        self.encoder = nnx.bridge.ToNNX(encoder, rngs=rngs).lazy_init(example)
        self.head = nnx.Linear(features[-1], len(COLORS), rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Scores the colours, `[batch, 6]`."""
        return self.head(self.encoder(images).pooled)


def make_batch(scenes: list[dict]) -> dict[str, np.ndarray]:
    colors = [{box["color"] for box in scene["boxes"]} for scene in scenes]
    return {
        "image": np.stack([scene["image"] for scene in scenes]),
        "label": np.array([[color in there for color in COLORS] for there in colors], np.float32),
    }


@nnx.jit
def train_step(model: ColorFinder, optimizer: nnx.Optimizer, batch: dict[str, jax.Array]) -> jax.Array:
    def loss_fn(model: ColorFinder) -> jax.Array:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(model(batch["image"]), batch["label"]))

    loss, gradients = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, gradients)
    return loss


@nnx.jit
def evaluate(model: ColorFinder, batch: dict[str, jax.Array]) -> jax.Array:
    """The share of pictures whose colours are all found, and no others."""
    return jnp.mean(jnp.all((model(batch["image"]) > 0) == (batch["label"] > 0), axis=1))


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small model and few steps")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args(arguments)
    features, steps, batch_size = ((8, 8), 3, 8) if options.tiny else ((16, 32, 64), options.steps, 32)

    train = fj.data.Scenes("train", size=steps * batch_size, image_size=32)
    test = make_batch(list(fj.data.Scenes("test", size=64, image_size=32)))
    model = ColorFinder(jnp.asarray(test["image"][:1]), features, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    print(f"{sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))):,} parameters")
    loss = float("nan")
    for step in range(steps):
        batch = make_batch(train[step * batch_size : (step + 1) * batch_size])
        loss = float(train_step(model, optimizer, batch))
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {loss:.4f}")
    print(f"all colours right in {float(evaluate(model, test)):.1%} of the test pictures")
    return loss


if __name__ == "__main__":
    main()
