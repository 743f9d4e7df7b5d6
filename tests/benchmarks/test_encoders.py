"""The published encoders: with the same folder of weights every contender computes the same."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusionjax import pretrained
from fusionjax.benchmarks.contender import ContenderError
from fusionjax.benchmarks.encoders import bench_encoders, make_encoder
from fusionjax.benchmarks.framework import load_framework
from fusionjax.benchmarks.options import ENCODERS, EncoderOptions
from fusionjax.benchmarks.plain import main
from fusionjax.benchmarks.run import compare_outputs, open_contenders
from fusionjax.benchmarks.workloads import Encoder, from_json, to_json
from fusionjax.pretrained import Published, find_published

Make = Callable[..., Encoder]


def shrink(name: str, **changes: Any) -> Published:
    """The published size at 32x32 pixels, with other fields of its sizes, and of its towers alike."""
    published = find_published(name)
    sizes = published.sizes
    if "image" in changes:
        sizes = dataclasses.replace(sizes, image=dataclasses.replace(sizes.image, **changes.pop("image")))
        sizes = dataclasses.replace(sizes, text=dataclasses.replace(sizes.text, **changes.pop("text")))
    sizes = dataclasses.replace(sizes, **changes)
    return dataclasses.replace(published, sizes=sizes, image_size=32, length=getattr(sizes, "max_length", 0))


TOWER = {"features": 64, "num_layers": 2, "num_heads": 1, "mlp_features": 256}
PAIR = {"patch_size": 8, "image_size": 32, "vocab_size": 29, "max_length": 7, "features": 64}
TINY = {
    "resnet": shrink("resnet50", stage_sizes=(1, 2), features=(6, 10), stem_features=5, num_classes=13),
    "efficientnet-lite": shrink(
        "efficientnet-lite0",
        stage_sizes=(1, 2, 1),
        features=(4, 6, 10),
        stem_features=5,
        head_features=17,
        num_classes=13,
    ),
    "vit": shrink(
        "vit-b16",
        features=128,
        num_layers=2,
        num_heads=2,
        mlp_features=200,
        patch_size=8,
        image_size=32,
        num_classes=13,
    ),
    "clip": shrink(
        "clip-vit-b32", image={**TOWER, "features": 128, "num_heads": 2, "mlp_features": 512}, text=TOWER, **PAIR
    ),
    "siglip": shrink("siglip-b16", image=TOWER, text=TOWER, **PAIR),
}
WAYS = [(family, train) for family in TINY for train in (False, True) if family not in ("clip", "siglip") or not train]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda family, **changes: dataclasses.replace(
        make_encoder(TINY[family], tmp_path / family), batch_size=3, **changes
    )


def outputs(contender: str, workload: Encoder) -> list[np.ndarray]:
    """Two calls, so that of a training the first update counts, and the statistics that it left."""
    framework = load_framework(contender)
    run = framework.build(workload)
    return [array for _ in range(2) for array in framework.fetch(run())]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "train"), WAYS)
def test_torch_agrees(make: Make, family: str, train: bool) -> None:
    pytest.importorskip("torch")
    if family != "efficientnet-lite":
        pytest.importorskip("transformers")
    workload = make(family, train=train)
    expected = outputs("fusionjax", workload)
    assert [one.shape for one in expected] == [() if train else (3, 3 if workload.length else 13)] * 2
    # A step changes the loss; the logits of a forward pass differ from image to image.
    assert np.ptp(np.stack(expected), axis=0).max() > 1e-3 if train else np.std(expected[0], axis=0).max() > 1e-3
    for found, each in zip(outputs("torch", workload), expected, strict=True):
        np.testing.assert_allclose(found, each, rtol=1e-4, atol=1e-4 * np.abs(each).max())


@pytest.mark.parametrize("contender", ["keras-tensorflow", "keras-jax", "jimm"])
def test_other_peers_agree(make: Make, contender: str, tmp_path: Path) -> None:
    is_jimm = contender == "jimm"
    python = os.environ.get("FUSIONJAX_BENCH_PYTHON_JIMM" if is_jimm else "FUSIONJAX_BENCH_PYTHON_KERAS")
    with open_contenders({"fusionjax": None, contender: python}) as (ours, peer):
        try:
            peer.start()
        except ContenderError as error:
            pytest.skip(str(error))
        families = ("vit", "clip", "siglip") if is_jimm else ("resnet", "efficientnet-lite", "vit")
        for family, train in WAYS:
            workload = make(family, train=train)
            if family not in families or (is_jimm and train):
                with pytest.raises(ContenderError, match=f"has no workload {workload.name}"):
                    peer.prepare(workload, tmp_path / "peer.npz")
                continue
            ours.prepare(workload, tmp_path / "ours.npz")
            peer.prepare(workload, tmp_path / "peer.npz")
            assert compare_outputs([tmp_path / "ours.npz", tmp_path / "peer.npz"])[1] < 1e-4, workload


def test_a_workload_is_what_was_saved(make: Make) -> None:
    workload = make("clip")
    assert from_json(to_json(workload)) == workload
    assert (workload.name, workload.num_classes, workload.vocab_size) == ("clip-vit-b32-forward", 0, 29)
    loaded = pretrained.load(workload.folder)
    assert loaded.sizes == dataclasses.replace(TINY["clip"].sizes, end_id=None)
    assert tuple(loaded.model.image_encoder.mean) == workload.mean
    # Products of the image's 17 and the text's 7 places, and the two projections.
    blocks = [12 * width**2 + 2 * places * width for width, places in ((128, 17), (64, 7))]
    products = 2 * 17 * blocks[0] + 2 * 7 * blocks[1] + 16 * 192 * 128 + 128 * 64 + 64 * 64
    assert workload.flops() == 2 * 3 * products
    text = workload.inputs()["text"]
    assert text.shape == (3, 7) and (text == 28).sum(1).tolist() == [1, 1, 1]
    image, normal = workload.inputs()["image"], workload.normal_inputs()["image"]
    assert image.shape == (3, 32, 32, 3) and image.min() >= 0 and image.max() < 1
    np.testing.assert_allclose(normal, (image - workload.mean) / workload.std, rtol=1e-5, atol=1e-6)


def test_the_options_name_published_sizes(capfd: pytest.CaptureFixture[str]) -> None:
    assert {"resnet18", "efficientnet-lite4", "vit-l16", "convnext-t", "clip-vit-l14", "siglip-b16"} <= set(ENCODERS)
    assert not {"alexnet", "vgg16", "bert-base"} & set(ENCODERS)
    assert main("encoders", ["--models", "alexnet"]) == 2
    assert "the models must be among resnet18, " in capfd.readouterr().err
    assert main("encoders", ["--batch-sizes", "0"]) == 2
    assert "batch_sizes must be at least 1; got 0." in capfd.readouterr().err


def test_the_table_measures_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("fusionjax.benchmarks.encoders.published_table", lambda: "| size |")
    assert main("encoders", ["--table"]) == 0
    assert capfd.readouterr().out == "| size |\n"


def test_which_workloads_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "fusionjax.benchmarks.encoders"
    measured: list[Any] = []

    def measure_all(workloads: list[Any], options: Any, dtype: str) -> Any:
        measured.extend((one.model, one.train, one.batch_size, one.dtype) for one in workloads)
        return bench_encoders(EncoderOptions(table=True))

    monkeypatch.setattr(f"{module}.published_table", lambda: "")
    monkeypatch.setattr(f"{module}.find_published", lambda name: TINY[{"resnet50": "resnet"}.get(name, "clip")])
    monkeypatch.setattr(f"{module}.measure_all", measure_all)
    results = bench_encoders(EncoderOptions(models=("resnet50", "clip-vit-b32"), batch_sizes=(1, 5), dtype="bfloat16"))
    ways = [("resnet50", False), ("resnet50", True), ("clip-vit-b32", False)]
    assert measured == [(*way, batch_size, "bfloat16") for way in ways for batch_size in (1, 5)]
    assert results.notes == ["clip-vit-b32: forward passes only"]
