"""Batches: the same for the same seed, resumable at any place, in one process or several."""

import collections
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fusionjax.data import Scenes, make_loader
from fusionjax.data.loader import stack_examples
from fusionjax.errors import InputError


def with_noise(number, rng):
    return {"number": number, "noise": rng.random(3)}


def break_at_five(number, rng):
    if number == 5:
        raise InputError("five.jpg: expected an image")
    return {"number": number}


def loader_of(count=23, **options):
    settings = {"batch_size": 5, "shuffle": True, "seed": 11, "num_epochs": 3} | options
    return make_loader(range(count), with_noise, **settings)


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            assert type(one[name]) is type(other[name]) is np.ndarray


def test_every_example_once_an_epoch_and_each_epoch_in_another_order():
    loader = loader_of()
    order = np.concatenate([batch["number"] for batch in loader])
    epochs = order.reshape(3, 23)
    for epoch in epochs:
        assert sorted(epoch) == list(range(23))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert loader.num_batches == 14


def test_noise_differs_between_examples_and_epochs():
    batches = list(loader_of())
    noise = np.concatenate([batch["noise"] for batch in batches])
    assert len(np.unique(noise)) == noise.size == 23 * 3 * 3


def test_same_seed_same_batches_other_seed_others():
    assert_equal(list(loader_of()), list(loader_of(num_threads=0)))
    assert_equal(list(loader_of()), list(loader_of(num_threads=5)))
    first, other = next(iter(loader_of())), next(iter(loader_of(seed=12)))
    assert first["number"].tolist() != other["number"].tolist()


def test_without_shuffling_in_order():
    batches = list(loader_of(shuffle=False, num_epochs=1))
    assert [batch["number"].tolist() for batch in batches][:2] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert batches[-1]["number"].tolist() == [20, 21, 22]
    dropped = loader_of(shuffle=False, num_epochs=1, drop_remainder=True)
    assert_equal(list(dropped), batches[:-1])
    assert dropped.num_batches == 4


def test_no_end():
    loader = loader_of(num_epochs=None)
    assert loader.num_batches is None
    with iter(loader) as batches:
        first = [next(batches) for _ in range(20)]
    counts = collections.Counter(int(number) for batch in first for number in batch["number"])
    assert set(counts.values()) <= {4, 5}
    assert_equal(first[:14], [*list(loader_of())[:13], first[13]])


@pytest.mark.parametrize("num_threads", [0, 2])
def test_resuming_at_any_place_gives_exactly_what_would_have_followed(num_threads):
    loader = loader_of(num_threads=num_threads)
    whole = list(loader)
    for place in (0, 1, 4, 7, 13, 14):
        with iter(loader) as batches:
            for _ in range(place):
                next(batches)
            state = json.loads(json.dumps(batches.get_state()))
        resumed = iter(loader)
        resumed.set_state(state)
        assert_equal(list(resumed), whole[place:])


def test_state_can_be_set_in_the_middle_and_reading_go_on_after_close():
    loader = loader_of(num_epochs=None)
    with iter(loader) as batches:
        start = batches.get_state()
        first = [next(batches) for _ in range(3)]
        batches.close()
        fourth = next(batches)
        batches.set_state(start)
        assert_equal([next(batches) for _ in range(4)], [*first, fourth])


def test_resume_far_into_training_is_immediate():
    with iter(loader_of(num_epochs=None)) as batches:
        batches.set_state(batches.get_state() | {"batches": 23 * 1_000_000 + 1})
        far = next(batches)
    assert set(far["number"]) <= set(range(23))


def test_worker_processes_change_nothing():
    alone = list(loader_of())
    shared = iter(loader_of(num_workers=2))
    # The position of a loader without workers, odd so that the first batch is the second worker's.
    shared.set_state(iter(loader_of()).get_state() | {"batches": 3})
    assert_equal(list(shared), alone[3:])


ORPHANS = """
import itertools, multiprocessing, sys
from tests.data.test_loader import loader_of

if __name__ == "__main__":
    batches = iter(loader_of(num_workers=1, num_epochs=None))
    next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(ORPHANS)
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as parent:
        children = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert children
    patience = time.monotonic() + 30
    while any(map(is_running, children)) and time.monotonic() < patience:
        time.sleep(0.1)
    assert not any(map(is_running, children))


def is_running(process: int) -> bool:
    """Whether a process lives; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("num_workers", [0, 1])
def test_error_in_the_transform_arrives_as_it_is(num_workers):
    loader = make_loader(
        range(9), break_at_five, batch_size=3, shuffle=False, seed=0, num_epochs=1, num_workers=num_workers
    )
    with iter(loader) as batches, pytest.raises(InputError, match=r"five\.jpg: expected an image"):
        list(batches)


def test_scenes_through_a_loader():
    scenes = Scenes("train", size=6, image_size=16)
    loader = make_loader(
        scenes,
        lambda scene, rng: {"image": scene["image"], "label": scene["label"]},
        batch_size=4,
        shuffle=False,
        seed=0,
        num_epochs=1,
    )
    batches = list(loader)
    assert batches[0]["image"].shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(batches[1]["image"][1], scenes[5]["image"])
    assert batches[1]["label"].tolist() == [scenes[4]["label"], scenes[5]["label"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 12}, "data position is of a loader with seed = 12; this one has 11"),
        ({"batch_size": 6}, "batch_size = 6; this one has 5"),
        ({"shuffle": False}, "shuffle = False; this one has True"),
        ({"examples": 24}, "examples = 24; this one has 23"),
        ({"batches": -1}, "must count batches from 0; got -1"),
        ({"batches": "3"}, "must count batches from 0; got 3"),
    ],
)
def test_position_of_another_loader(change, message):
    batches = iter(loader_of())
    with pytest.raises(InputError, match=message):
        batches.set_state(batches.get_state() | change)
    with pytest.raises(InputError, match="examples = None; this one has 23"):
        batches.set_state({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"seed": 2**32}, r"seed must be less than 2\*\*32; got 4294967296"),
        ({"num_epochs": 0}, "num_epochs must be at least 1, or None for no end; got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0; got -1"),
        ({"num_threads": -1}, "num_threads must be at least 0; got -1"),
        ({"count": 0}, "a loader needs examples; got an empty source"),
        ({"batch_size": 24, "num_epochs": 1, "drop_remainder": True}, "batch_size 24 is larger than the 23 examples"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        loader_of(**options)


def test_examples_of_different_shapes_or_keys():
    with pytest.raises(ValueError, match=r"every example must have 'x' in one shape; got \(3,\) and \(5,\)"):
        stack_examples([{"x": np.zeros(3)}, {"x": np.zeros(5)}])
    with pytest.raises(ValueError, match=r"every example must have 'x' in one shape; got \(\) and none"):
        stack_examples([{"x": 1}, {"y": 1}])
