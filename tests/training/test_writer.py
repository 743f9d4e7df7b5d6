"""Tests of `fusionjax.training.writer`: the events are read back."""

import struct
from pathlib import Path

import pytest

from fusionjax.training import MetricsWriter
from fusionjax.training import writer as module


def read_events(directory: Path) -> list[tuple[int, str, float]]:
    """(step, name, value) of every point in the newest event file; session starts as (step, "start", 0)."""
    from tensorboardX.proto.event_pb2 import Event

    rows = []
    content = max(directory.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns).read_bytes()
    while content:
        # a record: length (8 bytes), its checksum (4), the event, its checksum (4)
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        if event.HasField("session_log"):
            rows.append((event.step, "start", 0.0))
        rows.extend((event.step, value.tag, value.simple_value) for value in event.summary.value)
    return rows


def test_curves_are_read_back(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "new" / "run") as writer:
        writer.write(1, {"train/loss": 2.5, "train/accuracy": 0.25})
        writer.write(7, {"validation/loss": 1.5})
    assert read_events(tmp_path / "new" / "run") == [
        (1, "train/loss", 2.5),
        (1, "train/accuracy", 0.25),
        (7, "validation/loss", 1.5),
    ]


def test_resumed_run_drops_what_a_killed_one_wrote_after_the_checkpoint(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, start_step=5) as writer:
        writer.write(6, {"train/loss": 2.5})
    assert read_events(tmp_path) == [(6, "start", 0.0), (6, "train/loss", 2.5)]


def test_missing_tensorboard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *, extra: str) -> None:
        raise ImportError(f'this needs the module {name!r}; run: pip install "fusionjax[{extra}]"')

    monkeypatch.setattr(module, "require", missing)
    with pytest.raises(ImportError, match=r"tensorboardX.*fusionjax\[cli\]"):
        MetricsWriter(tmp_path)
