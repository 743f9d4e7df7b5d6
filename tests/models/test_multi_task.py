"""Models that share encoders: each task computes what it does alone, and shared parameters learn from all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import encoders, fusion, models
from tests.contracts.parameters import draw_variables

RANDOM = np.random.default_rng(3)
IMAGES = RANDOM.uniform(size=(2, 19, 17, 3)).astype(np.float32)
TEXTS = RANDOM.integers(1, 11, (2, 5))
PAIR = {"image": IMAGES, "text": TEXTS}
BATCH = {"captioning": PAIR, "vqa": PAIR, "classification": PAIR, "retrieval": PAIR}


def build() -> models.MultiTask:
    image = encoders.SimpleCNN(features=(5, 7), normalization="batch", pooling="mean")
    text = encoders.RNNEncoder(vocab_size=11, features=6, pooling="last")
    tasks = {
        "captioning": models.Captioner(image, models.LSTMDecoder(11, features=5, embedding_features=3)),
        "vqa": models.VisualQuestionAnswering(image, text, fusion.Mutan(features=5), num_answers=3),
        "classification": models.FusionClassifier({"image": image, "text": text}, fusion.Concat(), num_classes=4),
        "retrieval": models.DualEncoder(image, text, features=13),
    }
    return models.MultiTask({"image": image, "text": text}, tasks)


@pytest.fixture(scope="module")
def model() -> models.MultiTask:
    return build()


@pytest.fixture(scope="module")
def variables(model: models.MultiTask) -> dict:
    return draw_variables(model, BATCH)


def _arrays(output: object) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(output)]


@pytest.mark.slow
def test_each_task_computes_what_it_does_alone(model: models.MultiTask, variables: dict) -> None:
    assert set(variables["params"]) == {"shared_image", "shared_text", *(f"tasks_{name}" for name in BATCH)}
    together = jax.jit(model.apply)(variables, BATCH)
    for name, output in together.items():
        alone, own = models.task_model(model, variables, name)
        assert "batch_stats" in own
        for one, other in zip(_arrays(output), _arrays(jax.jit(alone.apply)(own, PAIR)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_taking_apart_and_joining_undo_each_other(model: models.MultiTask, variables: dict) -> None:
    apart = {name: models.task_model(model, variables, name)[1] for name in BATCH}
    joined = models.task_variables(model, apart)
    assert jax.tree.structure(joined) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, joined, variables)


@pytest.mark.slow
def test_shared_parameters_learn_from_all_tasks(model: models.MultiTask, variables: dict) -> None:
    def total(variables: dict, name: str) -> jax.Array:
        output = model.apply(variables, {name: PAIR})[name]
        return sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(output))

    differentiate = jax.jit(jax.grad(total), static_argnums=1)
    for name in BATCH:
        gradient = differentiate(variables, name)["params"]
        assert np.abs(gradient["shared_image"]["conv_0"]["kernel"]).max() > 0
        others = [gradient[f"tasks_{other}"] for other in BATCH if other != name]
        assert not any(leaf.any() for leaf in jax.tree.leaves(others))
        assert any(leaf.any() for leaf in jax.tree.leaves(gradient[f"tasks_{name}"]))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "must hold one for each task .* captioning, classification, retrieval, vqa; got none"),
        ({"sorting": PAIR}, "; got sorting. Name them alike"),
    ],
)
def test_batches_of_no_task(batch: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_variables(build(), batch)


def test_no_such_task(model: models.MultiTask, variables: dict) -> None:
    with pytest.raises(ValueError, match=r"the task must be one of captioning, .*; got 'sorting'"):
        models.task_model(model, variables, "sorting")
