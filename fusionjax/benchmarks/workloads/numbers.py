"""Random numbers and checks that workloads share."""

from collections.abc import Mapping

import numpy as np

from fusionjax.errors import InputError


def draw_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 1) -> dict[str, np.ndarray]:
    """Draws weights, the same in every process.

    Args:
        shapes: by path; the last axis is the output, so the product of the others is what one output sums over.
        seed: of the generator.

    Returns:
        float32 arrays by path: normal numbers over the root of what is summed, and small ones where there is one axis.

    Example:
        >>> {path: array.shape for path, array in draw_weights({"dense/kernel": (5, 7)}).items()}
        {'dense/kernel': (5, 7)}
    """
    random = np.random.default_rng(seed)
    weights = {}
    for path, shape in shapes.items():
        scale = 0.1 if len(shape) == 1 else float(np.prod(shape[:-1])) ** -0.5
        scale = 1.0 if path.endswith("embedding") else scale
        weights[path] = (scale * random.standard_normal(shape, np.float32)).astype(np.float32)
    return weights


def check_positive(workload: object, *names: str) -> None:
    """Checks that sizes are above zero.

    Args:
        workload: whose attributes they are.
        *names: of the attributes.

    Raises:
        InputError: one is zero or below.
    """
    for name in names:
        value = getattr(workload, name)
        if value <= 0:
            raise InputError(f"{name} must be above 0; got {value}. Give a larger one.")
