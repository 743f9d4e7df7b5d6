"""Whole models from and to files of weights."""

import contextlib
import dataclasses
import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from fusionjax.errors import InputError
from fusionjax.pretrained.architecture import Architecture, ImagePreparation
from fusionjax.pretrained.files import Weights, open_weights, write_safetensors
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
    """

    architecture: Architecture
    sizes: Any
    model: nn.Module
    variables: dict[str, Any]
    labels: tuple[str, ...] = ()

    @property
    def preparation(self) -> ImagePreparation | None:
        """How photographs are brought to size; None for a model of text alone."""
        return self.architecture.preparation(self.sizes)


def load(
    source: str | Path,
    *,
    architecture: str | None = None,
    sharding: Placement | None = None,
    param_dtype: Dtype = jnp.float32,
) -> Pretrained:
    """Loads a model: tensors of torchvision, timm or transformers into one of ours.

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
        InputError: the weights cannot be read, or are of no or another architecture.
    """
    weights = open_weights(source)
    found, sizes = _recognise(weights, architecture)
    with _one_line(weights.path, found):
        model = found.build(sizes)
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
    return Pretrained(found, sizes, model, variables, _labels(weights))


def save(folder: str | Path, pretrained: Pretrained) -> None:
    """Writes `model.safetensors`, and `config.json` where the other library reads one.

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
        beside = folder / "config.json.tmp"
        beside.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        beside.replace(folder / "config.json")


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
    if not shapes or target.recognise(shapes, config) != sizes:
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


def _recognise(weights: Weights, name: str | None) -> tuple[Architecture, Any]:
    candidates = ARCHITECTURES if name is None else (find_architecture(name),)
    for one in candidates:
        with _one_line(weights.path, one):
            sizes = one.recognise(weights.shapes, weights.config)
        if sizes is not None:
            return one, sizes
    some = ", ".join(sorted(weights.shapes)[:3]) or "no tensors"
    if name is None:
        raise InputError(
            f"{weights.path} must hold weights of one of {', '.join(one.name for one in ARCHITECTURES)}; got {some}, "
            "... Name the architecture, or give other weights."
        )
    raise InputError(f"{weights.path} must hold weights of {name}; got {some}, ... Name another architecture.")


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
