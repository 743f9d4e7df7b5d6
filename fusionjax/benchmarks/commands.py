"""The commands of `fusionjax bench`, by name."""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fusionjax.benchmarks.ahead import bench_ahead
from fusionjax.benchmarks.encoders import bench_encoders
from fusionjax.benchmarks.figures import draw
from fusionjax.benchmarks.machine import describe_machine
from fusionjax.benchmarks.models import bench_decode, bench_forward, bench_train
from fusionjax.benchmarks.ops import bench_ops
from fusionjax.benchmarks.options import (
    AheadOptions,
    DecodeOptions,
    EncoderOptions,
    ModelOptions,
    OpsOptions,
    ScalingOptions,
)
from fusionjax.benchmarks.record import Record
from fusionjax.benchmarks.report import ahead_table, ops_table, table
from fusionjax.benchmarks.results import Results
from fusionjax.benchmarks.scaling import bench_scaling


@dataclasses.dataclass(frozen=True)
class Command:
    """One of the commands.

    Attributes:
        summary: what it measures, in a line.
        options: the dataclass of its options.
        run: takes them and measures.
        show: makes a table of the records.
    """

    summary: str
    options: type
    run: Callable[[Any], Results]
    show: Callable[[Sequence[Record]], str] = table


COMMANDS: dict[str, Command] = {
    "forward": Command("forward passes, in examples per second, beside the peers", ModelOptions, bench_forward),
    "train": Command("steps of training, beside the peers", ModelOptions, bench_train),
    "ops": Command(
        "each operation by each of its implementations, and random shapes", OpsOptions, bench_ops, ops_table
    ),
    "decode": Command("captions written, greedy and by beam search, beside PyTorch", DecodeOptions, bench_decode),
    "encoders": Command(
        "published encoders, forward and in training, beside the peers", EncoderOptions, bench_encoders
    ),
    "scaling": Command("times as the batch, the length and the features grow", ScalingOptions, bench_scaling),
    "ahead": Command(
        "models compiled for TPUs that are not there: memory, operations, estimated time",
        AheadOptions,
        bench_ahead,
        ahead_table,
    ),
}


def run_command(name: str, options: Any) -> tuple[list[dict[str, Any]], str]:
    """Runs a command, and draws figures and saves the records where the options say so.

    Args:
        name: a key of `COMMANDS`.
        options: of its dataclass.

    Returns:
        The records as plain values, and a table of them.
    """
    command = COMMANDS[name]
    results = command.run(options)
    # What was only compiled has no figures to draw.
    if getattr(options, "plot", None) is not None:
        for path in draw(results, options.plot, name):
            print(f"drawn: {path}", file=sys.stderr)
    records = [record.as_dict() for record in results.records]
    if options.save is not None:
        Path(options.save).write_text(json.dumps({"machine": describe_machine(), "records": records}, indent=1) + "\n")
    lines = [*([command.show(results.records)] if results.records else []), *results.notes]
    if results.ceilings:
        ceilings = results.ceilings
        lines.append(f"measured ceilings: {ceilings.tflops:.3f} TFLOP/s, {ceilings.gb_per_second:.1f} GB/s")
    return records, "\n".join(lines)


def usage() -> str:
    """Returns the help of `fusionjax bench` without a command."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:{width}s}  {command.summary}" for name, command in COMMANDS.items()]
    names = list(COMMANDS)
    return "\n".join(
        [f"usage: fusionjax bench WORKLOAD ...\n\nWORKLOAD is {', '.join(names[:-1])} or {names[-1]}:", *lines]
    )
