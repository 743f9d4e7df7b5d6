"""Settings that the recipes share, and their way into JSON and back."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from fusionjax.errors import InputError

Config = TypeVar("Config")


def require_positive(config: object, *names: str) -> None:
    """Checks that fields are above zero.

    Args:
        config: a dataclass.
        names: of the fields.

    Raises:
        InputError: one is zero or below.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise InputError(f"{name} must be above 0; got {value}. Give a larger one.")


def require_not_negative(config: object, *names: str) -> None:
    """Checks that fields are zero or above.

    Args:
        config: a dataclass.
        names: of the fields.

    Raises:
        InputError: one is below zero.
    """
    for name in names:
        value = getattr(config, name)
        if value < 0:
            raise InputError(f"{name} must not be negative; got {value}. Give 0 or more.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to learn from.

    Attributes:
        source: `scenes` or `sort-of-clevr` (made on the fly), `easy-vqa` (a package), `flickr`, `coco` or `vqa` (a
        folder),
            `tfds` (a prepared TensorFlow data set).
        path: the folder, for `flickr`, `coco` and `vqa`; where TFDS keeps its data, for `tfds`.
        name: of the TFDS data set.
        fields: of the TFDS data set, such as `image=image captions=captions/text`.
        train_split: the part to learn from.
        validation_split: the part that chooses the best checkpoint; taken from the training part where there is none.
        test_split: the part to report on.
        validation_fraction: of the training part that is held out, where the data have no validation part.
        size: number of training scenes.
        evaluation_size: number of scenes in each of the other parts.
        objects: shapes in each picture of `scenes`, 2 to 6; above 2 the questions are about relations.
        image_size: side of the square that the model sees, in pixels.
        margin: images are kept larger by this share and cropped at random (training) or in the middle.
        fit: how a photograph comes into a square.
        crop_area: smallest share of the image that a random crop of another shape keeps in training; 1 takes plain
            crops.
        flip: mirrors training images at random.
        color_jitter: strength of random brightness, contrast and saturation in training, 0 to 1.
        captions_per_image: captions of an image that one training step uses.
        questions_per_image: questions about an image that one training step uses.
        max_answers: the commonest answers of the training part, to choose from.
        answer_length: tokens of an answer that is written, start and end included.
        max_length: tokens of a text, start and end included.
        tokenizer: words or byte pairs.
        vocab_size: at most.
        min_count: words that are rarer become unknown.
        on_broken: what to do with an image that cannot be read.
        cache_mb: decoded images are kept in memory up to this size.
        num_workers: processes that load; 0 loads in threads.
    """

    source: Literal["scenes", "flickr", "coco", "tfds", "easy-vqa", "sort-of-clevr", "vqa"] = "scenes"
    path: str | None = None
    name: str | None = None
    fields: tuple[str, ...] = ("image=image", "captions=captions/text")
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str = "test"
    validation_fraction: float = 0.0
    size: int = 8000
    evaluation_size: int = 500
    objects: int = 2
    image_size: int = 64
    margin: float = 0.0
    fit: Literal["squeeze", "crop", "pad"] = "squeeze"
    crop_area: float = 1.0
    flip: bool = False
    color_jitter: float = 0.0
    captions_per_image: int = 1
    questions_per_image: int = 1
    max_answers: int = 3000
    answer_length: int = 6
    max_length: int = 22
    tokenizer: Literal["word", "bpe"] = "word"
    vocab_size: int = 10_000
    min_count: int = 1
    on_broken: Literal["skip", "stop"] = "skip"
    cache_mb: int = 2048
    num_workers: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        require_positive(
            self, "size", "evaluation_size", "image_size", "captions_per_image", "max_length", "vocab_size", "min_count"
        )
        require_positive(self, "questions_per_image", "max_answers")
        if self.answer_length < 3:
            raise InputError(
                f"answer_length must hold start, a word and end; got {self.answer_length}. Give 3 or more."
            )
        if not 2 <= self.objects <= 6:
            raise InputError(f"objects must be 2 to 6 shapes in each picture; got {self.objects}. Choose one of these.")
        if self.max_length < 3:
            raise InputError(f"max_length must hold start, a word and end; got {self.max_length}. Give 3 or more.")
        if not 0 <= self.validation_fraction < 1:
            raise InputError(f"validation_fraction must be in [0, 1); got {self.validation_fraction}. Try 0.1.")
        if not 0 < self.crop_area <= 1:
            raise InputError(f"crop_area must be in (0, 1]; got {self.crop_area}. Try 0.6.")
        if not 0 <= self.color_jitter <= 1:
            raise InputError(f"color_jitter must be in [0, 1]; got {self.color_jitter}. Try 0.2.")
        require_not_negative(self, "margin", "num_workers", "cache_mb")

    @property
    def stored_size(self) -> int:
        """Side of the decoded images before cropping, in pixels."""
        return self.image_size + round(self.image_size * self.margin)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """An encoder with published weights, in place of one from scratch.

    Attributes:
        weights: a file, a folder, or the id of a model of the Hugging Face hub; none trains an encoder from scratch.
        architecture: of the weights; told from the tensors if not given.
        tune: `frozen` computes its features once and keeps them on disk, `lora` learns low-rank adapters of its
            kernels, `full` all its parameters. Its batch statistics stay as they were published.
        layer_decay: of the learning rate, layer by layer towards the input, for `full`.
        lora_rank: of the adapters, for `lora`.
        features: width that what it gives is projected to; none leaves it as it is.
        dropout_rate: on what it gives.
        storage: of the features on disk, for `frozen`.
    """

    weights: str | None = None
    architecture: str | None = None
    tune: Literal["frozen", "lora", "full"] = "frozen"
    layer_decay: float = 1.0
    lora_rank: int = 8
    features: int | None = None
    dropout_rate: float = 0.0
    storage: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        """Checks the values."""
        require_positive(self, "lora_rank", "features")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay must be in (0, 1]; got {self.layer_decay}. Try 0.75.")
        if self.layer_decay < 1 and self.tune != "full":
            raise InputError(f"layer_decay is for tune full; got {self.layer_decay} and {self.tune}. Leave it at 1.")
        if not 0 <= self.dropout_rate < 1:
            raise InputError(f"dropout_rate must be in [0, 1); got {self.dropout_rate}. Try 0.3.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageBackboneConfig(BackboneConfig):
    """An image encoder with published weights, in place of one from scratch.

    Attributes:
        views: of each training photograph whose features are kept, for `frozen`; training draws one of them: as it is,
            mirrored (with `data.flip`), then cropped at random as the other settings of the data say.
    """

    views: int = 1

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        require_positive(self, "views")
        if self.views > 1 and self.tune != "frozen":
            raise InputError(f"views are kept for tune frozen; got {self.views} and {self.tune}. Leave them at 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and in what steps to learn.

    Attributes:
        epochs: passes over the training part; a fraction is allowed.
        seconds: time to train, compilation and evaluation not counted, instead of the epochs: so many steps as fit into
            it at the pace of the first ones, fixed before the training begins.
        clock: what `seconds` are of: the wall's, or the processors' (all threads together), which a machine that others
            use too does not change much.
        batch_size: examples in a step, over all devices.
        accumulate: parts that a batch is split into, one after the other, to save memory; the result is the same.
        ema_decay: of the moving average of the parameters that is evaluated; None evaluates the parameters themselves.
        precision: of the computation; parameters stay in float32.
        label_smoothing: share of the target given to all classes alike.
        log_every: steps between two points of the curves.
        checkpoint_every: steps between two checkpoints.
        validate_every: epochs between two looks at the validation part.
        use_best: evaluates the checkpoint that was best on the validation part instead of the last one.
    """

    epochs: float = 10.0
    seconds: float | None = None
    clock: Literal["wall", "processor"] = "wall"
    batch_size: int = 32
    accumulate: int = 1
    ema_decay: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    label_smoothing: float = 0.0
    log_every: int = 20
    checkpoint_every: int = 200
    validate_every: float = 1.0
    use_best: bool = False

    def __post_init__(self) -> None:
        """Checks the values."""
        require_positive(
            self,
            "epochs",
            "seconds",
            "batch_size",
            "accumulate",
            "log_every",
            "checkpoint_every",
            "validate_every",
            "ema_decay",
        )
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing must be in [0, 1); got {self.label_smoothing}. Try 0.1.")
        if self.ema_decay is not None and self.ema_decay >= 1:
            raise InputError(f"ema_decay must be below 1; got {self.ema_decay}. Try 0.999.")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate must divide batch_size; got {self.accumulate} and {self.batch_size}. Change one of them."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How to write a caption.

    Attributes:
        method: `beam` (the most probable found), `greedy` or `sample`.
        num_beams: captions followed at once, for `beam`.
        length_penalty: log-probabilities are divided by length to this power, for `beam`.
        temperature: of the sampling.
        top_k: samples from so many words only; 0 from all.
        top_p: samples from the most probable words of this share together.
        seed: of the sampling.
    """

    method: Literal["beam", "greedy", "sample"] = "beam"
    num_beams: int = 3
    length_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        require_positive(self, "num_beams", "temperature", "top_p")
        if self.top_p > 1 or self.top_k < 0:
            raise InputError(
                f"top_p must be at most 1 and top_k at least 0; got {self.top_p} and {self.top_k}. Correct them."
            )


def to_json(config: Any) -> dict[str, Any]:
    """Gives a config dataclass as plain values.

    Args:
        config: a dataclass of numbers, strings, None, tuples and dataclasses.

    Returns:
        A dictionary that `json.dumps` takes.

    Example:
        >>> to_json(DecodingConfig())["num_beams"]
        3
    """
    return dataclasses.asdict(config)


def from_json(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Makes a config dataclass of plain values.

    Args:
        kind: the dataclass.
        values: as `to_json` gives them; absent fields take their defaults.

    Returns:
        The config.

    Raises:
        InputError: an unknown field, a value of a wrong kind, or values that are not a mapping.

    Example:
        >>> from_json(DecodingConfig, {"num_beams": 5}).num_beams
        5
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{kind.__name__} must be a JSON object; got {values!r}. Restore the file.")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(f"{kind.__name__} has no setting {', '.join(unknown)}; it has {', '.join(hints)}. Remove it.")
    try:
        return kind(**{name: _value(hints[name], value) for name, value in values.items()})
    except TypeError as error:
        raise InputError(f"{kind.__name__} has a value of a wrong kind; got {error}. Restore the file.") from error


def _value(hint: Any, value: Any) -> Any:
    members = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    for member in members:
        if dataclasses.is_dataclass(member) and isinstance(member, type) and isinstance(value, Mapping):
            return from_json(member, value)
    return tuple(value) if isinstance(value, list) else value
