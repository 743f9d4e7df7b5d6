"""Optional dependencies, imported where they are used."""

import importlib
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Imports an optional module, or says which extra of the package brings it.

    Args:
        module: dotted name, such as `"PIL.Image"`.
        extra: the extra of fusionjax that installs it, such as `"data"`.

    Returns:
        The imported module.

    Raises:
        ImportError: the module is not installed.

    Example:
        >>> require("json", extra="data").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f'this needs the module {module!r}, which is not installed; run: pip install "fusionjax[{extra}]"'
        raise ImportError(message) from error
