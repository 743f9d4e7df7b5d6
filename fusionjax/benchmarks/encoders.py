"""`bench encoders`: the published encoders, forward and in training, beside the peers, all with the same weights."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fusionjax.benchmarks.models import measure_all
from fusionjax.benchmarks.options import EncoderOptions
from fusionjax.benchmarks.results import Results
from fusionjax.benchmarks.workloads import Encoder
from fusionjax.benchmarks.workloads.encoder import FORMATS
from fusionjax.benchmarks.workloads.numbers import draw_weights
from fusionjax.pretrained import (
    Pretrained,
    Published,
    count_multiply_adds,
    find_architecture,
    find_published,
    save,
)
from fusionjax.pretrained.published_sizes import published_table


def bench_encoders(options: EncoderOptions) -> Results:
    """Measures published encoders, or counts all published sizes.

    Args:
        options: which, and beside whom.

    Returns:
        The records, with the ceilings of the device in the same run; or the table of sizes as notes.

    Raises:
        ImportError: safetensors is not installed.
    """
    if options.table:
        return Results(records=[], notes=[published_table()])
    with tempfile.TemporaryDirectory() as folder:
        made = [make_encoder(find_published(name), Path(folder) / name) for name in options.models]
        # What has no labels is not trained here.
        workloads = [
            dataclasses.replace(one, batch_size=batch_size, train=train, dtype=options.dtype)
            for one in made
            for train in options.ways
            if one.num_classes or not train
            for batch_size in options.batch_sizes
        ]
        results = measure_all(workloads, options, options.dtype)
    untrained = [one.model for one in made if not one.num_classes and True in options.ways]
    notes = [f"{', '.join(untrained)}: forward passes only"] if untrained else []
    return dataclasses.replace(results, notes=notes)


def make_encoder(published: Published, folder: Path) -> Encoder:
    """Draws the weights of a published size, writes them, and makes a workload of them.

    Args:
        published: of a family of `FORMATS`.
        folder: made if missing.

    Returns:
        The workload of a forward pass.
    """
    family = published.family
    architecture, sizes = find_architecture(FORMATS[family]), published.sizes
    if family == "vit":
        # As in the published models of these names.
        sizes = dataclasses.replace(sizes, norm_epsilon=1e-12)
    model = architecture.build(sizes)
    variables = _draw(jax.eval_shape(model.init, jax.random.key(0), *architecture.example(sizes)))
    save(folder, Pretrained(architecture, sizes, model, variables))
    encoder: Any = model.image_encoder if published.length else model.encoder
    return Encoder(
        model=published.name,
        family=family,
        folder=str(folder),
        mean=tuple(encoder.mean),
        std=tuple(encoder.std),
        multiply_adds=count_multiply_adds(published),
        image_size=published.image_size,
        num_classes=getattr(sizes, "num_classes", 0),
        length=published.length,
        vocab_size=getattr(sizes, "vocab_size", 0),
    )


def _draw(expected: Any) -> dict[str, Any]:
    """Numbers that keep what passes through of a usual size; scales and variances are about 1."""
    structs = flatten_dict(expected, sep="/")
    drawn = draw_weights({path: struct.shape for path, struct in structs.items()})
    return unflatten_dict({path: _shift(path, array) for path, array in drawn.items()}, sep="/")


def _shift(path: str, array: np.ndarray) -> np.ndarray:
    return array + 1 if path.endswith(("scale", "var")) else array
