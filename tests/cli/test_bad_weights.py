"""Weights that cannot be used: `classify` and `convert` say why in one line, and exit with 2."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionjax.cli import main
from fusionjax.pretrained.files import write_safetensors
from fusionjax.pretrained.resnet import RESNET_TRANSFORMERS, ResNetSizes
from fusionjax.pretrained.rows import tensors_from
from tests.contracts.parameters import draw_variables

SIZES = ResNetSizes(stage_sizes=(1,), features=(3,), stem_features=3, is_bottleneck=False, num_classes=5)
STEM = "resnet.embedder.embedder.convolution.weight"
HEAD = "classifier.1.weight"
INSIDE = "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight"
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    variables = draw_variables(RESNET_TRANSFORMERS.build(SIZES), *RESNET_TRANSFORMERS.example(SIZES))
    return dict(tensors_from(RESNET_TRANSFORMERS.rows(SIZES), variables))


@pytest.fixture
def folder(tmp_path: Path, tensors: Tensors) -> Path:
    """Weights that can be used, and a photograph."""
    write_safetensors(tmp_path / "w" / "model.safetensors", tensors)
    (tmp_path / "w" / "config.json").write_text(json.dumps(RESNET_TRANSFORMERS.hub_config(SIZES)))
    Image.fromarray(np.zeros((7, 11, 3), np.uint8)).save(tmp_path / "photograph.png")
    return tmp_path / "w"


def assert_tells(folder: Path, weights: Path | str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Both commands give the one line that begins so, and write nothing."""
    photograph, out = folder.parent / "photograph.png", folder.parent / "out"
    for words in (["classify", photograph, "--weights", weights], ["convert", weights, out]):
        assert main([str(word) for word in words]) == 2
        output, errors = capfd.readouterr()
        assert not output and errors.startswith(f"fusionjax: {message}") and errors.count("\n") == 1, errors
        assert errors.endswith(".\n") and not out.exists()


def test_the_whole_weights_can_be_used(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Else the tests below would show nothing."""
    assert main(["classify", str(folder.parent / "photograph.png"), "--weights", str(folder), "--top", "1"]) == 0
    assert main(["convert", str(folder), str(folder.parent / "out"), "--to", "resnet-torchvision"]) == 0
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: {"encoder.weight": np.ones((3, 5), np.float32)},
            " must hold weights of one of alexnet-torchv",
        ),
        (lambda tensors: {key: value for key, value in tensors.items() if key != INSIDE}, " must hold weights of one"),
        (
            lambda tensors: {key: value for key, value in tensors.items() if not key.endswith("1.bias")},
            " must have the 17 tensors of the architecture; missing: classifier.1.bias; unexpected: none. Name another",
        ),
        (
            lambda tensors: {**tensors, "fc.bias": np.ones(5, np.float32)},
            " must have the 17 tensors of the architecture; missing: none; unexpected: fc.bias. Name another",
        ),
        (
            lambda tensors: {**tensors, INSIDE: np.ones((3, 3, 5, 5), np.float32)},
            f": {INSIDE} must have shape [3, 3, 3, 3]; got [3, 3, 5, 5]. Name another architecture, or other weights.",
        ),
        (
            lambda tensors: {**tensors, INSIDE: np.ones((0, 0, 3, 3), np.float32), HEAD: np.ones((5, 0), np.float32)},
            " has tensors named as those of resnet-transformers, but a shape, or a value of config.json, that cannot ",
        ),
        (lambda tensors: {**tensors, HEAD: np.ones((), np.float32)}, " must hold weights of one of alexnet-torchvisio"),
        (lambda tensors: {**tensors, STEM: np.ones((3, 3, 7), np.float32)}, " must hold weights of one of alexnet-tor"),
        (
            lambda tensors: {**tensors, HEAD: np.ones((5, 3), np.int8)},
            f": {HEAD} must hold floating-point numbers; got int8. Give the weights as they were trained, not q",
        ),
        (
            lambda tensors: {**tensors, HEAD: np.ones((5, 3), np.complex64)},
            f": {HEAD} must hold floating-point numbers; got complex64. Give the weights as they were trained, not q",
        ),
    ],
)
def test_other_tensors(
    folder: Path, tensors: Tensors, change: Callable[[Tensors], Tensors], message: str, capfd
) -> None:
    path = folder / "model.safetensors"
    write_safetensors(path, change(tensors))
    whose = path if message.startswith(" must hold") or message.startswith(" has") else folder
    assert_tells(folder, folder, f"{whose}{message}", capfd)


def rewrite_header(path: Path, name: str, **fields: object) -> None:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header[name] |= fields
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + data[end:])


def test_numbers_of_eight_bits(folder: Path, tensors: Tensors, capfd) -> None:
    path = folder / "model.safetensors"
    write_safetensors(path, {**tensors, HEAD: np.ones((5, 3), np.uint8)})
    rewrite_header(path, HEAD, dtype="F8_E4M3")
    message = f"{path}: {HEAD} must hold floating-point numbers of 16 bits or more; got F8_E4M3. Give the weights as "
    assert_tells(folder, folder, message, capfd)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes((2**60).to_bytes(8, "little") + path.read_bytes()[8:]),
        lambda path: path.write_bytes(path.read_bytes()[:8] + bytes(300)),
        lambda path: rewrite_header(path, HEAD, data_offsets=[0, 60]),
        lambda path: rewrite_header(path, HEAD, data_offsets=[-4, 56]),
        lambda path: rewrite_header(path, HEAD, shape=[5, 2**62]),
        lambda path: rewrite_header(path, HEAD, dtype="X9"),
    ],
)
def test_files_in_safetensors_cut_off_and_with_lying_headers(folder: Path, spoil: Callable[[Path], None], capfd):
    path = folder / "model.safetensors"
    spoil(path)
    assert_tells(folder, folder, f"{path} must be a whole safetensors file; ", capfd)


class Evil:
    def __reduce__(self):
        return print, ("this must not be printed",)


def test_pickles(folder: Path, tensors: Tensors, capfd) -> None:
    torch = pytest.importorskip("torch", reason="makes the files")
    path = folder.parent / "w.pth"
    state = {name: torch.tensor(value) for name, value in tensors.items()}
    torch.save({**state, "more": Evil()}, path)
    message = (
        f"{path} must hold tensors alone; its pickle asks for __builtin__.print, which could run code. Take weights "
    )
    assert_tells(folder, path, message, capfd)
    torch.save(torch.nn.Linear(3, 5), path)
    assert_tells(
        folder, path, f"{path} must hold tensors alone; its pickle asks for torch.nn.modules.linear.Linear,", capfd
    )
    torch.save({**state, "n": torch.ones(3, dtype=torch.complex64)}, path)
    assert_tells(
        folder, path, f"{path} must hold tensors alone; its pickle asks for torch.ComplexFloatStorage, ", capfd
    )
    torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert_tells(folder, path, f"{path} must be a file of torch.save; ", capfd)
    torch.save({5: torch.ones(3)}, path)
    assert_tells(folder, path, f"{path} must hold a state dict; got dict without tensors. Save one.", capfd)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02K\x03K\x04tR.")
    assert_tells(
        folder, path, f"{path} must be a file of torch.save; 'int' object is not iterable. Fetch it anew.", capfd
    )


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"a": "../model.safetensors"}, "model.safetensors.index.json must name files beside it; got '../model.saf"),
        ({"a": 5}, "model.safetensors.index.json must name files beside it; got 5. Fetch it anew."),
        ({"a": "two.safetensors"}, "two.safetensors, which model.safetensors.index.json names. Fetch the rest."),
    ],
)
def test_lists_of_files(folder: Path, places: dict[str, object], message: str, capfd) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    before = f"{folder} lacks " if message.startswith("two") else f"{folder}/"
    assert_tells(folder, folder, f"{before}{message}", capfd)


def test_a_list_of_files_that_leaves_tensors_out_is_no_harm(folder: Path, tensors: Tensors) -> None:
    """What a file holds counts, not what the list says of it."""
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {HEAD: "model.safetensors"}}))
    assert main(["convert", str(folder), str(folder.parent / "out")]) == 0
    assert (folder.parent / "out" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_settings_of_another_kind(folder: Path, capfd) -> None:
    (folder / "config.json").write_text("[")
    assert_tells(folder, folder, f"{folder}/config.json must be JSON; ", capfd)
    (folder / "config.json").write_text(json.dumps({"downsample_in_bottleneck": True}))
    assert_tells(folder, folder, f"{folder}/model.safetensors must hold weights of one of alexnet-torchvision, ", capfd)


def test_nothing_and_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    import huggingface_hub

    def fail(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    message = "some/model is no file or folder, and the hub did not give it: no route to host. Check the name and the "
    assert_tells(folder, "some/model", message, capfd)
    assert_tells(
        folder, "./nothing.pth", "weights must be a file, a folder or the id of a model; there is no ./nothing", capfd
    )
    (folder / "model.safetensors").unlink()
    assert_tells(
        folder, folder, f"{folder} must hold weights (safetensors, or of torch.save); there are none. Name an", capfd
    )


def test_photographs_of_every_shape(folder: Path, capfd) -> None:
    """One pixel is scaled to what the network takes; what is no photograph is told."""
    photograph = folder.parent / "photograph.png"
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(photograph)
    assert main(["classify", str(photograph), "--weights", str(folder)]) == 0
    photograph.write_bytes(photograph.read_bytes()[:40])
    assert main(["classify", str(photograph), "--weights", str(folder)]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("fusionjax: ") and str(photograph) in errors and errors.count("\n") == 1
