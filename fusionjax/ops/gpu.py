"""What the GPU at hand can do."""

import jax

from fusionjax.ops.implementations import on_platform, target_platform


def find_gpu_obstacle(library: str) -> str | None:
    """Says why something made for NVIDIA GPUs cannot run.

    Args:
        library: its name, for the message.

    Returns:
        The reason in words, or None on a GPU.
    """
    return None if on_platform("gpu") else f"{library} needs an NVIDIA GPU; JAX's backend is {target_platform()!r}"


def find_compute_capability(default: tuple[int, int]) -> tuple[int, int]:
    """Returns the compute capability of the first device.

    Args:
        default: what to assume of a GPU that is not at hand, such as one that is compiled for.

    Returns:
        The major and the minor number.
    """
    capability = getattr(jax.devices()[0], "compute_capability", None)
    if capability is None:
        return default
    major, minor = str(capability).split(".")
    return int(major), int(minor)
