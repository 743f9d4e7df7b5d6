"""Published weights at work: photographs named or described, and weights brought to other names."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import data, models, pretrained
from fusionjax.errors import InputError
from fusionjax.recipes.cache import cache_folder
from fusionjax.recipes.config import DecodingConfig
from fusionjax.recipes.embedder import Embedder
from fusionjax.recipes.labels import Label, most_probable
from fusionjax.recipes.writing import CaptionWriter, Written
from fusionjax.recipes.zero_shot import TEMPLATES, check_prompts, name_classes

_BATCH = 8
_ENCODED = 32  # photographs that are encoded at a time
_CAPTION_LENGTH = 30
_NO_TOKENIZER = "{} must have a tokenizer beside the weights; there is none. Give a folder with its tokenizer.json."


def classify(
    weights: str | Path,
    photographs: Sequence[str | Path],
    *,
    architecture: str | None = None,
    labels: str | Path | None = None,
    classes: Sequence[str] = (),
    templates: Sequence[str] = TEMPLATES,
    top: int = 5,
) -> list[list[Label]]:
    """Names what is on photographs by published weights: among a classifier's own classes, or among any (zero-shot).

    Args:
        weights: a file, a folder, or the id of a model of the Hugging Face hub.
        photographs: image files.
        architecture: its name; None tells it from the tensors.
        labels: a text file, one name a line, in the order of a classifier's classes; None takes those beside the
            weights, and the numbers of the classes where there are none.
        classes: names to choose among by a model of images and texts, such as CLIP; see
            `fusionjax.recipes.zero_shot.name_classes`.
        templates: prompts with `{}` where such a name goes.
        top: how many classes, the most probable first.

    Returns:
        For each photograph its classes.

    Raises:
        InputError: the weights, a photograph, the labels, the classes or a template cannot be used.
    """
    if top < 1:
        raise InputError(f"top must be at least 1; got {top}. Ask for 5.")
    if classes:
        check_prompts(classes, templates)
        embedder = load_embedder(weights, architecture=architecture)
        return name_classes(embedder, photographs, classes, templates, top=top)
    images = [data.load_image(photograph) for photograph in photographs]
    loaded = pretrained.load(weights, architecture=architecture)
    if isinstance(loaded.model, models.DualEncoder):
        check_prompts(classes, templates)
    preparation = loaded.preparation
    if preparation is None or not isinstance(loaded.model, models.ImageClassifier):
        raise InputError(
            f"{weights} must hold weights of an image classifier; got {loaded.architecture.name}. Give others."
        )
    names = _labels(labels, loaded.model.num_classes) if labels else loaded.labels
    if len(names) != loaded.model.num_classes:
        names = [str(place) for place in range(loaded.model.num_classes)]
    pixels = np.stack([preparation(image) for image in images])

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


def load_embedder(weights: str | Path, *, architecture: str | None = None) -> Embedder:
    """Loads a published model of images and texts, such as CLIP or SigLIP.

    Args:
        weights: a folder, or the id of a model of the Hugging Face hub, with the files of the tokenizer.
        architecture: its name; None tells it from the tensors.

    Returns:
        What encodes images and texts. Indexes of photographs are kept in the user's cache, `~/.cache/fusionjax`, or
        where `FUSIONJAX_CACHE` or `XDG_CACHE_HOME` says.

    Raises:
        InputError: the weights cannot be used, are of another model, or have no tokenizer beside them.
    """
    loaded = pretrained.load(weights, architecture=architecture)
    preparation = loaded.preparation
    if preparation is None or not isinstance(loaded.model, models.DualEncoder):
        raise InputError(
            f"{weights} must hold weights of a model of images and texts; got {loaded.architecture.name}. Give others."
        )
    if loaded.tokenizer is None:
        raise InputError(_NO_TOKENIZER.format(weights))
    place = weights if loaded.folder is None else loaded.folder.resolve()
    return Embedder(
        loaded.model,
        loaded.variables,
        loaded.tokenizer,
        length=loaded.sizes.max_length,
        read=lambda path: preparation(data.load_image(path)),
        prepare=lambda image: image,
        preparation=repr(preparation),
        batch_size=_ENCODED,
        indexes=cache_folder("indexes") / hashlib.sha256(str(place).encode()).hexdigest()[:16],
    )


def caption(
    weights: str | Path,
    photographs: Sequence[str | Path],
    *,
    architecture: str | None = None,
    prompt: str = "",
    max_length: int | None = None,
    decoding: DecodingConfig = DecodingConfig(),
) -> list[Written]:
    """Describes photographs by a captioner with published weights, whose tokenizer lies beside them.

    Args:
        weights: a file, a folder, or the id of a model of the Hugging Face hub.
        photographs: image files.
        architecture: its name; None tells it from the tensors.
        prompt: words with which every caption begins, such as `a photo of`.
        max_length: tokens at most after the prompt, the end included; None for 30.
        decoding: how captions are written. No token is banned, as in transformers.

    Returns:
        One `Written` a photograph; its caption begins with the prompt.

    Raises:
        InputError: the weights, their tokenizer, a photograph or the prompt cannot be used.
    """
    max_length = _CAPTION_LENGTH if max_length is None else max_length
    if max_length < 1:
        raise InputError(f"max_length must be at least 1; got {max_length}. Ask for {_CAPTION_LENGTH}.")
    images = [data.load_image(photograph) for photograph in photographs]
    loaded = pretrained.load(weights, architecture=architecture)
    preparation, ends = loaded.preparation, loaded.caption_tokens
    if preparation is None or ends is None or not isinstance(loaded.model, models.Captioner):
        raise InputError(f"{weights} must hold weights of a captioner; got {loaded.architecture.name}. Give others.")
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise InputError(_NO_TOKENIZER.format(weights))
    before = (ends.start, *tokenizer.words(prompt))
    # The last token that is written is not read.
    if len(before) + max_length - 1 > ends.max_length:
        raise InputError(
            f"prompt and caption must have at most {ends.max_length} tokens together; got {len(before) - 1} and "
            f"{max_length}. Shorten the prompt, or lower max_length."
        )
    writer = CaptionWriter(
        loaded.model,
        loaded.variables,
        tokenizer,
        len(before) + max_length,
        before=before,
        end=ends.end,
        banned=(),
    )
    return writer.write(np.stack([preparation(image) for image in images]), decoding, batch_size=_BATCH)


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
