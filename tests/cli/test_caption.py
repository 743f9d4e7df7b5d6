"""`fusionjax caption`: good photographs and every kind of bad one."""

import io
import json
import math
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from fusionjax.cli import main
from tests.recipes.tiny import picture

Captured = pytest.CaptureFixture[str]


def jpeg(number: int = 3) -> bytes:
    buffer = io.BytesIO()
    picture(number, 64).save(buffer, "JPEG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(b"\0"),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_damaged_exif() -> bytes:
    """A good picture whose metadata make Pillow warn."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\xff\xff\0\0\x06\0\0\0\x0f\x01\x02\0\xff\0\0\0\xff\xff\0\0"
    content = jpeg()
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:]


def test_one_row_for_each_photograph(captioner: Path, tmp_path: Path, capfd: Captured) -> None:
    files = {"good.jpg": jpeg(), "odd.jpg": with_damaged_exif()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    Image.new("L", (1, 1), 200).save(tmp_path / "dot.png")
    photographs = [str(tmp_path / name) for name in (*files, "dot.png")]
    assert main(["caption", str(captioner), *photographs, "--json"]) == 0
    output, errors = capfd.readouterr()
    rows = json.loads(output)
    assert errors == ""
    assert [row["image"] for row in rows] == photographs
    assert all(set(row) == {"image", "caption", "log_probability"} for row in rows)
    assert all(isinstance(row["caption"], str) and row["log_probability"] < 0 for row in rows)
    assert rows[0]["caption"] == rows[1]["caption"]
    assert math.isclose(rows[0]["log_probability"], rows[1]["log_probability"], rel_tol=1e-5)


def test_without_json_a_line_for_each(captioner: Path, tmp_path: Path, capfd: Captured) -> None:
    (tmp_path / "good.jpg").write_bytes(jpeg())
    words = ["caption", str(captioner), str(tmp_path / "good.jpg"), "--decoding.method", "sample"]
    assert main([*words, "--decoding.top-k", "3", "--decoding.seed", "5"]) == 0
    output = capfd.readouterr().out
    assert output.startswith(f"{tmp_path / 'good.jpg'}: ")
    assert output.endswith(")\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no picture at all", "got a file that is none (it begins with 'no picture at all')"),
        (jpeg()[:900], "the JPEG image is truncated or damaged"),
        (b"", "expected an image, got an empty file"),
        (bomb(), "got 60000 x 60000"),
        (None, "there is no such file. Check the path"),
    ],
    ids=["text", "truncated", "empty", "bomb", "missing"],
)
def test_bad_photograph_is_one_line(
    captioner: Path, tmp_path: Path, capfd: Captured, content: bytes | None, reason: str
) -> None:
    bad = tmp_path / "bad.jpg"
    if content is not None:
        bad.write_bytes(content)
    (tmp_path / "good.jpg").write_bytes(jpeg())
    assert main(["caption", str(captioner), str(tmp_path / "good.jpg"), str(bad), "--json"]) == 2
    output, errors = capfd.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert errors.startswith(f"fusionjax: {bad}: ")
    assert reason in errors


def test_no_photograph(captioner: Path, capfd: Captured) -> None:
    assert main(["caption", str(captioner)]) == 2
    assert "caption needs at least one photograph after the run; got none. Name image files." in capfd.readouterr().err
