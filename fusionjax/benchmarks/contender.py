"""The handle on a contender in another process."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fusionjax.benchmarks.workloads import to_json

# The worker of a peer may run in another Python, so it takes this package from its folder and nothing beside it.
_BOOTSTRAP = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("fusionjax", sys.argv[1] + "/__init__.py",
                                              submodule_search_locations=[sys.argv[1]])
sys.modules["fusionjax"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from fusionjax.benchmarks.worker import serve
serve()
"""


class ContenderError(RuntimeError):
    """A contender that is missing, refused a workload, gave wrong numbers, or died."""


class Contender:
    """A contender, started when it is first used, and alive until `close`.

    Attributes:
        name: such as `torch.compile`.
        versions: of its packages.
        device: kind that it computes on; None before it is started.

    Example:
        >>> Contender("flax", python="/usr/bin/python3").name
        'flax'
    """

    def __init__(self, name: str, *, python: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.versions: dict[str, str] = {}
        self.device: str | None = None
        self._python = python or sys.executable
        self._environment = environment or {}
        self._process: subprocess.Popen[str] | None = None
        self._messages: IO[str] | None = None
        self._missing: str | None = None

    def start(self) -> None:
        """Starts the process, unless it runs already.

        Raises:
            ContenderError: it is not installed, or its Python cannot be run.
        """
        if self._missing:
            raise ContenderError(self._missing)
        if self._process is not None:
            return
        # What it says on standard error is kept for the case that it dies.
        self._messages = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        command = [self._python, "-P", "-c", _BOOTSTRAP, str(Path(__file__).parents[1])]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                text=True,
                env=_environment(self._environment),
            )
        except OSError as error:
            self._close_messages()
            self._missing = f"missing: its Python {self._python} cannot be run ({error.strerror})"
            raise ContenderError(self._missing) from None
        answer = self._ask({"do": "start", "contender": self.name})
        self.versions, self.device = answer["versions"], answer["device"]

    def prepare(self, workload: Any, path: Path) -> float:
        """Has a workload built, called and warmed up.

        Args:
            workload: what to compute.
            path: where its outputs go, as `.npz`.

        Returns:
            Milliseconds of the first call.

        Raises:
            ContenderError: it is missing, has no such workload, or failed.
        """
        self.start()
        return self._ask({"do": "prepare", "workload": to_json(workload), "path": str(path)})["first_ms"]

    def sample(self) -> float:
        """Has the workload called once, or for some milliseconds if it is short; returns the milliseconds of a call.

        Raises:
            ContenderError: it failed.
        """
        return self._ask({"do": "sample"})["ms"]

    def finish(self) -> float:
        """Has the workload dropped; returns the most memory it took, in MB.

        Raises:
            ContenderError: it failed, or its last outputs are not finite.
        """
        return self._ask({"do": "finish"})["peak_memory_mb"]

    def measure_peak(self, size: int, dtype: str) -> tuple[float, float]:
        """Has the ceilings of the device measured, on JAX.

        Args:
            size: side of the square matrices.
            dtype: of their product.

        Returns:
            TFLOP/s and GB/s.

        Raises:
            ContenderError: it failed.
        """
        self.start()
        answer = self._ask({"do": "measure_peak", "size": size, "dtype": dtype})
        return answer["tflops"], answer["gb_per_second"]

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.stdin.close()  # type: ignore[union-attr]
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        self._close_messages()

    def _close_messages(self) -> str:
        """Closes what was said on standard error and returns its last line."""
        if self._messages is None:
            return ""
        self._messages.seek(0)
        lines = [line.strip() for line in self._messages if line.strip()]
        self._messages.close()
        return lines[-1] if lines else "nothing"

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        process: Any = self._process
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._give_up()
        answer = json.loads(line)
        if "missing" in answer:
            self._missing = f"missing: {answer['missing']}; install it, or name its Python by --peer-python"
            self.close()
            raise ContenderError(self._missing)
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer

    def _give_up(self) -> None:
        process: Any = self._process
        self._process = None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        code = process.wait()
        last = self._close_messages()
        raise ContenderError(f"its process ended with code {code}; its last words: {last[:300]}")


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    defaults = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        # Several processes share the device.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # What was compiled by an earlier run must not shorten the first call.
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    }
    return {**defaults, **os.environ, **changes}
