"""The public surface: listed, documented, tested by its own examples, and light to import."""

import doctest
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fusionjax

PACKAGES = [name for name in fusionjax.__all__ if name not in ("InputError", "__version__")]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(fusionjax.__path__, "fusionjax.")
    # Only a worker of a benchmark imports peers, which may not be installed.
    if not module.name.endswith("__main__") and ".peers." not in module.name
]
EXTRAS = (
    "PIL", "grain", "tokenizers", "rich", "tyro", "tensorboardX", "matplotlib", "tensorflow_datasets", "tensorflow",
    "torch", "pycocoevalcap", "absl.app", "beartype", "easy_vqa",
)  # fmt: skip


def _package(name: str) -> types.ModuleType:
    return importlib.import_module(f"fusionjax.{name}")


def _definitions(package: types.ModuleType) -> dict[str, object]:
    """Public classes and functions; data and type aliases have no docstring of their own."""
    listed = {name: getattr(package, name) for name in package.__all__}
    return {name: one for name, one in listed.items() if inspect.isclass(one) or inspect.isfunction(one)}


@pytest.mark.parametrize("name", PACKAGES)
def test_every_reachable_name_is_listed_and_every_listed_name_is_there(name: str) -> None:
    package = _package(name)
    assert package.__doc__ and len(set(package.__all__)) == len(package.__all__)
    assert all(hasattr(package, one) for one in package.__all__)
    own = {one for one, value in vars(package).items() if not one.startswith("_") and _is_own(value)}
    assert own - set(package.__all__) == set()


def _is_own(value: object) -> bool:
    """Submodules come into a package by importing them; everything else is there on purpose."""
    return not isinstance(value, types.ModuleType) and str(getattr(value, "__module__", "")).startswith("fusionjax")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_definition_is_documented(name: str) -> None:
    for label, one in _definitions(_package(name)).items():
        text = inspect.getdoc(one) or ""
        assert len(text.splitlines()[0]) > 10, f"{label} says nothing"
        parameters = [each for each in _parameters(one) if each != "self"]
        if inspect.isfunction(one) and parameters:
            assert "Args:" in text, f"{label} does not say what it takes"
            missing = [each for each in parameters if f"{each}:" not in text]
            assert not missing, f"{label} does not say what {missing} are"
        if inspect.isfunction(one) and inspect.signature(one).return_annotation not in (None, "None"):
            assert "Returns:" in text or "Yields:" in text, f"{label} does not say what it returns"
        if inspect.isfunction(one) and "raise " in inspect.getsource(one):
            assert "Raises:" in text, f"{label} does not say what it raises"


def _parameters(one: object) -> list[str]:
    try:
        return list(inspect.signature(one).parameters)
    except ValueError:
        return []


def test_most_public_definitions_have_an_example() -> None:
    definitions = {f"{name}.{label}": one for name in PACKAGES for label, one in _definitions(_package(name)).items()}
    shown = [label for label, one in definitions.items() if ">>>" in (inspect.getdoc(one) or "")]
    assert len(shown) >= 0.6 * len(definitions), sorted(definitions.keys() - set(shown))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    known = {"jax": jax, "jnp": jnp, "np": np}
    results = doctest.testmod(module, extraglobs=known, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert results.failed == 0, f"see the output of the doctests of {name}"


def test_importing_brings_no_optional_dependency() -> None:
    """Neither the package nor any of its parts, which import such things where they use them; flax needs rich."""
    program = (
        "import sys, jax, flax.linen, optax, orbax.checkpoint, jaxtyping\n"
        "before = set(sys.modules)\n"
        "import fusionjax\n"
        f"parts = [getattr(fusionjax, name) for name in {PACKAGES}]\n"
        f"print(*[name for name in {EXTRAS} if name in set(sys.modules) - before])\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.split() == []


def test_importing_alone_imports_none_of_its_parts() -> None:
    program = "import sys, fusionjax; print(*[name for name in sys.modules if name.startswith('fusionjax.')])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert set(result.stdout.split()) == {"fusionjax._version", "fusionjax.errors"}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(
        AttributeError, match=r"module 'fusionjax' has no attribute 'vision'; it has compress, data, dec"
    ):
        _ = fusionjax.vision
    assert dir(fusionjax) == sorted(fusionjax.__all__) and fusionjax.__version__.count(".") == 2
