"""Recipes on published encoders: frozen, with adapters, tuned whole; what they write down, and what they refuse."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from fusionjax import data, pretrained, training
from fusionjax.cli import main
from fusionjax.errors import InputError
from fusionjax.recipes import backbones, captioning, engine, frozen, retrieval
from fusionjax.recipes.backbones import Slot, layer_decay_of, lora_of, open_backbones, with_weights
from fusionjax.recipes.config import BackboneConfig, DataConfig, ImageBackboneConfig
from fusionjax.recipes.run import open_run
from tests.contracts.parameters import run as run_module
from tests.recipes.published import write_image_weights, write_text_weights
from tests.recipes.tiny import make_once, picture, write_flickr

Captured = pytest.CaptureFixture[str]
SIDE = 16
COMMON = f"--data.source flickr --data.image-size {SIDE} --data.margin 0.25 --data.min-count 1 --data.max-length 7"
COMMON += " --training.batch-size 8 --training.log-every 1 --report-samples 2 --optimizer.warmup-steps 0"
CAPTIONER = "--model.features 16 --model.embedding-features 8 --model.attention-features 8 --image.features 8"
CAPTIONER += " --reward.batch-size 8 --reward.samples 2 --reward.epochs 1 --decoding.method greedy"
TOWERS = "--model.features 8 --model.dropout-rate 0 --optimizer.learning-rate 0.02"
CLASSIFIER = "--model.fusion cross_attention --model.fusion-features 8 --model.num-heads 2 --model.fusion-layers 1"


@pytest.fixture(scope="module")
def place(shared: Path) -> Path:
    """The photographs, the weights and the features of all runs of the session."""
    folder = shared / "published"
    if not folder.exists():
        folder.mkdir()
        write_flickr(folder / "data", label=True)
        write_image_weights(folder / "image")
        write_text_weights(folder / "text")
    return folder


@pytest.fixture(autouse=True)
def cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONJAX_CACHE", str(place / "cache"))


@pytest.fixture
def train(tmp_path_factory: pytest.TempPathFactory, shared: Path, place: Path, capfd: Captured) -> Callable[..., Path]:
    """Trains a run that the session shares, to be read only."""

    def run(name: str, recipe: str, *more: str) -> Path:
        weights = ["--image.weights", str(place / "image" / "model.safetensors")]
        if recipe != "captioning":
            weights += ["--text.weights", str(place / "text")]
        words = ["train", recipe, "--output", str(shared / name), "--data.path", str(place / "data"), *COMMON.split()]
        made = make_once(tmp_path_factory, name, [*words, *weights, *" ".join(more).split()])
        capfd.readouterr()
        return made

    return run


def losses(run: Path, name: str = "train/loss") -> list[float]:
    rows = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def published(place: Path, part: str) -> tuple[Any, Any]:
    found = pretrained.open_encoder(place / ("image/model.safetensors" if part == "image" else "text"), part)
    return found.encoder, found.variables()


def assert_equal(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_a_captioner_on_frozen_features(
    train: Callable[..., Path], place: Path, tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("frozen-captioner", "captioning", CAPTIONER, "--image.views 3 --training.epochs 6")
    assert losses(run)[-1] < losses(run)[0]
    trained = json.loads((run / "metrics.json").read_text())
    # No parameter of the backbone is in the model, and none in the checkpoint.
    writer, config = captioning.load(run)
    assert "backbone" not in writer.variables["params"]["encoder"]
    # The same command again, with another seed, computes nothing.
    monkeypatch.setattr(frozen.FeatureComputer, "compute", None)
    assert main(["evaluate", str(run), "--json"]) == 0
    evaluated = json.loads(capfd.readouterr().out)
    assert evaluated == {name: value for name, value in trained.items() if name.startswith("test/")}
    monkeypatch.undo()
    monkeypatch.setenv("FUSIONJAX_CACHE", str(tmp_path / "empty"))
    # A new photograph: backbone and model by hand, once more without a cache.
    picture(31, 50).save(tmp_path / "new.png")
    assert main(["caption", str(run), str(tmp_path / "new.png"), "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert not (tmp_path / "empty").exists()
    encoder, variables = published(place, "image")
    pixels = data.load_image(tmp_path / "new.png", config.data.stored_size)[2:-2, 2:-2][None]
    assert pixels.shape == (1, SIDE, SIDE, 3)
    features = run_module(encoder, variables, pixels)
    rows = jnp.concatenate([features.tokens.reshape(1, -1), features.pooled], 1).astype(jnp.float16)
    by_hand = writer.write(np.asarray(rows), config.decoding)[0]
    assert (row["caption"], row["log_probability"]) == (by_hand.caption, pytest.approx(by_hand.log_probability, 1e-3))
    assert "<img" in (run / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_captioner_that_tunes(train: Callable[..., Path], place: Path, tune: str, capfd: Captured) -> None:
    more = "--image.lora-rank 2" if tune == "lora" else "--image.layer-decay 0.5"
    run = train(f"{tune}-captioner", "captioning", CAPTIONER, f"--image.tune {tune} {more} --training.epochs 4")
    assert losses(run)[-1] < losses(run)[0] and losses(run, "reward/train/reward")
    writer, _ = captioning.load(run)
    _, before = published(place, "image")
    after = {kind: tree["encoder"]["backbone"] for kind, tree in writer.variables.items()}
    assert_equal(after["batch_stats"], before["batch_stats"])
    changed = {
        path
        for path, leaf in flatten_dict(after["params"], sep="/").items()
        if np.abs(leaf - flatten_dict(before["params"], sep="/")[path]).max() > 0
    }
    everything = set(flatten_dict(before["params"], sep="/"))
    assert changed == ({path for path in everything if path.endswith("kernel")} if tune == "lora" else everything)
    manifest = next((run / "checkpoints" / "train").glob("*/manifest.json"))
    held = [path for path in json.loads(manifest.read_text())["leaves"] if "frozen_params" in path]
    assert not held
    trained = json.loads((run / "metrics.json").read_text())
    assert main(["evaluate", str(run), "--json"]) == 0
    evaluated = json.loads(capfd.readouterr().out)
    assert evaluated == pytest.approx({name: trained[name] for name in evaluated}, rel=1e-5)


@pytest.mark.slow
def test_towers_on_frozen_features(train: Callable[..., Path], place: Path, tmp_path: Path, capfd: Captured) -> None:
    run = train("frozen-towers", "retrieval", TOWERS, "--image.views 2 --training.epochs 30")
    assert losses(run)[-1] < 0.7 * losses(run)[0]
    trained = json.loads((run / "metrics.json").read_text())
    assert main(["evaluate", str(run), "--json"]) == 0
    evaluated = json.loads(capfd.readouterr().out)
    assert evaluated == pytest.approx({name: trained[name] for name in evaluated}, rel=1e-4)
    embedder = retrieval.load(run)
    params = embedder.variables["params"]
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(30, 36):
        picture(number).save(photographs / f"{number}.png")
    paths = sorted(photographs.iterdir())

    def tower(name: str, pooled: Any) -> np.ndarray:
        own = params[f"{name}_encoder"]["pooled_norm"]
        pooled = np.asarray(pooled, np.float16).astype(np.float64)
        normal = (pooled - pooled.mean(1, keepdims=True)) / np.sqrt(pooled.var(1, keepdims=True) + 1e-6)
        vectors = (normal * own["scale"] + own["bias"]) @ np.asarray(params[f"{name}_projection"]["kernel"])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    pixels = np.stack([data.load_image(path, 20)[2:-2, 2:-2] for path in paths])
    encoder, variables = published(place, "image")
    images = tower("image", run_module(encoder, variables, pixels).pooled)
    np.testing.assert_allclose(embedder.photographs(paths), images, atol=2e-3)
    encoder, variables = published(place, "text")
    tokens = np.array([[2, 4, 8, 9, 3, 0, 0], [2, 5, 6, 9, 3, 0, 0]])
    texts = tower("text", run_module(encoder, variables, tokens).pooled)
    np.testing.assert_allclose(embedder.texts(["a blue picture", "one red picture"]), texts, atol=2e-3)
    # search and classify
    words = ["search", str(run), "a blue picture", "--images", str(photographs), "--top", "6", "--json"]
    assert main(words) == 0
    hits = json.loads(capfd.readouterr().out)
    scores = {str(path): float(score) for path, score in zip(paths, images @ texts[0], strict=True)}
    assert {hit["image"]: hit["score"] for hit in hits} == pytest.approx(scores, abs=5e-3)
    assert main([*words[:2], " ", *words[3:]]) == 2
    assert "a text must have a word that the model was trained with; got ' '" in capfd.readouterr().err
    classes = ["--classes", "blue", "red", "--templates", "{} picture", "--json"]
    assert main(["classify", str(run), str(paths[0]), *classes]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert {one["label"] for one in row["top"]} == {"blue", "red"}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_towers_with_adapters_in_parts(train: Callable[..., Path], place: Path, strategy: str) -> None:
    """Adapters of one tower, the other tuned whole; the batch is encoded in parts and compared as a whole."""
    words = f"--image.tune lora --image.lora-rank 2 --text.tune full --strategy {strategy} --training.accumulate 2"
    run = train(f"adapted-towers-{strategy}", "retrieval", TOWERS, words, "--training.epochs 8")
    assert losses(run)[-1] < losses(run)[0]
    found = retrieval.load(run).variables
    for part, expected in (("image", "kernel"), ("text", "")):
        _, before = published(place, part)
        after = found["params"][f"{part}_encoder"]["backbone"]
        for path, leaf in flatten_dict(after, sep="/").items():
            moved = np.abs(leaf - flatten_dict(before["params"], sep="/")[path]).max()
            # A key's bias has no gradient.
            if not path.endswith("key/bias"):
                assert (moved > 0) == path.endswith(expected), path


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["cross_attention", "concat"])
def test_a_classifier_on_frozen_features(train: Callable[..., Path], fusion: str, capfd: Captured) -> None:
    words = f"{CLASSIFIER} --model.fusion {fusion} --image.features 8 --text.features 8 --training.epochs 12"
    run = train(f"frozen-classifier-{fusion}", "classification", words, "--optimizer.learning-rate 0.02")
    assert losses(run)[-1] < 0.5 * losses(run)[0]
    trained = json.loads((run / "metrics.json").read_text())
    assert main(["evaluate", str(run), "--json"]) == 0
    evaluated = json.loads(capfd.readouterr().out)
    assert evaluated == pytest.approx({name: trained[name] for name in evaluated}, rel=1e-3)


@pytest.mark.slow
def test_weights_that_are_gone_or_others(
    train: Callable[..., Path], place: Path, tmp_path: Path, capfd: Captured
) -> None:
    run = tmp_path / "run"
    shutil.copytree(train("frozen-captioner", "captioning", CAPTIONER, "--image.views 3 --training.epochs 6"), run)
    picture(3).save(tmp_path / "photo.png")
    record = json.loads((run / "backbones.json").read_text())
    record["image"]["weights"] = str(tmp_path / "moved.safetensors")
    (run / "backbones.json").write_text(json.dumps(record))
    words = ["caption", str(run), str(tmp_path / "photo.png")]
    # What is on disk is read without the weights.
    assert main(["evaluate", str(run)]) == 0
    capfd.readouterr()
    assert main(words) == 2
    errors = capfd.readouterr().err
    assert "moved.safetensors must hold the weights that the run was trained on; weights must be a file" in errors
    assert "Put them back, or correct backbones.json in the run directory." in errors and errors.count("\n") == 1
    write_image_weights(tmp_path / "other", seed=5).rename(tmp_path / "moved.safetensors")
    assert main(words) == 2
    assert "moved.safetensors must hold the weights that the run was begun with; they have" in capfd.readouterr().err
    shutil.copy(place / "image" / "model.safetensors", tmp_path / "moved.safetensors")
    assert main(words) == 0
    (run / "backbones.json").write_text("{}")
    capfd.readouterr()
    assert main(words) == 2
    assert (
        "backbones.json must say what the weights were; 'image'. Restore it, or train again." in capfd.readouterr().err
    )


def test_a_training_does_not_go_on_with_other_weights(place: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    shutil.copy(place / "image" / "model.safetensors", weights)
    config = captioning.Config(
        output=str(tmp_path / "run"),
        data=DataConfig(source="flickr", path=str(place / "data"), image_size=SIDE, max_length=7),
        image=ImageBackboneConfig(weights=str(weights)),
    )
    slots = captioning.slots(config)
    run = captioning.start_run(config.output, "captioning", config)
    backbones.record_backbones(run, open_backbones(slots, config.data))
    backbones.record_backbones(run, open_backbones(slots, config.data))
    write_image_weights(tmp_path / "other", seed=7).replace(weights)
    with pytest.raises(
        InputError, match=r"must hold the weights that .*run was begun with; they have changed since. P"
    ):
        backbones.record_backbones(run, open_backbones(slots, config.data))
    (run.path / "backbones.json").write_text("[")
    with pytest.raises(InputError, match=r"backbones.json must say what the weights are; .* Choose another --output"):
        backbones.record_backbones(run, open_backbones(slots, config.data))


def test_what_cannot_be_used(place: Path, tmp_path: Path) -> None:
    config = DataConfig(image_size=SIDE, max_length=7)
    image, text = str(place / "image" / "model.safetensors"), str(place / "text")

    def slot(weights: str, **fields: Any) -> Slot:
        return Slot(BackboneConfig(weights=weights, **fields), "encoder", True)

    with pytest.raises(
        InputError, match=r"text must hold weights of an encoder of images; got sentence-bert-transform"
    ):
        open_backbones({"image": slot(text)}, config)
    with pytest.raises(InputError, match=r"must hold weights of an encoder of texts; got efficientnet-lite-timm. Give"):
        open_backbones({"text": slot(image)}, config)
    with pytest.raises(InputError, match=r"there is no gone. Check the name"):
        open_backbones({"image": slot("gone")}, config)
    with pytest.raises(InputError, match=r"text must be weights for images or texts of the data's size; texts must ha"):
        open_backbones({"text": slot(text)}, dataclasses.replace(config, max_length=18))
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copy(place / "text" / "model.safetensors", lone)
    shutil.copy(place / "text" / "config.json", lone)
    named = slot(str(lone), architecture="sentence-bert-transformers")
    with pytest.raises(
        InputError, match=r"lone must have a tokenizer beside the weights; there is none. Give a folder"
    ):
        open_backbones({"text": named}, config)
    (lone / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer.json: expected the JSON of a tokenizer; it is damaged \("):
        open_backbones({"text": named}, config)
    (lone / "tokenizer.json").unlink()
    (lone / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "##dish"]))
    tokenizer = open_backbones({"text": named}, config)["text"].tokenizer
    assert tokenizer.encode_batch(["Reddish red!"], 7).tolist() == [[2, 4, 5, 4, 1, 3, 0]]
    assert tokenizer.knows("red") and not tokenizer.knows("blue !")


def test_images_that_are_too_small(tmp_path: Path) -> None:
    found = pretrained.find_architecture("alexnet-torchvision")
    sizes = found.recognise(
        {
            name: shape
            for layer, channels, features, kernel in (
                (0, 3, 2, 11),
                (3, 2, 3, 5),
                (6, 3, 2, 3),
                (8, 2, 3, 3),
                (10, 3, 5, 3),
            )
            for name, shape in (
                (f"features.{layer}.weight", (features, channels, kernel, kernel)),
                (f"features.{layer}.bias", (features,)),
            )
        }
        | {
            f"classifier.{layer}.{leaf}": shape
            for layer, inputs, outputs in ((1, 180, 7), (4, 7, 11), (6, 11, 2))
            for leaf, shape in (("weight", (outputs, inputs)), ("bias", (outputs,)))
        },
        {},
    )
    model = found.build(sizes)
    variables = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32)),
    )
    pretrained.save(tmp_path, pretrained.Pretrained(found, sizes, model, variables))
    slots = {"image": Slot(ImageBackboneConfig(weights=str(tmp_path)), "encoder", True)}
    with pytest.raises(InputError, match=r"images must be at least 63x63 for AlexNet; got 16x16. Enlarge the images"):
        open_backbones(slots, DataConfig(image_size=SIDE))


def test_bad_settings() -> None:
    for kind, words, message in (
        (BackboneConfig, {"layer_decay": 0.0}, r"layer_decay must be in \(0, 1\]; got 0.0. Try 0.75"),
        (BackboneConfig, {"layer_decay": 0.5}, r"layer_decay is for tune full; got 0.5 and frozen. Leave it at 1"),
        (BackboneConfig, {"lora_rank": 0}, r"lora_rank must be above 0; got 0"),
        (BackboneConfig, {"features": -1}, r"features must be above 0; got -1"),
        (BackboneConfig, {"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\); got 1.0. Try 0.3"),
        (ImageBackboneConfig, {"views": 0}, r"views must be above 0; got 0"),
        (ImageBackboneConfig, {"views": 2, "tune": "lora"}, r"views are kept for tune frozen; got 2 and lora. Leave"),
    ):
        with pytest.raises(InputError, match=message):
            kind(**words)


def slots_of(place: Path, image: dict[str, Any], text: dict[str, Any]) -> dict[Any, Slot]:
    return {
        "image": Slot(
            ImageBackboneConfig(weights=str(place / "image" / "model.safetensors"), **image), "image_encoder", False
        ),
        "text": Slot(BackboneConfig(weights=str(place / "text"), **text), "text_encoder", False),
    }


def test_adapters_need_one_rank(place: Path) -> None:
    config = DataConfig(image_size=SIDE, max_length=7)
    opened = open_backbones(slots_of(place, {"tune": "lora", "lora_rank": 2}, {"tune": "lora", "lora_rank": 3}), config)
    with pytest.raises(InputError, match=r"adapters must be of one lora_rank; got 2 and 3. Set the same"):
        lora_of(opened)


def test_what_learns_and_how_much(place: Path) -> None:
    """Steps of SGD with gradients of one: adapters, and both towers' parameters by their depth."""
    config = DataConfig(image_size=SIDE, max_length=7)
    opened = open_backbones(
        slots_of(place, {"tune": "full", "layer_decay": 0.5}, {"tune": "full", "layer_decay": 0.8}), config
    )
    assert lora_of(opened) is None
    settings = retrieval.Config(data=config)
    model = retrieval.build_model(settings, 1, opened)
    variables = with_weights(retrieval._initialise(model, settings, opened), opened)
    optimizer = optax.chain(optax.sgd(1.0), layer_decay_of(opened))
    ones = jax.tree.map(jnp.ones_like, variables["params"])
    updates, _ = optimizer.update(ones, optimizer.init(ones), variables["params"])
    steps = {path: -float(leaf.ravel()[0]) for path, leaf in flatten_dict(updates, sep="/").items()}
    image = ["stem", "stage_0_block_0", "stage_1_block_0", "stage_1_block_1", "head"]
    expected = {f"image_encoder/backbone/{name}": 0.5 ** (5 - place) for place, name in enumerate(image)}
    text = ["(token|position|segment)_embedding|embedding_norm", "block_0", "block_1"]
    text_steps = [0.8**3, 0.8**2, 0.8]
    for path, step in steps.items():
        if path.startswith("image_encoder/backbone/"):
            assert step == pytest.approx(expected["/".join(path.split("/")[:3])]), path
        elif path.startswith("text_encoder/backbone/"):
            name = path.split("/")[2]
            depth = 0 if "embedding" in name else 1 + text.index(name) - 1
            assert step == pytest.approx(text_steps[depth]), path
        else:
            assert step == 1, path


def test_a_run_is_as_it_was_before(shared: Path, tmp_path: Path) -> None:
    """Settings that name no weights are those of a run that was written before there were any."""
    old = json.loads(json.dumps(dataclasses.asdict(retrieval.Config())))
    for name in ("image", "text"):
        del old[name]
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "recipe": "retrieval", "config": old}))
    assert open_run(tmp_path).settings(retrieval.Config) == retrieval.Config()
    assert retrieval.start_run(tmp_path, "retrieval", retrieval.Config()).config == old
    assert open_backbones(retrieval.slots(retrieval.Config()), DataConfig()) == {}
    assert backbones.reopen_backbones(open_run(tmp_path), retrieval.slots(retrieval.Config()), DataConfig()) == {}


def test_checkpoints_hold_what_learns(place: Path, tmp_path: Path) -> None:
    """With adapters, parameters that do not change are read from the weights again."""
    variables = {
        "params": {"a": {"kernel": jnp.ones((3, 5))}, "b": {"kernel": jnp.ones((5, 2))}},
        "more": {"c": jnp.ones(2)},
    }
    lora = training.LoRAConfig(rank=2, kernels="^a/.*kernel", tuned="^(?!a/)")
    split = engine.split_adapters(variables, lora, 3)
    assert sorted(split["params"]) == ["a/kernel", "tuned"] and list(split["params"]["tuned"]) == ["b/kernel"]
    assert list(flatten_dict(split[training.FROZEN], sep="/")) == ["a/kernel"]
    assert engine.split_adapters(split, lora, 4) == split
    assert engine.split_adapters(variables, None, 0) == variables
