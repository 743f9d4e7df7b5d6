"""The encoder of images or texts within published weights, opened before any tensor is read."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
from flax.typing import Dtype

from fusionjax.encoders import TextTransformer
from fusionjax.errors import InputError
from fusionjax.models import DualEncoder, ImageClassifier
from fusionjax.pretrained.architecture import Architecture, ImagePreparation
from fusionjax.pretrained.files import Weights, open_weights
from fusionjax.pretrained.loading import build_model, load, read_preparation, recognise

Part = Literal["image", "text"]


@dataclasses.dataclass(frozen=True)
class PublishedEncoder:
    """An encoder of published weights: what it is, and where its tensors are.

    Attributes:
        source: a file, a folder, or the id of a model of the Hugging Face hub.
        folder: that the weights lie in, with what is beside them.
        part: `"image"` or `"text"`.
        architecture: of the whole model.
        sizes: of the whole model.
        header: what they were told from: `shapes` of the tensors by name, `config` and `preparation`, as JSON holds
            them.
        encoder: without parameters.
        preparation: how photographs are prepared; None for a model of text alone.
    """

    source: str
    folder: Path
    part: Part
    architecture: Architecture
    sizes: Any
    header: Mapping[str, Any]
    encoder: nn.Module
    preparation: ImagePreparation | None

    def variables(self, *, param_dtype: Dtype = jax.numpy.float32) -> dict[str, Any]:
        """Reads the encoder's variables.

        Args:
            param_dtype: of the parameters.

        Returns:
            Those of `encoder`.

        Raises:
            InputError: the weights cannot be read.
        """
        loaded = load(self.source, architecture=self.architecture.name, param_dtype=param_dtype)
        name = _find(loaded.model, self.part)[0]
        if not name:
            return loaded.variables
        return {kind: tree[name] for kind, tree in loaded.variables.items() if name in tree}

    def fingerprint(self) -> str:
        """Reads all tensors, one after the other.

        Returns:
            A hash of their names, shapes and values, 64 hexadecimal digits, whatever kind of file they are in.

        Raises:
            InputError: the weights cannot be read.
        """
        weights = open_weights(self.source)
        digest = hashlib.sha256()
        for name in sorted(weights.shapes):
            tensor = weights.read(name)
            digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            digest.update(tensor.tobytes())
        return digest.hexdigest()


def open_encoder(source: str | Path, part: Part, *, architecture: str | None = None) -> PublishedEncoder:
    """Opens the encoder of images or of texts within weights; no tensor is read.

    Args:
        source: a file, a folder, or the id of a model of the Hugging Face hub.
        part: `"image"`, of a classifier of images or of two towers; or `"text"`, of two towers or by itself.
        architecture: of the weights; None tells it from the tensors' names and shapes.

    Returns:
        The encoder.

    Raises:
        InputError: the weights cannot be opened, or hold no such encoder.
    """
    weights = open_weights(source)
    found, sizes = recognise(weights, architecture)
    preparation = read_preparation(found, sizes, weights)
    header = {
        "shapes": {name: list(shape) for name, shape in weights.shapes.items()},
        "config": dict(weights.config),
        "preparation": None if preparation is None else dataclasses.asdict(preparation),
    }
    return _make(str(source), weights.path, part, found, sizes, header, preparation)


def encoder_of_header(source: str, part: Part, architecture: str, header: Mapping[str, Any]) -> PublishedEncoder:
    """Makes an encoder of what was told of its weights before, which need not be there any more.

    Args:
        source: where the weights are, or were.
        part: `"image"` or `"text"`.
        architecture: its name.
        header: of a `PublishedEncoder`.

    Returns:
        The encoder.

    Raises:
        InputError: the header is not one of this architecture.
    """
    shapes = {name: tuple(shape) for name, shape in header["shapes"].items()}
    weights = Weights(Path(source), shapes, lambda name: open_weights(source).read(name), header["config"])
    found, sizes = recognise(weights, architecture)
    settings = header["preparation"]
    preparation = None
    if settings is not None:
        # Of JSON's lists.
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
        }
        preparation = ImagePreparation(**values)
    return _make(source, weights.path, part, found, sizes, header, preparation)


def _make(
    source: str,
    path: Path,
    part: Part,
    found: Architecture,
    sizes: Any,
    header: Mapping[str, Any],
    preparation: ImagePreparation | None,
) -> PublishedEncoder:
    model, sizes = build_model(found, sizes, preparation)
    encoder = _find(model, part)[1]
    if encoder is None:
        raise InputError(
            f"{source} must hold weights of an encoder of {part}s; got {found.name}. Give others, or name the "
            "architecture."
        )
    folder = path if path.is_dir() else path.parent
    return PublishedEncoder(source, folder, part, found, sizes, header, encoder, preparation)


def _find(model: nn.Module, part: Part) -> tuple[str, nn.Module | None]:
    """The name of an encoder within a model, empty for the model itself, and the encoder; None if there is none."""
    if isinstance(model, DualEncoder):
        return f"{part}_encoder", model.image_encoder if part == "image" else model.text_encoder
    if isinstance(model, ImageClassifier) and part == "image":
        return "encoder", model.encoder
    return "", model if isinstance(model, TextTransformer) and part == "text" else None
