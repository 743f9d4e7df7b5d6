"""Reports: complete, escaped, self-contained, true to the numbers, written whole or not at all."""

import base64
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from fusionjax.recipes.report import CaptionSample, ClassificationSample, write_classification_report, write_report

VOID = {"meta", "img", "br", "line", "polyline", "circle"}
NASTY = "<script>alert(\"1\")</script> & 'quotes' \udcff"
HISTORY = [
    {"step": 10, "train/loss": 3.0, "train/rate": 0.1},
    {"step": 20, "train/loss": float("nan"), "validation/loss": 2.5},
    {"step": 30, "train/loss": 1.5, "validation/loss": 2.0},
]


class Page(html.parser.HTMLParser):
    """The tags and texts of a page; fails on tags that do not match."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def attributes(self, wanted):
        return [attributes for tag, attributes in self.tags if tag == wanted]


def picture(height=20, width=30):
    return np.full((height, width, 3), 128, np.uint8)


def caption_sample(**changes):
    weights = np.zeros((2, 3, 5), np.float32)
    weights[0, 0, 4], weights[1, 2, 0] = 0.75, 0.5
    content = {
        "image": picture(),
        "references": ("a red dog", "one dog"),
        "caption": "red dog",
        "words": ("red", "dog"),
        "attention": weights,
        "log_probability": -2.345,
        "name": "dog.jpg",
    }
    return CaptionSample(**content | changes)


def classification_sample(label, prediction, **changes):
    content = {"image": picture(), "sentence": f"a {label}", "probability": 0.875, "name": "x"}
    return ClassificationSample(label=label, prediction=prediction, **content | changes)


def decode(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")))))


def test_a_caption_report_shows_everything(tmp_path):
    path = tmp_path / "report.html"
    summary = {"test/bleu_4": 0.123456, "test/images": 100.0, "decoder": "attention"}
    write_report(path, title="My run", summary=summary, samples=[caption_sample()], history=HISTORY)
    page = Page(path)
    text = " ".join(page.texts)
    for expected in ("My run", "test/bleu_4", "0.1235", "100", "attention", "red dog", "a red dog", "one dog"):
        assert expected in text
    for expected in ("log-probability -2.35", "dog.jpg", "75%", "50%"):
        assert expected in text
    # the picture and two heat maps; the charts of loss, with two lines, and of rate
    assert len(page.attributes("img")) == 3
    assert [chart["aria-label"] for chart in page.attributes("svg")] == ["loss over steps", "rate over steps"]
    assert len(page.attributes("polyline")) == 3


def test_it_needs_no_other_file_and_no_script(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, title="t", summary={}, samples=[caption_sample()], history=HISTORY)
    page = Page(path)
    assert not page.attributes("script") and not page.attributes("link")
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.attributes("img"))
    assert not re.search(r"https?:|url\(|@import", path.read_text(encoding="utf-8"))
    assert any("default-src 'none'" in meta.get("content", "") for meta in page.attributes("meta"))


@pytest.mark.parametrize("word", [0, 1])
def test_the_heat_map_is_brightest_and_ringed_where_the_model_looked(tmp_path, word):
    path = tmp_path / "report.html"
    write_report(path, title="t", summary={}, samples=[caption_sample()])
    heat_map = decode(Page(path).attributes("img")[1 + word]["src"]).astype(float)
    assert heat_map.shape == (112, 168, 3)  # the ratio of the picture is kept
    row, column = [(0, 4), (2, 0)][word]
    middle = (round((row + 0.5) * 112 / 3), round((column + 0.5) * 168 / 5))
    brightness = heat_map.sum(2)
    opposite = (112 - middle[0], 168 - middle[1])
    assert brightness[middle] > 2 * brightness[opposite]
    # black around white around the middle
    ring = brightness[middle[0], middle[1] - 12 : middle[1] + 13]
    assert ring.min() < 0.6 * brightness[middle] and ring.max() >= brightness[middle]


def test_without_attention_there_is_no_heat_map(tmp_path):
    path = tmp_path / "report.html"
    samples = [caption_sample(attention=None), caption_sample(words=(), attention=np.zeros((0, 3, 5)), caption="")]
    write_report(path, title="t", summary={}, samples=samples)
    page = Page(path)
    assert len(page.attributes("img")) == 2 and "(nothing)" in page.texts


def test_odd_content_is_shown_all_the_same(tmp_path):
    path = tmp_path / "report.html"
    samples = [caption_sample(image=picture(1, 1)), caption_sample(attention=np.full((2, 1, 1), np.nan))]
    history = [{"step": 5, "train/loss": 2.0}, {"step": 5, "test/only": float("inf")}]
    write_report(path, title="", summary={}, samples=samples, history=history)
    page = Page(path)
    assert len(page.attributes("img")) == 6 and len(page.attributes("svg")) == 1


def test_all_text_is_escaped(tmp_path):
    path = tmp_path / "report.html"
    sample = caption_sample(references=(NASTY,), caption=NASTY, words=(NASTY, "x"), name=NASTY)
    history = [{"step": 1, f"{NASTY}/{NASTY}": 1.0}]
    write_report(path, title=NASTY, summary={NASTY: NASTY}, samples=[sample], history=history)
    page = Page(path)
    assert not page.attributes("script")
    assert sum("<script>" in text for text in page.texts) >= 7
    other = tmp_path / "other.html"
    content = {"classes": (NASTY, "b"), "confusion": np.eye(2, dtype=int)}
    shown = classification_sample(NASTY, "b", sentence=NASTY, name=NASTY)
    write_classification_report(other, title=NASTY, summary={}, samples=[shown], **content)
    assert not Page(other).attributes("script")


def test_a_classification_report_shows_the_matrix_and_the_wrong_ones_first(tmp_path):
    path = tmp_path / "report.html"
    samples = [classification_sample("cat", "cat"), classification_sample("cat", "dog")]
    write_classification_report(
        path,
        title="My run",
        summary={"test/accuracy": 0.7},
        classes=("cat", "dog"),
        confusion=[[3, 1], [2, 4]],
        samples=samples,
        history=HISTORY,
    )
    page = Page(path)
    text = " ".join(page.texts)
    assert "Accuracy: 70 % (7 of 10 right)" in text and "(87.5%)" in text
    cells = [cell for cell in page.attributes("td") if "style" in cell]
    assert [cell["style"] for cell in cells] == [f"--share:{share}" for share in ("0.750", "0.250", "0.333", "0.667")]
    assert [cell["class"] for cell in cells] == ["strong", "weak", "weak", "strong"]
    assert [text for text in page.texts if text in ("right", "wrong")] == ["wrong", "right"]
    assert len(page.attributes("svg")) == 2


def test_many_classes_become_a_list_of_the_commonest_confusions(tmp_path):
    path = tmp_path / "report.html"
    confusion = 100 * np.eye(31, dtype=int)
    confusion[3, 7], confusion[9, 2] = 5, 8
    classes = [f"class {number}" for number in range(31)]
    write_classification_report(path, title="t", summary={}, classes=classes, confusion=confusion, samples=())
    page = Page(path)
    assert [text for text in page.texts if text.startswith("class ")] == ["class 9", "class 2", "class 3", "class 7"]
    assert "3,100 of 3,113 right" in " ".join(page.texts)


def test_a_report_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, title="old", summary={}, samples=())
    before = path.read_bytes()

    class Broken(dict):
        def items(self):
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_report(path, title="new", summary=Broken(), samples=())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    write_report(path, title="new", summary={}, samples=())
    assert "new" in path.read_text(encoding="utf-8") and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"image": np.zeros((2, 4, 4, 3), np.uint8)},
            ValueError,
            r"\[height, width, 3\]; got \(2, 4, 4, 3\). Pass one",
        ),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, ValueError, r"\[height, width, 3\]; got \(0, 4, 3\)"),
        ({"image": np.zeros((4, 4, 3))}, TypeError, r"image must be uint8, 0 to 255; got float64. Scale"),
        ({"attention": np.zeros((3, 2, 2))}, ValueError, r"with 2 words; got \(3, 2, 2\). Cut it"),
        ({"attention": np.zeros((2, 4))}, ValueError, r"with 2 words; got \(2, 4\)"),
    ],
)
def test_samples_check_their_arrays(changes, error, message):
    with pytest.raises(error, match=message):
        caption_sample(**changes)


def test_the_matrix_must_fit_the_classes(tmp_path):
    with pytest.raises(ValueError, match=r"confusion must have .* = \(3, 3\); got \(2, 2\). Pass metrics"):
        write_classification_report(
            tmp_path / "x.html", title="t", summary={}, classes=("a", "b", "c"), confusion=np.eye(2), samples=()
        )
