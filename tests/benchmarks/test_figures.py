"""Figures: which are drawn, and from what."""

from pathlib import Path

import pytest

from fusionjax.benchmarks.figures import draw
from fusionjax.benchmarks.record import Record, figures_of
from fusionjax.benchmarks.results import Ceilings, Results, group_key
from fusionjax.errors import InputError


def record(contender: str, batch: int, median: float, error: str | None = None) -> Record:
    figures = {} if error else figures_of([median], first_ms=50.0, batch_size=batch, flops=1e9)
    shapes = {"image": [batch, 30, 30, 3]}
    return Record(contender=contender, workload="sum", dtype="float32", shapes=shapes, error=error, **figures)


@pytest.fixture
def results() -> Results:
    records = [record("fusionjax", 1, 2.0), record("torch", 1, 4.0), record("flax", 1, 0, error="missing: flax")]
    records += [record("fusionjax", 8, 8.0), record("torch", 8, 7.0), record("flax", 8, 0, error="missing: flax")]
    return Results(
        records=records,
        ceilings=Ceilings(tflops=0.5, gb_per_second=10.0),
        intensities={group_key(records[0]): 30.0, group_key(records[3]): 90.0},
        series={"batch": records},
    )


def test_draws_ratios_roofline_and_curves(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = draw(results, str(tmp_path / "new" / "folder"), "scaling")
    assert [file.name for file in files] == ["scaling-ratios.png", "scaling-roofline.png", "scaling-batch.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_draws_nothing_of_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert draw(Results(records=[record("fusionjax", 1, 2.0)]), str(tmp_path), "forward") == []


def test_a_folder_that_cannot_be(results: Results) -> None:
    with pytest.raises(InputError, match=r"--plot must be a folder to write to; got /proc/x \(No such file"):
        draw(results, "/proc/x", "forward")
