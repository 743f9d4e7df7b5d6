"""The machine that a benchmark runs on, and the code that it runs."""

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any


def describe_machine() -> dict[str, Any]:
    """Describes the processor and the memory; never the host.

    Returns:
        `cpu`, `architecture`, `cores` (that this process may use), `caches` (name to size), `vector_instructions`,
        `memory_gb`, `system` and `python`; what the system does not tell is left out.

    Example:
        >>> describe_machine()["cores"] >= 1
        True
    """
    info = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = set((re.search(r"^flags\s*:\s*(.+)$", info, re.MULTILINE) or [""])[0].split())
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    found = {
        "cpu": model[1].strip() if model else platform.processor(),
        "architecture": platform.machine(),
        "cores": count_cores(),
        "caches": _caches(),
        "vector_instructions": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8"}),
        "memory_gb": round(int(memory[1]) / 2**20) if memory else None,
        "system": platform.system(),
        "python": platform.python_version(),
    }
    return {name: value for name, value in found.items() if value}


def count_cores() -> int:
    """Counts the cores that this process may use.

    Returns:
        The number of cores.

    Example:
        >>> count_cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_revision() -> str | None:
    """Finds the commit of the checkout that this package is in.

    Returns:
        40 hexadecimal digits, or None outside a checkout.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _caches() -> dict[str, str]:
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(index / name).strip() for name in ("level", "type", "size"))
        caches[f"L{level}{ {'Data': 'd', 'Instruction': 'i'}.get(kind, '') }"] = size
    return caches


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
