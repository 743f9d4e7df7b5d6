"""Files of torch.save, read without PyTorch; the files are made by it."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fusionjax.errors import InputError
from fusionjax.pretrained.torch_file import open_torch_file

torch = pytest.importorskip("torch", reason="makes the files")


def tensors() -> dict:
    numbers = torch.arange(210.0).reshape(5, 7, 6)
    return {
        "turned": numbers.permute(2, 0, 1),
        "part": numbers[1:3, ::2, 4],
        "shared": numbers.view(-1)[11:13],
        "half": torch.linspace(-3, 3, 13).half(),
        "brain": torch.linspace(-3, 3, 11).bfloat16(),
        "count": torch.tensor(17),
        "flags": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_both_formats_give_the_tensors(tmp_path: Path, is_zip: bool, nested: str | None) -> None:
    content = {nested: tensors(), "epoch": 3} if nested else tensors()
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=is_zip)
    file = open_torch_file(tmp_path / "w.pt")
    assert file.shapes == {name: tuple(one.shape) for name, one in tensors().items()}
    for name, one in tensors().items():
        found = file.read(name)
        assert found.dtype.name == str(one.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(found.astype(np.float64), one.double().numpy())


def test_parameters_are_tensors_and_other_values_are_left_out(tmp_path: Path) -> None:
    content = {"weight": torch.nn.Parameter(torch.ones(3)), "version": 2, "name": "x"}
    torch.save(content, tmp_path / "w.pt")
    assert open_torch_file(tmp_path / "w.pt").shapes == {"weight": (3,)}


class Evil:
    def __reduce__(self):
        return print, ("this must not be printed",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, capsys, is_zip: bool) -> None:
    torch.save({"w": torch.ones(2), "evil": Evil()}, tmp_path / "w.pt", _use_new_zipfile_serialization=is_zip)
    message = r"w.pt must hold tensors alone; its pickle asks for \w+.print, which could run code. Take weights in safe"
    with pytest.raises(InputError, match=message):
        open_torch_file(tmp_path / "w.pt")
    assert not capsys.readouterr().out


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"w.pt must be a file of torch.save; .*Fetch it anew"):
        open_torch_file(path)
    path.write_bytes(pickle.dumps(5))
    with pytest.raises(InputError, match=r"w.pt must be a file of torch.save; it begins otherwise. Give another file"):
        open_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "b")
    with pytest.raises(InputError, match=r"it is a zip without data.pkl. Give another file"):
        open_torch_file(path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match=r"w.pt must hold a state dict; got list without tensors. Save one"):
        open_torch_file(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.pt", tmp_path / "w.pt"
    torch.save(tensors(), whole)
    path.write_bytes(whole.read_bytes()[:-300])
    with pytest.raises(InputError, match=r"w.pt must be a file of torch.save; .*Fetch it anew"):
        open_torch_file(path)
    with zipfile.ZipFile(whole) as full, zipfile.ZipFile(path, "w") as cut:
        for name in full.namelist():
            cut.writestr(name, full.read(name)[: 40 if "/data/" in name else None])
    with pytest.raises(InputError, match=r"w.pt is damaged: storage \d+ is too short. Fetch it anew"):
        open_torch_file(path).read("turned")
    with zipfile.ZipFile(whole) as full, zipfile.ZipFile(path, "w") as cut:
        for name in full.namelist():
            if "/data/" not in name:
                cut.writestr(name, full.read(name))
    with pytest.raises(InputError, match=r"w.pt is damaged: storage \d+ cannot be read. Fetch it anew"):
        open_torch_file(path).read("turned")
    torch.save(tensors(), whole, _use_new_zipfile_serialization=False)
    path.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"w.pt is damaged: its storages do not fit its size. Fetch it anew"):
        open_torch_file(path)


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path, lying = tmp_path / "w.pt", tmp_path / "l.pt"
    torch.save({"w": torch.zeros(77)}, path)
    with zipfile.ZipFile(path) as full, zipfile.ZipFile(lying, "w") as other:
        for name in full.namelist():
            data = full.read(name)
            # The shape is pickled as K and the number.
            other.writestr(name, data.replace(b"KM\x85", b"K\xff\x85") if name.endswith("data.pkl") else data)
    with pytest.raises(InputError, match=r"l.pt: w reaches beyond its storage of 77 numbers. Fetch it anew"):
        open_torch_file(lying).read("w")
