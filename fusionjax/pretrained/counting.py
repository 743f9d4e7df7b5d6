"""What the names of tensors tell of a model's size."""

import itertools

from fusionjax.pretrained.rows import Shapes


def count_layers(shapes: Shapes, pattern: str) -> int:
    """Counts layers that are numbered from 0.

    Args:
        shapes: of the tensors, by name.
        pattern: name of a tensor with `{}` where the number stands.

    Returns:
        How many there are without a gap.

    Example:
        >>> count_layers({"layer.0.weight": (3,), "layer.1.weight": (3,), "layer.3.weight": (3,)}, "layer.{}.weight")
        2
    """
    return next(number for number in itertools.count() if pattern.format(number) not in shapes)


def is_batch_counter(name: str) -> bool:
    """Says whether a tensor only counts the batches that a batch normalisation saw.

    Args:
        name: of the tensor.

    Returns:
        True for PyTorch's `num_batches_tracked`.

    Example:
        >>> is_batch_counter("bn1.num_batches_tracked"), is_batch_counter("bn1.weight")
        (True, False)
    """
    return name.endswith(".num_batches_tracked")
