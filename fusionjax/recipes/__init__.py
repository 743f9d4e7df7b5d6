"""Whole tasks: one module each, plain Python from data to report."""

import importlib
from types import ModuleType

__all__ = ["captioning", "classification", "multi_task", "retrieval", "vqa", "weights"]


def __getattr__(name: str) -> ModuleType:
    """Imports a recipe on first use."""
    if name in __all__:
        return importlib.import_module(f"fusionjax.recipes.{name}")
    raise AttributeError(f"module 'fusionjax.recipes' has no attribute {name!r}; it has {', '.join(__all__)}")
