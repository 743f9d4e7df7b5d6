"""The recipe of several tasks: all together and in turn, evaluated by each task's own recipe; what it refuses."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from fusionjax import models, training
from fusionjax.cli import main
from fusionjax.errors import InputError
from fusionjax.recipes import captioning, multi_task
from fusionjax.recipes.captions import CaptionTransform
from fusionjax.recipes.sources import DataParts
from tests.recipes.tiny import SCENES, make_once

Captured = pytest.CaptureFixture[str]
MODEL = [f"--model.{name}=8" for name in ("text-features", "word-features", "features", "hidden-features")]
WORDS = [*SCENES, *MODEL, "--model.num-heads", "2", "--training.epochs", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shared: Path, compiled_quickly: None) -> Path:
    """All tasks, weighed by uncertainty; to be read only."""
    words = ["train", "multi-task", "--output", str(shared / "tasks"), *WORDS, "--weighting", "uncertainty"]
    return make_once(tmp_path_factory, "tasks", words)


@pytest.mark.slow
def test_every_task_has_its_metrics(run: Path, capfd: Captured) -> None:
    trained = json.loads((run / "metrics.json").read_text())
    assert trained["train/steps"] == 6
    for name in ("captioning/cider_d", "vqa/accuracy", "classification/accuracy", "retrieval/mean_recall"):
        assert 0 <= trained[f"test/{name}"] <= 10
    assert main(["evaluate", str(run), "--json"]) == 0
    evaluated = json.loads(capfd.readouterr().out)
    assert evaluated == pytest.approx({name: trained[name] for name in evaluated}) and len(evaluated) > 20
    curves = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    assert all(f"train/{name}/loss" in curves[0] for name in ("captioning", "vqa", "classification", "retrieval"))
    page = (run / "report.html").read_text()
    assert "test/retrieval/mean_recall" in page and "<h2>Samples</h2>" in page


@pytest.mark.slow
def test_tasks_in_turn(tmp_path: Path, capfd: Captured) -> None:
    words = ["--mixing", "in_turn", "--tasks", "vqa", "retrieval", "--weighting", "uncertainty", "--json"]
    assert main(["train", "multi-task", "--output", str(tmp_path / "run"), *WORDS, *words]) == 0
    metrics = json.loads(capfd.readouterr().out)
    # One epoch of 48 scenes each, eight at a time.
    assert metrics["train/steps"] == 12
    assert "test/vqa/accuracy" in metrics and not any("captioning" in name for name in metrics)
    curves = [json.loads(line) for line in (tmp_path / "run" / "curves.jsonl").read_text().splitlines()]
    per_step = [{name for name in ("vqa", "retrieval") if f"train/{name}/loss" in row} for row in curves]
    assert all(len(one) == 1 for one in per_step) and {"vqa"} in per_step and {"retrieval"} in per_step


def build(**changes: object) -> tuple[multi_task.MultiTaskConfig, models.MultiTask, dict]:
    config = multi_task.preset("scenes")
    data = dataclasses.replace(config.data, size=24, image_size=32)
    shape = multi_task.ModelConfig(
        cnn_features=(4, 8), text_features=5, word_features=7, features=6, hidden_features=(5,), fusion="mlb"
    )
    config = dataclasses.replace(config, data=data, model=shape, **changes)  # type: ignore[arg-type]
    words = multi_task.learn_words(config.data, DataParts(config.data)["train"])
    assert words.classes == ("false", "true") or len(words.classes) == 2
    model = multi_task.build_model(config, words.vocabulary, 2)
    return config, model, multi_task._initialise(model, config)


@pytest.mark.slow
def test_a_task_s_loss_is_that_of_its_own_recipe() -> None:
    """Gradients of shared and own parameters, and the statistics of the shared encoder, come from the task alone."""
    config, model, variables = build(tasks=("captioning", "vqa"))
    params = variables.pop("params")
    words = multi_task.learn_words(config.data, DataParts(config.data)["train"])
    transform = CaptionTransform(words.vocabulary.tokenizer, config.data, training=True)
    rows = [transform(DataParts(config.data)["train"][place], np.random.default_rng(place)) for place in range(8)]
    batch = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *rows)
    whole = multi_task.make_loss(model, config).tasks["captioning"]
    alone, own = models.task_model(model, {"params": params, **variables}, "captioning")
    own_params = own.pop("params")
    single = captioning.make_loss(alone)  # type: ignore[arg-type]

    def of(loss_fn: training.LossFunction) -> object:
        def total(params: object, state: object) -> tuple[jax.Array, object]:
            output = loss_fn(params, state, batch, jax.random.key(0))
            return output.total, output.model_state

        return jax.jit(jax.value_and_grad(total, has_aux=True))

    (total, state), gradient = of(whole)(params, variables)  # type: ignore[operator]
    (own_total, own_state), own_gradient = of(single)(own_params, own)  # type: ignore[operator]
    np.testing.assert_allclose(total, own_total, rtol=1e-6)
    found = models.task_model(model, {"params": gradient, **state}, "captioning")[1]
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6),
        found.pop("params"),
        own_gradient,
    )
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), found, own_state)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["tasks_vqa"]))
    assert jax.tree.structure(state) == jax.tree.structure(variables)


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty", "grad_norm", "pc_grad", "mgda", "mgda_normalized"])
def test_weightings_compare_what_is_shared(weighting: str) -> None:
    config = dataclasses.replace(multi_task.preset("scenes"), tasks=("vqa", "retrieval"), weighting=weighting)
    link = multi_task.first_link(config)
    gradients = {"shared_image": np.float32([[1, 0], [0, 2]]), "tasks_vqa": np.float32([[3], [0]])}
    gradients = jax.tree.map(jax.numpy.asarray, gradients)
    combined, state = link.update(gradients, link.init({}), losses=jax.numpy.ones(2))
    # Products of the shared ones alone: 1 and 4, none between the two.
    expected = {"mgda": [0.8, 0.2], "mgda_normalized": [0.5, 0.25]}.get(weighting, [1, 1])
    np.testing.assert_allclose(state.weights, expected, rtol=1e-4)
    np.testing.assert_allclose(combined["tasks_vqa"], [3 * expected[0]], rtol=1e-4)
    assert isinstance(optax.chain(link, optax.sgd(0.1)), optax.GradientTransformation)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (r"tasks must be one or more different ones; got \(\)", {"tasks": ()}),
        (r"tasks must be .*; got \('vqa', 'vqa'\)", {"tasks": ("vqa", "vqa")}),
        (r"one for each of the 4 tasks, .*; got \(1.0,\) and fixed", {"task_weights": (1.0,)}),
        (r"got \(1.0, 1.0, 1.0, 1.0\) and mgda", {"task_weights": (1.0,) * 4, "weighting": "mgda"}),
        (
            r"task_weights must not be negative; got \(-1.0, 0.0\)",
            {"tasks": ("vqa", "retrieval"), "task_weights": (-1.0, 0.0)},
        ),
        (
            "pc_grad compares the gradients of one step, which has one task in turn",
            {"mixing": "in_turn", "weighting": "pc_grad"},
        ),
        ("temperature must be above 0; got 0", {"temperature": 0.0}),
    ],
)
def test_settings_that_cannot_be(message: str, changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(multi_task.preset("scenes"), **changes)  # type: ignore[arg-type]


def test_shapes_and_sources_that_cannot_be() -> None:
    for message, shape in (
        ("dropout_rate must be in", {"dropout_rate": 1.0}),
        ("cnn_features must be one or more", {"cnn_features": ()}),
        ("film_encoder changes the image encoder for each text", {"fusion": "film_encoder"}),
    ):
        with pytest.raises(InputError, match=message):
            multi_task.ModelConfig(**shape)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a source with examples of each, scenes; got 'flickr'"):
        multi_task.preset("flickr")


@pytest.mark.slow
def test_damaged_words(run: Path, tmp_path: Path, captioner: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.json").write_text((run / "config.json").read_text())
    (copy / "words.json").write_text('{"answers": []}')
    (copy / "tokenizer.json").write_text((run / "tokenizer.json").read_text())
    with pytest.raises(InputError, match=r"words.json must list answers and classes; 'classes'"):
        multi_task.evaluate(copy)
    with pytest.raises(InputError, match="must be a run of multi-task; it is one of captioning"):
        multi_task.evaluate(captioner)
