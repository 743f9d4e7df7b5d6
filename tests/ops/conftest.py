"""Fixtures: signatures that check nothing, so that an operation's own message is seen; an empty table of choices."""

import jaxtyping
import pytest

from fusionjax.ops import implementations


@pytest.fixture
def unchecked():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def no_table(monkeypatch):
    """The operations choose by their rules, as where nothing was measured."""
    monkeypatch.setattr(implementations, "read_choices", dict)
