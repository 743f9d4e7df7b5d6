"""Classes that a model was never trained on as such, named by the likeness of photographs and prompts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fusionjax.errors import InputError
from fusionjax.recipes.embedder import Embedder
from fusionjax.recipes.labels import Label, most_probable

TEMPLATES = ("a photo of a {}",)


def check_prompts(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Checks classes and templates, before any model is loaded for them.

    Args:
        classes: two names or more.
        templates: prompts with `{}` where the name goes.

    Returns:
        The names, each once.

    Raises:
        InputError: there are too few, or a template has no place for them.
    """
    names = list(dict.fromkeys(name.strip() for name in classes))
    if len(names) < 2 or not all(names):
        raise InputError(f"classes must be two different names or more; got {list(classes)}. Name them.")
    if not templates or not all("{}" in template for template in templates):
        raise InputError(
            f"templates must be texts with {{}} for the class; got {list(templates)}. Try 'a photo of {{}}'."
        )
    return names


def name_classes(
    embedder: Embedder,
    photographs: Sequence[str | Path],
    classes: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    *,
    top: int = 5,
) -> list[list[Label]]:
    """Names what is on photographs, among any classes (zero-shot).

    The vector of a class is the mean of those of its prompts, brought to length 1; the probabilities are those of
    `Embedder.probabilities`: they add up to 1 over the classes, except those of a sigmoid, which stand by themselves.

    Args:
        embedder: of images and texts.
        photographs: image files.
        classes: two names or more.
        templates: prompts with `{}` where the name goes.
        top: how many classes, the most probable first.

    Returns:
        For each photograph its classes.

    Raises:
        InputError: a photograph, the classes or a template cannot be used.

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
        arXiv:2103.00020, section 3.1.4, for prompts and their ensembles.
    """
    names = check_prompts(classes, templates)
    images = embedder.photographs(photographs)
    prompts = [template.replace("{}", name) for name in names for template in templates]
    # [classes, templates, features]
    vectors = embedder.texts(prompts).reshape(len(names), len(templates), -1).mean(1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return [most_probable(names, row, top) for row in embedder.probabilities(images, vectors)]
