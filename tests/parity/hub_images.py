"""Small photographs of several kinds, and what the image processors of transformers make of them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

# Of each processor settings as they stand in a `preprocessor_config.json`.
CASES: Mapping[str, dict[str, Any]] = {
    "clip": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 13}, "crop_size": 11},
    "clip-first": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 14, "crop_size": 11, "resample": 3},
    "clip-filled": {"image_processor_type": "CLIPImageProcessor", "size": 8, "crop_size": {"height": 11, "width": 5}},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 11, "width": 13}, "resample": 3},
    "vit": {"image_processor_type": "ViTImageProcessor", "size": 11, "resample": 2},
    "vit-lanczos": {"feature_extractor_type": "ViTFeatureExtractor", "size": [12, 11], "resample": 1},
    "deit": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 16, "crop_size": 11, "do_center_crop": True},
    "convnext": {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 11, "crop_pct": 0.75, "resample": 3},
    "convnext-usual": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 12}},
    "blip": {"image_processor_type": "BlipImageProcessor", "size": {"height": 12, "width": 12}, "resample": 3},
    "efficientnet": {"image_processor_type": "EfficientNetImageProcessor", "size": 12, "resample": 0},
    "bit": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 12}, "crop_size": 9, "resample": 4},
    "bit-hamming": {"image_processor_type": "BitImageProcessor", "size": 12, "crop_size": 9, "resample": 5},
}


def photographs() -> dict[str, Image.Image]:
    """Upright, grey across, transparent, with a palette, and tiny."""
    rng = np.random.default_rng(0)

    def draw(mode: str, *shape: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode)

    return {
        "upright": draw("RGB", 37, 23, 3),
        "grey": draw("L", 19, 41),
        "clear": draw("RGBA", 29, 31, 4),
        "palette": draw("RGB", 17, 17, 3).quantize(7),
        "tiny": draw("RGB", 2, 3, 3),
    }


def process(settings: Mapping[str, Any], **more: Any) -> list[np.ndarray]:
    """What the processor that the settings name makes of the photographs: each `[height, width, channels]`."""
    import transformers

    name = settings.get("image_processor_type") or settings["feature_extractor_type"].replace(
        "FeatureExtractor", "ImageProcessor"
    )
    known = {key: value for key, value in settings.items() if not key.endswith("_type")}
    processor = getattr(transformers, f"{name}Pil")(**known, do_convert_rgb=True, **more)
    return [np.moveaxis(processor(one)["pixel_values"][0], 0, -1) for one in photographs().values()]


def _pixels(name: str) -> np.ndarray:
    # EfficientNet's divides by the deviation once more.
    more = {"include_top": False} if name == "efficientnet" else {}
    return np.stack(process(CASES[name], do_rescale=False, do_normalize=False, **more))


# Of every case uint8 `[photographs, height, width, 3]`.
MODELS: Mapping[str, Callable[[], dict[str, np.ndarray]]] = {
    "images-hub": lambda: {name: _pixels(name) for name in CASES}
}
