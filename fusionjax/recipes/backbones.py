"""Encoders with published weights in a recipe: how they are built into its model, and which part of them learns."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fusionjax import data, encoders, pretrained, training
from fusionjax.errors import InputError
from fusionjax.recipes.config import BackboneConfig, DataConfig
from fusionjax.recipes.run import Run, write_atomically

FILE_NAME = "backbones.json"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A published encoder, and what is done with it.

    Attributes:
        published: the encoder.
        config: what the user asked for.
        place: path of the projected encoder in the recipe's model, such as `image_encoder`.
        layout: of the features of one image or text.
        example: what the published encoder reads of one: uint8 `[1, side, side, 3]` or int32 `[1, length]`.
        fingerprint: of the weights.
        tokenizer: of a text encoder.
    """

    published: pretrained.PublishedEncoder
    config: BackboneConfig
    place: str
    layout: encoders.FeatureLayout
    example: np.ndarray
    fingerprint: str
    tokenizer: data.Tokenizer | None = None

    @property
    def is_frozen(self) -> bool:
        """Whether its features are computed before the training."""
        return self.config.tune == "frozen"

    @property
    def model_input(self) -> np.ndarray:
        """What the recipe's model reads of one image or text: features if it is frozen."""
        return np.zeros((1, self.layout.size), self.config.storage) if self.is_frozen else self.example

    def build(self, *, pooling: encoders.PoolingKind | None = None, use_positions: bool = False, dtype: Any) -> Any:
        """Makes the encoder of the recipe's model.

        Args:
            pooling: of the tokens; None takes the published encoder's own pooled vector.
            use_positions: adds a learned vector to each token.
            dtype: of the computation.

        Returns:
            The published encoder, or one that reads its features, and a projection.
        """
        stored = encoders.StoredFeatures(self.layout, dtype=dtype)
        backbone = stored if self.is_frozen else self.published.encoder.clone(dtype=dtype)
        return encoders.Projected(
            backbone,
            features=self.config.features,
            pooling=pooling if self.layout.has_tokens else None,
            use_positions=use_positions and self.layout.has_tokens,
            has_tokens=self.layout.has_tokens,
            dropout_rate=self.config.dropout_rate,
            dtype=dtype,
        )

    def read(self) -> dict[str, Any]:
        """Reads the variables of the published encoder.

        Returns:
            The variables.

        Raises:
            InputError: the weights are gone, or are not those that were opened first.
        """
        check_weights(self)
        return self.published.variables()


Backbones = Mapping[str, Backbone]
NO_BACKBONES: Backbones = {}


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a recipe can have a published encoder.

    Attributes:
        config: what the user asks for.
        place: path of the encoder in the recipe's model.
        has_tokens: whether the model reads tokens, or the pooled vector alone.
    """

    config: BackboneConfig
    place: str
    has_tokens: bool


Slots = Mapping[Literal["image", "text"], Slot]


def open_backbones(slots: Slots, data_config: DataConfig) -> dict[str, Backbone]:
    """Opens the published encoders that a recipe is to have; no tensor is kept.

    Args:
        slots: by modality.
        data_config: the size of the images, the length of the texts.

    Returns:
        Those that have weights, by modality.

    Raises:
        InputError: weights cannot be used.
    """
    found: dict[str, Backbone] = {}
    for part, slot in slots.items():
        weights = slot.config.weights
        if weights is not None:
            # A run may be used from another folder.
            source = str(Path(weights).resolve()) if Path(weights).exists() else weights
            published = pretrained.open_encoder(source, part, architecture=slot.config.architecture)
            tokenizer = None
            if part == "text":
                tokenizer = _read_tokenizer(published)
            found[part] = _make(published, published.fingerprint(), tokenizer, slot, data_config)
    return found


def reopen_backbones(run: Run, slots: Slots, data_config: DataConfig) -> dict[str, Backbone]:
    """Opens the published encoders of a trained run by what it has written down; weights need not be there yet.

    Args:
        run: the run directory.
        slots: by modality.
        data_config: the size of the images, the length of the texts.

    Returns:
        Those that have weights, by modality.

    Raises:
        InputError: the run does not say what they were.
    """
    if all(slot.config.weights is None for slot in slots.values()):
        return {}
    path = run.path / FILE_NAME
    found: dict[str, Backbone] = {}
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        for part, slot in slots.items():
            if slot.config.weights is not None:
                one = records[part]
                published = pretrained.encoder_of_header(one["weights"], part, one["architecture"], one["header"])
                tokenizer = data.Tokenizer.load(run.tokenizer) if part == "text" else None
                found[part] = _make(published, one["fingerprint"], tokenizer, slot, data_config)
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} must say what the weights were; {error}. Restore it, or train again.") from error
    return found


def image_size_of(config: BackboneConfig) -> int:
    """Gives the size of the photographs that an image encoder's weights were trained with; no tensor is read.

    Args:
        config: with weights.

    Returns:
        Side of the square, in pixels.

    Raises:
        InputError: the weights cannot be opened, or are of no image encoder.
    """
    preparation = pretrained.open_encoder(str(config.weights), "image", architecture=config.architecture).preparation
    if preparation is None:
        raise InputError(f"{config.weights} must say the size of its photographs; it has none. Give others.")
    return min(preparation.size)


def record_backbones(run: Run, backbones: Backbones) -> None:
    """Writes down what the weights of a run are, or checks that they are what they were when it was begun.

    Args:
        run: the run directory.
        backbones: of the run.

    Raises:
        InputError: the weights have changed since.
    """
    if not backbones:
        return
    path = run.path / FILE_NAME
    records = {
        name: {
            "weights": one.published.source,
            "architecture": one.published.architecture.name,
            "fingerprint": one.fingerprint,
            "header": one.published.header,
        }
        for name, one in backbones.items()
    }
    if not path.exists():
        write_atomically(path, json.dumps(records) + "\n")
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in records if before[name]["fingerprint"] != records[name]["fingerprint"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must say what the weights are; {error}. Choose another --output.") from error
    if changed:
        raise InputError(_difference(backbones[changed[0]], run.path))


def check_weights(backbone: Backbone) -> None:
    """Checks that the weights are those that were opened first.

    Args:
        backbone: of a run.

    Raises:
        InputError: they are gone, or others.
    """
    source = backbone.published.source
    try:
        fingerprint = backbone.published.fingerprint()
    except InputError as error:
        raise InputError(
            f"{source} must hold the weights that the run was trained on; {error} Put them back, or correct "
            f"{FILE_NAME} in the run directory."
        ) from error
    if fingerprint != backbone.fingerprint:
        raise InputError(_difference(backbone, "the run"))


def _difference(backbone: Backbone, run: Any) -> str:
    return (
        f"{backbone.published.source} must hold the weights that {run} was begun with; they have changed since. Put "
        "the first ones back, or choose another --output and train again."
    )


def with_weights(variables: Mapping[str, Any], backbones: Backbones) -> dict[str, Any]:
    """Puts published weights into a model's variables, where it learns them or adapters of them.

    Args:
        variables: of the model.
        backbones: of the model.

    Returns:
        The variables.

    Raises:
        InputError: the weights cannot be read.
    """
    found = {kind: dict(tree) for kind, tree in variables.items()}
    for one in backbones.values():
        if not one.is_frozen:
            for kind, tree in one.read().items():
                found[kind][one.place] = {**found[kind][one.place], "backbone": tree}
    return found


def image_example(config: DataConfig, backbones: Backbones) -> jax.Array:
    """What a model reads of one image: pixels, or the features of a frozen encoder.

    Args:
        config: the size of the images.
        backbones: of the model.

    Returns:
        uint8 `[1, image_size, image_size, 3]`, or `[1, numbers]`.
    """
    if "image" in backbones:
        return jnp.asarray(backbones["image"].model_input)
    return jnp.zeros((1, config.image_size, config.image_size, 3), jnp.uint8)


def text_example(config: DataConfig, backbones: Backbones) -> jax.Array:
    """What a model reads of one text: tokens, or the features of a frozen encoder.

    Args:
        config: the length of the texts.
        backbones: of the model.

    Returns:
        int32 `[1, max_length]`, or `[1, numbers]`.
    """
    if "text" in backbones:
        return jnp.asarray(backbones["text"].model_input)
    return jnp.ones((1, config.max_length), jnp.int32)


def tokenizer_of(backbones: Backbones) -> data.Tokenizer | None:
    """The tokenizer that a published text encoder came with; None where texts have none."""
    return backbones["text"].tokenizer if "text" in backbones else None


def template_variables(initialise: Callable[[], dict[str, Any]], backbones: Backbones) -> dict[str, Any]:
    """Gives the variables that `engine.restore_variables` needs.

    Args:
        initialise: makes the variables of the model before its first step.
        backbones: of the model.

    Returns:
        Shapes alone, or, where a published encoder has adapters, the variables with its weights.

    Raises:
        InputError: the weights cannot be read.
    """
    if lora_of(backbones) is None:
        return cast(dict[str, Any], jax.eval_shape(initialise))
    return with_weights(initialise(), backbones)


def lora_of(backbones: Backbones) -> training.LoRAConfig | None:
    """What gets adapters: the kernels of published encoders; everything outside of them is learned whole.

    Args:
        backbones: of a model.

    Returns:
        The settings; None where nothing gets any.

    Raises:
        InputError: two encoders are to have adapters of different ranks.
    """
    adapted = [one for one in backbones.values() if one.config.tune == "lora"]
    if not adapted:
        return None
    ranks = sorted({one.config.lora_rank for one in adapted})
    if len(ranks) > 1:
        raise InputError(f"adapters must be of one lora_rank; got {' and '.join(map(str, ranks))}. Set the same.")
    paths = "|".join(re.escape(f"{one.place}/backbone/") for one in adapted)
    return training.LoRAConfig(rank=ranks[0], kernels=f"^({paths}).*kernel", tuned=f"^(?!{paths})")


def layer_decay_of(backbones: Backbones) -> optax.GradientTransformation | None:
    """Smaller steps for the layers nearer to the input, of published encoders that ask for them.

    Args:
        backbones: of a model.

    Returns:
        The last link of the optimiser; None where there is none.
    """
    links = []
    for one in backbones.values():
        if one.config.layer_decay < 1:
            layers = training.find_layers(one.published.encoder, one.example, prefix=f"{one.place}/backbone/")
            links.append(training.scale_by_layer(one.config.layer_decay, layers))
    return optax.chain(*links) if links else None


def _make(
    published: pretrained.PublishedEncoder,
    fingerprint: str,
    tokenizer: data.Tokenizer | None,
    slot: Slot,
    data_config: DataConfig,
) -> Backbone:
    side = data_config.image_size
    example = np.zeros((1, side, side, 3), np.uint8)
    if published.part == "text":
        example = np.ones((1, data_config.max_length), np.int32)
    shapes = _shapes(published.encoder, example, published.source)
    layout = encoders.FeatureLayout.of(shapes, has_tokens=slot.has_tokens)
    return Backbone(published, slot.config, slot.place, layout, example, fingerprint, tokenizer)


def _shapes(encoder: nn.Module, example: np.ndarray, source: str) -> encoders.Features:
    def encode(inputs: jax.Array) -> Any:
        return encoder.init_with_output(jax.random.key(0), inputs)[0]

    try:
        features: Any = jax.eval_shape(encode, jnp.asarray(example))
    except (ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{source} must be weights for images or texts of the data's size; {reason}") from error
    return cast(encoders.Features, features)


def _read_tokenizer(published: pretrained.PublishedEncoder) -> data.Tokenizer:
    kind = published.architecture.tokenizer
    tokenizer = None if kind is None else data.read_tokenizer(published.folder, kind, published.sizes.max_length)
    if tokenizer is None:
        raise InputError(
            f"{published.source} must have a tokenizer beside the weights; there is none. Give a folder with its "
            "tokenizer.json."
        )
    return tokenizer
