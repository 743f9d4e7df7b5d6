"""The second stage: rewards are CIDEr-D, and the gradient raises them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import data, losses, metrics
from fusionjax.recipes import captioning
from fusionjax.recipes.reward import CaptionReward, make_reward_loss
from tests.contracts.parameters import fast_jit, run

CAPTIONS = [["a red circle", "one red circle here"], ["two blue squares on a table"], ["a green star"]]


def test_rewards_are_cider_d_with_the_end_as_a_word() -> None:
    tokenizer = data.train_tokenizer([text for texts in CAPTIONS for text in texts], kind="word")
    candidates = ["a red circle", "two blue squares", "a green circle"]
    tokens = tokenizer.encode_batch(candidates, 8)[:, 1:]
    rewards = CaptionReward(tokenizer, CAPTIONS, 8)(np.stack([tokens, tokens[::-1]], axis=1)[::-1], np.array([2, 1, 0]))
    references = [[f"{text} END".split() for text in texts] for texts in CAPTIONS]

    def expected(candidate: str, place: int) -> float:
        others = [row[0] for row in references]
        others[place] = f"{candidate} END".split()
        scorer = metrics.CiderScorer(references)
        return scorer.score(others[place], place)

    assert (rewards.dtype, rewards.shape) == (np.float32, (3, 2))
    for row, place in enumerate((2, 1, 0)):
        drawn = [candidates[::-1][row], candidates[row]]
        np.testing.assert_allclose(rewards[row], [expected(text, place) for text in drawn], rtol=1e-5)
    # Without the end it is worth less.
    without = CaptionReward(tokenizer, CAPTIONS, 8)(np.where(tokens == 2, 0, tokens)[:1, None], np.array([0]))
    assert without[0, 0] < rewards[2, 0]


class Prefers:
    """Pays one for each sentence that begins with a word."""

    def __init__(self, word: int, pay: float = 1.0) -> None:
        self.word, self.pay = word, pay

    def __call__(self, tokens: np.ndarray, places: np.ndarray) -> np.ndarray:
        assert places.shape == tokens.shape[:1]
        return (np.asarray(tokens)[..., 0] == self.word).astype(np.float32) * self.pay


def test_gradient_raises_the_reward(captioner: Path) -> None:
    writer, config = captioning.load(captioner)
    images = np.stack([scene["image"] for scene in data.Scenes("test", size=4, image_size=32)])
    batch = {"image": images, "place": np.arange(4, dtype=np.int32)}
    params = writer.variables["params"]
    state = {name: value for name, value in writer.variables.items() if name != "params"}
    reward = Prefers(5)
    loss_fn = make_reward_loss(writer.model, reward, samples=16, max_length=config.data.max_length)

    @jax.jit
    def step(params: Any, key: jax.Array) -> tuple[Any, Any, Any, Any]:
        def total(params: Any) -> tuple[jax.Array, Any]:
            output = loss_fn(params, state, batch, key)
            return output.total / output.weight, output

        (_, output), gradient = jax.value_and_grad(total, has_aux=True)(params)
        changed = jax.tree.map(lambda leaf, slope: leaf - 2.0 * slope, params, gradient)
        return changed, gradient, output.metrics["reward"], output.model_state

    means = []
    for number in range(15):
        params, gradient, (paid, samples), after = step(params, jax.random.key(number))
        means.append(float(paid / samples))
    assert float(samples) == 64.0
    assert np.mean(means[-5:]) > np.mean(means[:5]) + 0.2
    jax.tree.map(np.testing.assert_array_equal, after, state)
    reward.pay = 0.0  # All samples alike: nothing to learn.
    _, gradient, _, _ = step(params, jax.random.key(99))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) == pytest.approx(0, abs=1e-7)


@pytest.mark.slow
def test_captions_beside_the_reward(captioner: Path) -> None:
    writer, config = captioning.load(captioner)
    scenes = data.Scenes("test", size=3, image_size=32)
    text = np.stack([writer.tokenizer.encode_batch(scene["captions"], config.data.max_length) for scene in scenes])
    batch = {
        "image": np.stack([scene["image"] for scene in scenes]),
        "place": jnp.arange(3),
        "text": jnp.asarray(text),
    }
    params = writer.variables["params"]
    state = {name: value for name, value in writer.variables.items() if name != "params"}
    found = []
    for weight in (0.0, 0.5):
        loss_fn = make_reward_loss(
            writer.model,
            Prefers(5),
            samples=2,
            max_length=config.data.max_length,
            caption_weight=weight,
            label_smoothing=0.1,
        )
        found.append(fast_jit(loss_fn)(params, state, batch, jax.random.key(0)))
    output = run(writer.model, writer.variables, batch)
    targets = jnp.asarray(text[..., 1:])
    known = losses.cross_entropy(output.logits, targets, mask=targets != 0, label_smoothing=0.1)
    assert float(found[1].total - found[0].total) == pytest.approx(0.5 * float(known.total), rel=1e-4)
    assert float(found[1].weight) == float(found[0].weight) > 0
