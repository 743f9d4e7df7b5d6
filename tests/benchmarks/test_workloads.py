"""Workloads: their arithmetic, names and options."""

import numpy as np
import pytest

from fusionjax.benchmarks.models import make_workloads
from fusionjax.benchmarks.options import ModelSizes, ScalingOptions
from fusionjax.benchmarks.plain import main
from fusionjax.benchmarks.results import intensity
from fusionjax.benchmarks.scaling import make_series
from fusionjax.benchmarks.workloads import KINDS, Decode, Depthwise, Fusion, Recurrent, VitBlock, from_json, to_json
from fusionjax.errors import InputError


@pytest.mark.parametrize("kind", ["fusion", "recurrent", "vit-block", "depthwise", "decode"])
def test_survives_the_way_to_a_worker(kind: str) -> None:
    workload = KINDS[kind](**{"cell": "gru"} if kind == "recurrent" else {"model": "lstm"} if kind == "decode" else {})
    assert from_json(to_json(workload)) == workload


def test_the_sizes_of_the_fusion_model() -> None:
    assert Fusion().image_features == 86_528
    # About 0.92 GFLOP of an image and 0.49 of a text.
    assert Fusion(batch_size=1, part="image").flops() == pytest.approx(0.92e9, rel=0.02)
    assert Fusion(batch_size=1, part="text").flops() == pytest.approx(0.49e9, rel=0.05)
    assert Fusion(train=True).weights()["classes/kernel"].shape == (96_528, 10)
    tokens = Fusion(part="text").inputs()["text"]
    assert tokens.shape == (32, 100) and tokens.min() >= 1 and tokens.max() <= 9_999


@pytest.mark.parametrize(("model", "millions"), [("lstm", 14.45), ("transformer", 27.08)])
def test_the_sizes_of_the_captioners(model: str, millions: float) -> None:
    weights = Decode(model=model).weights()
    assert sum(array.size for array in weights.values()) / 1e6 == pytest.approx(millions, abs=0.005)
    # No contender may stop early.
    assert weights["logits/bias"][2] == -30 == weights["logits/bias"].min()


def test_operations() -> None:
    assert Recurrent(cell="gru", batch_size=2, length=3, features=5).flops() == 2 * 3 * 2 * 2 * 5 * 15
    assert Depthwise(batch_size=2, image_size=4, channels=3, kernel_size=5, train=True).flops() == 3 * 2 * 16 * 3 * 50
    block = VitBlock(batch_size=2, length=3, width=4, num_heads=2)
    assert block.flops() == 2 * (3 * 2 * 12 * 16 + 2 * 2 * 3 * 3 * 4)
    assert intensity(Depthwise(batch_size=1, image_size=4, channels=3)) == 2 * 9 * 16 * 3 / (4 * (16 * 3 + 9 * 3))


def test_weights_are_the_same_in_every_process() -> None:
    first, second = (VitBlock().weights() for _ in range(2))
    assert all(np.array_equal(first[path], second[path]) for path in first)


def test_the_options_name_workloads() -> None:
    names = ["fusion", "lstm", "gru", "elman", "vit-block", "depthwise"]
    workloads = [one for name in names for one in make_workloads(name, ModelSizes(parts="image"), train=True)]
    assert [(one.name, one.batch_size) for one in workloads] == [
        ("fusion-image-train", 32), ("lstm-train", 32), ("gru-train", 32), ("elman-train", 32),
        ("vit-block-train", 1), ("vit-block-train", 8), ("vit-block-train", 32),
        ("depthwise-3x3-train", 32), ("depthwise-3x3-train", 32), ("depthwise-5x5-train", 32),
        ("depthwise-5x5-train", 32), ("depthwise-3x3-train", 32),
    ]  # fmt: skip


def test_series_grow() -> None:
    series = make_series(ScalingOptions())
    assert [one.batch_size for one in series["batch"]] == [1, 8, 32, 128, 512]
    assert [one.length for one in series["length"]] == [16, 64, 256, 1024, 4096]
    assert [one.features for one in series["features"]] == [128, 256, 512, 1024, 2048]


def test_sizes_below_one() -> None:
    with pytest.raises(InputError, match=r"batch_size must be above 0; got 0. Give a larger one."):
        Fusion(batch_size=0)


def test_the_scripts_refuse_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main("scaling", ["--axes", "height"]) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors == "scaling.py: the axes must be among batch, length, features; got 'height'. Choose of these.\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("decode --models gpt", "the models must be among lstm, transformer; got 'gpt'. Choose of these."),
        ("decode --beams 0", "beams must be at least 1; got 0."),
        ("decode --features 12", "features must be a multiple of the 8 heads; got 12. 512 is usual."),
        ("decode --vocab-size 4 --beams 5", "vocab_size must be at least 5; got 4. A search needs words to choose"),
        ("scaling --lengths 16 0", "lengths must be at least 1; got 0."),
        ("forward --inference int8", "the inference options must be among folded, folded+bfloat16; got 'int8'. Choose"),
        ("train --inference folded", "inference options are for forward passes; got folded. Use bench forward."),
    ],
)
def test_bad_sizes(capfd: pytest.CaptureFixture[str], words: str, message: str) -> None:
    command, *rest = words.split()
    assert main(command, rest) == 2
    assert message in capfd.readouterr().err
