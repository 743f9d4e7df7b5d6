"""`fusionjax bench`."""

import json
import statistics

import jax
import pytest

from fusionjax.cli import bench, main

SIZES = "--batch-size 3 --image-size 30 --length 5 --vocab-size 11 --features 8 --repeats 3 --peak-size 64"
TINY = SIZES.split()
FIELDS = """contender workload implementation device versions git_revision dtype shapes compile_ms samples_ms median_ms
    spread_ms examples_per_second achieved_tflops share_of_measured_peak peak_memory_mb"""


def test_record_has_every_field_and_they_agree(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "forward", *TINY, "--json"]) == 0
    (record,) = json.loads(capfd.readouterr().out)
    assert set(record) == set(FIELDS.split())
    assert record["shapes"] == {"image": [3, 30, 30, 3], "text": [3, 5]}
    assert (record["dtype"], record["workload"]) == ("float32", "fusion-forward")
    assert record["versions"]["jax"] == jax.__version__
    samples = record["samples_ms"]
    assert len(samples) == 3
    assert record["median_ms"] == statistics.median(samples)
    assert record["spread_ms"] == max(samples) - min(samples)
    assert record["examples_per_second"] == pytest.approx(3000 / record["median_ms"])
    assert record["achieved_tflops"] > 0
    assert record["share_of_measured_peak"] > 0
    # The words' embeddings and the dense layer after the flattened image are in memory at the least.
    assert record["peak_memory_mb"] > (11 * 8 + 2 * 2 * 128 * 100) * 4 / 1e6
    assert record["git_revision"] is None or len(record["git_revision"]) == 40


def test_text_in_bfloat16(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "forward", *TINY, "--dtype", "bfloat16"]) == 0
    output = capfd.readouterr().out
    assert output.startswith("fusion-forward: ")
    assert "of the measured peak" in output


def test_no_revision_outside_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "__file__", "/usr/lib/python3/fusionjax/cli/bench.py")
    assert bench._git_revision() is None
