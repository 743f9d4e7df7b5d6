"""The devices of a data-parallel run."""

import jax
import numpy as np
from jax.sharding import Mesh

DATA_AXIS = "data"


def make_mesh(num_devices: int | None = None) -> Mesh:
    """Builds a one-dimensional mesh over the local devices, whose axis is called `"data"`.

    Batches are split over this axis and parameters are copied along it (data parallelism).

    Args:
        num_devices: how many of the local devices to use, from the first; `None` takes them all.

    Returns:
        A mesh of shape `(num_devices,)`.

    Raises:
        ValueError: `num_devices` is not between 1 and the number of local devices.

    Example:
        >>> make_mesh(1).shape["data"]
        1
    """
    devices = jax.local_devices()
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise ValueError(
            f"num_devices must be between 1 and the {len(devices)} local devices; got {num_devices}. "
            "Leave it out to use them all."
        )
    return Mesh(np.asarray(devices[:count]), (DATA_AXIS,))
