"""`bench ahead`: models compiled for TPUs on a machine without one."""

import dataclasses
import sys
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fusionjax.benchmarks.chips import Chip, chip_of, open_topology
from fusionjax.benchmarks.framework import load_framework
from fusionjax.benchmarks.hlo import CompiledText, LoopCounts
from fusionjax.benchmarks.jax_framework import Program
from fusionjax.benchmarks.machine import git_revision
from fusionjax.benchmarks.models import make_workloads
from fusionjax.benchmarks.options import WAYS, AheadOptions
from fusionjax.benchmarks.record import Record
from fusionjax.benchmarks.results import Results
from fusionjax.errors import InputError
from fusionjax.ops import for_platform
from fusionjax.parallel.mesh import DATA_AXIS


@dataclasses.dataclass(frozen=True, kw_only=True)
class AheadRecord(Record):
    """What the compiler says of a program; nothing ran. All figures are of one chip.

    `peak_memory_mb` is what the arguments, the outputs that do not take their place, and the temporaries need.

    Attributes:
        topology: that it was compiled for.
        argument_mb: parameters, state and the chip's part of the inputs, as padded on the chip.
        output_mb: of the outputs, those that take the place of arguments too.
        temporary_mb: of what is computed on the way.
        needed_gflop: operations that the workload's equations need.
        counted_gflop: that XLA counts in the program, bodies of loops once.
        accessed_mb: that XLA counts as read and written, bodies of loops once.
        floor_ms: the longer of the needed operations at the chip's peak and of one pass over arguments and outputs.
        xla_ms: XLA's one estimate for the whole, bodies of loops once; None where it has none.
        estimated_ms: the cycles that XLA expects of each operation, as often as loops repeat them, at the chip's clock.
        in_loops: moves and exchanges inside of loops.
    """

    topology: str
    argument_mb: float | None = None
    output_mb: float | None = None
    temporary_mb: float | None = None
    needed_gflop: float | None = None
    counted_gflop: float | None = None
    accessed_mb: float | None = None
    floor_ms: float | None = None
    xla_ms: float | None = None
    estimated_ms: float | None = None
    in_loops: LoopCounts | None = None


def bench_ahead(options: AheadOptions) -> Results:
    """Compiles each workload for each topology, the batch split over its chips.

    Args:
        options: which, and for what.

    Returns:
        `AheadRecord`s.

    Raises:
        ImportError: libtpu is not installed.
        InputError: a topology is not known, or a batch cannot be split over its chips.
    """
    meshes = {topology: open_topology(topology) for topology in options.topologies}
    workloads = [one for name in options.workloads for one in _workloads(name, options)]
    for topology, mesh in meshes.items():
        for workload in workloads:
            if workload.batch_size % mesh.size:
                raise InputError(
                    f"the batch size must be divisible by the {mesh.size} chips of {topology}; "
                    f"got {workload.batch_size}. Change --batch-sizes or --topologies."
                )
    records = []
    for workload in workloads:
        for topology, mesh in meshes.items():
            for contender in options.contenders:
                records.append(_compile(workload, contender, topology, mesh))
    return Results(records=records)


def compile_for(program: Program, mesh: Mesh) -> Any:
    """Compiles a program for a mesh of TPU chips, data-parallel.

    Args:
        program: whose inputs are split over the mesh; all other arguments are on every chip.
        mesh: of `open_topology`.

    Returns:
        The compiled program.
    """
    whole, split = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec(DATA_AXIS)))
    *others, inputs = program.arguments
    arguments = [*_describe(others, whole), _describe(inputs, split)]
    with for_platform("tpu", mesh.size):
        compiled = jax.jit(program.function, donate_argnums=tuple(range(program.num_carried)))
        return compiled.lower(*arguments).compile()


def figures_of_compiled(compiled: Any, chip: Chip, *, needed_flops: float) -> dict[str, Any]:
    """Makes the figures of an `AheadRecord`.

    Args:
        compiled: a compiled program.
        chip: that it was compiled for.
        needed_flops: operations of one chip that the workload's equations need.

    Returns:
        Fields of the record, by name.
    """
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    program = CompiledText(compiled.as_text())
    cycles, seconds = program.estimated_cycles(), costs.get("optimal_seconds", 0.0)
    arguments, outputs, temporaries = (
        getattr(memory, f"{name}_size_in_bytes") for name in ("argument", "output", "temp")
    )
    return {
        "argument_mb": arguments / 1e6,
        "output_mb": outputs / 1e6,
        "temporary_mb": temporaries / 1e6,
        "peak_memory_mb": (arguments + outputs - memory.alias_size_in_bytes + temporaries) / 1e6,
        "needed_gflop": needed_flops / 1e9,
        "counted_gflop": costs["flops"] / 1e9,
        "accessed_mb": costs["bytes accessed"] / 1e6,
        "floor_ms": chip.floor_ms(needed_flops, arguments + outputs),
        # Below zero where the estimate of one of the operations is missing.
        "xla_ms": 1000 * seconds if seconds > 0 else None,
        "estimated_ms": None if cycles is None else cycles / (1e6 * chip.gigahertz),
        "in_loops": program.loop_counts(),
    }


def _workloads(name: str, options: AheadOptions) -> list[Any]:
    sizes = options if options.batch_sizes else dataclasses.replace(options, batch_sizes=(32, 256))
    kind, separator, way = name.rpartition("-")
    kind, ways = (kind, (way,)) if separator and way in WAYS else (name, WAYS)
    return [one for way in ways for one in make_workloads(kind, sizes, train=way == "train")]


def _compile(workload: Any, contender: str, topology: str, mesh: Mesh) -> AheadRecord:
    framework: Any = load_framework(contender)
    figures: dict[str, Any] = {}
    error = None
    start = time.perf_counter()
    try:
        compiled = compile_for(framework.program_of(workload), mesh)
        figures["compile_ms"] = 1000 * (time.perf_counter() - start)
        figures |= figures_of_compiled(compiled, chip_of(topology), needed_flops=workload.flops() / mesh.size)
    except (NotImplementedError, jax.errors.JaxRuntimeError) as refusal:
        error = f"{type(refusal).__name__}: {' '.join(str(refusal).split())[:300]}"
    seconds = time.perf_counter() - start
    print(
        f"{workload.name} x {workload.batch_size}, {contender}, {topology}: {error or f'{seconds:.0f} s'}",
        file=sys.stderr,
    )
    return AheadRecord(
        contender=contender,
        workload=workload.name,
        device=f"{mesh.devices.flat[0].device_kind}, {mesh.size} chips, not there",
        versions=framework.versions(),
        git_revision=git_revision(),
        dtype=workload.dtype,
        shapes={name: list(array.shape) for name, array in workload.inputs().items()},
        error=error,
        topology=topology,
        **figures,
    )


def _describe(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding), tree)
