"""Freed host memory stays with the process."""

import platform
import subprocess
import sys
import textwrap
import types

import jax
import pytest

from fusionjax.parallel import keep_host_memory, memory

_FAULTS = """
    import ctypes, resource, sys, threading
    from fusionjax.parallel import keep_host_memory

    kept = sys.argv[1] == "keep"
    assert not kept or keep_host_memory()
    malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
    malloc.restype, free.argtypes, size = ctypes.c_void_p, [ctypes.c_void_p], 80 * 2**20

    def run():
        global faults
        for turn in range(3):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            block = malloc(size)
            ctypes.memset(block, 1, size)
            free(block)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    # XLA allocates on threads of its own.
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    print(faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc takes the settings")
def test_a_freed_block_is_used_again_without_new_pages():
    def faults(word):
        command = [sys.executable, "-c", textwrap.dedent(_FAULTS), word]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("give") > 1000
    assert faults("keep") < 100


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert keep_host_memory() is False


@pytest.mark.parametrize(
    ("platforms", "plugin", "backend", "taken"),
    [
        ("cuda,cpu", None, "?", False),
        ("cpu", "jax_plugins", "?", True),
        ("", None, "?", True),
        ("", "libtpu", "tpu", False),
        ("", "jax_plugins", "cpu", True),
    ],
)
def test_only_where_jax_computes_on_a_cpu(platforms, plugin, backend, taken, monkeypatch):
    """Which does not start JAX unless an accelerator may be there."""
    monkeypatch.setattr(memory, "entry_points", lambda group: [])
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: name == plugin or None)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.39"))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: types.SimpleNamespace(mallopt=lambda *setting: 1))
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        assert keep_host_memory() is taken
    finally:
        jax.config.update("jax_platforms", before)
