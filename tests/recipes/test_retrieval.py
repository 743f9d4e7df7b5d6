"""The recipe of retrieval, and what uses its runs: evaluation, search in a folder, classes by prompts; refusals."""

import dataclasses
import json
import logging
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fusionjax import data, losses, training
from fusionjax.cli import main
from fusionjax.errors import InputError
from fusionjax.recipes import retrieval, search
from fusionjax.recipes.retrieval_report import RetrievalSample
from tests.recipes.tiny import WORDS, make_once, picture, write_flickr

Captured = pytest.CaptureFixture[str]
MODEL = ["--model.cnn-features", "8", "8", "--model.text-features", "8", "--model.word-features", "8"]
MODEL += ["--model.features", "8", "--model.dropout-rate", "0"]
TRAINING = ["--data.image-size", "20", "--data.min-count", "1", "--training.batch-size", "8"]
TRAINING += ["--training.epochs", "60", "--optimizer.learning-rate", "0.01", "--optimizer.warmup-steps", "0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shared: Path, compiled_quickly: None) -> Path:
    """Two towers that know three colours, trained as a ring over eight devices; to be read only."""
    folder = shared / "colours"
    words = ["train", "retrieval", "--output", str(shared / "towers"), "--data.source", "flickr"]
    if not (shared / "towers" / "metrics.json").exists() and not folder.exists():
        write_flickr(folder)
    return make_once(tmp_path_factory, "towers", [*words, "--data.path", str(folder), *MODEL, *TRAINING])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two pictures of each colour that were not trained with, one in a subfolder, and what is no picture."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for number in range(30, 36):
        picture(number).save(folder / ("more" if number == 35 else "") / f"{WORDS[number % 3]}_{number}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("red")
    return folder


@pytest.mark.slow
def test_metrics_and_report(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/images"] == 4 and metrics["test/captions"] == 8
    # Pictures of the same colour have the same captions: of four, two are of one colour, and ties count as misses.
    assert metrics["test/mean_recall"] > metrics["test/chance/mean_recall"]
    assert metrics["test/text_to_image/recall_at_5"] == metrics["test/image_to_text/recall_at_10"] == 1
    assert metrics["model/parameters"] > 1000
    page = (run / "report.html").read_text()
    assert all(
        text in page for text in ("<h2>Found</h2>", "a red picture", "test/mean_recall", ">scale<", ">mean_recall<")
    )


@pytest.mark.slow
def test_evaluation_equals_the_training_s(run: Path, capfd: Captured) -> None:
    trained = json.loads((run / "metrics.json").read_text())
    assert main(["evaluate", str(run), "--json"]) == 0
    evaluated = json.loads(capfd.readouterr().out)
    assert evaluated == {name: trained[name] for name in evaluated} and len(evaluated) > 8
    assert main(["evaluate", str(run), "--data.split", "train", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["train/images"] == 12


@pytest.mark.slow
def test_photographs_are_found_by_a_text(run: Path, photographs: Path, tmp_path: Path, capfd: Captured) -> None:
    page = tmp_path / "found.html"
    words = ["search", str(run), "one blue picture", "--images", str(photographs), "--top", "3", "--page", str(page)]
    assert main([*words, "--json"]) == 0
    output = capfd.readouterr()
    hits = json.loads(output.out)
    assert len(hits) == 3 and all("blue" in hit["image"] for hit in hits[:2]) and "blue" not in hits[2]["image"]
    assert {Path(hit["image"]).parent.name for hit in hits[:2]} == {"photographs", "more"}
    assert hits[0]["score"] >= hits[1]["score"] > hits[2]["score"]
    assert "broken.jpg: expected an image" in output.err and "It is left out." in output.err
    assert "one blue picture" in page.read_text() and Path(hits[0]["image"]).name in page.read_text()
    assert main(words) == 0
    assert f"{hits[0]['score']:.3f}  {hits[0]['image']}" in capfd.readouterr().out


@pytest.mark.slow
def test_a_folder_is_encoded_once(run: Path, photographs: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photographs / "broken.jpg").unlink()
    first = search.build_index(retrieval.load(run), photographs)
    assert first.encoded == 6 and len(first.names) == 6
    second = search.build_index(retrieval.load(run), photographs)
    assert second.encoded == 0 and second.names == first.names
    assert second.search("a red picture") == first.search("a red picture")
    # Another picture under the same name, one more, one less.
    picture(40).save(photographs / "red_30.png")
    os.utime(photographs / "red_30.png", ns=(1, 1))
    picture(41).save(photographs / "new.png")
    (photographs / "blue_32.png").unlink()
    embedder = retrieval.load(run)
    third = search.build_index(embedder, photographs)
    assert third.encoded == 2
    assert set(third.names) == (set(first.names) | {"new.png"}) - {"blue_32.png"}
    vectors = np.stack([third.nearest.reconstruct(place) for place in range(6)])
    expected = embedder.photographs([photographs / name for name in third.names])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    # What cannot be read is made anew.
    kept = next((run / "indexes").glob("*/photographs.json"))
    for place in (run / "indexes").glob("*/photographs.json"):
        place.write_text("{")
    assert search.build_index(embedder, photographs).encoded == 6
    assert len(list(kept.parent.glob("*.npy"))) == 1


@pytest.mark.slow
def test_other_weights_and_another_preparation_encode_anew(run: Path, photographs: Path) -> None:
    embedder = retrieval.load(run)
    search.build_index(embedder, photographs)
    embedder.preparation += " of another kind"
    assert search.build_index(embedder, photographs).encoded == 6
    assert search.build_index(embedder, photographs).encoded == 0
    embedder.variables = jax.tree.map(lambda leaf: leaf * 0.5, embedder.variables)
    assert search.build_index(embedder, photographs).encoded == 6


@pytest.mark.slow
def test_an_index_that_is_not_exact(run: Path, photographs: Path) -> None:
    embedder = retrieval.load(run)
    exact, graph = (
        search.build_index(embedder, photographs, kind=kind).search("a green picture") for kind in ("Flat", "HNSW8")
    )
    assert [hit.image for hit in graph] == [hit.image for hit in exact]


@pytest.mark.slow
def test_an_index_that_cannot_be_kept(
    run: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(search.np, "save", full)
    (photographs / "extra.png").write_bytes((photographs / "red_30.png").read_bytes())
    with caplog.at_level(logging.WARNING, "fusionjax"):
        assert search.build_index(retrieval.load(run), photographs).search("a red picture")
    assert "the index is not kept: No space left on device" in caplog.text


@pytest.mark.slow
def test_colours_are_named_by_prompts(run: Path, photographs: Path, capfd: Captured) -> None:
    files = [str(photographs / f"{WORDS[number % 3]}_{number}.png") for number in range(30, 34)]
    words = ["classify", str(run), *files, "--classes", *WORDS, "--templates", "a {} picture", "one {} picture"]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row["top"][0]["label"] for row in rows] == [WORDS[number % 3] for number in range(30, 34)]
    for row in rows:
        assert sum(one["probability"] for one in row["top"]) == pytest.approx(1, abs=1e-5)
        assert row["top"][0]["probability"] > 0.5
    assert main([*words, "--top", "1"]) == 0
    assert (
        f"{files[0]}: {rows[0]['top'][0]['label']} ({rows[0]['top'][0]['probability']:.3f})\n" in capfd.readouterr().out
    )


@pytest.mark.slow
def test_a_class_is_the_mean_of_its_prompts(run: Path, photographs: Path) -> None:
    embedder, file = retrieval.load(run), photographs / "red_30.png"
    prompts = [[f"a {name} picture", f"one {name} picture"] for name in WORDS]
    means = np.stack([embedder.texts(own).astype(np.float64).mean(0) for own in prompts])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    scores = (
        float(embedder.model.apply(embedder.variables, method="scalars")[0]) * means @ embedder.photographs([file])[0]
    )
    expected = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    found = retrieval.classify(run, [file], WORDS, ["a {} picture", "one {} picture"])[0]
    assert {one.label: one.probability for one in found} == pytest.approx(
        dict(zip(WORDS, expected, strict=True)), rel=1e-3, abs=1e-6
    )


@pytest.mark.parametrize("name", ["info_nce", "sigmoid", "hardest_triplet", "all_triplets"])
def test_the_loss_that_the_config_names(name: str) -> None:
    config = retrieval.RetrievalConfig(loss=name, margin=0.4)  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    images, texts = (jnp.asarray(rng.normal(size=(5, 7)), jnp.float32) for _ in range(2))
    mask = jnp.array([True, True, False, True, True])
    bias = jnp.float32(-2) if name == "sigmoid" else None
    found = retrieval.compare_pairs(config, images, texts, jnp.float32(3), bias, mask)
    expected = {
        "info_nce": lambda: losses.info_nce(images, texts, 3.0, mask=mask),
        "sigmoid": lambda: losses.sigmoid_contrastive(images, texts, 3.0, -2.0, mask=mask),
        "hardest_triplet": lambda: losses.triplet(images, texts, margin=0.4, mask=mask),
        "all_triplets": lambda: losses.triplet(images, texts, margin=0.4, negatives="all", mask=mask),
    }[name]()
    np.testing.assert_allclose(found.total, expected.total, rtol=1e-6)


def test_captions_are_compared_one_after_the_other_and_those_without_words_do_not_count() -> None:
    """A step of several captions of each image is the mean of steps of one; rows of padding have no part."""
    model = retrieval.RetrievalConfig(
        model=retrieval.ModelConfig(
            cnn_features=(3,), normalization=None, text_features=3, features=5, dropout_rate=0.0
        ),
    )
    towers = retrieval.build_model(model, 9)
    loss_fn = retrieval.make_loss(towers, model)
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 255, (3, 8, 8, 3)), jnp.uint8),
        "text": jnp.asarray(rng.integers(1, 9, (3, 2, 4))),
    }
    params = jax.jit(towers.init)(jax.random.key(0), batch)["params"]
    call = jax.jit(lambda batch: loss_fn(params, {}, batch, jax.random.key(0))[:2])
    whole = call(batch)
    padded = call(jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 2), *[(0, 0)] * (leaf.ndim - 1))), batch))
    assert isinstance(loss_fn, training.BatchLoss)
    np.testing.assert_allclose(padded, whole, rtol=1e-5)
    assert whole[1] == 6
    single = [call({**batch, "text": batch["text"][:, place : place + 1]}) for place in range(2)]
    np.testing.assert_allclose(whole[0], single[0][0] + single[1][0], rtol=1e-5)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("rings for info_nce and sigmoid only; got loss all_triplets", {"strategy": "pmap", "loss": "all_triplets"}),
        ("margin must not be negative; got -1", {"margin": -1}),
    ],
)
def test_settings_that_cannot_be(message: str, changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(retrieval.preset("flickr"), **changes)  # type: ignore[arg-type]
    for shape, text in (
        ({"dropout_rate": 1.0}, "dropout_rate must be in"),
        ({"cnn_features": ()}, "cnn_features must"),
    ):
        with pytest.raises(InputError, match=text):
            retrieval.ModelConfig(**shape)  # type: ignore[arg-type]


def test_no_such_source() -> None:
    assert retrieval.preset("scenes").data.source == "scenes"
    with pytest.raises(InputError, match="the source must be scenes, flickr, coco or tfds; got 'tape'"):
        retrieval.preset("tape")


def test_an_image_without_captions() -> None:
    examples = [{"id": "a.jpg", "captions": ["a dog"]}, {"id": "b.jpg", "captions": [" "]}]

    class Described(list[dict[str, object]]):
        def describe(self, place: int) -> dict[str, object]:
            return self[place]

    with pytest.raises(InputError, match=r"every image needs a caption; b.jpg of the part 'test' has none"):
        retrieval.check_captions(Described(examples), "test")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "a text must have a word that the model was trained with; got 'xyzzy'",
            ["search", "xyzzy", "--images", "HERE"],
        ),
        # Before the folder is looked at.
        ("a text must have a word that the model was trained with", ["search", "xyzzy", "--images", "HERE/gone"]),
        ("must be a folder of photographs; there is none", ["search", "a red picture", "--images", "HERE/gone"]),
        ("must hold a photograph that can be read; it has none", ["search", "a red picture", "--images", "HERE/empty"]),
        ("a text must have a word that the model was trained with; got ' '", ["search", " ", "--images", "HERE"]),
        ("top must be at least 1; got 0", ["search", "red", "--images", "HERE", "--top", "0"]),
        (
            "the index must be one that faiss makes of 6 vectors; got 'Tree'",
            ["search", "red", "--images", "HERE", "--index", "Tree"],
        ),
        ("search needs a run and a text; got ", ["search", "a", "red", "--images", "HERE"]),
        ("search needs a run and a text; got ", ["search", "--images", "HERE"]),
        (
            "--architecture can be used with --weights only; got a run",
            ["search", "red", "--images", "HERE", "--architecture", "x"],
        ),
        ("classify needs at least one photograph after the run; got none", ["classify", "--classes", "a", "b"]),
        (
            "classes must be two different names or more; got ['a', 'a']",
            ["classify", "HERE/red_30.png", "--classes", "a", "a"],
        ),
        ("classes must be two different names or more; got []", ["classify", "HERE/red_30.png"]),
        (
            "templates must be texts with {} for the class; got ['a photo']",
            ["classify", "HERE/red_30.png", "--classes", "a", "b", "--templates", "a photo"],
        ),
        ("expected an image", ["classify", "HERE/broken.jpg", "--classes", "a", "b"]),
    ],
)
def test_refusals(run: Path, photographs: Path, message: str, words: list[str], capfd: Captured) -> None:
    (photographs / "empty").mkdir()
    assert main([words[0], str(run), *(word.replace("HERE", str(photographs)) for word in words[1:])]) == 2
    errors = capfd.readouterr().err
    assert message in errors and "Traceback" not in errors


@pytest.mark.slow
def test_a_run_of_another_recipe(captioner: Path, photographs: Path, capfd: Captured) -> None:
    assert main(["search", str(captioner), "red", "--images", str(photographs)]) == 2
    assert "must be a run of retrieval; it is one of captioning" in capfd.readouterr().err


def test_what_a_card_needs() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="got 1 pictures, 2 names and 1 scores"):
        RetrievalSample(query="red", images=[image], names=["a", "b"], scores=[0.5])
    with pytest.raises(ValueError, match="image must have shape"):
        RetrievalSample(query="red", images=[image[0]], names=["a"], scores=[0.5])


def test_names_of_subfolders(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("c.png", "b/a.jpg", "b/d.txt"):
        Image.new("RGB", (2, 2)).save(tmp_path / name) if name != "b/d.txt" else (tmp_path / name).touch()
    assert data.image_names(tmp_path, deep=True) == ["b/a.jpg", "c.png"]
    assert data.image_names(tmp_path) == ["c.png"]
