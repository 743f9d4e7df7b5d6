"""The fusion of a CNN and an LSTM with self-attention, trained in a plain loop: is the sentence true of the picture?

Run:  python examples/fusion_by_hand.py                           (the classic fusion; minutes on two CPU cores)
      python examples/fusion_by_hand.py --fusion cross_attention  (the words look at the image)
      python examples/fusion_by_hand.py --tiny                    (seconds, to see that it runs)

Images go through convolution 3x3, ReLU and max-pooling 2x2, three times; sentences through an embedding, an LSTM and
self-attention; both branches are flattened and joined (`Concat`), and a fully connected layer gives the classes, as in
the classic model. Nothing of `fusionjax.training` is used: the loop below is all there is. The task needs each word to
meet its place in the picture, which joined vectors do badly: after three epochs they were still near chance.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fusionjax as fj

CLASSES = ("false", "true")


def build_model(vocab_size: int, features: int, stages: tuple[int, ...], fusion: str) -> fj.models.FusionClassifier:
    looks = fj.fusion.CrossAttention(features=features, num_heads=4, num_layers=2)
    return fj.models.FusionClassifier(
        encoders={
            "image": fj.encoders.SimpleCNN(features=stages, normalization="group", mean=0.5, std=0.5),
            "text": fj.encoders.RNNEncoder(vocab_size, features=features, cell="lstm", self_attention=True),
        },
        fusion=looks if fusion == "cross_attention" else fj.fusion.Concat(),
        num_classes=len(CLASSES),
        hidden_features=(features,),
    )


def load(split: str, size: int, image_size: int) -> list[dict[str, Any]]:
    """The test split holds pairs of shapes that are never seen together in training."""
    return list(fj.data.Scenes(split, size=size, image_size=image_size))


def make_batches(
    scenes: list[dict[str, Any]], tokenizer: fj.data.Tokenizer, batch_size: int, order: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = [scenes[place] for place in order[start : start + batch_size]]
        yield {
            "image": np.stack([scene["image"] for scene in chosen]),
            "text": tokenizer.encode_batch([scene["sentence"] for scene in chosen], length=12),
            "label": np.array([scene["label"] for scene in chosen]),
        }


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small model and few steps")
    parser.add_argument("--fusion", choices=("concat", "cross_attention"), default="concat")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    size, image_size, batch_size, features = (32, 32, 8, 8) if options.tiny else (8000, 64, 32, 128)
    stages, epochs = ((4, 8), 2) if options.tiny else ((32, 64, 128), options.epochs)

    train, test = load("train", size, image_size), load("test", size // 8 + batch_size, image_size)
    tokenizer = fj.data.train_tokenizer(scene["sentence"] for scene in train)
    model = build_model(tokenizer.vocab_size, features, stages, options.fusion)
    optimizer = optax.adam(optax.cosine_decay_schedule(options.learning_rate, epochs * (size // batch_size)))

    def loss_fn(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits = model.apply({"params": params}, batch).logits
        loss = fj.losses.cross_entropy(logits, batch["label"])
        return loss.total / loss.weight, jnp.mean(logits.argmax(-1) == batch["label"])

    @jax.jit
    def train_step(params: Any, state: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any, jax.Array, jax.Array]:
        (loss, accuracy), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss, accuracy

    evaluate = jax.jit(lambda params, batch: loss_fn(params, batch)[1])
    generator = np.random.default_rng(options.seed)
    first = next(make_batches(train, tokenizer, batch_size, np.arange(size)))
    params = jax.jit(model.init)(jax.random.key(options.seed), first)["params"]
    state = optimizer.init(params)
    print(f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters, vocabulary of {tokenizer.vocab_size}")
    accuracy = 0.0
    for epoch in range(epochs):
        losses = []
        for batch in make_batches(train, tokenizer, batch_size, generator.permutation(size)):
            params, state, loss, _ = train_step(params, state, batch)
            losses.append(loss)
        found = [evaluate(params, batch) for batch in make_batches(test, tokenizer, batch_size, np.arange(len(test)))]
        accuracy = float(np.mean(found))
        print(f"epoch {epoch + 1}: loss {float(np.mean(losses)):.4f}, accuracy on unseen pairs {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
