"""The captioning recipe: the three decoders, precision, accumulation, strategies, sources."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from fusionjax import data
from fusionjax.cli import main
from fusionjax.errors import InputError
from fusionjax.recipes import captioning
from fusionjax.recipes.captions import CaptionTransform
from fusionjax.recipes.config import DataConfig
from tests.recipes.tiny import CAPTIONER, REPOSITORY, SMALL, write_coco
from tests.recipes.tiny import captioning as words

Captured = pytest.CaptureFixture[str]


def read(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.slow
def test_lstm_decoder_in_bfloat16(tmp_path: Path, capfd: Captured) -> None:
    run = tmp_path / "run"
    more = "--model.decoder lstm --training.precision bfloat16 --decoding.method greedy --training.use-best"
    assert main(words(run, *more.split())) == 0
    writer, config = captioning.load(run)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(writer.variables["params"])} == {"float32"}
    assert (config.model.decoder, config.training.precision) == ("lstm", "bfloat16")
    image = data.Scenes("test", size=1, image_size=32)[0]["image"]
    assert writer.write(image[None], config.decoding, look=True)[0].attention is None
    assert "report" in capfd.readouterr().out
    assert "<table" in (run / "report.html").read_text()


@pytest.mark.slow
def test_transformer_decoder_under_pmap_in_parts_equals_jit_as_a_whole(tmp_path: Path) -> None:
    more = "--model.decoder transformer --model.num-layers 1 --model.dropout-rate 0 --model.normalization group"
    # Adam would make steps of the rounding errors where the gradient is zero, as that of a key's bias is.
    more += " --optimizer.name sgd --optimizer.learning-rate 0.5 --optimizer.warmup-steps 0"
    common = [*more.split(), *["--decoding.method", "greedy", "--training.epochs", "0.5", "--report-samples", "0"]]

    assert main(words(tmp_path / "jit", *common)) == 0
    # Parts of four examples use four of the devices.
    assert main(words(tmp_path / "pmap", *common, "--strategy", "pmap", "--training.accumulate", "2")) == 0
    assert_close(tmp_path / "jit", tmp_path / "pmap")


def assert_close(one: Path, other: Path) -> None:
    """The parameters and the losses of two runs are equal up to the order of sums."""
    (writer, config), (twin, _) = (captioning.load(run) for run in (one, other))
    left, right = writer.variables, twin.variables
    jax.tree.map(lambda leaf, same: np.testing.assert_allclose(leaf, same, rtol=1e-3, atol=2e-5), left, right)
    before = jax.tree.leaves(captioning._initialise(writer.model, config))
    moved = [np.abs(leaf - start).max() for leaf, start in zip(jax.tree.leaves(left), before, strict=True)]
    assert max(moved) > 0.05
    assert read(one)["test/perplexity"] == pytest.approx(read(other)["test/perplexity"], rel=1e-3)


@pytest.mark.slow
def test_tfds_and_coco(tmp_path: Path, capfd: Captured) -> None:
    """Prepared by another process, because the builder belongs to no package."""
    program = REPOSITORY / "tests" / "data" / "tiny_captions.py"
    subprocess.run([sys.executable, str(program), str(tmp_path)], check=True, capture_output=True)
    source = ["--data.source", "tfds", "--data.path", str(tmp_path), "--data.name", "tiny_captions"]
    quick = "--reward.epochs 0 --training.epochs 1 --data.min-count 1 --decoding.method greedy --report-samples 2"
    run = tmp_path / "run"
    command = ["train", "captioning", "--output", str(run), *source, *SMALL, *CAPTIONER, *quick.split()]
    assert main([*command, "--json"]) == 0
    output = capfd.readouterr().out
    assert json.loads(output)["test/images"] == 2.0
    assert main(["evaluate", str(run), "--data.split", "all", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["all/images"] == 7.0
    coco = write_coco(tmp_path / "coco")
    assert main(["evaluate", str(run), "--data.source", "coco", "--data.path", str(coco), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["test/images"] == 4.0
    assert main(["evaluate", str(run), "--data.name", "tiny_captoins"]) == 2
    assert "expected the name of a data set; got 'tiny_captoins'" in capfd.readouterr().err


def test_captions_in_training_and_in_evaluation() -> None:
    captions = ["a red dog", "a blue cat", "two birds"]
    tokenizer = data.train_tokenizer(captions, kind="word")
    config = DataConfig(image_size=16, max_length=6, captions_per_image=2)
    example = {"image": np.zeros((16, 16, 3), np.uint8), "captions": captions}
    straight = CaptionTransform(tokenizer, config, training=False)(example, np.random.default_rng(0))
    assert (straight["image"].shape, straight["text"].shape) == ((16, 16, 3), (2, 6))
    assert [tokenizer.decode(row) for row in straight["text"]] == captions[:2]
    train = CaptionTransform(tokenizer, config, training=True)
    seen = {tokenizer.decode(row) for seed in range(9) for row in train(example, np.random.default_rng(seed))["text"]}
    assert seen == set(captions)
    one = CaptionTransform(tokenizer, config, training=True)(
        {**example, "captions": captions[:1]}, np.random.default_rng(0)
    )
    assert one["text"][0].tolist() == straight["text"][0].tolist()
    assert not one["text"][1].any()


def test_only_its_own_runs(tmp_path: Path) -> None:
    header = {"format": 1, "recipe": "classification", "config": {}}
    (tmp_path / "config.json").write_text(json.dumps(header))
    with pytest.raises(
        InputError, match=r"must be a run of captioning; it is one of classification\. Give another run"
    ):
        captioning.load(tmp_path)
