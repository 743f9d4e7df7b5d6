"""Contenders sampled in turn, compared and recorded; failures kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusionjax.benchmarks import run
from fusionjax.benchmarks.contender import ContenderError
from fusionjax.benchmarks.report import table
from fusionjax.benchmarks.workloads import Fusion

WORKLOAD = Fusion(batch_size=2, part="text", length=3, vocab_size=5, features=7)


class Fake:
    """A contender that says what it is told, and notes whose turn it was."""

    def __init__(self, name: str, turns: list[str], output: float = 1.0, fails_at: str = "") -> None:
        self.name, self.versions, self.device = name, {name: "1"}, "cpu"
        self._turns, self._output, self._fails_at = turns, output, fails_at

    def prepare(self, workload: Any, path: Path) -> float:
        self._fail("prepare")
        np.savez(path, np.full(4, self._output, np.float32))
        return 70.0

    def sample(self) -> float:
        self._turns.append(self.name)
        self._fail("sample")
        return 10.0 * len(self._turns)

    def finish(self) -> float:
        self._fail("finish")
        return 12.5

    def _fail(self, where: str) -> None:
        if where == self._fails_at:
            raise ContenderError(f"no {where}")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PAUSE_SECONDS", 0)


def measure(*contenders: Any) -> list[Any]:
    return run.measure(WORKLOAD, contenders, repeats=3)


def test_in_turn_and_recorded() -> None:
    turns: list[str] = []
    records = measure(Fake("a", turns), Fake("b", turns), Fake("c", turns))
    assert "".join(turns) == "abcabcabc"
    first = records[0]
    assert first.samples_ms == [10.0, 40.0, 70.0]
    assert (first.median_ms, first.spread_ms, first.compile_ms, first.peak_memory_mb) == (40.0, 60.0, 30.0, 12.5)
    assert first.examples_per_second == 50.0
    # Two sentences of three steps: an LSTM and two products of attention, two dense layers.
    flops = 2 * 3 * 2 * (2 * 7 * 28 + 2 * 3 * 7 + 7 * 7 + 7 * 100)
    assert first.achieved_tflops == pytest.approx(flops / 0.04 / 1e12)
    assert first.with_peak(1e-6).share_of_measured_peak == pytest.approx(flops / 0.04 / 1e6)
    assert first.shapes == {"text": [2, 3]}
    assert [record.error for record in records] == [None] * 3


@pytest.mark.parametrize("where", ["prepare", "sample"])
def test_who_fails_has_a_record_without_figures(where: str) -> None:
    turns: list[str] = []
    good, bad = measure(Fake("good", turns), Fake("bad", turns, fails_at=where))
    assert (good.error, bad.error) == (None, f"no {where}")
    assert bad.with_peak(1.0) == bad
    assert (bad.samples_ms, bad.median_ms, bad.peak_memory_mb) == ([], None, None)
    assert "".join(turns).count("good") == 3


def test_wrong_outputs_are_named() -> None:
    turns: list[str] = []
    good, bad = measure(Fake("good", turns), Fake("bad", turns, output=1.5))
    assert (good.error, bad.error) == (None, "its outputs differ by 5.0e-01 from those of good")
    assert bad.median_ms is not None


def test_inference_options_are_named_as_implementations() -> None:
    turns: list[str] = []
    values = {"fusionjax": 1.0, "fusionjax:folded": 1.01, "fusionjax:folded+bfloat16": 1.01}
    good, folded, narrow = measure(*(Fake(name, turns, output) for name, output in values.items()))
    assert [one.contender for one in (good, folded, narrow)] == ["fusionjax"] * 3
    assert [one.implementation for one in (good, folded, narrow)] == ["default", "folded", "folded+bfloat16"]
    assert (good.difference, good.label, folded.label) == (0.0, "fusionjax", "fusionjax:folded")
    assert folded.difference == narrow.difference == pytest.approx(0.01)
    # Only what is marked as inexact may differ so much.
    assert folded.error == "its outputs differ by 1.0e-02 from those of fusionjax" and narrow.error is None
    lines = table([good, folded, narrow]).splitlines()
    assert lines[-1] == "fusionjax:folded+bfloat16: its outputs differ by 1.0e-02 from those of fusionjax"


def test_outputs_of_another_shape_differ(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.ones(3))
    np.savez(tmp_path / "b.npz", np.ones(4))
    assert run.compare_outputs([tmp_path / "a.npz", tmp_path / "b.npz"]) == [0.0, float("inf")]


def test_finishing_badly_is_an_error() -> None:
    (record,) = measure(Fake("a", [], fails_at="finish"))
    assert record.error == "no finish"
