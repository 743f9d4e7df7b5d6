"""Vision and language fused in JAX.

Every modality becomes `encoders.Features`, every fusion maps `Features` to `Features`, every head reads `Features`. The
packages below are imported when they are first used, so `import fusionjax` costs next to nothing.
"""

import importlib
from types import ModuleType

from fusionjax._version import __version__
from fusionjax.errors import InputError

_PACKAGES = (
    "compress",
    "data",
    "decoding",
    "encoders",
    "fusion",
    "layers",
    "losses",
    "metrics",
    "models",
    "ops",
    "parallel",
    "pretrained",
    "recipes",
    "training",
)

__all__ = ["InputError", "__version__", *_PACKAGES]


def __getattr__(name: str) -> ModuleType:
    """Imports a package of fusionjax on first use."""
    if name in _PACKAGES:
        return importlib.import_module(f"fusionjax.{name}")
    raise AttributeError(f"module 'fusionjax' has no attribute {name!r}; it has {', '.join(_PACKAGES)}")


def __dir__() -> list[str]:
    """Lists the public names."""
    return sorted(__all__)
