"""The process that one contender lives in.

It reads requests, one JSON value a line, from standard input and answers each with one line on standard output:

    {"do": "start", "contender": NAME}                  -> versions, device
    {"do": "prepare", "workload": {...}, "path": FILE}  -> first_ms; the outputs of two calls are saved to the file
    {"do": "sample"}                                    -> ms
    {"do": "finish"}                                    -> peak_memory_mb
    {"do": "measure_peak", "size": N, "dtype": ...}     -> tflops, gb_per_second

An answer with `error` says why there is none; with `missing`, that the contender is not installed. Whatever libraries
print goes to standard error.
"""

import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from fusionjax.benchmarks.framework import Framework, load_framework
from fusionjax.benchmarks.memory import forget_peak, give_back_free_memory, resident_mb
from fusionjax.benchmarks.workloads import from_json

# Calls shorter than this are repeated in a sample.
TURN_MS = 100.0
# Numbers of an output that are compared at most.
_COMPARED = 1_000_000


class Worker:
    """Answers requests for one contender."""

    def __init__(self) -> None:
        self._framework: Framework | None = None
        self._run: Callable[[], Any] = lambda: None
        self._outputs: Any = None
        self._resident_mb = 0.0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers a request.

        Args:
            request: `do` and what belongs to it.

        Returns:
            The answer, with `error` if it failed.
        """
        arguments = {name: value for name, value in request.items() if name != "do"}
        try:
            return getattr(self, f"_{request['do']}")(**arguments)
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}

    def _start(self, contender: str) -> dict[str, Any]:
        try:
            self._framework = load_framework(contender)
        except ImportError as error:
            return {"missing": " ".join(str(error).split())}
        return {"versions": self._framework.versions(), "device": self._framework.device()}

    def _prepare(self, workload: dict[str, Any], path: str) -> dict[str, Any]:
        made = from_json(workload)
        gc.collect()
        give_back_free_memory()
        forget_peak()
        self._resident_mb = resident_mb("VmRSS")
        self._run = self._started.build(made)
        start = time.perf_counter()
        outputs = self._call()
        first_ms = 1000 * (time.perf_counter() - start)
        fetched = self._started.fetch(outputs)
        del outputs
        fetched += self._started.fetch(self._call()) if made.train else []
        self._check_finite(fetched)
        np.savez(path, *[_thin(array) for array in fetched])
        self._call()
        return {"first_ms": first_ms}

    def _sample(self) -> dict[str, Any]:
        self._outputs = self._call()  # wakes the process and its threads, and fills the caches
        times: list[float] = []
        begin = time.perf_counter()
        while not times or 1000 * (time.perf_counter() - begin) < TURN_MS:
            start = time.perf_counter()
            self._outputs = self._call()
            times.append(1000 * (time.perf_counter() - start))
        return {"ms": statistics.median(times)}

    def _finish(self) -> dict[str, Any]:
        on_device = self._started.peak_memory_bytes()
        peak = resident_mb("VmHWM") - self._resident_mb if on_device is None else on_device / 1e6
        self._check_finite(self._started.fetch(self._outputs))
        self._run, self._outputs = lambda: None, None
        return {"peak_memory_mb": max(0.0, peak)}

    def _measure_peak(self, size: int, dtype: str) -> dict[str, Any]:
        from fusionjax.benchmarks.peak import measured_bandwidth, measured_peak_tflops

        return {"tflops": measured_peak_tflops(size, dtype), "gb_per_second": measured_bandwidth()}

    @property
    def _started(self) -> Framework:
        if self._framework is None:
            raise RuntimeError("the worker must be started first; got another request. Send start.")
        return self._framework

    def _call(self) -> Any:
        outputs = self._run()
        self._started.wait(outputs)
        return outputs

    def _check_finite(self, outputs: list[np.ndarray]) -> None:
        if not all(np.isfinite(array).all() for array in outputs):
            raise FloatingPointError("the outputs must be finite; got infinity or not-a-number. Figures would mislead.")


def main(requests: TextIO, answers: TextIO) -> None:
    """Answers requests until there are no more.

    Args:
        requests: one JSON value a line.
        answers: likewise.
    """
    worker = Worker()
    for line in requests:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


def serve() -> None:
    """Runs a worker on the standard streams of this process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main(sys.stdin, answers)


def _thin(array: np.ndarray) -> np.ndarray:
    """Takes evenly spaced numbers, where there are many."""
    return array.reshape(-1)[:: max(1, array.size // _COMPARED)]
