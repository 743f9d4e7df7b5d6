"""Folders as models of images and texts lie on the hub: tiny, with weights that have learned nothing."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax import pretrained
from fusionjax.pretrained.towers import TowerSizes, TwoTowerSizes
from tests.contracts.parameters import draw_variables
from tests.parity.hub_tokenizers import LENGTH, WRITERS

VOCAB_SIZES = {"clip": 529, "siglip": 38}


def write_pair(folder: Path, name: str, *, vocab_size: int | None = None, seed: int = 0) -> None:
    """A `"clip"` or `"siglip"` with its tokenizer and settings."""
    architecture = pretrained.find_architecture(f"{name}-transformers")
    is_clip = name == "clip"
    image, text = (
        TowerSizes(
            features=features,
            num_layers=1,
            num_heads=2,
            mlp_features=7,
            norm_epsilon=1e-5 if is_clip else 1e-6,
            activation="quick_gelu" if is_clip else "gelu_tanh",
        )
        for features in (8, 12)
    )
    sizes = TwoTowerSizes(
        image=image,
        text=text,
        patch_size=5,
        image_size=20,
        vocab_size=vocab_size or VOCAB_SIZES[name],
        max_length=LENGTH,
        features=6 if is_clip else 8,
        end_id=None,
    )
    model = architecture.build(sizes)
    variables: Any = draw_variables(model, *architecture.example(sizes), seed=seed)
    variables["params"]["log_scale"] = np.float32(1.5)
    published = architecture.preparation(sizes)
    assert published is not None
    preparation = dataclasses.replace(published, mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.25))
    pretrained.save(folder, pretrained.Pretrained(architecture, sizes, model, variables, preparation=preparation))
    WRITERS[name](folder)
