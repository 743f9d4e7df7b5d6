"""The table of choices, and the operations that follow it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from fusionjax.benchmarks.op_cases import Case, list_cases
from fusionjax.ops import choices, conv2d, implementations, shape_classes
from fusionjax.ops.choices import Choice, jax_minor_version, read_choices, record_selections
from fusionjax.ops.implementations import select_implementation

ROW = Choice("cpu", jax_minor_version(), "op", "wide", "float32", "fast", 2.0)
OBSTACLES = {"xla": None, "rule": None, "fast": None}


def put_in_force(monkeypatch: pytest.MonkeyPatch, row: Choice) -> None:
    table = {(row.op, row.shape_class, row.dtype): (row._replace(platform="gpu", implementation="gone"), row)}
    monkeypatch.setattr(implementations, "read_choices", lambda: table)


def test_a_row_is_followed_where_it_can_serve(monkeypatch):
    put_in_force(monkeypatch, ROW)

    def select(obstacles=OBSTACLES, implementation=None, shape_class="wide", dtype=jnp.float32):
        return select_implementation("op", implementation, obstacles, "rule", shape_class=shape_class, dtype=dtype)

    assert select() == "fast"
    assert select(implementation="xla") == "xla"
    assert select({**OBSTACLES, "fast": "it is Monday"}) == "rule"
    assert select({"xla": None, "rule": None}) == "rule"
    assert select({**OBSTACLES, "fast": "it is Monday", "rule": "so is this"}) == "xla"
    assert select(dtype=jnp.bfloat16) == select(shape_class="narrow") == select(shape_class=None) == "rule"
    put_in_force(monkeypatch, ROW._replace(platform="tpu"))
    assert select() == "rule"


@pytest.mark.parametrize("case", {case.op: case for case in list_cases()}.values(), ids=lambda case: case.op)
def test_every_operation_follows_the_table(case: Case, monkeypatch):
    shape_class = case.selection("float32").shape_class
    for name in ("xla", case.implementations()[1]):
        put_in_force(monkeypatch, ROW._replace(op=case.op, shape_class=shape_class, implementation=name))
        selection = case.selection("float32")
        # A row that cannot serve is passed over.
        assert (selection.implementation == name) == (selection.choice is not None)
        assert name != "xla" or selection.choice
        assert case.selection("bfloat16").choice is None


def test_only_the_rows_of_this_version_are_read(monkeypatch, tmp_path: Path):
    rows = [ROW, ROW._replace(platform="gpu"), ROW._replace(jax="0.0")]
    (tmp_path / "choices.json").write_text(json.dumps([row._asdict() for row in rows]))
    monkeypatch.setattr(choices.resources, "files", lambda package: tmp_path)
    assert read_choices.__wrapped__() == {("op", "wide", "float32"): tuple(rows[:2])}
    monkeypatch.setattr(jax, "__version__", "0.0.7")
    assert read_choices.__wrapped__() == {("op", "wide", "float32"): tuple(rows[2:])}


def test_the_packaged_table_names_what_there_is():
    rows = [Choice(**row) for row in json.loads(Path(choices.choices_path()).read_text())]
    assert len({row[:5] for row in rows}) == len(rows)
    known = {(case.op, case.selection("float32").shape_class): case.implementations() for case in list_cases()}
    for row in rows:
        assert row.implementation in known[row.op, row.shape_class], row
        assert row.gain > 0.8, row


def test_selections_are_listed_outer_first_and_only_inside():
    images, kernel = jnp.ones((2, 7, 5, 3)), jnp.ones((3, 3, 3, 2))
    with record_selections() as outer:
        with record_selections() as inner:
            conv2d(images, kernel, implementation="xla")
        conv2d(images, kernel, implementation="taps")
    conv2d(images, kernel)
    assert [selection.implementation for selection in inner] == ["xla"]
    assert [selection.implementation for selection in outer] == ["taps"]
    assert outer[0][:3] == ("conv2d", "3x3, few channels", "float32") and outer[0].choice is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (shape_classes.convolution_class((8, 9, 9, 32), (3, 3, 1, 32), groups=32), "depthwise"),
        (shape_classes.convolution_class((8, 9, 9, 32), (3, 3, 8, 32), groups=4), "groups"),
        (shape_classes.convolution_class((8, 9, 9, 32), (3, 3, 32, 32), strides=(1, 2)), "strides, some channels"),
        (shape_classes.convolution_class((8, 9, 9, 32), (3, 3, 32, 32), dilation=(2, 1)), "dilation"),
        (shape_classes.sequence_convolution_class((8, 9, 6), (3, 2, 6), groups=3), "groups"),
        (shape_classes.pooled_convolution_class((8, 9, 30, 64), (3, 3, 64, 64)), "small images"),
        (shape_classes.pooled_convolution_class((8, 9, 30, 3), (3, 3, 3, 64)), "few terms"),
        (shape_classes.pooled_convolution_class((8, 9, 30, 64), (1, 1, 64, 64)), "pointwise, many channels"),
        (shape_classes.pooling_class((8, 9, 9, 3), (2, 2), (1, 1)), "other windows"),
        (shape_classes.recurrence_class(5, 1, 64), "one step"),
        (shape_classes.recurrence_class(1, 5, 64), "one example"),
        (shape_classes.attention_class((2, 3, 1, 8), (2, 700, 1, 8)), "few queries"),
    ],
)
def test_classes_of_what_is_rarely_measured(found: str, expected: str):
    assert found == expected
