"""The fixtures of the recipes' tests."""

from tests.recipes.conftest import captioner, compiled_quickly, shared

__all__ = ["captioner", "compiled_quickly", "shared"]
