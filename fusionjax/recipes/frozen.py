"""Features of encoders that do not learn: computed once, kept on disk, read in place of images and texts."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fusionjax import data, parallel, training
from fusionjax.errors import InputError
from fusionjax.recipes import engine
from fusionjax.recipes.backbones import NO_BACKBONES, Backbone, Backbones
from fusionjax.recipes.cache import cache_folder
from fusionjax.recipes.captions import TextRows
from fusionjax.recipes.config import DataConfig, ImageBackboneConfig
from fusionjax.recipes.run import write_atomically
from fusionjax.recipes.sources import Examples, ImageTransform, Views

_FORMAT = 1  # to be raised when the same weights give other features
_BATCH = 32
# What is computed is written at the latest after so much of it, or so long.
_FILE_BYTES, _FILE_S = 64 * 2**20, 10.0
_logger = logging.getLogger("fusionjax")

TextsOf = Callable[[Mapping[str, Any]], Iterable[str]]


class FeatureComputer:
    """The encoder of a backbone at work; its variables are read when they are first needed.

    Args:
        backbone: whose features.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._variables: Any = None
        self._mesh: Any = None

        def encode(variables: Any, inputs: jax.Array) -> jax.Array:
            features: Any = backbone.published.encoder.apply(variables, inputs)
            return backbone.layout.pack(features)

        self._encode = jax.jit(encode)

    def compute(self, inputs: np.ndarray) -> np.ndarray:
        """Computes features.

        Args:
            inputs: of one kind and size: uint8 `[batch, side, side, 3]`, or int32 `[batch, length]`.

        Returns:
            `[batch, numbers]`, as they are stored.

        Raises:
            InputError: the weights are gone or others, or a feature is too large for the way of storing.
        """
        # On as many devices as share them evenly.
        mesh = parallel.make_mesh(math.gcd(len(inputs), jax.local_device_count()))
        if self._variables is None:
            self._variables = self.backbone.read()
        if self._mesh != mesh:
            self._variables, self._mesh = parallel.replicate(self._variables, mesh), mesh
        computed = np.asarray(self._encode(self._variables, parallel.shard_batch(inputs, mesh)))
        with np.errstate(over="ignore"):
            rows = computed.astype(self.backbone.config.storage)
        if not np.isfinite(rows).all():
            raise InputError(
                f"features of {self.backbone.published.source} must be finite as {rows.dtype}; got up to "
                f"{np.abs(computed).max():.3g}. Set {self.backbone.published.part}.storage to float32."
            )
        return rows

    def release(self) -> None:
        """Forgets the variables."""
        self._variables = self._mesh = None

    def fill(self, inputs: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Computes features of what has none yet, some inputs at a time.

        Args:
            inputs: each of one image or text; features, which have one axis and are floating point, pass as they are.

        Yields:
            The features of each, `[numbers]`, in order.
        """
        waiting: list[np.ndarray] = []
        for one in inputs:
            if one.ndim == 1 and np.issubdtype(one.dtype, np.floating):
                yield from self._flush(waiting)
                yield one
                continue
            waiting.append(one)
            if len(waiting) == _BATCH:
                yield from self._flush(waiting)
        yield from self._flush(waiting)

    def _flush(self, waiting: list[np.ndarray]) -> Iterator[np.ndarray]:
        if waiting:
            # Of few sizes, since each is compiled.
            size = min(_BATCH, 1 << (len(waiting) - 1).bit_length())
            filled = np.zeros((size, *waiting[0].shape), waiting[0].dtype)
            filled[: len(waiting)] = waiting
            yield from self.compute(filled)[: len(waiting)]
            waiting.clear()


def open_store(backbone: Backbone, preparation: Sequence[Any]) -> data.RowStore:
    """The folder of a backbone's features, named by all that they depend on but the image or text itself.

    Args:
        backbone: whose features.
        preparation: what is done to all images or texts alike, as JSON.

    Returns:
        The store; `about.json` in its folder says what it is.
    """
    published = backbone.published
    about = {
        "format": _FORMAT,
        "part": published.part,
        "weights": backbone.fingerprint,
        "architecture": published.architecture.name,
        "sizes": repr(published.sizes),
        "layout": repr(backbone.layout),
        "storage": backbone.config.storage,
        "preparation": list(preparation),
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder("features") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "about.json").exists():
            write_atomically(folder / "about.json", json.dumps({**about, "source": published.source}, indent=1) + "\n")
    except OSError as error:
        raise InputError(
            f"{folder} must be a folder to write to; got {error.strerror or error}. Make room, or set FUSIONJAX_CACHE "
            "to another folder."
        ) from error
    return data.RowStore(folder, backbone.layout.size, np.dtype(backbone.config.storage))


class StoredExamples(Examples):
    """Examples with stored features in place of their images; `picture` still gives those.

    Args:
        examples: with images.
        views: the features of each.
    """

    def __init__(self, examples: Examples, views: Sequence[Views]) -> None:
        super().__init__(examples.source, examples.config)
        self.views = views

    def __getitem__(self, index: Any) -> Any:
        return {**self.describe(index), "image": self.views[index]}

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredExamples, (Examples(self.source, self.config), self.views)


class TextFeatures:
    """Features of texts in place of tokens: those that were stored before are read, others are computed.

    Args:
        computer: of the features.
    """

    def __init__(self, computer: FeatureComputer) -> None:
        tokenizer = computer.backbone.tokenizer
        if tokenizer is None:
            raise ValueError("features of texts need a tokenizer; got a backbone without one. Open one of texts.")
        self._computer: FeatureComputer | None = computer
        self._tokenizer, self._row = tokenizer, computer.backbone.model_input[0]
        self._places: dict[tuple[str, int], int] = {}
        self._rows: Sequence[np.ndarray] = ()
        self.vocab_size = tokenizer.vocab_size

    def store(self, texts: Iterable[str], length: int, *, quiet: bool = False) -> None:
        """Computes the features of texts that are not on disk yet, and reads them all from there from now on.

        Args:
            texts: any number of texts.
            length: tokens of each.
            quiet: shows no progress.

        Raises:
            InputError: the weights or the folder of the features cannot be used.
        """
        unique = list(dict.fromkeys(texts))
        keys = [_text_key(text, length) for text in unique]
        by_key = dict(zip(keys, unique, strict=True))
        store = open_store(self._working().backbone, [])
        missing = [(key, by_key[key], length) for key in store.missing(keys)]
        _compute(self._working(), store, missing, self._tokens, "texts", quiet=quiet)
        self._rows = store.rows(keys)
        self._places = {(text, length): place for place, text in enumerate(unique)}

    def encode_batch(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Gives features of texts.

        Args:
            texts: any number of texts.
            length: tokens of each.

        Returns:
            `[texts, numbers]`.
        """
        rows = np.zeros((len(texts), *self._row.shape), self._row.dtype)
        known = [self._places.get((text, length)) for text in texts]
        for place, stored in enumerate(known):
            if stored is not None:
                rows[place] = self._rows[stored]
        fresh = [place for place, stored in enumerate(known) if stored is None]
        if fresh:
            tokens = self._tokenizer.encode_batch([texts[place] for place in fresh], length)
            rows[fresh] = list(self._working().fill(tokens))
        return rows

    def __getstate__(self) -> dict[str, Any]:
        # Processes that load examples read what is stored.
        return {**self.__dict__, "_computer": None}

    def _working(self) -> FeatureComputer:
        if self._computer is None:
            raise ValueError("another process gives stored features alone; got a new text. Store it first.")
        return self._computer

    def _tokens(self, item: tuple[Any, str, int]) -> np.ndarray:
        return self._tokenizer.encode_batch([item[1]], item[2])[0]


class ModelInputs:
    """What brings images and texts to a model: as they are, or as the features of encoders that do not learn.

    Args:
        tokenizer: of the texts.
        backbones: published encoders of the model.
    """

    def __init__(self, tokenizer: TextRows, backbones: Backbones = NO_BACKBONES) -> None:
        computers = {part: FeatureComputer(one) for part, one in backbones.items() if one.is_frozen}
        self._image = computers.get("image")
        self._text = TextFeatures(computers["text"]) if "text" in computers else None
        self._computers = list(computers.values())
        self.texts: TextRows = tokenizer if self._text is None else self._text

    def store(
        self, parts: Mapping[str, Examples], texts_of: TextsOf | None = None, *, quiet: bool = False
    ) -> dict[str, Examples]:
        """Computes the features that are not on disk yet, and gives examples that read them from there.

        Args:
            parts: examples by part of the data; images of `"train"` have as many views as the settings say.
            texts_of: gives the texts of a description of an example; None where the model reads none.
            quiet: shows no progress.

        Returns:
            The examples, by part; those given where no encoder of images is frozen.

        Raises:
            InputError: an image, the weights or the folder of the features cannot be used.
        """
        stored = dict(parts)
        if self._image is not None:
            stored |= _store_images(self._image, parts, quiet=quiet)
        if self._text is not None and texts_of is not None:
            described = (one.describe(place) for one in parts.values() for place in range(len(one)))
            texts = [text for example in described for text in texts_of(example)]
            self._text.store(texts, next(iter(parts.values())).config.max_length, quiet=quiet)
        for computer in self._computers:
            computer.release()
        return stored

    def images(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Brings images to the model.

        Args:
            images: each uint8 `[side, side, 3]`, or stored features.

        Returns:
            The same, or the features of each where its encoder is frozen.
        """
        return iter(images) if self._image is None else self._image.fill(images)


def check_views(config: DataConfig, views: int) -> None:
    """Checks that augmentation can make so many views that differ.

    Args:
        config: of the data.
        views: of each image.

    Raises:
        InputError: it cannot.
    """
    plain = 1 + config.flip
    if views > plain and not (config.margin or config.crop_area < 1 or config.color_jitter):
        raise InputError(
            f"{views} views need crops or colours that differ; with data.margin 0, data.crop_area 1 and "
            f"data.color_jitter 0 there are {plain}. Set one of them, or fewer views."
        )


def _store_images(
    computer: FeatureComputer, parts: Mapping[str, Examples], *, quiet: bool = False
) -> dict[str, StoredExamples]:
    """Computes what is missing, and gives all as examples."""
    config = computer.backbone.config
    count = config.views if isinstance(config, ImageBackboneConfig) else 1
    keys: dict[str, list[list[bytes]]] = {}
    wanted: dict[bytes, tuple[Examples, int, int]] = {}
    for part, examples in parts.items():
        views = range(count if part == "train" else 1)
        check_views(examples.config, len(views))
        keys[part] = [[_image_key(content, examples.config, view) for view in views] for content in _contents(examples)]
        for place, own in enumerate(keys[part]):
            for view, key in enumerate(own):
                wanted.setdefault(key, (examples, place, view))
    one = next(iter(parts.values())).config
    store = open_store(computer.backbone, [one.image_size, one.stored_size, one.fit])
    missing = [(key, *wanted[key]) for key in store.missing(wanted)]
    _compute(computer, store, missing, _pixels, "images", quiet=quiet)
    return {part: _with_views(parts[part], keys[part], store) for part in parts}


def _compute(
    computer: FeatureComputer, store: data.RowStore, missing: Sequence[Any], inputs_of: Any, unit: str, *, quiet: bool
) -> None:
    """Computes what is missing, and writes it file by file."""
    if not missing:
        return
    source = computer.backbone.published.source
    _logger.warning(
        "computing features of %d %s with %s, once; they are kept in %s", len(missing), unit, source, store.folder
    )

    def transform(item: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        del rng
        return {"inputs": inputs_of(item)}

    keys: list[Any] = []
    rows: list[np.ndarray] = []
    began, batches = time.monotonic(), engine.whole_batches(missing, transform, _BATCH)
    with training.Progress(len(missing), quiet=quiet, unit=unit, label=unit) as progress:
        for start, batch in zip(range(0, len(missing), _BATCH), batches, strict=True):
            part = [item[0] for item in missing[start : start + _BATCH]]
            keys += part
            rows += list(computer.compute(batch["inputs"])[: len(part)])
            progress.update(len(keys), len(part))
            if len(rows) * rows[0].nbytes >= _FILE_BYTES or time.monotonic() - began >= _FILE_S:
                store.write(keys[-len(rows) :], np.stack(rows))
                rows, began = [], time.monotonic()
            progress.show(len(keys), None)
    if rows:
        store.write(keys[-len(rows) :], np.stack(rows))


def _contents(examples: Examples) -> Iterator[bytes]:
    """A hash of each image as it came: of the file, of its bytes, or of its pixels."""
    for place in range(len(examples)):
        image = examples.describe(place)["image"]
        if isinstance(image, np.ndarray):
            yield hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()
        else:
            yield hashlib.sha256(image if isinstance(image, bytes) else Path(image).read_bytes()).digest()


def _image_key(content: bytes, config: DataConfig, view: int) -> bytes:
    crop = [config.crop_area, config.color_jitter] if _is_random(config, view) else []
    return hashlib.sha256(content + json.dumps([view, config.flip, crop] if view else []).encode()).digest()


def _is_random(config: DataConfig, view: int) -> bool:
    return view > config.flip


def _pixels(item: tuple[bytes, Examples, int, int]) -> np.ndarray:
    """A view of an image: as it is, mirrored where that is allowed, and then by chance, which hangs on the image."""
    key, examples, place, view = item
    image, config = examples.picture(place), examples.config
    if _is_random(config, view):
        return ImageTransform(config, training=True)(image, np.random.default_rng(list(key)))
    middle = ImageTransform(config, training=False)(image, np.random.default_rng(0))
    return middle[:, ::-1] if view else middle


def _text_key(text: str, length: int) -> bytes:
    return hashlib.sha256(f"{length} {text}".encode()).digest()


def _with_views(examples: Examples, keys: Sequence[Sequence[bytes]], store: data.RowStore) -> StoredExamples:
    rows = store.rows([key for own in keys for key in own])
    count = len(keys[0]) if keys else 0
    return StoredExamples(
        examples, [Views(rows, tuple(range(place * count, (place + 1) * count))) for place in range(len(keys))]
    )
