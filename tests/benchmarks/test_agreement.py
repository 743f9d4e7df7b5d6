"""With the same inputs and weights every contender computes the same."""

import contextlib
import dataclasses
import functools
import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusionjax import ops
from fusionjax.benchmarks.contender import ContenderError
from fusionjax.benchmarks.framework import load_framework
from fusionjax.benchmarks.run import compare_outputs, open_contenders
from fusionjax.benchmarks.workloads import Decode, Depthwise, Fusion, Recurrent, VitBlock

SMALL = Fusion(batch_size=3, image_size=30, length=5, vocab_size=11, features=8)
WORKLOADS = [
    SMALL,
    dataclasses.replace(SMALL, train=True),
    dataclasses.replace(SMALL, part="image"),
    dataclasses.replace(SMALL, part="text", train=True),
    *[
        Recurrent(cell=cell, batch_size=2, length=5, features=7, train=train)
        for cell in ("lstm", "gru", "elman")
        for train in (False, True)
    ],
    *[VitBlock(batch_size=2, length=5, width=12, num_heads=3, train=train) for train in (False, True)],
    *[
        Depthwise(batch_size=2, image_size=9, channels=7, kernel_size=size, train=size == 3)
        for size in (3, 5)
        if "groups" in inspect.signature(ops.conv2d).parameters
    ],
]


CAPTIONS = [
    Decode(model=model, num_beams=beams, batch_size=3, cells=4, width=16, vocab_size=40, steps=5)
    for model in ("lstm", "transformer")
    for beams in (1, 3)
]


@functools.cache
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


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["flax", "torch"])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: f"{workload.name}-{workload.batch_size}")
def test_peers_agree(contender: str, workload: Any) -> None:
    if contender == "torch":
        pytest.importorskip("torch")
    for found, expected in zip(outputs(contender, workload), outputs("fusionjax", workload), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("workload", [dataclasses.replace(SMALL, part="text"), CAPTIONS[0]], ids=lambda one: one.name)
def test_inference_options_agree(workload: Any) -> None:
    (exact, *_), (folded, *_), (narrow, *_) = (
        outputs(name, workload) for name in ("fusionjax", "fusionjax:folded", "fusionjax:folded+bfloat16")
    )
    np.testing.assert_allclose(folded, exact, rtol=1e-5, atol=1e-6)
    assert narrow.shape == exact.shape
    if workload is not CAPTIONS[0]:
        assert 1e-5 < np.abs(narrow - exact).max() / exact.max() < 2e-2


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        (SMALL, None),
        (dataclasses.replace(SMALL, part="image"), "there are no words to fold in fusion-image-forward"),
        (CAPTIONS[2], "there are no words to fold in decode-transformer-greedy"),
        (WORKLOADS[1], "inference options start from a float32 forward pass; got fusion-train"),
    ],
)
def test_what_inference_options_are_for(workload: Any, message: str | None) -> None:
    framework = load_framework("fusionjax:folded")
    with pytest.raises(NotImplementedError, match=message) if message else contextlib.nullcontext():
        framework.build(workload)


@pytest.mark.parametrize("workload", CAPTIONS, ids=lambda workload: workload.name)
def test_captions_agree_word_for_word(workload: Decode) -> None:
    pytest.importorskip("torch")
    for found, expected in zip(outputs("torch", workload), outputs("fusionjax", workload), strict=True):
        assert found.tolist() == expected.tolist()
        assert found.shape == (3, 5) and len(np.unique(found)) > 1


@pytest.mark.parametrize("workload", CAPTIONS, ids=lambda workload: workload.name)
def test_the_step_that_is_compiled_agrees(workload: Decode, monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves all positions: caches of full length, and a mask. Compiling it here would take a minute."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    found, expected = outputs.__wrapped__("torch.compile", workload)[0], outputs("fusionjax", workload)[0]
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("contender", ["keras-tensorflow", "keras-tensorflow-xla", "keras-jax"])
def test_keras_agrees(contender: str, tmp_path: Path) -> None:
    python = os.environ.get("FUSIONJAX_BENCH_PYTHON_KERAS")
    with open_contenders({"fusionjax": None, contender: python}) as (ours, keras):
        try:
            keras.start()
        except ContenderError as error:
            pytest.skip(str(error))
        for workload in WORKLOADS:
            ours.prepare(workload, tmp_path / "ours.npz")
            keras.prepare(workload, tmp_path / "keras.npz")
            difference = compare_outputs([tmp_path / "ours.npz", tmp_path / "keras.npz"])[1]
            assert difference < 1e-4, workload
