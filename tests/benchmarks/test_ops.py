"""`fusionjax bench ops`: implementations in turn, random shapes, the table of choices."""

import dataclasses
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
from fusionjax.benchmarks.record import Record
from fusionjax.benchmarks.tune import best_choices, write_choices
from fusionjax.cli import main
from fusionjax.ops import choices, implementations
from fusionjax.ops.choices import Choice

POOL = Case(op="max_pool2d", shapes={"images": (2, 6, 7, 3)})
CONV = op_cases._conv((2, 7, 6, 3), (3, 3, 3, 5))


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "SAMPLE_MS", 0.01)
    monkeypatch.setattr(ops, "list_cases", lambda: [POOL, CONV])


# The last of each operation and settings
CASES = {f"{case.op} {case.settings}": case for case in list_cases()}.values()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{next(iter(case.shapes.values()))}")
def test_every_case_is_what_plain_jax_computes(case: Case) -> None:
    """Shapes shrunk, for speed; their meaning stays."""
    small = Case(op=case.op, shapes=shrink(case), settings=case.settings)
    arrays = small.arrays("float32")
    expected = small.plain()(arrays)
    np.testing.assert_allclose(small.ours(None)(arrays), expected, rtol=1e-4, atol=1e-4)
    assert not case.implementations() or "xla" in case.implementations()


def shrink(case: Case) -> dict[str, tuple[int, ...]]:
    """Makes every size small, and those alike that were alike; groups must go on to divide the channels."""
    if "groups" in case.settings:
        return case.shapes
    size = {number: min(number, 6 + number % 7) for shape in case.shapes.values() for number in shape}
    if "recurrent_kernel" in case.shapes:
        features, width = case.shapes["recurrent_kernel"]
        size |= {features: 5, width: 5 * width // features}
    return {name: tuple(size[number] for number in shape) for name, shape in case.shapes.items()}


def test_random_cases_run_and_are_those_of_the_seed() -> None:
    cases = draw_cases(40, seed=1, largest=12)
    assert cases == draw_cases(40, seed=1, largest=12) != draw_cases(40, seed=2, largest=12)
    assert {case.op for case in cases} == {
        "conv1d",
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
    pooled = [record for record in records if record["workload"] == "max_pool2d-train, 2x2"]
    names = [record["implementation"] for record in pooled]
    assert names[:2] == ["plain", "default"] and set(names[2:]) == set(POOL.implementations())
    assert [record["contender"] for record in pooled[:2]] == ["flax", "fusionjax"]
    assert all(len(record["samples_ms"]) == 2 and record["error"] is None for record in pooled)
    assert records[-1]["workload"].endswith(", random")
    rows = json.loads(file.read_text())
    assert [(row["op"], row["shape_class"]) for row in rows] == [
        (case.op, case.selection("float32").shape_class) for case in (CONV, POOL)
    ]
    assert all(row["platform"] == "cpu" and row["jax"] == ".".join(jax.__version__.split(".")[:2]) for row in rows)
    assert rows[1]["implementation"] in POOL.implementations()


def test_the_table_and_the_worst_ratios(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--repeats", "1", "--random-shapes", "1", "--largest", "8", "--implementations", "xla", "--ops", "conv2d"]
    assert main(["bench", "ops", *words]) == 0
    output = capfd.readouterr().out
    assert "max_pool2d-train, 2x2" not in output
    assert "worst ratio to plain Flax over the shape classes: " in output
    assert "worst ratio to plain Flax over the random shapes: " in output


def test_the_table_in_force_is_printed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    row = Choice("cpu", choices.jax_minor_version(), "max_pool2d", "2x2", "float32", "codes", 2.5)
    monkeypatch.setattr(implementations, "read_choices", lambda: {("max_pool2d", "2x2", "float32"): (row,)})
    assert main(["bench", "ops", "--repeats", "1", "--random-shapes", "0", "--implementations", "xla"]) == 0
    output = capfd.readouterr().out
    assert "max_pool2d, 2x2, float32: codes (measured, 2.50 times as fast as plain Flax)" in output
    assert "conv2d, 3x3, few channels, float32: taps (by rule, not measured)" in output
    assert f"To measure them anew: fusionjax bench ops --tune {choices.choices_path()}" in output


ROW = Choice("cpu", "0.10", "conv2d", "strides, some channels", "float32", "taps", 1.5)


def test_a_second_tuning_keeps_what_it_did_not_measure(tmp_path: Path) -> None:
    path = str(tmp_path / "choices.json")
    others = [ROW._replace(**{field: f"a {field}"}) for field in ("platform", "jax", "op", "dtype")]
    write_choices(path, [*others, ROW, ROW._replace(shape_class="gone")])
    write_choices(path, [ROW._replace(implementation="xla", gain=1.0)])
    rows = [Choice(**row) for row in json.loads(Path(path).read_text())]
    assert set(rows) == {*others, ROW._replace(implementation="xla", gain=1.0)} and len(rows) == 5


@pytest.mark.parametrize(
    ("times", "chosen", "gain"),
    [
        ({"plain": (2, 8), "xla": (2, 8), "taps": (2.1, 2.4), "winograd": (1, 6)}, "taps", 1.78),
        ({"plain": (2, 8), "xla": (2, 8), "taps": (2.3, 2.4), "winograd": (1, 6)}, "winograd", 1.63),  # taps loses
        ({"plain": (2, 8), "xla": (2, 8), "taps": (1, 8.9), "winograd": (1, 6)}, "winograd", 1.63),  # and here
        ({"plain": (2, 8), "xla": (2, 8), "taps": (2, 7.8)}, "xla", 1.0),  # hardly a gain
        ({"plain": (2, 8), "xla": (4, 4), "taps": (2.4, 8)}, "taps", 0.91),  # both lose, but it less
    ],
)
def test_a_choice_serves_both_directions(times: dict[str, tuple[float, float]], chosen: str, gain: float) -> None:
    rows = best_choices(_records(times, 3), "cpu")
    assert rows == [ROW._replace(implementation=chosen, gain=pytest.approx(gain, 0.01))]


def _records(times: dict[str, tuple[float, float]], size: int) -> list[Record]:
    return [
        Record(
            contender="fusionjax",
            implementation=name,
            samples_ms=[each, 9 * each],
            dtype="float32",
            shapes={"images": [size]},
            workload=f"conv2d-{direction}, strides, some channels",
            versions={"jax": "0.10.2"},
        )
        for name, pair in times.items()
        for direction, each in zip(("forward", "train"), pair, strict=True)
    ]


def test_a_choice_serves_all_cases_of_a_class() -> None:
    first = {"plain": (2, 8), "xla": (2, 8), "taps": (1, 4)}
    second = {"plain": (1, 1), "xla": (1, 1), "taps": (0.2, 0.2)}
    assert best_choices([*_records(first, 3), *_records(second, 5)], "cpu")[0].gain == pytest.approx(10**0.5, 0.01)
    for other in ({"plain": (1, 1), "xla": (1, 1), "taps": (0.5, 1.2)}, {"plain": (1, 1), "xla": (1, 1)}):
        assert best_choices([*_records(first, 3), *_records(other, 5)], "cpu")[0].implementation == "xla"
    assert best_choices(_records({"plain": (1, 4)}, 3), "cpu") == []
    assert best_choices(_records(first, 3)[::2], "cpu") == []  # one direction only


def test_what_is_slow_in_loops_is_never_chosen_on_a_cpu() -> None:
    times = {"plain": (2, 8), "xla": (2, 8), "direct": (1, 4), "stacked": (0.5, 2)}
    records = [
        dataclasses.replace(record, workload=record.workload.replace("conv2d", "conv2d_relu_max_pool"))
        for record in _records(times, 3)
    ]
    assert [best_choices(records, platform)[0].implementation for platform in ("cpu", "tpu")] == ["direct", "stacked"]


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
