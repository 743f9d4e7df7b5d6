"""Whole models from and to files of weights."""

import contextlib
import dataclasses
import difflib
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from fusionjax import data
from fusionjax.data.published_tokenizer import TOKENIZER_FILES
from fusionjax.errors import InputError
from fusionjax.pretrained.architecture import Architecture, CaptionTokens, ImagePreparation
from fusionjax.pretrained.bert import SENTENCE_BERT_TRANSFORMERS
from fusionjax.pretrained.copies import check_copies, without_copies
from fusionjax.pretrained.files import Weights, open_weights, read_json, takes_mean, write_safetensors
from fusionjax.pretrained.preparation import PREPROCESSOR, PROCESSOR, read_timm, read_transformers, to_transformers
from fusionjax.pretrained.registry import ARCHITECTURES
from fusionjax.pretrained.rows import tensors_from, variables_from

Placement = jax.sharding.Sharding | Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its weights.

    Attributes:
        architecture: whose table was read.
        sizes: of the model, as the architecture's `recognise` returned them.
        model: without parameters.
        variables: of the model.
        labels: of the classes, in order, where `config.json` has them; else empty.
        preparation: how photographs are prepared, as the architecture has it and the files beside the weights correct
            it; None for a model of text alone.
        folder: where the files beside the weights lie; None where a file alone was named.
    """

    architecture: Architecture
    sizes: Any
    model: nn.Module
    variables: dict[str, Any]
    labels: tuple[str, ...] = ()
    preparation: ImagePreparation | None = None
    folder: Path | None = None

    @functools.cached_property
    def tokenizer(self) -> data.Tokenizer | None:
        """What turns texts into the model's tokens, read from the files beside the weights when it is first asked for.

        None for a model that reads no text, and where there are no such files.

        Raises:
            InputError: the files are damaged, or belong to another model.
        """
        kind = self.architecture.tokenizer
        if kind is None or self.folder is None:
            return None
        tokenizer = data.read_tokenizer(self.folder, kind, self.sizes.max_length)
        if tokenizer is not None and tokenizer.vocab_size > self.sizes.vocab_size:
            raise InputError(
                f"{self.folder}: the tokenizer must have at most the model's {self.sizes.vocab_size} tokens; it has "
                f"{tokenizer.vocab_size}. Put that of this model there."
            )
        return tokenizer

    @property
    def caption_tokens(self) -> CaptionTokens | None:
        """With which captions begin and end; None for a model that writes none."""
        return self.architecture.caption_tokens(self.sizes)


def load(
    source: str | Path,
    *,
    architecture: str | None = None,
    sharding: Placement | None = None,
    param_dtype: Dtype = jnp.float32,
) -> Pretrained:
    """Loads a model: tensors of torchvision, timm or transformers into one of ours.

    The files beside the weights, in a folder or on the hub, tell what no tensor shows: `config.json`, how photographs
    are prepared (`preprocessor_config.json`), and the tokenizer.

    Every name and shape is checked before the first tensor is read. Tensors are read one after the other, each straight
    to where its sharding puts it, so that memory of the process's own never holds two copies of the model.

    Args:
        source: a file in safetensors or of `torch.save`, a folder, or the id of a model of the Hugging Face hub.
        architecture: its name, such as `"resnet-torchvision"`; None tells it from the tensors' names and shapes.
        sharding: of all variables, or a function of path and shape to that of each; None puts them on the first device.
        param_dtype: of the parameters. Integers and the statistics of batch normalisation keep theirs.

    Returns:
        The model and its variables.

    Raises:
        InputError: the weights cannot be read, are of no or another architecture, or hold a tensor twice with different
            values.
    """
    opened = open_weights(source)
    found, sizes = recognise(opened, architecture)
    weights = without_copies(opened, found.copies)
    with _one_line(opened.path, found):
        preparation = read_preparation(found, sizes, opened)
        model, sizes = build_model(found, sizes, preparation)
        expected = _cast(jax.eval_shape(lambda: model.init(jax.random.key(0), *found.example(sizes))), param_dtype)
    variables = variables_from(
        found.rows(sizes),
        weights.shapes,
        weights.read,
        expected,
        is_ignored=found.is_ignored,
        place=_placing(sharding),
        source=str(source),
    )
    check_copies(opened, found.copies, str(source))
    return Pretrained(found, sizes, model, variables, _labels(opened), preparation, opened.folder)


def save(folder: str | Path, pretrained: Pretrained) -> None:
    """Writes `model.safetensors`, the files of the tokenizer, and what else the other library reads.

    That is, for transformers, `config.json` and `preprocessor_config.json`.

    Args:
        folder: made if missing.
        pretrained: the model with its variables; `dataclasses.replace(pretrained, variables=...)` holds tuned ones.

    Raises:
        InputError: the folder cannot be written, or the variables are not those of the architecture.
    """
    folder, architecture, sizes = Path(folder), pretrained.architecture, pretrained.sizes
    write_safetensors(folder / "model.safetensors", dict(tensors_from(architecture.rows(sizes), pretrained.variables)))
    if architecture.hub_config is not None:
        config = dict(architecture.hub_config(sizes))
        if pretrained.labels:
            config["id2label"] = {str(place): label for place, label in enumerate(pretrained.labels)}
        _write_json(folder / "config.json", config)
        if pretrained.preparation is not None:
            _write_json(folder / PREPROCESSOR, to_transformers(pretrained.preparation))
    if pretrained.folder is not None and architecture.tokenizer is not None:
        for name in TOKENIZER_FILES:
            source, copy = pretrained.folder / name, folder / name
            if source.exists() and source.resolve() != copy.resolve():
                shutil.copyfile(source, copy)


def rename(pretrained: Pretrained, target: Architecture) -> Pretrained:
    """Gives a model the names of another library; the weights stay as they are.

    Args:
        pretrained: the model.
        target: of the same family.

    Returns:
        The model, to be saved under the other names.

    Raises:
        InputError: the other architecture cannot have these sizes.
    """
    sizes = pretrained.sizes
    shapes: dict[str, tuple[int, ...]] = {}
    config: Mapping[str, Any] = {}
    if target.build == pretrained.architecture.build:
        config = {} if target.hub_config is None else target.hub_config(sizes)
        tensors = tensors_from(target.rows(sizes), pretrained.variables)
        shapes = {name: tensor.shape for name, tensor in tensors}
    # Told from its tensors it must be the same model, also in what no tensor shows.
    is_same = bool(shapes) and target.recognise(shapes, config) == sizes
    if target.hub_config is None and is_same:
        is_same = _channels(target.build(sizes)) == _channels(pretrained.model)
    if not is_same:
        family = [one for one in ARCHITECTURES if one.build == pretrained.architecture.build]
        same = [one.name for one in family if one is not target]
        raise InputError(
            f"{pretrained.architecture.name} has no form that {target.name} could hold. Name one of {', '.join(same)}."
        )
    return dataclasses.replace(pretrained, architecture=target)


def find_architecture(name: str, among: Sequence[Architecture] = ARCHITECTURES) -> Architecture:
    """Finds an architecture by name.

    Args:
        name: such as `"resnet-torchvision"`.
        among: those there are.

    Returns:
        The architecture.

    Raises:
        InputError: there is none of that name.
    """
    for one in among:
        if one.name == name:
            return one
    close = difflib.get_close_matches(name, [one.name for one in among], 1)
    hint = f"Did you mean {close[0]}?" if close else "Choose one."
    raise InputError(f"the architecture must be one of {', '.join(one.name for one in among)}; got {name!r}. {hint}")


def recognise(weights: Weights, name: str | None) -> tuple[Architecture, Any]:
    """Tells the architecture of weights, and the sizes of the model.

    Args:
        weights: opened.
        name: of the architecture; None tells it from the tensors, and from what sentence-transformers says of pooling
            in the folder.

    Returns:
        The architecture and the sizes.

    Raises:
        InputError: they are of none, or not of the one that is named.
    """
    candidates = ARCHITECTURES if name is None else (find_architecture(name),)
    if name is None and takes_mean(weights.path):
        candidates = (SENTENCE_BERT_TRANSFORMERS, *candidates)
    for one in candidates:
        with _one_line(weights.path, one):
            sizes = one.recognise(without_copies(weights, one.copies).shapes, weights.config)
        if sizes is not None:
            return one, sizes
    some = ", ".join(sorted(weights.shapes)[:3]) or "no tensors"
    if name is None:
        raise InputError(
            f"{weights.path} must hold weights of one of {', '.join(one.name for one in ARCHITECTURES)}; got {some}, "
            "... Name the architecture, or give other weights."
        )
    raise InputError(f"{weights.path} must hold weights of {name}; got {some}, ... Name another architecture.")


def read_preparation(found: Architecture, sizes: Any, weights: Weights) -> ImagePreparation | None:
    """How photographs are prepared: as the architecture has it, corrected by the files beside the weights.

    Args:
        found: the architecture.
        sizes: of the model.
        weights: opened.

    Returns:
        The preparation; None for a model of text alone.

    Raises:
        InputError: a file says what has no equal here.
    """
    published = found.preparation(sizes)
    if published is None:
        return None
    mean, std = _channels(found.build(sizes)) or (None, None)
    preparation = dataclasses.replace(published, mean=published.mean or mean, std=published.std or std)
    if weights.folder is None:
        return preparation
    # The newer of transformers' files holds the settings of several processors, and comes first.
    whole, own = weights.folder / PROCESSOR, weights.folder / PREPROCESSOR
    settings = read_json(whole).get("image_processor") if whole.exists() else None
    if settings is not None:
        return read_transformers(preparation, settings, whole)
    if own.exists():
        return read_transformers(preparation, read_json(own), own)
    if isinstance(settings := weights.config.get("pretrained_cfg"), dict):
        return read_timm(preparation, settings, weights.folder / "config.json")
    return preparation


def build_model(found: Architecture, sizes: Any, preparation: ImagePreparation | None) -> tuple[nn.Module, Any]:
    """The model whose channels have the mean and deviation of a preparation.

    Args:
        found: the architecture.
        sizes: of the model.
        preparation: of photographs; None for a model of text alone.

    Returns:
        The model, without parameters, and its sizes.
    """
    model = found.build(sizes)
    if preparation is not None and _channels(model) not in (None, (preparation.mean, preparation.std)):
        channels = {"mean": preparation.mean, "std": preparation.std}
        if hasattr(sizes, "mean"):
            sizes = dataclasses.replace(sizes, **channels)
        name = _image_encoder(model)
        model = model.clone(**{name: getattr(model, name).clone(**channels)})
    return model, sizes


def _image_encoder(model: nn.Module) -> str:
    return "image_encoder" if hasattr(model, "image_encoder") else "encoder"


def _channels(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation that the model's image encoder takes off photographs."""
    encoder: Any = getattr(model, _image_encoder(model), None)
    return (tuple(encoder.mean), tuple(encoder.std)) if hasattr(encoder, "mean") else None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    beside = path.with_name(f"{path.name}.tmp")
    beside.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    beside.replace(path)


@contextlib.contextmanager
def _one_line(path: Path, architecture: Architecture) -> Iterator[None]:
    """Says in one line what a shape or a setting breaks that no model of the architecture can have."""
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(
            f"{path} has tensors named as those of {architecture.name}, but a shape, or a value of config.json, that "
            f"cannot be: {reason}. Fetch it anew."
        ) from error


def _cast(expected: Any, dtype: Dtype) -> Any:
    def cast(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        is_parameter = path[0].key == "params" and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(leaf.shape, dtype if is_parameter else leaf.dtype)

    return jax.tree_util.tree_map_with_path(cast, expected)


def _placing(sharding: Placement | None) -> Callable[[str, np.ndarray], jax.Array]:
    def place(path: str, value: np.ndarray) -> jax.Array:
        target = sharding(path, value.shape) if callable(sharding) else sharding
        return jax.device_put(np.asarray(value, order="C"), target)

    return place


def _labels(weights: Weights) -> tuple[str, ...]:
    names = weights.config.get("id2label")
    if not isinstance(names, dict):
        return ()
    return tuple(str(names[str(place)]) for place in range(len(names)) if str(place) in names)
