"""The page of what was found: queries in words, and the pictures that answer them."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusionjax.recipes.escaping import escape
from fusionjax.recipes.page import build_page
from fusionjax.recipes.pictures import check_picture, embed_picture
from fusionjax.recipes.run import write_atomically


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalSample:
    """A query and the pictures that were found for it, the best first.

    Attributes:
        query: in words.
        images: each `[height, width, 3]` uint8.
        names: of the pictures, such as their file names.
        scores: of the pictures.
        right: place of the right one among them; None where it is not among them, or not known.
        is_known: whether there is a right one.

    Example:
        >>> picture = np.zeros((4, 4, 3), np.uint8)
        >>> RetrievalSample(query="a dog", images=[picture], names=["a.jpg"], scores=[0.5], is_known=False).right
    """

    query: str
    images: Sequence[NDArray[np.uint8]]
    names: Sequence[str]
    scores: Sequence[float]
    right: int | None = None
    is_known: bool = True

    def __post_init__(self) -> None:
        for image in self.images:
            check_picture(image)
        if not len(self.images) == len(self.names) == len(self.scores):
            raise ValueError(
                f"every picture needs a name and a score; got {len(self.images)} pictures, {len(self.names)} names and "
                f"{len(self.scores)} scores. Give one of each."
            )


def write_retrieval_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: Mapping[str, float | str],
    samples: Sequence[RetrievalSample],
    history: Sequence[Mapping[str, float]] = (),
) -> None:
    """Writes what was found as one HTML file: summary, curves, and a card for each query.

    The file needs no other file and no JavaScript, and is written whole or not at all.

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
        >>> write_retrieval_report(path, title="A run", summary={"test/mean_recall": 0.2}, samples=())
        >>> path.read_text()[:15]
        '<!DOCTYPE html>'
    """
    cards = "".join(map(_card, samples))
    write_atomically(Path(path), build_page(title, summary, history, [f"<h2>Found</h2>{cards}"] if cards else []))


def _card(sample: RetrievalSample) -> str:
    note = ""
    if sample.is_known and sample.right is None:
        note = f'<p class="quiet">The right picture is not among the first {len(sample.images)}.</p>'
    figures = []
    for place, (image, name, score) in enumerate(zip(sample.images, sample.names, sample.scores, strict=True)):
        verdict = ' <span class="right">right</span>' if place == sample.right else ""
        figures.append(
            f'<figure><img src="{embed_picture(image)}" alt="{escape(name)}" loading="lazy">'
            f'<figcaption>{score:.3f}{verdict}<br><span class="quiet">{escape(name)}</span></figcaption></figure>'
        )
    return (
        f'<article class="card"><p class="caption">{escape(sample.query)}</p>{note}'
        f'<div class="found">{"".join(figures)}</div></article>\n'
    )
