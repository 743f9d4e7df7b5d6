"""Reports: one HTML file with the summary, the curves and samples of what a model did."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusionjax.recipes.escaping import escape
from fusionjax.recipes.page import build_page
from fusionjax.recipes.pictures import check_picture, embed_picture, overlay_attention
from fusionjax.recipes.run import write_atomically

_ATTENTION_NOTE = (
    '<p class="quiet">Above each word: where the model looked when it chose it. Brighter is more, each word on its own '
    "scale; the highest cell is ringed, and its share of the whole stands below the word.</p>"
)
_MOST_CLASSES = 30  # beyond it a confusion matrix cannot be read, and a list of the commonest confusions stands for it


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionSample:
    """A picture and the caption that a model wrote of it.

    Attributes:
        image: as the model saw it, `[height, width, 3]` uint8.
        references: the true captions.
        caption: the generated one.
        words: its words, one per heat map.
        attention: how much the model looked at each cell of the image at each word, `[words, rows, columns]`; or None.
        log_probability: of the whole caption, natural logarithm.
        name: of the picture, such as its file name.

    Example:
        >>> import numpy as np
        >>> picture = np.zeros((4, 4, 3), np.uint8)
        >>> sample = CaptionSample(image=picture, references=(), caption="dogs", words=("dogs",), log_probability=-1.5)
        >>> sample.attention is None
        True
    """

    image: NDArray[np.uint8]
    references: Sequence[str]
    caption: str
    words: Sequence[str]
    attention: NDArray[np.floating] | None = None
    log_probability: float
    name: str = ""

    def __post_init__(self) -> None:
        check_picture(self.image)
        if self.attention is not None and (self.attention.ndim != 3 or len(self.attention) != len(self.words)):
            raise ValueError(
                f"attention must have shape [words, rows, columns] with {len(self.words)} words; "
                f"got {self.attention.shape}. Cut it to the words that are shown."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationSample:
    """A picture, a sentence, and the class that a model gave them.

    Attributes:
        image: as the model saw it, `[height, width, 3]` uint8.
        sentence: that came with it.
        label: name of the true class.
        prediction: name of the predicted class.
        probability: that the model gave to its prediction, in [0, 1].
        name: of the picture, such as its file name.

    Example:
        >>> import numpy as np
        >>> picture = np.zeros((4, 4, 3), np.uint8)
        >>> ClassificationSample(image=picture, sentence="a dog", label="no", prediction="yes", probability=0.7).name
        ''
    """

    image: NDArray[np.uint8]
    sentence: str
    label: str
    prediction: str
    probability: float
    name: str = ""

    def __post_init__(self) -> None:
        check_picture(self.image)


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: Mapping[str, float | str],
    samples: Sequence[CaptionSample],
    history: Sequence[Mapping[str, float]] = (),
) -> None:
    """Writes the report of a captioner as one HTML file: summary, curves, and a card for each sample.

    A card shows the picture, its true captions, the generated one with its log-probability and, where there is
    attention, for each word the picture under a heat map of where the model looked, the highest cell ringed. The file
    needs no other file and no JavaScript, and is written whole or not at all.

    Args:
        path: the file; an old one is replaced.
        title: of the page.
        summary: names and values of its table.
        samples: the cards, in order.
        history: rows of `step` and metrics such as `train/loss`; each metric becomes a chart.

    Raises:
        ImportError: Pillow is not installed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "report.html"
        >>> write_report(path, title="A run", summary={"test/bleu_4": 0.1}, samples=())
        >>> path.read_text()[:15]
        '<!DOCTYPE html>'
    """
    cards = "".join(_caption_card(sample) for sample in samples)
    note = _ATTENTION_NOTE if any(sample.attention is not None for sample in samples) else ""
    sections = [f"<h2>Samples</h2>{note}{cards}"] if cards else []
    write_atomically(Path(path), build_page(title, summary, history, sections))


def write_classification_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: Mapping[str, float | str],
    classes: Sequence[str],
    confusion: ArrayLike,
    samples: Sequence[ClassificationSample],
    history: Sequence[Mapping[str, float]] = (),
) -> None:
    """Writes the report of a classifier as one HTML file: summary, curves, confusion matrix and samples.

    The matrix is coloured by the share of each true class; of more than 30 classes the commonest confusions are listed
    instead. Wrong samples come before right ones. The file needs no other file and is written whole or not at all.

    Args:
        path: the file; an old one is replaced.
        title: of the page.
        summary: names and values of its table.
        classes: the names of the classes.
        confusion: counts `[classes, classes]`; the row is the true class, the column the predicted one.
        samples: pictures to show.
        history: rows of `step` and metrics such as `train/loss`; each metric becomes a chart.

    Raises:
        ValueError: the matrix does not fit the classes.
        ImportError: Pillow is not installed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "report.html"
        >>> content = dict(classes=("no", "yes"), confusion=[[3, 1], [0, 4]], samples=())
        >>> write_classification_report(path, title="A run", summary={}, **content)
        >>> "Accuracy: 87.5 %" in path.read_text()
        True
    """
    counts = np.asarray(confusion)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(
            f"confusion must have shape [classes, classes] = ({len(classes)}, {len(classes)}); got {counts.shape}. "
            "Pass metrics.confusion_matrix(labels, predictions, len(classes))."
        )
    total, right = int(counts.sum()), int(counts.trace())
    headline = f"Accuracy: {100 * right / max(total, 1):.4g} % ({right:,} of {total:,} right)"
    table = _matrix(classes, counts) if len(classes) <= _MOST_CLASSES else _confusions(classes, counts)
    sections = [f'<h2>Predictions</h2><div class="card scroll"><p class="caption">{headline}</p>{table}</div>']
    ordered = sorted(samples, key=lambda sample: sample.label == sample.prediction)
    cards = "".join(_classification_card(sample) for sample in ordered)
    if cards:
        sections.append(f'<h2>Samples</h2><div class="gallery">{cards}</div>')
    write_atomically(Path(path), build_page(title, summary, history, sections))


def _caption_card(sample: CaptionSample) -> str:
    truths = "".join(f"<li>{escape(text)}</li>" for text in sample.references)
    return (
        f'<article class="card"><div class="sample">{_picture(sample.image, sample.name)}<div>'
        f'<p class="caption">{escape(sample.caption) or "(nothing)"}</p>'
        f'<p class="quiet">log-probability {sample.log_probability:.2f}</p>'
        f'<p class="quiet">True captions</p><ul>{truths}</ul>'
        f'<p class="quiet">{escape(sample.name)}</p></div></div>{_heat_maps(sample)}</article>\n'
    )


def _heat_maps(sample: CaptionSample) -> str:
    if sample.attention is None or not len(sample.words):
        return ""
    figures = []
    for word, weights in zip(sample.words, sample.attention, strict=True):
        source = embed_picture(overlay_attention(sample.image, weights), longest=168)
        figures.append(
            f'<figure><img src="{source}" alt="where the model looked for {escape(word)}" loading="lazy">'
            f'<figcaption>{escape(word)}<br><span class="quiet">{float(weights.max()):.0%}</span></figcaption></figure>'
        )
    return f'<div class="words">{"".join(figures)}</div>'


def _classification_card(sample: ClassificationSample) -> str:
    verdict = "right" if sample.label == sample.prediction else "wrong"
    return (
        f'<article class="card">{_picture(sample.image, sample.name)}<p>{escape(sample.sentence)}</p>'
        f'<p><span class="{verdict}">{verdict}</span>: predicted {escape(sample.prediction)} '
        f"({sample.probability:.1%})</p>"
        f'<p class="quiet">label: {escape(sample.label)}<br>{escape(sample.name)}</p></article>\n'
    )


def _picture(image: NDArray[np.uint8], name: str) -> str:
    return f'<img class="picture" src="{embed_picture(image)}" alt="{escape(name)}" loading="lazy">'


def _matrix(classes: Sequence[str], counts: NDArray[np.integer]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in classes)
    rows = []
    for name, row in zip(classes, counts, strict=True):
        shares = row / max(int(row.sum()), 1)
        cells = "".join(
            f'<td class="{"strong" if share > 0.5 else "weak"}" style="--share:{share:.3f}" '
            f'title="{share:.1%} of true {escape(name)}">{count:,}</td>'
            for share, count in zip(shares, row, strict=True)
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    caption = (
        '<p class="quiet">Rows: the true class. Columns: the predicted one. Stronger: a larger share of the row.</p>'
    )
    return f'<table class="matrix"><tr><th>true \\ predicted</th>{head}</tr>{"".join(rows)}</table>{caption}'


def _confusions(classes: Sequence[str], counts: NDArray[np.integer]) -> str:
    wrong = counts - np.diag(np.diag(counts))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CLASSES]
    rows = "".join(
        f"<tr><td>{escape(classes[true])}</td><td>{escape(classes[said])}</td>"
        f'<td class="number">{wrong[true, said]:,}</td></tr>'
        for true, said in zip(*np.unravel_index(largest, wrong.shape), strict=True)
        if wrong[true, said]
    )
    return f"<table><tr><th>true</th><th>predicted</th><th>how often</th></tr>{rows}</table>"
