"""`fusionjax bench`: options, the records as JSON, the table."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys

import jax
import pytest

from fusionjax.benchmarks.record import Record
from fusionjax.cli import main
from tests.recipes.tiny import REPOSITORY

SIZES = "--batch-sizes 3 --image-size 30 --length 5 --vocab-size 11 --features 8 --repeats 3 --peak-size 64"
TINY = SIZES.split()


@pytest.mark.slow
def test_records_have_every_field_and_agree(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "forward", *TINY, "--peers", "flax", "--json"]) == 0
    output, errors = capfd.readouterr()
    records = json.loads(output)
    assert [record["contender"] for record in records] == ["fusionjax", "flax"]
    assert "fusion-forward x 3, flax: " in errors
    for record in records:
        assert set(record) == {field.name for field in dataclasses.fields(Record)}
        assert record["shapes"] == {"image": [3, 30, 30, 3], "text": [3, 5]}
        assert (record["dtype"], record["workload"], record["error"]) == ("float32", "fusion-forward", None)
        assert record["versions"]["jax"] == jax.__version__
        samples = record["samples_ms"]
        assert len(samples) == 3
        assert record["median_ms"] == statistics.median(samples)
        assert record["spread_ms"] == max(samples) - min(samples)
        assert record["examples_per_second"] == pytest.approx(3000 / record["median_ms"])
        assert record["achieved_tflops"] > 0
        assert record["share_of_measured_peak"] > 0
        # The least that is in memory: the embeddings, the images and the outputs.
        assert record["peak_memory_mb"] > 4 * (11 * 8 + 3 * 30 * 30 * 3 + 3 * 628) / 1e6
        assert record["git_revision"] is None or len(record["git_revision"]) == 40


@pytest.mark.slow
def test_the_table_names_who_is_missing(capfd: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "--dtype", "bfloat16", "--peers", "keras-jax", "--peer-python", "keras=/no/python"]
    assert main(["bench", "forward", *words]) == 0
    output = capfd.readouterr().out
    assert output.startswith("fusion-forward, image 3x30x30x3, text 3x5, bfloat16\n")
    assert "keras-jax: missing: its Python /no/python cannot be run (No such file or directory)" in output
    assert "measured ceilings: " in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--peers pytorch",
            "torch.compile, keras-tensorflow, keras-jax, keras-tensorflow-xla, all; got 'pytorch'.",
        ),
        ("--workloads vgg", "the workloads must be among fusion"),
        ("--batch-sizes 8 0", "batch_sizes must be at least 1; got 0. Give a larger one."),
        ("--repeats 0", "repeats must be at least 1; got 0. Give a larger one."),
        ("--length 0", "length must be at least 1; got 0. Give a larger one."),
        ("--image-size 21", "image_size must be at least 22; got 21. The smallest that three poolings leave"),
        ("--vocab-size 1", "vocab_size must be at least 2; got 1. Token 0 is padding, which is not drawn."),
        (
            "--save /none/x.json",
            "--save must be a file in a folder that is there; got '/none/x.json'. Make the folder.",
        ),
        ("--peer-python keras", "--peer-python takes NAME=PATH, such as keras=/path/to/bin/python; got 'keras'."),
        ("--peer-python mxnet=/x", "the peer of --peer-python must be among torch, keras, flax, jimm; got 'mxnet'."),
    ],
)
def test_bad_options_are_one_line(capfd: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert main(["bench", "train", *words.split(), "--json"]) == 2
    output, errors = capfd.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert message in errors


@pytest.mark.slow
def test_the_scripts_need_the_core_only() -> None:
    """With neither the command line's packages nor the data's."""
    blocked = "tyro", "grain", "tokenizers", "PIL", "matplotlib", "tensorboardX"
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked})); from fusionjax.benchmarks.plain import main; "
        "sys.exit(main('train'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", program, *TINY, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert (record["workload"], record["error"]) == ("fusion-train", None)
