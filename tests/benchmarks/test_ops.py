"""`fusionjax bench ops`: implementations in turn, random shapes, the table of choices."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.benchmarks import op_cases, ops
from fusionjax.benchmarks.op_cases import Case, draw_cases, list_cases
from fusionjax.benchmarks.options import OpsOptions
from fusionjax.benchmarks.tune import best_choices
from fusionjax.cli import main

POOL = Case(op="max_pool2d", shape_class="tiny", shapes={"images": (2, 6, 7, 3)})
CONV = op_cases._conv("tiny", (2, 7, 6, 3), (3, 3, 3, 5))


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "SAMPLE_MS", 0.01)
    monkeypatch.setattr(ops, "list_cases", lambda: [POOL, CONV])


@pytest.mark.parametrize("case", list_cases(), ids=lambda case: f"{case.op}-{case.shape_class}")
def test_every_case_is_what_plain_jax_computes(case: Case) -> None:
    """Shapes shrunk, for speed; their meaning stays."""
    small = Case(op=case.op, shape_class="", shapes=shrink(case), settings=case.settings)
    arrays = small.arrays("float32")
    expected = small.plain()(arrays)
    np.testing.assert_allclose(small.ours(None)(arrays), expected, rtol=1e-4, atol=1e-4)
    assert not case.implementations() or "xla" in case.implementations()


def shrink(case: Case) -> dict[str, tuple[int, ...]]:
    """Makes every size small, and those alike that were alike."""
    size = {number: min(number, 4 + number % 7) for shape in case.shapes.values() for number in shape}
    if "recurrent_kernel" in case.shapes:
        features, width = case.shapes["recurrent_kernel"]
        size |= {features: 5, width: 5 * width // features}
    return {name: tuple(size[number] for number in shape) for name, shape in case.shapes.items()}


def test_random_cases_run_and_are_those_of_the_seed() -> None:
    cases = draw_cases(40, seed=1, largest=12)
    assert cases == draw_cases(40, seed=1, largest=12) != draw_cases(40, seed=2, largest=12)
    assert {case.op for case in cases} == {
        "conv2d",
        "conv2d_relu_max_pool",
        "max_pool2d",
        "lstm",
        "gru",
        "elman",
        "attention",
    }
    for case in cases:
        structs = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in case.shapes.items()}
        ours, plain = (jax.eval_shape(function, structs) for function in (case.ours(None), case.plain()))
        assert ours.shape == plain.shape


def test_records_of_every_implementation(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    words = [
        "--repeats",
        "2",
        "--random-shapes",
        "1",
        "--largest",
        "8",
        "--tune",
        str(file),
        "--save",
        str(tmp_path / "ops.json"),
    ]
    assert main(["bench", "ops", *words, "--json"]) == 0
    records = json.loads(capfd.readouterr().out)
    saved = json.loads((tmp_path / "ops.json").read_text())
    assert saved["records"] == records and saved["machine"]["cores"] >= 1
    pooled = [record for record in records if record["workload"] == "max_pool2d-train, tiny"]
    names = [record["implementation"] for record in pooled]
    assert names[:2] == ["plain", "default"] and set(names[2:]) == set(POOL.implementations())
    assert [record["contender"] for record in pooled[:2]] == ["flax", "fusionjax"]
    assert all(len(record["samples_ms"]) == 2 and record["error"] is None for record in pooled)
    assert records[-1]["workload"].endswith(", random")
    rows = json.loads(file.read_text())
    assert [(row["op"], row["direction"]) for row in rows] == [
        (op, direction) for op in ("max_pool2d", "conv2d") for direction in ("forward", "train")
    ]
    assert all(row["platform"] == "cpu" and row["jax"] == ".".join(jax.__version__.split(".")[:2]) for row in rows)
    assert rows[0]["implementation"] in POOL.implementations()


def test_the_table_and_the_worst_ratios(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--repeats", "1", "--random-shapes", "1", "--largest", "8", "--implementations", "xla", "--ops", "conv2d"]
    assert main(["bench", "ops", *words]) == 0
    output = capfd.readouterr().out
    assert "max_pool2d-train, tiny" not in output
    assert "worst ratio to plain Flax over the shape classes: " in output
    assert "worst ratio to plain Flax over the random shapes: " in output


def test_a_second_tuning_keeps_what_others_measured(tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    other = {"platform": "tpu", "jax": "0.10", "op": "conv2d", "dtype": "float32"}
    file.write_text(json.dumps([other]))
    for _ in range(2):
        ops.bench_ops(OpsOptions(ops=("max_pool2d",), repeats=1, random_shapes=0, tune=str(file)))
        rows = json.loads(file.read_text())
        assert rows[0] == other and len(rows) == 3


def test_what_cannot_serve_or_computes_otherwise_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def ours(self: Case, implementation: str | None) -> Any:
        def run(arrays: Any) -> Any:
            if implementation == "xla":
                raise NotImplementedError("it needs a TPU")
            return self.plain()(arrays) + 1

        return run

    monkeypatch.setattr(Case, "ours", ours)
    monkeypatch.setattr(Case, "implementations", lambda self: ["xla"])
    records = ops.bench_ops(OpsOptions(ops=("max_pool2d",), repeats=1, random_shapes=0)).records
    errors = {record.implementation: record.error for record in records if "forward" in record.workload}
    assert errors["plain"] is None and errors["xla"] == "it needs a TPU"
    assert "from those of plain Flax" in str(errors["default"])
    assert best_choices(records, "cpu") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--ops conv3d", "the ops must be among max_pool2d, conv2d; got 'conv3d'. Choose of these."),
        ("--implementations cuda", "the implementations must be among "),
        ("--random-shapes -1", "random_shapes must be at least 0; got -1. 0 measures the shape classes only."),
        ("--largest 7", "largest must be at least 8; got 7. Smaller ones measure the call alone."),
        ("--repeats 0", "repeats must be at least 1; got 0."),
        (
            "--tune /none/x.json",
            "--tune must be a file in a folder that is there; got '/none/x.json'. Make the folder.",
        ),
    ],
)
def test_bad_options_are_one_line(capfd: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert main(["bench", "ops", *words.split()]) == 2
    output, errors = capfd.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert message in errors
