"""Quick compilation, and the run that most tests read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recipes.tiny import make_once, quick_compilation, session_folder, whole


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with quick_compilation(session_folder(tmp_path_factory)):
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the session."""
    return session_folder(tmp_path_factory)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory, shared: Path, compiled_quickly: None) -> Path:
    """A captioner trained in both stages; to be read only."""
    return make_once(tmp_path_factory, "captioner", whole(shared / "captioner"))
