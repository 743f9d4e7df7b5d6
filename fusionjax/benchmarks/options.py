"""What the commands of `fusionjax bench` can be told."""

import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from fusionjax.benchmarks.workloads.decode import HEADS
from fusionjax.benchmarks.workloads.encoder import FORMATS
from fusionjax.errors import InputError
from fusionjax.pretrained import PUBLISHED

PEERS: dict[str, tuple[str, ...]] = {
    "torch": ("torch", "torch.compile"),
    "keras": ("keras-tensorflow", "keras-jax"),
    "flax": ("flax",),
    "jimm": ("jimm",),
}
# Of the library's own; measured beside its default.
INFERENCE = ("folded", "folded+bfloat16")
# Measured only where they are named.
MORE_VARIANTS = ("keras-tensorflow-xla",)
MODELS = ("fusion", "lstm", "gru", "elman", "vit-block", "depthwise")
WAYS = ("forward", "train")
# The published sizes that the peers have too.
ENCODERS = tuple(one.name for one in PUBLISHED if one.family in FORMATS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerOptions:
    """Who is measured, how often, and where the results go.

    Attributes:
        peers: whom to compare with, joined by commas: torch, keras, flax, jimm (encoders alone), one of their variants
            (torch.compile, keras-tensorflow, keras-tensorflow-xla, keras-jax) or all.
        peer_python: the Python that a peer is installed in, as NAME=PATH, such as keras=/path/to/bin/python; the
            variable FUSIONJAX_BENCH_PYTHON_KERAS (or _TORCH, _FLAX, _JIMM) does the same. Otherwise this Python.
        repeats: samples taken of each contender, in turn.
        peak_size: side of the square matrices whose product measures the peak.
        plot: folder to draw figures in.
        save: file for the machine's description and the records, as JSON.
    """

    peers: str = ""
    peer_python: tuple[str, ...] = ()
    repeats: int = 10
    peak_size: int = 2048
    plot: str | None = None
    save: str | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("repeats", "peak_size"):
            require_positive(name, [getattr(self, name)])
        require_folder_of("--save", self.save)
        self.pythons()

    def pythons(self) -> dict[str, str | None]:
        """Resolves the contenders, the library first.

        Returns:
            By the contender's name, the Python that it lives in; None for this one.

        Raises:
            InputError: there is no peer of a name, or no Python at a path.
        """
        where = dict(_split(entry) for entry in self.peer_python)
        for family in where:
            require_known("the peer of --peer-python", [family], PEERS)
        for family in PEERS:
            path = os.environ.get(f"FUSIONJAX_BENCH_PYTHON_{family.upper()}")
            if path and family not in where:
                where[family] = path
        return {"fusionjax": None, **{name: where.get(_family(name)) for name in self._contenders()}}

    def _contenders(self) -> list[str]:
        names = [name.strip() for name in self.peers.split(",") if name.strip()]
        variants = [variant for group in PEERS.values() for variant in group]
        require_known("the peers", names, dict.fromkeys([*PEERS, *variants, *MORE_VARIANTS, "all"]))
        if "all" in names:
            return variants
        chosen = [variant for name in names for variant in PEERS.get(name, (name,))]
        return list(dict.fromkeys(chosen))


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceOptions(PeerOptions):
    """Which of the library's inference options are measured beside its default.

    Attributes:
        inference: folded (word vectors folded into the LSTM, the same outputs but for rounding), folded+bfloat16 (what
            reads words in bfloat16 besides; the outputs differ, and the records say by how much).
    """

    inference: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        require_known("the inference options", self.inference, INFERENCE)

    def pythons(self) -> dict[str, str | None]:
        """Resolves the contenders; see `PeerOptions.pythons`.

        Returns:
            The library, its inference options as `fusionjax:NAME`, the peers.
        """
        return {"fusionjax": None, **{f"fusionjax:{name}": None for name in self.inference}, **super().pythons()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """How large the models are.

    Attributes:
        batch_sizes: examples at once; by default each workload's own.
        parts: branch of the fusion model: image, text or both.
        image_size: side of the fusion model's images, in pixels.
        length: tokens of a sentence, steps of a recurrent layer.
        vocab_size: different tokens.
        features: of the recurrent layers.
        dtype: of the computation.
    """

    batch_sizes: tuple[int, ...] = ()
    parts: Literal["image", "text", "both"] = "both"
    image_size: int = 224
    length: int = 100
    vocab_size: int = 10_000
    features: int = 512
    dtype: Literal["float32", "bfloat16"] = "float32"

    def check_sizes(self) -> None:
        """Checks the values.

        Raises:
            InputError: one is too small.
        """
        require_positive("batch_sizes", self.batch_sizes)
        _check_sizes(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions(ModelSizes, InferenceOptions):
    """Which models, and how large they are.

    Attributes:
        workloads: what is measured: fusion, lstm, gru, elman, vit-block, depthwise.
    """

    workloads: tuple[str, ...] = ("fusion",)

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        require_known("the workloads", self.workloads, MODELS)
        self.check_sizes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AheadOptions(ModelSizes):
    """Which models, compiled for which TPUs.

    Attributes:
        topologies: chips and how they are laid out, such as v5e:2x2 or v6e:4x4; the batch is split over all.
        workloads: as of `forward` and `train` with that ending, such as fusion-train; without one both.
        contenders: whose models: fusionjax, flax.
        save: file for the machine's description and the records, as JSON.
    """

    topologies: tuple[str, ...] = ("v5e:2x2", "v6e:2x2")
    workloads: tuple[str, ...] = ("fusion",)
    contenders: tuple[str, ...] = ("fusionjax",)
    save: str | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        require_known("the workloads", self.workloads, [*MODELS, *(f"{name}-{way}" for name in MODELS for way in WAYS)])
        require_known("the contenders", self.contenders, ("fusionjax", "flax"))
        require_folder_of("--save", self.save)
        self.check_sizes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeOptions(InferenceOptions):
    """Captions by which model and search.

    Attributes:
        models: lstm (with attention) or transformer (with a cache of keys and values).
        beams: followed at once; 1 is greedy search.
        batch_sizes: photographs at once.
        steps: words of a caption.
        vocab_size: different words.
        features: width of the models.
        dtype: of the computation.
    """

    models: tuple[str, ...] = ("lstm", "transformer")
    beams: tuple[int, ...] = (1, 5)
    batch_sizes: tuple[int, ...] = (1, 64)
    steps: int = 20
    vocab_size: int = 10_000
    features: int = 512
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        require_known("the models", self.models, ("lstm", "transformer"))
        require_positive("beams", self.beams)
        require_positive("batch_sizes", self.batch_sizes)
        require_positive("steps", [self.steps])
        require_at_least("vocab_size", self.vocab_size, max(4, *self.beams), "A search needs words to choose from.")
        if self.features < 1 or self.features % HEADS:
            raise InputError(f"features must be a multiple of the {HEADS} heads; got {self.features}. 512 is usual.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderOptions(PeerOptions):
    """Which published encoders.

    Attributes:
        models: published sizes, such as efficientnet-lite0, resnet50, vit-b16, clip-vit-b32, siglip-b16.
        batch_sizes: images at once, and as many texts.
        mode: forward passes, steps of training, or both.
        table: prints the parameters and multiply-adds of all published sizes instead, and measures nothing.
        dtype: of the computation.
    """

    models: tuple[str, ...] = ("efficientnet-lite0", "resnet50", "vit-b16")
    batch_sizes: tuple[int, ...] = (1, 32)
    mode: Literal["forward", "train", "both"] = "both"
    table: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        require_known("the models", self.models, ENCODERS)
        require_positive("batch_sizes", self.batch_sizes)

    @property
    def ways(self) -> tuple[bool, ...]:
        """Whether there is training, in the order in which it is measured."""
        return {"forward": (False,), "train": (True,), "both": (False, True)}[self.mode]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingOptions(PeerOptions):
    """Which sizes grow.

    Attributes:
        axes: batch (of the fusion model), length and features (of an LSTM, batch 32).
        batch_sizes: along the axis batch.
        lengths: along the axis length.
        widths: along the axis features.
        train: steps of training and gradients, instead of forward passes.
        image_size: side of the fusion model's images, in pixels.
        length: tokens, steps where they do not grow.
        vocab_size: different tokens.
        features: of the recurrent layers where they do not grow.
        dtype: of the computation.
    """

    axes: tuple[str, ...] = ("batch", "length", "features")
    batch_sizes: tuple[int, ...] = (1, 8, 32, 128, 512)
    lengths: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    widths: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    train: bool = False
    image_size: int = 224
    length: int = 100
    vocab_size: int = 10_000
    features: int = 512
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        require_known("the axes", self.axes, ("batch", "length", "features"))
        for name in ("batch_sizes", "lengths", "widths"):
            require_positive(name, getattr(self, name))
        _check_sizes(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpsOptions:
    """Which operations and implementations.

    Attributes:
        ops: operations, such as conv2d; by default all.
        implementations: such as xla; by default all. The operation's own choice and plain Flax are always there.
        random_shapes: shapes drawn at random, to find where the own choice is slower than plain Flax.
        largest: side, steps and channels of the random shapes at most.
        seed: of the random shapes.
        repeats: samples taken of each implementation, in turn.
        dtype: of the computation.
        tune: file for a table of the best implementation of each shape class, as JSON; rows of other operations stay.
        plot: folder to draw figures in.
        save: file for the machine's description and the records, as JSON.
    """

    ops: tuple[str, ...] = ()
    implementations: tuple[str, ...] = ()
    random_shapes: int = 50
    largest: int = 64
    seed: int = 0
    repeats: int = 5
    dtype: Literal["float32", "bfloat16"] = "float32"
    tune: str | None = None
    plot: str | None = None
    save: str | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        require_positive("repeats", [self.repeats])
        require_at_least("random_shapes", self.random_shapes, 0, "0 measures the shape classes only.")
        require_at_least("largest", self.largest, 8, "Smaller ones measure the call alone.")
        require_folder_of("--tune", self.tune)
        require_folder_of("--save", self.save)


def require_positive(name: str, values: Iterable[int]) -> None:
    """Checks that values are above zero.

    Args:
        name: of the option.
        values: of it.

    Raises:
        InputError: one is not.
    """
    for value in values:
        require_at_least(name, value, 1, "Give a larger one.")


def require_at_least(name: str, value: int, least: int, why: str) -> None:
    """Checks that a value is large enough.

    Args:
        name: of the option.
        value: of it.
        least: that it may be.
        why: it may not be less, or what to do.

    Raises:
        InputError: it is less.
    """
    if value < least:
        raise InputError(f"{name} must be at least {least}; got {value}. {why}")


def require_folder_of(name: str, path: str | None) -> None:
    """Checks that a file can be made.

    Args:
        name: of the option.
        path: of the file, or None.

    Raises:
        InputError: its folder is not there.
    """
    if path is not None and not Path(path).parent.is_dir():
        raise InputError(f"{name} must be a file in a folder that is there; got {path!r}. Make the folder.")


def require_known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Checks that names are among those known.

    Args:
        what: the names are.
        names: given.
        known: all that there are.

    Raises:
        InputError: one is not known.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise InputError(f"{what} must be among {', '.join(known)}; got {name!r}. Choose of these.")


def _check_sizes(options: ModelSizes | ScalingOptions) -> None:
    for name in ("length", "features"):
        require_positive(name, [getattr(options, name)])
    require_at_least("image_size", options.image_size, 22, "The smallest that three poolings leave something of.")
    require_at_least("vocab_size", options.vocab_size, 2, "Token 0 is padding, which is not drawn.")


def _split(entry: str) -> tuple[str, str]:
    family, separator, path = entry.partition("=")
    if not separator or not path:
        raise InputError(f"--peer-python takes NAME=PATH, such as keras=/path/to/bin/python; got {entry!r}. Give both.")
    return family, path


def _family(contender: str) -> str:
    return re.split("[.-]", contender)[0]
