"""Data sets of TensorFlow Datasets, read without TensorFlow: a small builder written to disk as array_record."""

import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from fusionjax.data import TFDSSource, load_image, make_loader, tfds_splits
from fusionjax.errors import InputError

FIELDS = {"image": "image", "captions": "captions/text", "id": "image/filename", "label": "label"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Prepares the data set in a process of its own, so that reading knows nothing of the builder's code."""
    folder = tmp_path_factory.mktemp("tfds")
    script = pathlib.Path(__file__).with_name("tiny_captions.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_examples_are_dictionaries_of_the_mapped_fields(data_dir):
    source = TFDSSource("tiny_captions", "train", data_dir=data_dir, fields=FIELDS)
    assert len(source) == 5
    examples = {example["id"]: example for example in source}
    assert set(examples) == {f"{number}.png" for number in range(5)}
    for number in range(5):
        example = examples[f"{number}.png"]
        assert example["captions"] == [f"caption {number} {k}, größer" for k in range(number % 3 + 1)]
        assert example["label"] == number % 2
        np.testing.assert_array_equal(load_image(example["image"]), np.full((5 + number, 9, 3), number * 30))


def test_default_fields_and_index(data_dir):
    source = TFDSSource("tiny_captions:1.0.0", "test", data_dir=data_dir)
    assert source[-1] == source[1] == source[0:2][1]
    assert source[1].keys() == {"id", "image", "captions"}
    assert source[1]["id"] == "tiny_captions:1.0.0-test-1"
    with pytest.raises(IndexError, match=r"index must be in \[0, 2\); got 2"):
        source[2]


def test_a_single_caption_becomes_a_list_and_nested_pictures_stay_encoded(data_dir):
    fields = {"image": "inside/picture", "captions": "title", "size": "inside/size"}
    example = TFDSSource("tiny_captions", "train[:1]", data_dir=data_dir, fields=fields)[0]
    assert example["captions"] == [f"title {example['size']}"]
    assert load_image(example["image"]).shape == (5 + example["size"], 9, 3)


def test_through_a_loader_and_pickled(data_dir):
    source = TFDSSource("tiny_captions", "train", data_dir=data_dir, fields=FIELDS)
    loader = make_loader(
        pickle.loads(pickle.dumps(source)),
        lambda example, rng: {"image": load_image(example["image"], 4), "label": example["label"]},
        batch_size=5,
        shuffle=True,
        seed=0,
        num_epochs=1,
    )
    (batch,) = list(loader)
    assert batch["image"].shape == (5, 4, 4, 3)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0] // 30 % 2, batch["label"])


def test_reading_does_not_import_tensorflow(data_dir):
    TFDSSource("tiny_captions", "train", data_dir=data_dir)[0]
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("name", "split", "fields", "message"),
    [
        ("tiny_captions", "dev", None, r"expected a split out of t\w+, t\w+, or a part such as .* got 'dev'"),
        (
            "tiny_captions",
            "train",
            {"captions": "captions/words"},
            "field 'captions/words' for 'captions'; there are capt",
        ),
        ("tiny_captions", "train", {"title": "title/x"}, "expected a field 'title/x' for 'title'"),
        ("tiny_captoins", "train", None, "got 'tiny_captoins', which TFDS does not know and which is not prepared in"),
        ("mnisst", "train", None, "Did you mean mnist"),
        (
            "mnist",
            "train",
            None,
            "mnist: expected a prepared data set in .*; it has not been downloaded. To prepare it, run: python",
        ),
        ("coco_captions", "train", None, "preparing it needs a module that is missing here .*tensorflow"),
        ("mnist:9.9.9", "train", None, "got 'mnist:9.9.9': .* cannot be loaded at version 9.9.9, only: 3.0.1"),
        ("huggingface:mnist", "train", None, "expected 'name', 'name/config' or 'name:1.0.0'; got 'huggingface:mnist'"),
    ],
)
def test_what_is_not_there_is_named(data_dir, name, split, fields, message):
    with pytest.raises(InputError, match=message) as error:
        TFDSSource(name, split, data_dir=data_dir, fields=fields)
    assert "\n" not in str(error.value)


def test_splits(data_dir):
    assert sorted(tfds_splits("tiny_captions", data_dir=data_dir)) == ["test", "train"]
    with pytest.raises(InputError, match="has not been downloaded"):
        tfds_splits("mnist", data_dir=data_dir)


@pytest.mark.parametrize("name", ["coco_captions", "coco_captions/2014", "coco_captions/2014:1.1.0"])
def test_a_set_whose_own_code_needs_tensorflow_is_read_where_it_is_prepared(data_dir, tmp_path, name):
    prepared = tmp_path / "coco_captions" / "2014" / "1.1.0"
    prepared.mkdir(parents=True)
    for file in (data_dir / "tiny_captions" / "1.0.0").iterdir():
        content = file.read_bytes()
        if file.suffix == ".json":
            content = content.replace(b'"name": "tiny_captions"', b'"name": "coco_captions", "configName": "2014"')
            content = content.replace(b'"1.0.0"', b'"1.1.0"')
        (prepared / file.name.replace("tiny_captions", "coco_captions")).write_bytes(content)
    assert len(TFDSSource(name, "train", data_dir=tmp_path)[0]["captions"]) >= 1
    assert "tensorflow" not in sys.modules


def test_the_advised_command_is_python():
    with pytest.raises(InputError, match="run: python -c") as error:
        TFDSSource("mnist", "train", data_dir="/nowhere")
    command = str(error.value).partition('python -c "')[2].rstrip('"')
    compile(command, "advice", "exec")
    assert "download_and_prepare()" in command


def test_data_dir_from_the_environment(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert len(TFDSSource("tiny_captions", "train")) == 5
    with pytest.raises(InputError, match="not been downloaded"):
        TFDSSource("mnist", "train", data_dir="/nowhere")


def test_other_file_format_is_named(data_dir, tmp_path):
    info = data_dir / "tiny_captions" / "1.0.0"
    copy = tmp_path / "tiny_captions" / "1.0.0"
    copy.mkdir(parents=True)
    for file in info.iterdir():
        if file.suffix == ".json":
            (copy / file.name).write_text(file.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(
        InputError, match=r"expected the format array_record in .*; got tfrecord. Remove it there and run:"
    ):
        TFDSSource("tiny_captions", "train", data_dir=tmp_path)
