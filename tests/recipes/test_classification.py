"""The classification recipe: scenes, a folder with labels, and what it refuses."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import data
from fusionjax.cli import main
from fusionjax.errors import InputError
from fusionjax.recipes import classification
from fusionjax.recipes.classification import PairTransform, build_model, make_loss
from fusionjax.recipes.config import DataConfig
from tests.contracts.parameters import draw_variables, fast_jit, run
from tests.recipes.tiny import CLASSIFIER, SCENES, SMALL, write_flickr

Captured = pytest.CaptureFixture[str]
EPOCH = ["--training.epochs", "1"]


def on_folder(run: Path, folder: Path, *more: str) -> list[str]:
    source = ["--data.source", "flickr", "--data.path", str(folder), "--data.min-count", "1"]
    return ["train", "classification", "--output", str(run), *source, *SMALL, *CLASSIFIER, *EPOCH, *more]


@pytest.mark.slow
def test_folder_with_labels(tmp_path: Path, capfd: Captured) -> None:
    folder, run = write_flickr(tmp_path / "folder", label=True), tmp_path / "run"
    words = on_folder(
        run,
        folder,
        "--training.epochs",
        "3",
        "--training.use-best",
        "--training.log-every",
        "1",
        "--optimizer.learning-rate",
        "0.01",
    )
    assert main([*words, "--json"]) == 0
    metrics = json.loads(capfd.readouterr().out)
    assert metrics["test/pairs"] == 8.0
    assert 0 <= metrics["test/accuracy"] <= 1
    rows = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert len(losses) == 9
    assert losses[-1] < losses[0]  # The sentence names the class.
    assert json.loads((run / "classes.json").read_text()) == ["blue", "green", "red"]
    page = (run / "report.html").read_text()
    assert all(name in page for name in ("<h2>Predictions</h2>", "of 8 right", "blue", "green", "red", "test/accuracy"))
    assert main(["evaluate", str(run), "--json"]) == 0
    again = json.loads(capfd.readouterr().out)
    assert again == {name: value for name, value in metrics.items() if name.startswith("test/")}
    other = write_flickr(tmp_path / "other", 5, label=True)
    assert main(["evaluate", str(run), "--data.path", str(other), "--data.split", "all", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["all/pairs"] == 10.0
    (other / "captions.csv").write_text("image,caption,label\n0.jpg,a picture,pink\n")
    assert main(["evaluate", str(run), "--data.path", str(other), "--data.split", "all"]) == 2
    expected = "must be one of the training's, blue, green, red; got 'pink'. Correct it, or train with it."
    assert expected in capfd.readouterr().err
    assert main(["caption", str(run), "none.jpg"]) == 2
    assert "must be a run of captioning; it is one of classification." in capfd.readouterr().err
    (run / "classes.json").write_text('{"red"')
    assert main(["evaluate", str(run)]) == 2
    assert "classes.json must list the classes;" in capfd.readouterr().err


@pytest.mark.slow
def test_scenes_with_the_other_fusion(tmp_path: Path, capfd: Captured) -> None:
    run = tmp_path / "run"
    words = ["train", "classification", "--output", str(run), *SCENES, *CLASSIFIER, *EPOCH, "--model.fusion", "concat"]
    assert main(words) == 2
    expected = "caption_weight needs a model that does not look ahead: fusion word_by_word, without bidirectional and"
    assert expected in capfd.readouterr().err
    words += ["--caption-weight", "0"]
    assert main([*words, "--model.cell", "gru", "--model.bidirectional", "--json"]) == 0
    metrics = json.loads(capfd.readouterr().out)
    assert (metrics["test/pairs"], metrics["train/steps"]) == (12.0, 6.0)
    assert 0 <= metrics["test/accuracy"] <= 1
    rows = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/accuracy" in row] == [1, 2, 3, 4, 5, 6]
    assert {"validation/loss", "validation/accuracy"} < set(rows[-1])
    assert main([*words, "--model.cell", "gru", "--model.bidirectional", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == metrics


@pytest.mark.slow
def test_scenes_word_by_word(tmp_path: Path, capfd: Captured) -> None:
    run = tmp_path / "run"
    words = ["train", "classification", "--output", str(run), *SCENES, *CLASSIFIER, *EPOCH]
    assert main([*words, "--training.batch-size", "16", "--training.epochs", "8", "--json"]) == 0
    metrics = json.loads(capfd.readouterr().out)
    assert metrics["test/pairs"] == 12.0
    rows = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    words_lost = [row["train/word_loss"] for row in rows if "train/word_loss" in row]
    assert words_lost[-1] < 0.8 * words_lost[0]
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["test/accuracy"] == metrics["test/accuracy"]


@pytest.mark.slow
def test_a_sentence_and_captions_in_one_loss() -> None:
    texts = ["a red circle", "one red circle here", "two blue squares"]
    tokenizer = data.train_tokenizer(texts)
    config = DataConfig(image_size=16, captions_per_image=3, max_length=7)
    transform = PairTransform(tokenizer, ("false", "true"), config, training=True, with_captions=True)
    example = {"image": np.zeros((16, 16, 3), np.uint8), "captions": texts[:2], "sentence": texts[2]}
    made = [transform({**example, "label_name": name}, np.random.default_rng(0)) for name in ("true", "false")]
    text = made[0]["text"]
    assert (made[0]["label"], made[1]["label"]) == (1, 0)
    assert text.shape == (4, 7) and text[0].tolist() == tokenizer.encode(texts[2], 7).tolist()
    assert sorted(map(tokenizer.decode, text[1:3])) == sorted(texts[:2]) and not text[3].any()
    batch = {name: jnp.stack([one[name] for one in made]) for name in made[0]}
    config = classification.preset("scenes")
    small = dataclasses.replace(config.model, cnn_features=(5,), text_features=6, fusion_features=7)
    model = build_model(dataclasses.replace(config, model=small), tokenizer.vocab_size, 2)
    variables = draw_variables(model, batch)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    found = fast_jit(make_loss(model, caption_weight=0.25))(params, state, batch, jax.random.key(1))
    output, _ = run(model, variables, batch, deterministic=False, mutable=("batch_stats",))
    scores = jax.nn.log_softmax(output.logits[:, 0])
    words = jax.nn.log_softmax(output.next_word_logits[:, 1:])
    targets = np.asarray(batch["text"][:, 1:, 1:])
    lost = -(np.take_along_axis(np.asarray(words), targets[..., None], -1)[..., 0] * (targets != 0)).sum()
    assert float(found.total) == pytest.approx(float(0.25 * lost - scores[0, 1] - scores[1, 0]), rel=1e-5)
    assert (float(found.weight), float(found.metrics["word_loss"][0])) == (2.0, pytest.approx(float(lost), rel=1e-5))


def test_refusals_leave_nothing(tmp_path: Path, capfd: Captured) -> None:
    folder, run = write_flickr(tmp_path / "folder"), tmp_path / "run"
    assert main(on_folder(run, folder)) == 2
    expected = "classification needs a label of every example; 0.jpg has none. Add a column label to captions.csv"
    assert expected in capfd.readouterr().err
    table = folder / "captions.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{rows[0]},label", *(f"{row},same" for row in rows[1:])]))
    assert main(on_folder(run, folder)) == 2
    assert "classification needs two classes or more; got same. Check the labels." in capfd.readouterr().err
    labels = ["new" if row.startswith("4.jpg") else str(int(row.split(".")[0]) % 3) for row in rows[1:]]
    table.write_text("\n".join([f"{rows[0]},label", *map(",".join, zip(rows[1:], labels, strict=True))]))
    assert main(on_folder(run, folder)) == 2
    errors = capfd.readouterr().err
    assert (
        "the label of 4.jpg must be one of the training's, 0, 1, 2; got 'new'. Correct it, or train with it." in errors
    )
    assert not run.exists()


def test_only_its_own_runs(captioner: Path) -> None:
    with pytest.raises(
        InputError, match=r"must be a run of classification; it is one of captioning\. Give another run"
    ):
        classification.evaluate(captioner)
