"""Published weights at work: photographs named by a trained classifier, and weights brought to other names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import data, models, pretrained
from fusionjax.errors import InputError
from fusionjax.recipes.labels import Label, most_probable

_BATCH = 8


def classify(
    weights: str | Path,
    photographs: Sequence[str | Path],
    *,
    architecture: str | None = None,
    labels: str | Path | None = None,
    top: int = 5,
) -> list[list[Label]]:
    """Names what is on photographs by a classifier with published weights.

    Args:
        weights: a file, a folder, or the id of a model of the Hugging Face hub.
        photographs: image files.
        architecture: its name; None tells it from the tensors.
        labels: a text file, one name a line, in the order of the classes; None takes those beside the weights, and the
            numbers of the classes where there are none.
        top: how many classes, the most probable first.

    Returns:
        For each photograph its classes.

    Raises:
        InputError: the weights, a photograph or the labels cannot be used.
    """
    if top < 1:
        raise InputError(f"top must be at least 1; got {top}. Ask for 5.")
    images = [data.load_image(photograph) for photograph in photographs]
    loaded = pretrained.load(weights, architecture=architecture)
    preparation = loaded.preparation
    if preparation is None or not isinstance(loaded.model, models.ImageClassifier):
        raise InputError(
            f"{weights} must hold weights of an image classifier; got {loaded.architecture.name}. Give others."
        )
    names = _labels(labels, loaded.model.num_classes) if labels else loaded.labels
    if len(names) != loaded.model.num_classes:
        names = [str(place) for place in range(loaded.model.num_classes)]
    pixels = np.stack(
        [
            data.prepare_image(
                image,
                preparation.size,
                shorter_side=preparation.shorter_side,
                interpolation=preparation.interpolation,
            )
            for image in images
        ]
    )

    @jax.jit
    def probabilities(variables: Any, batch: jax.Array) -> jax.Array:
        output: Any = loaded.model.apply(variables, batch)
        return jax.nn.softmax(output.logits)

    found = []
    for start in range(0, len(pixels), _BATCH):
        part = pixels[start : start + _BATCH]
        filled = np.concatenate([part, np.zeros((min(_BATCH, len(pixels)) - len(part), *part.shape[1:]), np.uint8)])
        found.append(np.asarray(probabilities(loaded.variables, jnp.asarray(filled)))[: len(part)])
    return [most_probable(names, row, top) for row in np.concatenate(found)]


def convert(
    source: str | Path, folder: str | Path, *, to: str | None = None, architecture: str | None = None
) -> tuple[str, str]:
    """Brings weights to the names of another library, such as a ResNet of torchvision to transformers.

    Args:
        source: a file, a folder, or the id of a model of the Hugging Face hub.
        folder: of the result, `model.safetensors` and, for transformers, `config.json`.
        to: name of the architecture to write, such as `"resnet-transformers"`; None keeps that of the source.
        architecture: of the source; None tells it from the tensors.

    Returns:
        The names of the architecture that was read and of the one that was written.

    Raises:
        InputError: the weights cannot be used, or the two architectures are not of one family.
    """
    target = None if to is None else pretrained.find_architecture(to)
    loaded = pretrained.load(source, architecture=architecture)
    written = loaded if target is None else pretrained.rename(loaded, target)
    pretrained.save(folder, written)
    return loaded.architecture.name, written.architecture.name


def _labels(path: str | Path, count: int) -> list[str]:
    try:
        names = [line.strip() for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be a text file of labels; {error}. Check the path.") from error
    if len(names) != count:
        raise InputError(f"{path} must have a label for each of the {count} classes; got {len(names)}. Correct it.")
    return names
