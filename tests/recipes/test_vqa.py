"""The recipe of question answering: scenes, answers that are chosen or written, one question, and what it refuses."""

import dataclasses
import functools
import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from fusionjax import data
from fusionjax.cli import main
from fusionjax.errors import InputError
from fusionjax.recipes import vqa
from fusionjax.recipes.config import DataConfig
from fusionjax.recipes.fusions import FusionName, FusionSizes, build_fusion
from fusionjax.recipes.questions import (
    QuestionTransform,
    encode_questions,
    learn_vocabulary,
    read_questions,
)
from fusionjax.recipes.sources import DataParts, Examples
from tests.recipes.tiny import SCENES

Captured = pytest.CaptureFixture[str]
MODEL = [f"--model.{name}=8" for name in ("text-features", "fusion-features", "hidden-features")]
MODEL += ["--model.num-heads", "2", "--model.condition-from", "1"]
WORDS = [*SCENES, *MODEL, "--data.questions-per-image", "3", "--training.epochs", "2"]
CONFIG = DataConfig(image_size=32, questions_per_image=2, max_length=9)


def learn(run: Path, *more: str) -> int:
    return main(["train", "vqa", "--output", str(run), *WORDS, *more])


@pytest.fixture
def photograph(tmp_path: Path) -> str:
    path = tmp_path / "scene.png"
    Image.fromarray(data.Scenes("test", image_size=48)[3]["image"]).save(path)
    return str(path)


@pytest.mark.slow
def test_an_answer_is_chosen(tmp_path: Path, photograph: str, capfd: Captured) -> None:
    run = tmp_path / "run"
    assert learn(run, "--json") == 0
    metrics = json.loads(capfd.readouterr().out)
    questions = sum(len(scene["questions"]) for scene in data.Scenes("test", size=12, objects=3))
    assert metrics["test/questions"] == questions
    types = {"relation", "nearest", "alike", "exists", "color", "shape"}
    assert {name.removeprefix("test/accuracy/") for name in metrics if name.startswith("test/accuracy/")} == types
    assert metrics["train/steps"] == 12 and metrics["train/examples_per_second"] > 0
    assert metrics["model/parameters"] > 1000 and metrics["test/questions_per_second"] > 0
    page = (run / "report.html").read_text()
    assert all(name in page for name in ("<h2>Predictions</h2>", "test/accuracy/nearest", "scenes-of-3-0-test-", "yes"))
    assert learn(run, "--json") == 0  # has ended already
    assert json.loads(capfd.readouterr().out) == metrics
    assert main(["evaluate", str(run), "--json"]) == 0
    again = json.loads(capfd.readouterr().out)
    assert again == {name: metrics[name] for name in again} and len(again) == 9
    assert main(["ask", str(run), photograph, "how many circles are there?", "--top", "3", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert len(rows) == 3 and all(set(row) == {"answer", "probability"} for row in rows)
    assert 1 > rows[0]["probability"] >= rows[1]["probability"] >= rows[2]["probability"] > 0
    assert set(row["answer"] for row in rows) <= set(json.loads((run / "answers.json").read_text()))
    for question, message in (
        (" ", "a question must not be empty; got one without words. Ask something."),
        ("qwerty uiop", "a question must have a word that the run was trained with; got 'qwerty uiop'. Ask otherwise."),
    ):
        assert main(["ask", str(run), photograph, question]) == 2
        assert message in capfd.readouterr().err
    assert main(["ask", str(run), str(tmp_path / "none.jpg"), "is it red?"]) == 2
    assert "none.jpg" in capfd.readouterr().err
    (run / "answers.json").write_text('{"yes"')
    assert main(["evaluate", str(run)]) == 2
    assert "answers.json must list the answers;" in capfd.readouterr().err


@pytest.mark.slow
def test_an_answer_is_written(tmp_path: Path, photograph: str, capfd: Captured) -> None:
    run = tmp_path / "run"
    assert learn(run, "--model.answer", "write", "--fusion", "cross_attention", "--json") == 0
    metrics = json.loads(capfd.readouterr().out)
    assert 0 <= metrics["test/accuracy"] <= 1 and metrics["test/loss"] > 0
    assert main(["ask", str(run), photograph, "what is above the red circle?", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert isinstance(row["answer"], str) and 0 < row["probability"] < 1


@pytest.mark.slow
def test_a_budget_in_processor_seconds_is_planned_once(
    tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that goes on by half a second whenever it is read: 13 steps are paced, in 2.5 seconds.
    monkeypatch.setattr("time.process_time", functools.partial(next, itertools.count(0, 0.5)))
    run = tmp_path / "run"
    assert learn(run, "--training.seconds", "1", "--training.clock", "processor", "--json") == 0
    steps = json.loads((run / "steps.json").read_text())
    assert json.loads(capfd.readouterr().out)["train/steps"] == steps == round(13 / 2.5)
    rows = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    looks = [row["validation/at_seconds"] for row in rows if "validation/at_seconds" in row]
    assert looks == sorted(looks) and looks[0] > 0


@pytest.mark.slow
def test_two_fusions_beside_each_other(tmp_path: Path, capfd: Captured) -> None:
    output = tmp_path / "comparison"
    words = ["compare", "vqa", "--vary", "fusion=concat,mlb", "--output", str(output), *WORDS]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [(row["variant"], row["seeds"], row["error"]) for row in rows] == [("concat", 1, None), ("mlb", 1, None)]
    assert rows[0]["metrics"]["process/peak_memory_mb"][0] > 50
    assert (output / "comparison.png").exists() and "| mlb | 1 |" in (output / "comparison.md").read_text()
    assert (output / "mlb" / "seed-0" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "vqa"], "a comparison needs something to vary; got nothing. Add --vary SETTING=VALUE,VALUE."),
        (
            ["compare", "qa"],
            "compare needs a recipe, captioning, classification, multi-task, retrieval or vqa; got 'qa'.",
        ),
        (["compare", "vqa", "--vary", "fusion=mutan,none"], "none"),
        (
            ["compare", "vqa", "--vary", "seed=1,2", "--seeds", "1", "1"],
            "must be one or more different numbers; got (1, 1)",
        ),
        (
            ["train", "vqa", "--data.source", "flickr"],
            "the source must be scenes, easy-vqa, sort-of-clevr, vqa or tfds;",
        ),
        (
            ["train", "vqa", "--data.source", "vqa"],
            "--data.source vqa needs a folder; got no path. Add --data.path DIR.",
        ),
        (
            ["train", "vqa", "--model.normalization", "None"],
            "film_encoder modulates normalised stages; got normalization",
        ),
        (["train", "vqa", "--model.text-features", "0"], "text_features must be above 0; got 0."),
        (["train", "vqa", "--data.answer-length", "2"], "answer_length must hold start, a word and end; got 2."),
        (["train", "captioning", "--data.source", "easy-vqa"], "got 'easy-vqa'. Choose one."),
    ],
)
def test_commands_that_cannot_be(words: list[str], message: str, tmp_path: Path, capfd: Captured) -> None:
    assert main([*words, "--output", str(tmp_path / "run")]) == 2
    errors = capfd.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_every_name_is_a_fusion() -> None:
    names = FusionName.__args__  # type: ignore[attr-defined]
    sizes = FusionSizes(8, 2, 1, 0.0, None)
    kinds = {type(build_fusion(name, sizes)) for name in names}
    assert len(kinds) == len(names) - 1  # film_encoder joins as concat does


EXAMPLES = [
    {
        "id": "one",
        "image": np.zeros((32, 32, 3), np.uint8),
        "questions": [
            {"question": "is it red?", "answer": "no", "type": "color"},
            {"question": "is it black?", "answer": "yes", "type": "color"},
            {"question": "how many?", "answer": "many", "type": "count"},
        ],
    },
    {"id": "two", "image": np.ones((32, 32, 3), np.uint8), "question": "is it black?", "answer": "no"},
]


def test_questions_of_both_forms_are_read() -> None:
    asked = read_questions(Examples(EXAMPLES, CONFIG))
    assert [len(group) for group in asked] == [3, 1]
    assert asked[1] == ({"question": "is it black?", "answer": "no", "type": "all"},)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({}, r"question answering needs questions of every example; three has none. Take another source, or map"),
        ({"question": " ", "answer": "no"}, r"a question must not be empty; got one of three. Correct or remove it."),
        ({"question": "why?"}, r"a question must have an answer; 'why\?' of three has none. Add it."),
    ],
)
def test_questions_that_cannot_be_used(example: dict, message: str) -> None:
    broken = {"id": "three", "image": np.zeros((32, 32, 3), np.uint8), **example}
    with pytest.raises(InputError, match=message):
        read_questions(Examples([*EXAMPLES, broken], CONFIG))


def test_answers_are_numbered_and_unknown_ones_are_said(caplog: pytest.LogCaptureFixture) -> None:
    examples = Examples(EXAMPLES, CONFIG)
    asked = read_questions(examples)
    vocabulary = learn_vocabulary(asked, dataclasses.replace(CONFIG, max_answers=2))
    assert vocabulary.answers == ("many", "no")  # the commonest, and of equals the first
    questions = encode_questions(examples, asked, vocabulary, CONFIG, "test")
    assert [label.tolist() for label in questions.labels] == [[1, -1, 0], [1]]
    assert "1 of 4 questions of the part 'test' have an answer that is not among the 2 learned" in caplog.text
    groups = questions.in_groups(2)
    assert groups.places == ((0, 0, 2), (0, 2, 3), (1, 0, 1))
    assert [one["question"] for one in groups.questions()] == [
        "is it red?", "is it black?", "how many?", "is it black?",
    ]  # fmt: skip
    arrays = QuestionTransform(CONFIG, 2, False, vocabulary.tokenizer)(groups[1], np.random.default_rng(0))
    assert arrays["label"].tolist() == [0, 0] and arrays["weight"].tolist() == [1, 0]
    assert arrays["text"].shape == (2, 9) and arrays["text"][0, 0] == 1 and arrays["answer"].shape == (2, 6)
    drawn = QuestionTransform(CONFIG, 2, True)(questions[0], np.random.default_rng(0))
    assert len({tuple(row) for row in drawn["text"].tolist()}) == 2 and "answer" not in drawn


def test_answers_of_which_none_was_learned() -> None:
    examples = Examples(EXAMPLES[1:], CONFIG)
    asked = read_questions(examples)
    vocabulary = learn_vocabulary(read_questions(Examples(EXAMPLES, CONFIG)), CONFIG)
    strange = [[{**asked[0][0], "answer": "perhaps"}]]
    message = (
        r"the answers of the part 'test' must be among the 3 learned; none is, such as 'perhaps'. Train with them."
    )
    with pytest.raises(InputError, match=message):
        encode_questions(examples, strange, vocabulary, CONFIG, "test")
    with pytest.raises(InputError, match=r"question answering needs two answers or more; got no. Check the data."):
        learn_vocabulary(asked, CONFIG)


def test_presets() -> None:
    for source in vqa.SOURCES:
        assert vqa.preset(source).data.source == source


@pytest.mark.parametrize(
    ("settings", "width"), [({}, 7), ({"text_layers": 0}, 7), ({"text_layers": 0, "text_pooling": "flatten"}, 9 * 7)]
)
def test_questions_are_pooled_as_asked(settings: dict, width: int) -> None:
    shape = dataclasses.replace(
        vqa.ModelConfig(cnn_features=(5,), text_features=7, hidden_features=(11,), image_pooling="mean"), **settings
    )
    config = vqa.VQAConfig(fusion="concat", data=CONFIG, model=shape)
    vocabulary = learn_vocabulary(read_questions(Examples(EXAMPLES, CONFIG)), CONFIG)
    variables = jax.eval_shape(lambda: vqa._initialise(vqa.build_model(config, vocabulary), config))
    assert variables["params"]["hidden_0"]["kernel"].shape == (5 + width, 11)


def test_the_learning_rate_follows_the_fusion(capfd: Captured) -> None:
    plain, attentive = (vqa.preset("easy-vqa", name) for name in ("concat", "co_attention"))
    assert attentive.fusion == "co_attention"
    assert attentive.optimizer.learning_rate == plain.optimizer.learning_rate / 4
    assert dataclasses.replace(attentive, fusion="concat", optimizer=plain.optimizer) == plain
    assert main(["train", "vqa", "--data.source", "easy-vqa", "--fusion", "co_attention", "--help"]) == 0
    assert f"(default: {attentive.optimizer.learning_rate})" in capfd.readouterr().out


@pytest.mark.parametrize("objects", [2, 4])
def test_questions_of_scenes_fit_the_preset(objects: int) -> None:
    config = dataclasses.replace(vqa.preset("scenes").data, size=300, objects=objects)
    questions = read_questions(DataParts(config)["train"])
    tokenizer = learn_vocabulary(questions, config).tokenizer
    lengths = [(tokenizer.encode(str(one["question"]), 30) > 0).sum() for group in questions for one in group]
    assert 10 < max(lengths) <= config.max_length


def test_consensus_where_several_people_answered() -> None:
    question = {"question": "?", "answer": "two", "answers": ["2"] * 3 + ["one"] * 7}
    assert vqa._rightness("Two", question) == pytest.approx(0.9)
    assert vqa._rightness("two", {"question": "?", "answer": "two"}) == 1
