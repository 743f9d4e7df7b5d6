"""How photographs are prepared for published weights, and what the files beside the weights say of it."""

import dataclasses
from collections.abc import Mapping
from math import floor
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_args

import numpy as np

from fusionjax import data
from fusionjax.data.preparation import Interpolation, Rounding
from fusionjax.errors import InputError

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"

# As Pillow, and with it transformers, numbers its filters.
_FILTERS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
# Of transformers' processors: those whose size as a single number is the shorter side, and those that cut by default.
_BY_SHORTER_SIDE = ("Bit", "CLIP", "ConvNext", "Siglip")
_CUTTING = ("Bit", "CLIP", "DeiT")
_CONVNEXT, _CONVNEXT_SHARE, _CONVNEXT_WHOLE = "ConvNext", 224 / 256, 384
_TIMM_SHARE = 0.875
# What has no equal here, and the only value that is taken.
_REQUIRED = {"do_resize": True, "do_pad": False, "rescale_offset": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagePreparation:
    """How a photograph is brought to the form that the weights were trained with; call it with one.

    Attributes:
        size: height and width of the result, in pixels.
        shorter_side: the photograph is scaled until its shorter side has so many pixels, and its centre is cut out;
            None scales it to `scaled_size`.
        interpolation: of the scaling.
        scaled_size: the photograph is scaled to this height and width, whatever its shape, and its centre is cut out;
            None for `size`, where nothing is left to cut.
        rounding: of the centre's place, see `fusionjax.data.prepare_image`.
        mean: of the channels, in [0, 1]; the model subtracts it. None for that of the model as it is built.
        std: of the channels; the model divides by it. None likewise.

    Example:
        >>> preparation = ImagePreparation(size=(8, 8), shorter_side=10)
        >>> preparation(np.zeros((30, 50, 3), np.uint8)).shape
        (8, 8, 3)
    """

    size: tuple[int, int]
    shorter_side: int | None = None
    interpolation: Interpolation = "bilinear"
    scaled_size: tuple[int, int] | None = None
    rounding: Rounding = "even"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Prepares a photograph.

        Args:
            image: uint8 `[height, width, 3]`, as `fusionjax.data.load_image` gives it.

        Returns:
            uint8 `[*size, 3]`, which the model takes as it is.
        """
        return data.prepare_image(
            image,
            self.size,
            shorter_side=self.shorter_side,
            scaled_size=self.scaled_size,
            interpolation=self.interpolation,
            rounding=self.rounding,
        )


def read_transformers(published: ImagePreparation, settings: Mapping[str, Any], path: Path) -> ImagePreparation:
    """Corrects a preparation by the `preprocessor_config.json` of transformers.

    Args:
        published: what counts where the settings say nothing, with mean and deviation.
        settings: the file's content.
        path: of the file, for messages.

    Returns:
        The preparation that gives the same pixels; transparent ones are white, and every photograph has three channels.

    Raises:
        InputError: a setting has no such form, or no equal here.
    """
    asked = _Settings(settings, path)
    for name, value in _REQUIRED.items():
        if settings.get(name) not in (None, value):
            asked.refuse(name, str(value).lower())
    changes: dict[str, Any] = {"rounding": "down", **_unit_channels(asked, published)}
    resample = settings.get("resample")
    if resample is not None:
        if not _is_count(resample, at_least=0) or resample >= len(_FILTERS):
            asked.refuse("resample", f"a number from 0 to {len(_FILTERS) - 1}")
        changes["interpolation"] = _FILTERS[resample]
    if settings.get("size") is not None:
        changes |= _read_sizes(asked, published)
    return dataclasses.replace(published, **changes)


def read_timm(published: ImagePreparation, settings: Mapping[str, Any], path: Path) -> ImagePreparation:
    """Corrects a preparation by the `pretrained_cfg` in a `config.json` of timm.

    Args:
        published: what counts where the settings say nothing.
        settings: that part of the file.
        path: of the file, for messages.

    Returns:
        The preparation that timm makes of them.

    Raises:
        InputError: a setting has no such form, or no equal here.
    """
    asked = _Settings(settings, path)
    interpolation: Any = settings.get("interpolation") or "bicubic"
    if interpolation not in get_args(Interpolation):
        asked.refuse("interpolation", f"one of {', '.join(get_args(Interpolation))}")
    mode = settings.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        asked.refuse("crop_mode", "center or squash")
    sides = settings.get("input_size") or (3, *published.size)
    if len(sides) != 3 or not all(map(_is_count, sides)) or (mode == "center" and sides[1] != sides[2]):
        asked.refuse("input_size", "three numbers, the last two equal")
    share = settings.get("crop_pct") or _TIMM_SHARE
    scaled = floor(sides[1] / share), floor(sides[2] / share)
    return dataclasses.replace(
        published,
        **_scaled_and_cut(scaled[0] if mode == "center" else scaled, (sides[1], sides[2])),
        interpolation=interpolation,
        rounding="even",
        mean=asked.channels("mean") or published.mean,
        std=asked.channels("std") or published.std,
    )


def to_transformers(preparation: ImagePreparation) -> dict[str, Any]:
    """The `preprocessor_config.json` with which transformers prepares photographs alike.

    Args:
        preparation: with mean and deviation.

    Returns:
        The settings. Those of CLIP's processor say all that there is to say; where the centre does not lie between
        pixels it is always rounded down.
    """
    (height, width), side = preparation.scaled_size or preparation.size, preparation.shorter_side
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": height, "width": width} if side is None else {"shortest_edge": side},
        "resample": _FILTERS.index(preparation.interpolation),
        "do_center_crop": True,
        "crop_size": {"height": preparation.size[0], "width": preparation.size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preparation.mean or ()),
        "image_std": list(preparation.std or ()),
    }


class _Settings(NamedTuple):
    values: Mapping[str, Any]
    path: Path

    def refuse(self, name: str, expected: str) -> NoReturn:
        raise InputError(
            f"{self.path}: {name} must be {expected}; got {self.values.get(name)!r}. Correct it, or remove the file."
        )

    def channels(self, name: str) -> tuple[float, ...] | None:
        values = self.values.get(name)
        if values is None:
            return None
        if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_number, values)):
            self.refuse(name, "three numbers")
        return tuple(float(one) for one in values)


def _read_sizes(asked: _Settings, published: ImagePreparation) -> dict[str, Any]:
    settings = asked.values
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    # Where it is not said whose settings these are, they are those of the published.
    was_cut = not kind and published.shorter_side is not None
    scaled = _read_size(settings["size"], is_shorter_side=was_cut or kind.startswith(_BY_SHORTER_SIDE))
    if scaled is None:
        asked.refuse("size", 'a number, {"shortest_edge": number} or {"height": number, "width": number}')
    if isinstance(scaled, int) and (kind.startswith(_CONVNEXT) or (not kind and "crop_pct" in settings)):
        # Of small photographs a share is cut out, large ones are whole.
        if scaled >= _CONVNEXT_WHOLE:
            return _scaled_and_cut((scaled, scaled), None)
        return _scaled_and_cut(int(scaled / (settings.get("crop_pct") or _CONVNEXT_SHARE)), (scaled, scaled))
    is_cut = settings.get("do_center_crop")
    if is_cut if is_cut is not None else was_cut or kind.startswith(_CUTTING):
        cut = _read_size(settings.get("crop_size") or list(published.size), is_shorter_side=False)
        if not isinstance(cut, tuple):
            asked.refuse("crop_size", 'a number or {"height": number, "width": number}')
        return _scaled_and_cut(scaled, cut)
    if isinstance(scaled, int):
        asked.refuse("size", '{"height": number, "width": number} where nothing is cut')
    return _scaled_and_cut(scaled, None)


def _scaled_and_cut(scaled: int | tuple[int, int], cut: tuple[int, int] | None) -> dict[str, Any]:
    if isinstance(scaled, int):
        return {"size": cut, "shorter_side": scaled, "scaled_size": None}
    is_whole = cut in (None, scaled)
    return {"size": cut or scaled, "shorter_side": None, "scaled_size": None if is_whole else scaled}


def _read_size(size: Any, *, is_shorter_side: bool) -> int | tuple[int, int] | None:
    """The shorter side, or height and width; None where it is neither."""
    if isinstance(size, Mapping):
        if set(size) == {"shortest_edge"} and _is_count(size["shortest_edge"]):
            return int(size["shortest_edge"])
        size = [size.get("height"), size.get("width")]
    if _is_count(size):
        return int(size) if is_shorter_side else (int(size), int(size))
    if isinstance(size, list | tuple) and len(size) == 2 and all(map(_is_count, size)):
        return int(size[0]), int(size[1])
    return None


def _unit_channels(asked: _Settings, published: ImagePreparation) -> dict[str, Any]:
    """Mean and deviation of channels in [0, 1], of settings for those that have been rescaled, or not."""
    unit = 255 * (asked.values.get("rescale_factor") or 1 / 255) if asked.values.get("do_rescale", True) else 255
    mean, std = asked.channels("image_mean") or published.mean, asked.channels("image_std") or published.std
    if not asked.values.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return {
        name: None if channels is None else tuple(one / unit for one in channels)
        for name, channels in (("mean", mean), ("std", std))
    }


def _is_count(value: Any, *, at_least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
