"""The machine's description and the revision of the code."""

import platform
import subprocess

import pytest

from fusionjax.benchmarks import machine


def test_describes_the_machine_without_its_name() -> None:
    found = machine.describe_machine()
    assert found["cores"] == machine.count_cores() >= 1
    assert found["architecture"] == platform.machine()
    assert platform.node() not in str(found.values())


def test_no_revision_outside_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "__file__", "/usr/lib/python3/fusionjax/benchmarks/machine.py")
    assert machine.git_revision() is None


def test_no_revision_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", run)
    assert machine.git_revision() is None
