"""Rows on disk: what is written is read, what is damaged is missing, what is killed or doubled harms nothing."""

import hashlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fusionjax.data import RowStore
from fusionjax.errors import InputError

WIDTH = 7
KEYS = [hashlib.sha256(bytes([number])).digest() for number in range(11)]
ROWS = np.random.default_rng(0).normal(size=(11, WIDTH)).astype(np.float16)


@pytest.fixture
def store(tmp_path: Path) -> RowStore:
    return RowStore(tmp_path / "rows", WIDTH, np.dtype(np.float16))


def fresh(store: RowStore) -> RowStore:
    """The same folder, as another process sees it."""
    return RowStore(store.folder, store.width, store.dtype)


def files(store: RowStore) -> list[Path]:
    return sorted(store.folder.glob("*.npy"))


def test_rows_come_back_in_the_order_asked_for_and_in_another_process(store: RowStore) -> None:
    assert store.missing(KEYS) == KEYS
    store.write(KEYS[:5], ROWS[:5])
    store.write(KEYS[5:8], ROWS[5:8])
    assert fresh(store).missing([*KEYS, KEYS[9]]) == KEYS[8:]
    places = [7, 0, 5, 0, 3]
    rows = fresh(store).rows([KEYS[place] for place in places])
    assert len(rows) == 5 and rows[0].dtype == np.float16
    np.testing.assert_array_equal(np.stack(list(rows)), ROWS[places])
    # What is read is the file's own pages, not a copy; what is sent to another process is the names of the files.
    assert not rows[0].flags.owndata
    sent = pickle.dumps(rows)
    assert len(sent) < 2000
    np.testing.assert_array_equal(np.stack(list(pickle.loads(sent))), ROWS[places])


def test_nothing_is_read_twice_by_one_process(store: RowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(KEYS, ROWS)
    assert store.missing(KEYS) == []
    monkeypatch.setattr("fusionjax.data.row_store._checksum", None)
    np.testing.assert_array_equal(store.rows(KEYS)[4], ROWS[4])


def test_a_damaged_row_is_missing_and_the_others_stay(store: RowStore, caplog: pytest.LogCaptureFixture) -> None:
    store.write(KEYS[:3], ROWS[:3])
    content = bytearray(files(store)[0].read_bytes())
    content[-1] ^= 1
    files(store)[0].write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="fusionjax"):
        assert fresh(store).missing(KEYS[:3]) == [KEYS[2]]
    assert f"1 rows of {store.folder} are damaged; they are computed anew" in caplog.text
    with pytest.raises(InputError, match=r"must hold every row that was computed; one is gone. Start again"):
        fresh(store).rows(KEYS[:3])
    caplog.clear()
    store.write(KEYS[2:3], ROWS[2:3])
    with caplog.at_level(logging.WARNING, logger="fusionjax"):
        np.testing.assert_array_equal(fresh(store).rows(KEYS[:3])[2], ROWS[2])
    assert not caplog.text


@pytest.mark.parametrize("content", [b"", b"no rows", "half", "others"])
def test_a_damaged_file_is_removed(store: RowStore, content: bytes | str, caplog: pytest.LogCaptureFixture) -> None:
    store.write(KEYS[:2], ROWS[:2])
    store.write(KEYS[2:], ROWS[2:])
    path = fresh(store).rows(KEYS[2:])._files[0]
    if content == "half":
        content = path.read_bytes()[:-9]
    elif content == "others":
        RowStore(store.folder.parent / "others", 5, store.dtype).write(KEYS[:1], np.ones((1, 5), np.float16))
        content = next((store.folder.parent / "others").glob("*.npy")).read_bytes()
    assert isinstance(content, bytes)
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="fusionjax"):
        assert fresh(store).missing(KEYS) == KEYS[2:]
    assert f"{path} is damaged (" in caplog.text and "it is removed, and its rows are computed anew" in caplog.text
    assert not path.exists() and len(files(store)) == 1


def test_a_process_that_is_killed_leaves_whole_files_alone(store: RowStore) -> None:
    """Killed at a time of chance while it writes one file after the other."""
    program = (
        "import sys, hashlib, numpy as np, pathlib\n"
        "from fusionjax.data.row_store import RowStore\n"
        "store = RowStore(pathlib.Path(sys.argv[1]), 50_000, np.dtype(np.float16))\n"
        "for number in range(10_000):\n"
        "    keys = [hashlib.sha256(f'{number} {row}'.encode()).digest() for row in range(20)]\n"
        "    store.write(keys, np.full((20, 50_000), number, np.float16))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(store.folder)], env=dict(os.environ))
    end = time.monotonic() + 60
    while len(files(store)) < 3 and time.monotonic() < end:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wide = RowStore(store.folder, 50_000, store.dtype)
    written = len(files(store))
    keys = [hashlib.sha256(f"{number} {row}".encode()).digest() for number in range(written) for row in range(20)]
    assert written >= 3 and wide.missing(keys) == []
    assert [row[0] for row in wide.rows(keys)] == [number for number in range(written) for _ in range(20)]
    # What it had begun goes once it is old.
    begun = store.folder / ".begun"
    begun.write_bytes(b"half")
    assert wide.missing(KEYS[:1]) == KEYS[:1] and begun.exists()
    for path in store.folder.glob(".*"):
        os.utime(path, (1, 1))
    assert wide.missing(KEYS[:1]) == KEYS[:1] and not list(store.folder.glob(".*"))


def test_two_processes_that_write_the_same(store: RowStore) -> None:
    fresh(store).write(KEYS, ROWS)
    fresh(store).write(KEYS, ROWS)
    assert len(files(store)) == 2
    rows = fresh(store).rows(KEYS)
    np.testing.assert_array_equal(np.stack(list(rows)), ROWS)
    assert len(rows._files) == 1


def test_a_file_that_another_process_removes_in_between(store: RowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(KEYS, ROWS)
    gone = store.folder / "gone.npy"
    monkeypatch.setattr(RowStore, "_files", lambda self: [gone, *files(store)])
    assert fresh(store).missing(KEYS) == []


def test_what_cannot_be_written(store: RowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"rows must have shape \(2, 7\); got \(3, 7\). Give a key for each"):
        store.write(KEYS[:2], ROWS[:3])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"must be a folder to write to; got No space left on device. Make room, or"):
        store.write(KEYS, ROWS)
    assert not list(store.folder.iterdir())
