"""With the same inputs and weights every contender computes the same."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusionjax.benchmarks.contender import Contender, ContenderError
from fusionjax.benchmarks.framework import load_framework
from fusionjax.benchmarks.run import compare_outputs
from fusionjax.benchmarks.workloads import Fusion

SMALL = Fusion(batch_size=3, image_size=30, length=5, vocab_size=11, features=8)
WORKLOADS = [
    SMALL,
    dataclasses.replace(SMALL, train=True),
    dataclasses.replace(SMALL, part="image"),
    dataclasses.replace(SMALL, part="text", train=True),
]


def outputs(contender: str, workload: Any) -> list[np.ndarray]:
    """Two calls, so that of a training the first update counts."""
    framework = load_framework(contender)
    run = framework.build(workload)
    found = []
    for _ in range(2):
        called = run()
        framework.wait(called)
        found += framework.fetch(called)
    return found


@pytest.mark.parametrize("contender", ["flax", "torch"])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: f"{workload.name}-{workload.batch_size}")
def test_peers_agree(contender: str, workload: Any) -> None:
    if contender == "torch":
        pytest.importorskip("torch")
    for found, expected in zip(outputs(contender, workload), outputs("fusionjax", workload), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("contender", ["keras-tensorflow", "keras-jax"])
def test_keras_agrees(contender: str, tmp_path: Path) -> None:
    keras = Contender(contender, python=os.environ.get("FUSIONJAX_BENCH_PYTHON_KERAS"))
    ours = Contender("fusionjax")
    try:
        keras.start()
    except ContenderError as error:
        pytest.skip(str(error))
    for workload in WORKLOADS:
        ours.prepare(workload, tmp_path / "ours.npz")
        keras.prepare(workload, tmp_path / "keras.npz")
        assert compare_outputs([tmp_path / "ours.npz", tmp_path / "keras.npz"])[1] < 1e-4
    keras.close()
    ours.close()
