"""The examples of a recipe: whatever the source, a sequence of dictionaries with a decoded image."""

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fusionjax import data
from fusionjax.errors import InputError
from fusionjax.recipes.config import DataConfig

Example = Mapping[str, Any]


_FOLDERS: dict[str, Callable[..., data.CaptionFolder | data.QuestionFolder]] = {
    "flickr": data.read_flickr,
    "coco": data.read_coco,
    "vqa": data.read_vqa,
}


class Examples(Sequence[dict[str, Any]]):
    """Examples whose images are decoded when they are first asked for, and then kept in memory if they are small.

    Attributes:
        source: dictionaries with `image` (a path, bytes or pixels) and whatever else.
        config: gives the size of the decoded image, the way into the square and the memory allowed.
    """

    def __init__(self, source: Sequence[Example], config: DataConfig) -> None:
        self.source, self.config = source, config
        needed_mb = len(source) * 3 * config.stored_size**2 / 1e6
        self._kept: dict[int, dict[str, Any]] | None = {} if needed_mb <= config.cache_mb else None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        return self._keep(index, dict(self.source[index]))

    def describe(self, index: int) -> Mapping[str, Any]:
        """Gives an example without decoding its image, where that is a file."""
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        example = dict(self.source[index])
        return self._keep(index, example) if isinstance(example["image"], np.ndarray) else example

    def picture(self, index: int) -> np.ndarray:
        """Gives the decoded image of an example, uint8 `[stored_size, stored_size, 3]`."""
        if self._kept is not None and index in self._kept:
            return self._kept[index]["image"]
        return self._decode(self.source[index]["image"])

    def _decode(self, image: Any) -> np.ndarray:
        return data.load_image(image, self.config.stored_size, fit=self.config.fit)

    def _keep(self, index: int, example: dict[str, Any]) -> dict[str, Any]:
        example["image"] = self._decode(example["image"])
        if self._kept is not None:
            with self._lock:
                self._kept[index] = example
        return example

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"], state["config"])  # type: ignore[misc]


@dataclasses.dataclass(frozen=True)
class Views:
    """What an encoder that does not learn made of an image before, in place of its pixels.

    Attributes:
        rows: features of many images, each `[numbers]`.
        places: in them of this image: as it is, then changed as augmentation does.
    """

    rows: Sequence[np.ndarray]
    places: tuple[int, ...]


class DataParts:
    """The parts of the data that a config names; a folder is read once.

    Args:
        config: the source and its settings.

    Raises:
        InputError: the source cannot be read.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        if config.source in _FOLDERS and not config.path:
            raise InputError(f"--data.source {config.source} needs a folder; got no path. Add --data.path DIR.")
        if config.source == "tfds" and not config.name:
            raise InputError("--data.source tfds needs a data set; got no name. Add --data.name NAME.")
        self._folder: data.CaptionFolder | data.QuestionFolder | None = None
        if config.source in _FOLDERS:
            self._folder = _FOLDERS[config.source](str(config.path), on_broken=config.on_broken)
        self.names = self._names()

    def __getitem__(self, part: str) -> Examples:
        """Gives one part.

        Args:
            part: `"train"`, `"validation"`, `"test"`, a split's own name, or `"all"` for all of them together.

        Returns:
            The examples, each with `image` uint8 `[side, side, 3]` and the source's other entries. The validation part
            is empty where the data have none and nothing is held out for it.

        Raises:
            InputError: the data have no such part.
        """
        config = self.config
        if part == "all":
            return Examples(self._readable([example for name in self.names for example in self._split(name)]), config)
        roles = {"train": config.train_split, "validation": config.validation_split, "test": config.test_split}
        name = roles.get(part, part)
        if part in ("train", "validation") and not self._has(config.validation_split):
            whole = self._split(config.train_split)
            return Examples(self._readable(_hold_out(whole, config.validation_fraction, part)), config)
        return Examples(self._readable(self._split(name)), config)

    def _names(self) -> list[str]:
        if self._folder is not None:
            return list(self._folder.splits)
        if self.config.source == "tfds":
            return data.tfds_splits(str(self.config.name), data_dir=self.config.path)
        return ["train", "test"] if self.config.source == "easy-vqa" else ["train", "validation", "test"]

    def _has(self, name: str) -> bool:
        return name.partition("[")[0] in self.names

    def _split(self, name: str) -> Sequence[Example]:
        config = self.config
        if not self._has(name):
            raise InputError(
                f"the data must have a part {name!r}; they have {', '.join(self.names)}. Choose one of these."
            )
        if config.source == "easy-vqa":
            return data.EasyVQA(name)
        if config.source in ("scenes", "sort-of-clevr"):
            size = config.size if name == "train" else config.evaluation_size
            try:
                if config.source == "scenes":
                    return data.Scenes(name, size=size, image_size=config.stored_size, objects=config.objects)
                return data.SortOfClevr(name, size=size, image_size=config.stored_size)
            except ValueError as error:
                raise InputError(str(error)) from error
        if config.source == "tfds":
            fields = dict(_field(entry) for entry in config.fields)
            return data.TFDSSource(str(config.name), name, data_dir=config.path, fields=fields)
        if self._folder is None:
            raise InputError(f"the source must be one that is known; got {config.source!r}. See --help.")
        return self._folder.split(name)

    def _readable(self, source: Sequence[Example]) -> Sequence[Example]:
        if self._folder is None or not source:
            return source
        good, broken = data.check_images([example["image"] for example in source], on_broken=self.config.on_broken)
        if not broken:
            return source
        keep = set(good)
        return [example for example in source if example["image"] in keep]


def _field(entry: str) -> tuple[str, str]:
    name, separator, field = entry.partition("=")
    if not separator:
        raise InputError(f"a field must read name=field, such as captions=captions/text; got {entry!r}. Correct it.")
    return name, field


def _hold_out(source: Sequence[Example], fraction: float, part: str) -> list[Example]:
    ranks = [hashlib.sha256(str(example.get("id", place)).encode()).digest() for place, example in enumerate(source)]
    held = set(sorted(range(len(source)), key=ranks.__getitem__)[: round(len(source) * fraction)])
    return [example for place, example in enumerate(source) if (place in held) == (part == "validation")]


@dataclasses.dataclass(frozen=True)
class ImageTransform:
    """Brings a decoded image to the model's size: cropped and augmented at random in training, else from the middle.

    Of stored features it takes those of a random view in training, else those of the image as it is.

    Attributes:
        config: the sizes and the augmentation.
        training: whether to augment.
    """

    config: DataConfig
    training: bool

    def __call__(self, image: np.ndarray | Views, rng: np.random.Generator) -> np.ndarray:
        """Transforms one image.

        Args:
            image: uint8 `[stored_size, stored_size, 3]`, or stored features.
            rng: what chance depends on.

        Returns:
            uint8 `[image_size, image_size, 3]`, or the features, `[numbers]`.
        """
        if isinstance(image, Views):
            return image.rows[image.places[int(rng.integers(len(image.places))) if self.training else 0]]
        if not self.training:
            return data.augment.center_crop(image, self.config.image_size)
        size, area = self.config.image_size, self.config.crop_area
        if area < 1:
            image = data.augment.random_resized_crop(image, size, rng, scale=(area, 1.0), ratio=(0.87, 1.15))
        else:
            image = data.augment.random_crop(image, size, rng)
        if self.config.flip:
            image = data.augment.random_flip(image, rng)
        if self.config.color_jitter:
            amount = self.config.color_jitter
            image = data.augment.color_jitter(image, rng, brightness=amount, contrast=amount, saturation=amount)
        return image


class Places(Sequence[dict[str, Any]]):
    """Examples that know their place, for what is looked up by it.

    Attributes:
        examples: the examples.
    """

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        return {**self.examples[index], "place": index}


@dataclasses.dataclass(frozen=True)
class PlaceTransform:
    """Adds `place` to what another transform makes of one example of `Places`.

    Attributes:
        transform: of the example.
    """

    transform: Callable[[Mapping[str, Any], np.random.Generator], dict[str, np.ndarray]]

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Transforms one example.

        Args:
            example: of `Places`.
            rng: what chance depends on.

        Returns:
            The arrays of the other transform, and `place`, int32.
        """
        return {**self.transform(example, rng), "place": np.asarray(example["place"], np.int32)}
