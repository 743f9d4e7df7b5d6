"""The commands of `fusionjax bench`, by name."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from fusionjax.benchmarks.models import bench_forward, bench_train
from fusionjax.benchmarks.options import ModelOptions
from fusionjax.benchmarks.record import Record
from fusionjax.benchmarks.report import table


@dataclasses.dataclass(frozen=True)
class Command:
    """One of the commands.

    Attributes:
        summary: what it measures, in a line.
        options: the dataclass of its options.
        run: takes them; returns records and the ceilings of the device.
    """

    summary: str
    options: type
    run: Callable[[Any], tuple[list[Record], Any]]


COMMANDS: dict[str, Command] = {
    "forward": Command("forward passes, in examples per second, beside the peers", ModelOptions, bench_forward),
    "train": Command("steps of training, beside the peers", ModelOptions, bench_train),
}


def run_command(name: str, options: Any) -> tuple[list[dict[str, Any]], str]:
    """Runs a command.

    Args:
        name: a key of `COMMANDS`.
        options: of its dataclass.

    Returns:
        The records as plain values, and a table of them.
    """
    records, ceilings = COMMANDS[name].run(options)
    return [record.as_dict() for record in records], f"{table(records)}\n{_state(ceilings)}"


def usage() -> str:
    """Returns the help of `fusionjax bench` without a command."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:{width}s}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: fusionjax bench WORKLOAD ...", "", f"WORKLOAD is {_join(list(COMMANDS))}:", *lines])


def _join(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _state(ceilings: Any) -> str:
    return f"measured ceilings: {ceilings.tflops:.3f} TFLOP/s, {ceilings.gb_per_second:.1f} GB/s"
