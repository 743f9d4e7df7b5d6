"""Captioned folders in both forms, whole and broken in every way."""

import json
import os
import pathlib

import numpy as np
import pytest

from fusionjax.data import decode_images, read_coco, read_flickr
from fusionjax.data.folders import hashed_split, split_name
from fusionjax.errors import InputError

SHARED = pathlib.Path(os.environ.get("FUSIONJAX_SHARED_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data"))
TABLE = (
    'image,caption,split\na.jpg,A dog runs.,train\na.jpg,"A dog, in snow.",train\nb.png,A cat.,val\nc.jpg,Birds.,test\n'
)
TOKENS = "a.jpg#0\tA dog .\na.jpg#1\tA brown dog .\nb.png#0\tA cat .\nc.jpg#0\tBirds .\n"


def write(folder, files, images=("a.jpg", "b.png", "c.jpg"), place="images"):
    (folder / place).mkdir(parents=True, exist_ok=True)
    for name in images:
        (folder / place / name).write_bytes(b"not read here")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def sizes(folder):
    return {name: len(folder.split(name)) for name in folder.splits}


def test_table_with_splits(tmp_path):
    lines = []
    folder = read_flickr(write(tmp_path, {"captions.csv": TABLE}), report=lines.append)
    assert folder.splits == ("train", "validation", "test")
    assert folder.split("train") == [
        {"id": "a.jpg", "image": tmp_path / "images" / "a.jpg", "captions": ["A dog runs.", "A dog, in snow."]}
    ]
    assert folder.split("val") == folder.split("validation") == folder.split("dev")
    assert folder.split("test")[0]["captions"] == ["Birds."]
    assert (lines, folder.problems, folder.label_names) == ([], (), ())


@pytest.mark.parametrize("place", ["images", "Images", "Flicker8k_Dataset", "."])
def test_places_of_the_pictures(tmp_path, place):
    folder = read_flickr(write(tmp_path, {"captions.txt": TABLE}, place=place), report=pytest.fail)
    assert sizes(folder) == {"train": 1, "validation": 1, "test": 1}


@pytest.mark.parametrize(("mark", "start"), [("\t", ""), ("|", ""), (";", ""), (",", "\ufeff")])
def test_other_separators_and_a_byte_order_mark(tmp_path, mark, start):
    text = (
        start + mark.join(("image", " caption", "split")) + "\r\n" + mark.join(("a.jpg", " A dog.", "train")) + "\r\n"
    )
    folder = read_flickr(write(tmp_path, {"captions.csv": text}, images=["a.jpg"]))
    assert folder.split("train")[0]["captions"] == ["A dog."]


def test_labels_of_a_caption_and_of_a_picture(tmp_path):
    text = "image,caption,label\na.jpg,red,yes\na.jpg,blue,no\nb.png,green,yes\n"
    folder = read_flickr(write(tmp_path, {"captions.csv": text}, images=["a.jpg", "b.png"]), report=lambda line: None)
    examples = {example["id"]: example for name in folder.splits for example in folder.split(name)}
    assert examples["a.jpg"]["labels"] == ["yes", "no"]
    assert "label" not in examples["a.jpg"]
    assert examples["b.png"]["label"] == "yes"
    assert folder.label_names == ("no", "yes")


def test_original_token_file_with_lists(tmp_path):
    lists = {"Flickr_8k.trainImages.txt": "a.jpg\n", "Flickr_8k.devImages.txt": "b.png\n"}
    lines = []
    folder = read_flickr(write(tmp_path, {"Flickr8k.token.txt": TOKENS, **lists}), report=lines.append)
    assert sizes(folder) == {"train": 1, "validation": 1}
    assert folder.split("train")[0]["captions"] == ["A dog .", "A brown dog ."]
    assert folder.problems == ("images in no split's list: c.jpg",)
    assert lines == [f"{tmp_path}: left out 1 images in no split's list: c.jpg"]


def test_without_splits_names_are_hashed_and_it_is_said_once(tmp_path):
    names = [f"{number}.jpg" for number in range(400)]
    text = "image,caption\n" + "".join(f"{name},A thing.\n{name},Two.\n" for name in names)
    lines = []
    folder = read_flickr(write(tmp_path, {"captions.csv": text}, images=names), report=lines.append)
    assert lines == [
        f"{tmp_path}: no splits given; divided by the images' names: train 80 %, validation 10 %, test 10 %"
    ]
    assert folder.splits == ("train", "validation", "test")
    assert sizes(folder) == pytest.approx({"train": 320, "validation": 40, "test": 40}, abs=25)
    assert all(hashed_split(example["id"]) == name for name in folder.splits for example in folder.split(name))
    tokens = "".join(f"{name}#0\tA thing.\n" for name in names)
    (tmp_path / "captions.csv").unlink()
    (tmp_path / "x.token.txt").write_text(tokens)
    assert sizes(read_flickr(tmp_path, report=lines.append)) == sizes(folder)


def test_split_names():
    assert [split_name(name) for name in ("Val", " dev", "valid", "TEST", "mine")] == [
        *("validation", "validation", "validation", "test", "mine")
    ]


def test_problems_are_left_out_reported_and_counted(tmp_path, caplog):
    text = TABLE + "d.jpg,Lost.,train\nc.jpg,  ,test\n"
    write(tmp_path, {"captions.csv": text}, images=("a.jpg", "b.png", "c.jpg", "e.jpg"))
    lines = []
    folder = read_flickr(tmp_path, report=lines.append)
    assert lines == [
        f"{tmp_path}: left out 1 empty captions: line 7 (c.jpg)",
        f"{tmp_path}: left out 1 images without captions: e.jpg",
        f"{tmp_path}: left out 1 captioned images that are missing: d.jpg",
    ]
    assert len(folder.problems) == 3
    assert sizes(folder) == {"train": 1, "validation": 1, "test": 1}
    read_flickr(tmp_path)
    assert "left out 1 images without captions: e.jpg" in caplog.text


@pytest.mark.parametrize(
    ("extra_row", "extra_image", "message"),
    [
        ("d.jpg,Lost.,train\n", None, r"1 captioned images that are missing: d\.jpg. Add the files"),
        ("c.jpg,,test\n", None, r"1 empty captions: line 6 \(c\.jpg\). Fill them in"),
        ("", "e.jpg", r"1 images without captions: e\.jpg. Add captions"),
    ],
)
def test_problems_stop_on_request(tmp_path, extra_row, extra_image, message):
    images = ["a.jpg", "b.png", "c.jpg", *([extra_image] if extra_image else [])]
    write(tmp_path, {"captions.csv": TABLE + extra_row}, images=images)
    with pytest.raises(InputError, match=message):
        read_flickr(tmp_path, on_broken="stop")
    with pytest.raises(ValueError, match="on_broken must be 'skip' or 'stop'; got 'no'"):
        read_flickr(tmp_path, on_broken="no")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"expected captions\.csv .* or \*\.token\.txt; found images"),
        (
            {"captions.csv": "file,text\na.jpg,x\n"},
            r"columns image and caption; found file, text. Add or rename image and",
        ),
        ({"captions.csv": "image,text\na.jpg,x\n"}, "found image, text. Add or rename caption"),
        ({"captions.csv": ""}, "found an empty file"),
        ({"captions.csv": "image,caption\n"}, "none is left of 0 captioned images"),
        ({"captions.csv": "image,caption\nq.jpg,Gone.\n"}, r"none is left of 1 captioned images \(1 missing"),
        (
            {"captions.csv": "image,caption\na.jpg, \n"},
            r"none is left of 0 captioned images \(0 missing, 1 captions empty",
        ),
        ({"captions.csv": "image,caption\na.jpg,A dog, a cat.\n"}, "line 2 has more cells than there are columns"),
        ({"captions.csv": "image,caption,split\na.jpg,x,\n"}, "line 2 has no split; the column must be full"),
        ({"captions.csv": "image,caption,label\na.jpg,x,\n"}, "line 2 has no label"),
        (
            {"captions.csv": b"image,caption\na.jpg,caf\xe9\n"},
            r"expected UTF-8 text; byte 23 is 0xe9. Save it as UTF-8",
        ),
        ({"captions.csv": "image,caption\na.jpg," + "x" * 200_000}, "line .* is no row of a table"),
        ({"captions.csv": TABLE + "a.jpg,Again.,test\n"}, r"a\.jpg must be in one split; got test and train"),
        ({"x.token.txt": "a.jpg A dog\n"}, "line 1 must be 'name.jpg#0<tab>caption'; got 'a.jpg A dog'"),
        (
            {"x.token.txt": TOKENS, "y.trainImages.txt": "a.jpg", "y.testImages.txt": "a.jpg"},
            r"a\.jpg must be in one split; got train and test",
        ),
    ],
)
def test_what_cannot_be_read(tmp_path, files, message):
    write(tmp_path, files)
    with pytest.raises(InputError, match=message) as error:
        read_flickr(tmp_path, report=lambda line: None)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [read_flickr, read_coco])
def test_no_folder(tmp_path, read):
    with pytest.raises(InputError, match="nowhere: expected a folder of pictures and captions; there is none"):
        read(tmp_path / "nowhere")


def test_no_such_split(tmp_path):
    folder = read_flickr(write(tmp_path, {"captions.csv": TABLE}))
    with pytest.raises(InputError, match=r"split 'extra'; there are train \(1\), validation \(1\), test \(1\)"):
        folder.split("extra")


def coco(names, captions):
    return json.dumps(
        {
            "info": {},
            "images": [{"id": 10 + number, "file_name": name, "height": 3} for number, name in enumerate(names)],
            "annotations": [
                {"id": number, "image_id": 10 + index, "caption": caption}
                for number, (index, caption) in enumerate(captions)
            ],
        }
    )


def test_coco_folder(tmp_path):
    write(tmp_path, {}, images=["1.jpg", "2.jpg"], place="train2017")
    write(tmp_path, {}, images=["1.jpg"], place="val2017")
    train = coco(["1.jpg", "2.jpg"], [(1, "Second.\n"), (0, "First."), (1, "Second again.")])
    files = {
        "annotations/captions_train2017.json": train,
        "annotations/captions_val2017.json": coco(["1.jpg"], [(0, "V")]),
    }
    folder = read_coco(write(tmp_path, files, images=[]), report=pytest.fail)
    assert sizes(folder) == {"train": 2, "validation": 1}
    assert folder.split("train")[0] == {
        "id": "train2017/2.jpg",
        "image": tmp_path / "train2017" / "2.jpg",
        "captions": ["Second.", "Second again."],
    }
    assert folder.split("val")[0]["image"] == tmp_path / "val2017" / "1.jpg"
    alone = read_coco(tmp_path / "annotations" / "captions_val2017.json")
    assert alone.split("validation") == folder.split("validation")


@pytest.mark.parametrize("place", ["images", "images/mine", "."])
def test_single_coco_file_and_places_of_its_pictures(tmp_path, place):
    write(tmp_path, {"mine.json": coco(["a.jpg"], [(0, "A dog.")])}, images=["a.jpg"], place=place)
    lines = []
    folder = read_coco(tmp_path / "mine.json", report=lines.append)
    assert folder.split(hashed_split("a.jpg"))[0]["image"] == tmp_path / place / "a.jpg"
    assert "no splits given" in lines[0]


def test_coco_problems(tmp_path):
    text = coco(["a.jpg", "gone.jpg", "silent.jpg"], [(0, "A dog."), (1, "Gone."), (0, " ")])
    write(tmp_path, {"captions_test.json": text}, images=["a.jpg", "silent.jpg"])
    lines = []
    folder = read_coco(tmp_path, report=lines.append)
    assert sizes(folder) == {"test": 1}
    assert [line.partition(": left out ")[2] for line in lines] == [
        "1 empty captions: captions_test.json: annotations[2] (images/a.jpg)",
        "1 images without captions: images/silent.jpg",
        "1 captioned images that are missing: gone.jpg",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"captions_val\.json: expected JSON; it is damaged"),
        ("[1]", "lists images and annotations; found list"),
        ('{"images": [], "notes": []}', "lists images and annotations; found images, notes"),
        ('{"images": [{"id": 1}], "annotations": []}', r"images\[0\] must have id and file_name; got id"),
        (
            '{"images": [], "annotations": [{"caption": ""}]}',
            r"annotations\[0\] must have image_id and caption; got capt",
        ),
        ('{"images": [], "annotations": [7]}', r"annotations\[0\] must have image_id and caption; got 7"),
        (
            '{"images": [], "annotations": [{"image_id": 4, "caption": "x"}]}',
            r"annotations\[0\] names image_id 4, which images does not list",
        ),
        ('{"images": [], "annotations": []}', "none is left of 0 captioned images"),
    ],
)
def test_coco_files_that_cannot_be_read(tmp_path, text, message):
    write(tmp_path, {"annotations/captions_val.json": text})
    with pytest.raises(InputError, match=message) as error:
        read_coco(tmp_path, report=lambda line: None)
    assert "\n" not in str(error.value)


def test_coco_folder_without_json(tmp_path):
    with pytest.raises(InputError, match=r"expected annotations/captions_\*\.json; found none"):
        read_coco(write(tmp_path, {}))


def test_real_photographs():
    path = SHARED / "flickr8k-1k"
    if not path.exists():
        pytest.skip(f"no shared data at {SHARED}; set FUSIONJAX_SHARED_DATA")
    folder = read_flickr(path, on_broken="stop")
    assert sizes(folder) == {"train": 800, "test": 100}
    examples = folder.split("test")
    assert all(len(example["captions"]) == 5 for example in examples)
    images = decode_images([example["image"] for example in examples[:7]], 24, fit="crop")
    assert images.shape == (7, 24, 24, 3)
    assert np.ptp(images, axis=(1, 2, 3)).min() > 60
