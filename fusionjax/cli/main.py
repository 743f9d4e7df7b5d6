"""The command line: finds the command, and turns errors into one line and an exit code."""

import ctypes
import json
import logging
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fusionjax._version import __version__
from fusionjax.errors import InputError

USAGE = """usage: fusionjax COMMAND ...

commands:
  train RECIPE      trains, evaluates and reports; RECIPE is captioning, classification,
                    multi-task, retrieval or vqa
  evaluate RUN      the metrics of a trained run, also on other data
  caption RUN PHOTO [PHOTO ...]
                    captions for photographs
  caption PHOTO [PHOTO ...] --weights FILE
                    captions by published weights
  ask RUN PHOTO QUESTION
                    an answer to a question about a photograph
  search RUN TEXT --images DIR
                    photographs of a folder that a text describes
  search TEXT --weights FOLDER --images DIR
                    the same by a published CLIP or SigLIP
  classify PHOTO [PHOTO ...] --weights FILE [--classes NAME NAME [NAME ...]]
                    photographs named by published weights; with a CLIP or SigLIP, among any classes
  classify RUN PHOTO [PHOTO ...] --classes NAME NAME [NAME ...]
                    photographs named, among any classes
  convert SOURCE FOLDER
                    weights under the names of another library, in safetensors
  compare RECIPE    settings of a recipe beside each other, such as --vary fusion=concat,mutan --seeds 0 1 2
  bench WORKLOAD    speed, beside other frameworks; WORKLOAD is forward, train, encoders, ops, decode ...

Every command has --help, --json (one JSON value on standard output, nothing else) and --traceback (of an error).
exit codes: 0 done, 2 bad input or usage, 130 stopped by Ctrl-C"""

Command = Callable[[Sequence[str]], Any]


def _commands() -> dict[str, Command]:
    from fusionjax.cli import commands

    return {
        "train": commands.train,
        "evaluate": commands.evaluate,
        "caption": commands.caption,
        "ask": commands.ask,
        "search": commands.search,
        "classify": commands.classify,
        "convert": commands.convert,
        "compare": commands.compare,
        "bench": commands.bench,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        arguments: the words after `fusionjax`; None takes those of the process.

    Returns:
        The exit code: 0 done, 2 bad input or usage, 130 stopped by Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    flags = {flag: flag in words for flag in ("--json", "--traceback")}
    words = [word for word in words if word not in flags]
    if words and words[0] in ("--version", "-V"):
        print(__version__)
        return 0
    if not words or words[0] in ("--help", "-h", "help"):
        print(USAGE, file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _Output(as_json=flags["--json"]) as output, _messages_on_stderr():
        try:
            return _run(words, output)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
        except KeyboardInterrupt:
            then = " The same command goes on from the last checkpoint." if words[0] in ("train", "compare") else ""
            print(f"stopped.{then}", file=sys.stderr)
            return 130
        except (InputError, ImportError, OSError) as error:
            if flags["--traceback"]:
                traceback.print_exc()
            advice = " Check the path, its permissions and the free space." if isinstance(error, OSError) else ""
            line = " ".join(str(error).splitlines())
            print(f"fusionjax: {line}{advice}", file=sys.stderr)
            return 2


def _run(words: Sequence[str], output: "_Output") -> int:
    command = _commands().get(words[0])
    if command is None:
        names = ", ".join(_commands())
        raise InputError(f"the command must be one of {names}; got {words[0]!r}. See fusionjax --help.")
    from fusionjax.parallel import keep_host_memory

    keep_host_memory()
    result = command(words[1:])
    output.result(result)
    return 130 if result.interrupted else 0


@contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Shows the library's messages on standard error, and not what Pillow has to say of odd metadata."""
    logger = logging.getLogger("fusionjax")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _Output:
    """Keeps standard output for the result: with `--json`, whatever else is printed goes to standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json, self._kept = as_json, -1

    def __enter__(self) -> "_Output":
        if self._as_json:
            sys.stdout.flush()
            # Libraries print below Python too.
            self._stream, self._kept = sys.stdout, os.dup(1)
            sys.stdout = sys.stderr
            os.dup2(2, 1)
        return self

    def result(self, result: Any) -> None:
        """Prints the result of a command: as JSON, or as the command would have it shown."""
        self._restore()
        print(json.dumps(_plain(result.value), indent=1) if self._as_json else result.text)

    def _restore(self) -> None:
        if self._kept >= 0:
            sys.stdout.flush()
            # What libraries of C have printed may still be in their buffers.
            ctypes.CDLL(None).fflush(None)
            sys.stdout = self._stream
            os.dup2(self._kept, 1)
            os.close(self._kept)
            self._kept = -1

    def __exit__(self, *_: object) -> None:
        self._restore()


def _plain(value: Any) -> Any:
    """JSON has no word for a number that is not finite; null stands for it."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
