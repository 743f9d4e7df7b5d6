"""Runs that take seconds, folders of a few pictures, and the command line in this process and in another."""

import contextlib
import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from fusionjax.cli import main

REPOSITORY = Path(__file__).parents[2]
SMALL, SCENES, CAPTIONER, CLASSIFIER, STAGES = (
    words.split()
    for words in (
        "--data.image-size 32 --data.max-length 12 --training.batch-size 8 --model.cnn-features 4 8",
        "--data.size 48 --data.evaluation-size 12 --training.log-every 1 --report-samples 3",
        "--model.features 16 --model.embedding-features 8 --model.attention-features 8",
        "--model.text-features 8 --model.fusion-features 8 --model.fusion-layers 1 --model.num-heads 2",
        "--training.epochs 2 --training.checkpoint-every 2 --reward.epochs 1 --reward.batch-size 8",
    )
)
SCENES = [*SMALL, *SCENES]
WORDS = ("red", "green", "blue")
SETTINGS = {
    "jax_compilation_cache_max_size": 10**9,  # A limit brings a lock, which several processes need.
    "jax_persistent_cache_min_compile_time_secs": 0.1,  # At every write JAX looks at all that is kept.
    "jax_disable_most_optimizations": True,
}


def captioning(output: Path, *more: object) -> list[str]:
    """Words that train a captioner on scenes."""
    return [
        "train",
        "captioning",
        "--output",
        str(output),
        *SCENES,
        *CAPTIONER,
        "--training.epochs",
        "1",
        *map(str, more),
    ]


def whole(output: Path, *more: object) -> list[str]:
    """Words that train a captioner in both stages: 12 steps, then 6 of the reward."""
    return captioning(output, *STAGES, "--reward.samples", "2", *more)


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test session share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextlib.contextmanager
def quick_compilation(folder: Path) -> Iterator[None]:
    """Optimises programs little, and keeps them for the other processes of the session."""
    settings = {**SETTINGS, "jax_compilation_cache_dir": str(folder / "compiled")}
    before = {name: jax.config.values[name] for name in settings}
    compilation_cache.reset_cache()
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lets one process in at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_once(factory: pytest.TempPathFactory, name: str, words: list[str]) -> Path:
    """Trains the run that a whole test session shares, in the first process that asks for it."""
    run = session_folder(factory) / name
    with locked(run.with_suffix(".lock")):
        if not (run / "metrics.json").exists():
            assert main(words) == 0
    return run


def start(words: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, with as many devices as this one."""
    settings = {name.upper(): str(value) for name, value in SETTINGS.items()}
    environment = {
        **os.environ,
        **settings,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(REPOSITORY),
    }
    program = "import sys; from fusionjax.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stop_at(process: subprocess.Popen[str], run: Path, step: int, number: signal.Signals) -> tuple[int, str, str]:
    """Sends a signal as soon as the curves of a run show a step: exit code, output, errors."""
    curves, end = run / "curves.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if curves.exists() and any(f'"step": {place},' in curves.read_text() for place in range(step, step + 9)):
            break
        time.sleep(0.005)
    process.send_signal(number)
    process.wait(timeout=120)
    # Workers of the loader outlive a parent that is killed, and hold its pipes.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def checksums(run: Path, stage: str) -> dict[str, object]:
    """What the newest checkpoint of a stage says of every array of the state."""
    folders = [folder for folder in (run / "checkpoints" / stage).iterdir() if folder.name.isdigit()]
    newest = max(folders, key=lambda folder: int(folder.name))
    return {"newest": newest.name, **json.loads((newest / "manifest.json").read_text())["leaves"]}


def picture(number: int, side: int = 24) -> Image.Image:
    """A picture mostly of one of three colours."""
    pixels = np.random.default_rng(number).integers(0, 90, (side, side + 7, 3))
    pixels[..., number % 3] += 150
    return Image.fromarray(pixels.astype(np.uint8))


def write_flickr(folder: Path, count: int = 20, *, split: str | None = None, label: bool = False) -> Path:
    """A folder in Flickr's form: 12 training, 4 validation and 4 test pictures of each 20, two captions each."""
    (folder / "images").mkdir(parents=True)
    columns = ["image", "caption", "split", *(["label"] if label else [])]
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for number in range(count):
            picture(number).save(folder / "images" / f"{number}.jpg")
            part = split or ("train" if number % 5 < 3 else "validation" if number % 5 == 3 else "test")
            for start_of in ("a", "one"):
                row = [f"{number}.jpg", f"{start_of} {WORDS[number % 3]} picture", part]
                table.writerow([*row, WORDS[number % 3]] if label else row)
    return folder


def write_coco(folder: Path, count: int = 20) -> Path:
    """The same in COCO's form."""
    (folder / "annotations").mkdir(parents=True)
    for part, numbers in (
        ("train", range(count - 8)),
        ("val", range(count - 8, count - 4)),
        ("test", range(count - 4, count)),
    ):
        (folder / part).mkdir()
        for number in numbers:
            picture(number).save(folder / part / f"{number}.jpg")
        content = {
            "images": [{"id": number, "file_name": f"{number}.jpg"} for number in numbers],
            "annotations": [
                {"id": number, "image_id": number, "caption": f"A {WORDS[number % 3]} picture."} for number in numbers
            ],
        }
        (folder / "annotations" / f"captions_{part}.json").write_text(json.dumps(content))
    return folder
