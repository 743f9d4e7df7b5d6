"""Models compiled for TPUs: the arithmetic, the options, and a real compilation where libtpu is installed."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fusionjax.benchmarks.ahead import AheadRecord, bench_ahead, figures_of_compiled
from fusionjax.benchmarks.chips import CHIPS, Chip, chip_of, open_topology
from fusionjax.benchmarks.hlo import LoopCounts
from fusionjax.benchmarks.options import AheadOptions
from fusionjax.benchmarks.report import ahead_table
from fusionjax.cli import main
from fusionjax.errors import InputError
from tests.benchmarks.test_hlo import KNOWN

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed; make test-tpu installs it"
)
TINY = {"image_size": 30, "length": 5, "vocab_size": 11, "features": 128, "batch_sizes": (8,)}
CHIP = Chip(tflops=2.0, gb_per_second=500.0, memory_gb=16.0, products_per_cycle=1000)


def test_the_floor_is_the_longer_of_arithmetic_and_memory() -> None:
    assert CHIP.floor_ms(flops=4e9, memory_bytes=5e8) == 2.0
    assert CHIP.floor_ms(flops=4e9, memory_bytes=2e9) == 4.0
    assert CHIP.gigahertz == 1.0


def test_the_published_figures() -> None:
    assert [(chip.tflops, chip.gb_per_second, chip.memory_gb) for chip in CHIPS.values()] == [
        (197, 819, 16), (918, 1640, 32),
    ]  # fmt: skip
    assert chip_of("v6e:4x4") is CHIPS["v6e"]


@pytest.mark.parametrize("seconds", [0.003, -20.0])
def test_figures_of_a_program(seconds: float) -> None:
    sizes = {"argument": 40e6, "output": 30e6, "alias": 20e6, "temp": 7e6}
    compiled = SimpleNamespace(
        memory_analysis=lambda: SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()}),
        cost_analysis=lambda: {"flops": 3e9, "bytes accessed": 11e6, "optimal_seconds": seconds},
        as_text=lambda: KNOWN,
    )
    found = figures_of_compiled(compiled, CHIP, needed_flops=6e9)
    assert found == {
        "argument_mb": 40, "output_mb": 30, "temporary_mb": 7, "peak_memory_mb": 57, "needed_gflop": 6,
        "counted_gflop": 3, "accessed_mb": 11, "floor_ms": 3.0, "xla_ms": 3.0 if seconds > 0 else None,
        # 7936 cycles at 10^9 a second.
        "estimated_ms": 0.007936, "in_loops": LoopCounts(1, 1, 1, 1),
    }  # fmt: skip


def test_the_table_shows_figures_and_reasons() -> None:
    common = {"contender": "fusionjax", "workload": "sum", "dtype": "float32", "shapes": {"x": [3]}}
    good = AheadRecord(topology="v5e:2x2", estimated_ms=2.5, in_loops=LoopCounts(1, 2, 3, 4), **common)
    bad = AheadRecord(topology="v6e:2x2", error="JaxRuntimeError: out of memory", **common)
    lines = ahead_table([good, bad]).splitlines()
    assert lines[0] == "sum, x 3, float32"
    assert lines[-1] == "fusionjax, v6e:2x2: JaxRuntimeError: out of memory"
    assert next(line for line in lines if "v5e" in line).endswith("2.500│      1 2 3 4│")
    assert max(map(len, lines)) <= 132


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--topologies v4:2x2",
            "a topology is a chip of v5e, v6e and its layout; got 'v4:2x2'. An example is v5e:2x2.",
        ),
        ("--topologies v5e", "a topology is a chip of v5e, v6e and its layout; got 'v5e'."),
        (
            "--workloads fusion-eval",
            "the workloads must be among fusion, lstm, gru, elman, vit-block, depthwise, fusion",
        ),
        ("--contenders torch", "the contenders must be among fusionjax, flax; got 'torch'. Choose of these."),
        ("--batch-sizes 0", "batch_sizes must be at least 1; got 0. Give a larger one."),
        ("--save /none/x.json", "--save must be a file in a folder that is there; got '/none/x.json'."),
    ],
)
def test_bad_options_are_one_line(capfd: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert main(["bench", "ahead", *words.split(), "--json"]) == 2
    output, errors = capfd.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert message in errors


def test_without_libtpu_the_message_says_what_brings_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert main(["bench", "ahead"]) == 2
    assert "needs the module 'libtpu', which is not installed; run: pip install \"fusionjax[tpu]\"" in (
        capfd.readouterr().err
    )


@needs_libtpu
def test_training_steps_compile_for_chips_that_are_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    words = "--image-size 30 --length 5 --vocab-size 11 --features 128 --batch-sizes 8 --workloads fusion-train lstm"
    assert main(["bench", "ahead", *words.split(), "--topologies", "v5e:2x2", "--json"]) == 0
    train, *layers = json.loads(capfd.readouterr().out)
    assert [one["workload"] for one in layers] == ["lstm-forward", "lstm-train"]
    for record in (train, *layers):
        assert record["error"] is None
        assert record["device"] == "TPU v5 lite, 4 chips, not there"
        assert record["samples_ms"] == [] and record["compile_ms"] > 0
        assert record["estimated_ms"] > record["floor_ms"] > 0
        assert record["in_loops"]["gathers"] == record["in_loops"]["transposes"] == 0
    # Parameters and both of Adam's averages are in the arguments, and in the outputs, which take their place.
    parameters = 4 * (3 * 9 * 32 + 32 + 32 * 9 * 64 + 64 + 64 * 9 * 128 + 128 + (128 + 500) * 10) / 1e6
    assert train["argument_mb"] > 3 * parameters
    assert train["peak_memory_mb"] < train["argument_mb"] + train["output_mb"] + train["temporary_mb"]


@needs_libtpu
def test_a_batch_must_split_and_a_topology_exist() -> None:
    with pytest.raises(InputError, match=r"divisible by the 4 chips of v5e:2x2; got 6. Change --batch-sizes or"):
        bench_ahead(AheadOptions(**{**TINY, "batch_sizes": (6,)}, topologies=("v5e:2x2",)))
    with pytest.raises(InputError, match="must be one that libtpu knows; got 'v5e:3x5': "):
        open_topology("v5e:3x5")


@needs_libtpu
def test_a_mesh_has_every_chip() -> None:
    mesh = open_topology("v6e:2x4")
    assert mesh.shape == {"data": 8}
    assert len({device.id for device in np.ravel(mesh.devices)}) == 8
