"""Files, folders and ids of weights, whole and damaged."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import InputError
from fusionjax.pretrained.files import open_weights, write_safetensors

TENSORS = {
    "a": np.arange(35.0, dtype=np.float32).reshape(5, 7),
    "b": np.arange(3).astype(jnp.bfloat16),
    "c": np.array(11, np.int64),
}
CONFIG = {"model_type": "small"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_safetensors(tmp_path / "w" / "model.safetensors", TENSORS)
    (tmp_path / "w" / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path / "w"


def assert_opened(weights, config: dict) -> None:
    assert weights.shapes == {"a": (5, 7), "b": (3,), "c": ()} and dict(weights.config) == config
    for name, tensor in TENSORS.items():
        assert weights.read(name).dtype == tensor.dtype
        np.testing.assert_array_equal(weights.read(name), tensor)


def test_a_file_and_a_folder(folder: Path) -> None:
    assert_opened(open_weights(folder / "model.safetensors"), {})
    assert_opened(open_weights(folder), CONFIG)
    (folder / "model.safetensors").rename(folder / "another.safetensors")
    assert_opened(open_weights(str(folder)), CONFIG)


def test_a_folder_of_several_files_with_their_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "one.safetensors", {"a": TENSORS["a"]})
    write_safetensors(folder / "two.safetensors", {name: TENSORS[name] for name in "bc"})
    with pytest.raises(
        InputError, match=r"w must hold one file of weights, or .*; got one.safetensors, two.safetensors"
    ):
        open_weights(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {name: "one.safetensors" if name == "a" else "two.safetensors" for name in "abc"}})
    )
    assert_opened(open_weights(folder), CONFIG)
    (folder / "two.safetensors").unlink()
    with pytest.raises(InputError, match=r"w lacks two.safetensors, which model.safetensors.index.json names. Fetch"):
        open_weights(folder)
    index.write_text("{}")
    with pytest.raises(InputError, match=r"index.json must have a weight_map; got nothing. Fetch it anew"):
        open_weights(folder)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_file_is_refused(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"model.safetensors must be a whole safetensors file; .*\. Fetch it anew"):
        open_weights(folder)


@pytest.mark.parametrize("offsets", [[0, 10**9], [4, 144], [-4, 136]])
def test_a_header_that_lies_is_refused(folder: Path, offsets: list[int]) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [5, 7], "data_offsets": offsets}}).encode()
    data = len(header).to_bytes(8, "little") + header + TENSORS["a"].tobytes()
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"must be a whole safetensors file; .*\. Fetch it anew"):
        open_weights(folder)


def test_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"weights must be a file, a folder or the id of a model; there is no /no/x.pt"
    ):
        open_weights("/no/x.pt")
    with pytest.raises(InputError, match=r"must hold weights \(safetensors, or of torch.save\); there are none. Name"):
        open_weights(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("some/model", "timm/vit_base.augreg_in21k"):
        message = rf"{name} is no file or folder, and the hub did not give it: .*give a folder"
        with pytest.raises(InputError, match=message):
            open_weights(name)
    with pytest.raises(InputError, match=r"there is no runs/gone.safetensors. Check the name"):
        open_weights("runs/gone.safetensors")


def test_a_config_that_is_no_json_is_refused(folder: Path) -> None:
    for content, reason in (("{", "must be JSON; "), ("[]", "must be a JSON object; got list. Fetch it anew")):
        (folder / "config.json").write_text(content)
        with pytest.raises(InputError, match=rf"config.json {reason}"):
            open_weights(folder)


def test_nothing_is_left_half_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file must be a folder; File exists. Give another place"):
        write_safetensors(tmp_path / "file" / "model.safetensors", TENSORS)
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(InputError, match=r"w.safetensors cannot be written: .*Give another place"):
        write_safetensors(tmp_path / "w.safetensors", TENSORS)
    (tmp_path / "w.safetensors").rmdir()
    write_safetensors(tmp_path / "w.safetensors", TENSORS)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "w.safetensors"]
