"""The command line as a whole: help, usage errors, exit codes, what goes to which stream."""

import ctypes
import json
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from fusionjax import __version__
from fusionjax.cli import commands, main
from fusionjax.errors import InputError
from tests.recipes.tiny import REPOSITORY, captioning

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("words", "mentioned"),
    [
        ("--help", ["train RECIPE", "evaluate RUN", "caption RUN PHOTO", "bench WORKLOAD", "--json", "--traceback"]),
        ("help", ["exit codes: 0 done, 2 bad input or usage, 130 stopped by Ctrl-C"]),
        ("train --help", ["RECIPE is captioning, classification, multi-task, retrieval or vqa"]),
        (
            "train captioning --help",
            ["--data.source {scenes,flickr,coco,tfds,easy-vqa,sort-of-clevr,vqa}", "--output", "--seed", "--json"],
        ),
        ("train captioning --data.source flickr --help", ["(default: flickr)", "--reward.epochs"]),
        (
            "train classification -h",
            ["--model.fusion {concat,cross_attention,word_by_word}", "--caption-weight", "--json"],
        ),
        ("evaluate --help", ["RUN", "--data.path", "--data.split", "--decoding.method", "--json"]),
        ("caption --help", ["[RUN] PHOTO [PHOTO ...]", "--weights", "--decoding.num-beams", "--json"]),
        (
            "bench --help",
            [
                "WORKLOAD is forward, train, ops, decode, encoders, scaling or ahead:",
                "steps of training, beside the peers",
            ],
        ),
        ("bench forward --help", ["--batch-sizes", "--peers", "--dtype {float32,bfloat16}", "--json"]),
        ("--version", [__version__]),
    ],
)
def test_help(capfd: Captured, words: str, mentioned: list[str]) -> None:
    assert main(words.split()) == 0
    output, errors = capfd.readouterr()
    assert errors == ""
    for text in mentioned:
        assert text in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "frobnicate",
            "command must be one of train, evaluate, caption, ask, search, classify, convert, compare, bench; got",
        ),
        (
            "train",
            "train needs a recipe, captioning, classification, multi-task, retrieval or vqa; got ''. See fusionjax",
        ),
        (
            "train cooking",
            "train needs a recipe, captioning, classification, multi-task, retrieval or vqa; got 'cooking'.",
        ),
        ("train captioning --data.foo 3", "Unrecognized options: --data.foo, 3. Perhaps you meant --data.fit."),
        ("train captioning more", "Unrecognized options: more. See fusionjax train captioning --help."),
        ("train captioning --seed", "Missing value for argument '--seed'."),
        ("train captioning --seed x", "Error parsing --seed: invalid literal for int() with base 10: 'x'."),
        (
            "train captioning --strategy x",
            "invalid choice 'x' for argument '--strategy'. Expected one of ('jit', 'pmap')",
        ),
        ("train captioning --data.size 0", "size must be above 0; got 0. Give a larger one. See fusionjax train"),
        ("train captioning --optimizer.name x", "name must be one of adamw, adam, lion, sgd; got 'x'."),
        ("train captioning --data.source x", "the source must be scenes, flickr, coco or tfds; got 'x'. Choose one."),
        ("train classification --data.source=x", "the source must be scenes, flickr, coco or tfds; got 'x'."),
        ("train captioning --data.source flickr", "--data.source flickr needs a folder; got no path. Add --data.path"),
        ("train captioning --data.source coco --data.path /none", "/none: expected a"),
        ("train captioning --data.source tfds", "--data.source tfds needs a data set; got no name. Add --data.name"),
        (
            "train captioning --output /proc/run --data.size 8 --data.evaluation-size 4",
            "/proc/run must be a folder to write to; got [Errno",
        ),
        ("evaluate", "Missing from fusionjax evaluate: RUN the run directory."),
        ("caption", "caption needs at least one photograph after the run; got none. Name image files."),
        (
            "bench",
            "bench needs a workload, forward, train, ops, decode, encoders, scaling or ahead; got ''. "
            "See fusionjax bench --help.",
        ),
        ("bench backward", "; got 'backward'. See fusionjax bench --help."),
    ],
)
def test_bad_usage_is_one_line_and_two(
    capfd: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), "--json"]) == 2
    output, errors = capfd.readouterr()
    assert (output, errors.count("\n"), errors[:11]) == ("", 1, "fusionjax: ")
    assert message in errors
    assert not list(tmp_path.iterdir())


def test_no_command_shows_the_usage(capfd: Captured) -> None:
    assert main([]) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.startswith("usage: fusionjax COMMAND")


def test_as_a_program(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import sys; from fusionjax.cli import main; sys.exit(main())", "evaluate", "none"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    expected = "fusionjax: none must be a run directory; it is no such directory. Give the --output of a training.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def give(monkeypatch: pytest.MonkeyPatch, result: object) -> None:
    """Puts something in the place of `fusionjax evaluate`."""

    def evaluate(words: list[str]) -> object:
        os.write(1, b"from below\n")
        ctypes.CDLL(None).puts(b"from C")
        print("from Python")
        logging.getLogger("fusionjax").warning("a message")
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(commands, "evaluate", evaluate)


def test_json_is_alone_on_standard_output(capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"test/loss": float("nan"), "rows": [1.5, float("inf"), "größer"]}
    give(monkeypatch, commands.Result(value, "text"))
    assert main(["evaluate", "--json"]) == 0
    output, errors = capfd.readouterr()
    assert json.loads(output) == {"test/loss": None, "rows": [1.5, None, "größer"]}
    assert set(errors.splitlines()) == {"from below", "from C", "from Python", "a message"}
    assert main(["evaluate"]) == 0
    output, errors = capfd.readouterr()
    assert set(output.splitlines()) >= {"from below", "from Python", "text"}
    assert errors == "a message\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "stopped."),
        (PermissionError(13, "Permission denied", "/x"), 2, "'/x' Check the path, its permissions and the free space."),
        (ImportError("this needs the module 'tyro'"), 2, "fusionjax: this needs the module 'tyro'"),
        (InputError("first\nsecond"), 2, "fusionjax: first second"),
    ],
)
def test_errors_and_exit_codes(
    capfd: Captured, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    give(monkeypatch, error)
    assert main(["evaluate", "--json"]) == code
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.splitlines()[-1].endswith(line)
    assert "Traceback" not in errors


def test_mistakes_of_our_own_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(["evaluate", "--json"])


def test_leaves_the_logger_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("fusionjax")
    before = logger.level, logger.propagate, list(logger.handlers)
    give(monkeypatch, commands.Result([], ""))
    assert main(["evaluate"]) == 0
    assert (logger.level, logger.propagate, logger.handlers) == before


def test_ctrl_c_before_the_first_step_of_a_training(
    capfd: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(config: object) -> None:
        raise KeyboardInterrupt

    recipe = types.SimpleNamespace(**vars(commands.RECIPES["captioning"]) | {"train": train})
    monkeypatch.setitem(commands.RECIPES, "captioning", recipe)  # type: ignore[arg-type]
    assert main(captioning(tmp_path / "run")) == 130
    assert capfd.readouterr().err == "stopped. The same command goes on from the last checkpoint.\n"
