"""The protocol of a worker, and what the handle on it makes of an accident."""

import dataclasses
import io
import json
import platform
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusionjax.benchmarks import contender, worker
from fusionjax.benchmarks.contender import Contender, ContenderError
from fusionjax.benchmarks.workloads import Fusion, to_json

WORKLOAD = Fusion(batch_size=2, part="text", length=3, vocab_size=5, features=7)


class Constant:
    """A framework whose outputs are what it is given."""

    def __init__(self, *values: float) -> None:
        self._values, self.calls = list(values), 0

    def versions(self) -> dict[str, str]:
        return {"constant": "1"}

    def device(self) -> str:
        return "paper"

    def build(self, workload: Any) -> Any:
        def run() -> float:
            self.calls += 1
            return self._values[min(self.calls, len(self._values)) - 1]

        return run

    def wait(self, outputs: Any) -> None:
        """Nothing to wait for."""

    def fetch(self, outputs: Any) -> list[np.ndarray]:
        return [np.array([outputs, 2.0], np.float32)]

    def peak_memory_bytes(self) -> int | None:
        return 3_000_000


def answers(monkeypatch: pytest.MonkeyPatch, framework: Any, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    monkeypatch.setattr(worker, "load_framework", lambda name: framework)
    written = io.StringIO()
    worker.main(io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), written)
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_the_protocol(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worker, "TURN_MS", 1.0)
    framework, path = Constant(5.0), str(tmp_path / "x.npz")
    start, prepared, sampled, finished = answers(
        monkeypatch,
        framework,
        {"do": "start", "contender": "constant"},
        {"do": "prepare", "workload": to_json(WORKLOAD), "path": path},
        {"do": "sample"},
        {"do": "finish"},
    )
    assert start == {"versions": {"constant": "1"}, "device": "paper"}
    assert prepared["first_ms"] > 0 and 0 < sampled["ms"] < 1
    assert finished == {"peak_memory_mb": 3.0}
    with np.load(path) as arrays:
        assert [arrays[name].tolist() for name in arrays.files] == [[5.0, 2.0]]
    # A short call is repeated until the turn is over.
    assert framework.calls > 4


def test_training_saves_two_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(tmp_path / "x.npz")
    training = to_json(dataclasses.replace(WORKLOAD, train=True))
    requests = {"do": "start", "contender": "constant"}, {"do": "prepare", "workload": training, "path": path}
    answers(monkeypatch, Constant(5.0, 3.0), *requests)
    with np.load(path) as arrays:
        assert [arrays[name].tolist() for name in arrays.files] == [[5.0, 2.0], [3.0, 2.0]]


def test_what_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start = {"do": "start", "contender": "constant"}
    prepare = {"do": "prepare", "workload": to_json(WORKLOAD), "path": str(tmp_path / "x.npz")}
    message = "FloatingPointError: the outputs must be finite; got infinity or not-a-number."
    assert message in answers(monkeypatch, Constant(float("nan")), start, prepare)[1]["error"]
    requests = start, prepare, {"do": "sample"}, {"do": "finish"}
    assert message in answers(monkeypatch, Constant(1.0, 1.0, float("inf")), *requests)[3]["error"]


def test_a_request_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    (answer,) = answers(monkeypatch, Constant(1.0), {"do": "sample"})
    assert answer == {"error": "RuntimeError: the worker must be started first; got another request. Send start."}


def test_what_is_not_installed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(worker, "load_framework", load)
    assert worker.Worker().answer({"do": "start", "contender": "theirs"}) == {"missing": "No module named 'theirs'"}


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            "import sys; print('out of luck', file=sys.stderr); sys.exit(3)",
            "its process ended with code 3; its last words: out of luck",
        ),
        ("raise SystemExit(4)", "its process ended with code 4; its last words: nothing"),
        (
            """input(); print('{"missing": "No module named 7"}')""",
            "missing: No module named 7; install it, or name its Python by --peer-python",
        ),
    ],
)
def test_accidents_of_the_process(monkeypatch: pytest.MonkeyPatch, program: str, message: str) -> None:
    monkeypatch.setattr(contender, "_BOOTSTRAP", program)
    handle = Contender("theirs")
    with pytest.raises(ContenderError, match=f"^{re.escape(message)}$"):
        handle.start()
    handle.close()


def test_a_missing_python_stays_missing(tmp_path: Path) -> None:
    handle = Contender("torch", python="/no/python")
    for _ in range(2):
        with pytest.raises(ContenderError, match=r"missing: its Python /no/python cannot be run \(No such file"):
            handle.prepare(WORKLOAD, tmp_path / "x.npz")
    handle.close()


def test_a_workload_that_there_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def build(workload: Any) -> None:
        raise NotImplementedError(f"theirs has no workload {workload.name}")

    framework = Constant(1.0)
    monkeypatch.setattr(framework, "build", build)
    prepare = {"do": "prepare", "workload": to_json(WORKLOAD), "path": str(tmp_path / "x.npz")}
    _, answer = answers(monkeypatch, framework, {"do": "start", "contender": "theirs"}, prepare)
    assert answer == {"error": "NotImplementedError: theirs has no workload fusion-text-forward"}


_MEASURED = """
    import numpy as np

    from fusionjax.benchmarks import worker
    from fusionjax.parallel import keep_host_memory

    assert keep_host_memory()
    blocks = [np.ones(10**7 + turn) for turn in range(2)]
    del blocks[0]

    class Framework:
        def build(self, workload):
            return lambda: np.ones(10**7)

        def wait(self, outputs):
            pass

        def fetch(self, outputs):
            return [np.ones(1)]

        def peak_memory_bytes(self):
            return None

    asked = worker.Worker()
    asked._framework = Framework()
    asked.answer({"do": "prepare", "workload": WORKLOAD, "path": PATH})
    asked.answer({"do": "sample"})
    print(asked.answer({"do": "finish"})["peak_memory_mb"])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc takes the settings")
def test_memory_that_an_earlier_workload_left_is_not_missing_in_the_peak(tmp_path: Path) -> None:
    names = f"WORKLOAD, PATH = {to_json(WORKLOAD)!r}, {str(tmp_path / 'x.npz')!r}"
    command = [sys.executable, "-c", f"{names}\n{textwrap.dedent(_MEASURED)}"]
    assert float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) > 150  # two of 80 MB
