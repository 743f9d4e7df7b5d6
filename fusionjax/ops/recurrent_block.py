"""A thread block of a recurrent kernel on NVIDIA's Hopper GPUs: what it holds, reads, multiplies and writes."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array

from fusionjax.ops.recurrent_cell import Gates

Tree = Any  # a pytree of arrays, or of references to them

ROWS = 64  # examples in a block; the least that a warpgroup's matrix product takes
# A cluster of more than 16 blocks cannot be; 8 are portable, 16 are what Hopper allows.
_CLUSTERS = (1, 2, 4, 8, 16)
# Of a block's 227 KiB; the rest is for barriers and reductions.
_SHARED_BYTES = 220 * 1024
# Gates of a row in registers: with more of them, accumulators alone take half of a thread's 255 registers.
_MOST_COLUMNS = 128


class Split(NamedTuple):
    """How units are split over blocks.

    Attributes:
        blocks: thread blocks in a cluster.
        features: units of all blocks, with padding.
    """

    blocks: int
    features: int

    @property
    def units(self) -> int:
        """Units of one block."""
        return self.features // self.blocks


def split_units(num_gates: int, features: int, dtype: DTypeLike) -> Split:
    """Chooses the fewest blocks whose shared memory and registers hold a recurrence.

    Args:
        num_gates: how many gates the kernel holds.
        features: units.
        dtype: float32 or bfloat16.

    Returns:
        The split.

    Raises:
        ValueError: a cluster cannot hold so many features.

    Example:
        >>> split_units(4, 500, "bfloat16")
        Split(blocks=16, features=512)
    """
    size = jnp.dtype(dtype).itemsize
    for blocks in _CLUSTERS:
        # Rows of whole 128 bytes, and eight units a block, are what the matrix product takes.
        multiple = max(_tile_width(dtype), 8 * blocks)
        split = Split(blocks, -(-features // multiple) * multiple)
        taken = size * split.features * (num_gates * split.units + ROWS)
        if taken <= _SHARED_BYTES and num_gates * split.units <= _MOST_COLUMNS:
            return split
    raise ValueError(
        f"a recurrence of {num_gates} gates in {dtype} must have few enough features for the shared memory of "
        f"{_CLUSTERS[-1]} blocks; got {features}. Take another implementation."
    )


def find_most_features(num_gates: int, dtype: DTypeLike) -> int:
    """Returns the most features that `split_units` can split.

    Args:
        num_gates: how many gates the kernel holds.
        dtype: float32 or bfloat16.

    Returns:
        A number of features.

    Example:
        >>> [find_most_features(4, dtype) for dtype in ("bfloat16", "float32")]
        [512, 256]
    """
    most = 0
    with contextlib.suppress(ValueError):
        while True:
            most = split_units(num_gates, most + 1, dtype).features
    return most


# Writes to global memory of all threads are seen by the other blocks, and by their asynchronous copies.
_FENCE = "fence.acq_rel.gpu; fence.proxy.async;"


class Block(NamedTuple):
    """What one thread block works on, and with.

    Attributes:
        split: how units are split over blocks.
        rows: its examples.
        own: its units.
        weights: its weights in shared memory, `[gates, units, features]`.
        row: a row of all units in shared memory, `[64, features]`.
        loaded: the barrier of copies to shared memory.
        met: the barrier of the cluster.
    """

    split: Split
    rows: Any
    own: Any
    weights: Any
    row: Any
    loaded: Any
    met: Any

    def copy(self, source: Any, target: Any) -> None:
        """Copies global to shared memory."""
        plgpu = _mosaic()

        plgpu.copy_gmem_to_smem(source, target, self.loaded)
        plgpu.barrier_wait(self.loaded)

    def meet(self) -> None:
        """Waits until all blocks of the cluster have written their part of a row."""
        plgpu = _mosaic()

        _fence()
        plgpu.barrier_arrive(self.met)
        plgpu.barrier_wait(self.met)
        _fence()

    def multiply_each_gate(self) -> Gates:
        """Multiplies the row by the weights of each gate."""
        from jax.experimental import pallas as pl

        plgpu = _mosaic()

        def multiply(*sums: Any) -> Gates:
            self._multiply(list(enumerate(sums)))
            return tuple(total[...] for total in sums)

        total = plgpu.ACC((ROWS, self.split.units), jnp.float32)
        return pl.run_scoped(multiply, *[total] * self.weights.shape[0])

    def multiply_all_gates(self, source: Any) -> Array:
        """Copies a row for each gate, `[64, gates, features]`, multiplies it by the gate's weights, and sums these."""
        from jax.experimental import pallas as pl

        plgpu = _mosaic()

        def multiply(total: Any) -> Array:
            def add(gate: Array, carry: None) -> None:
                self.copy(source.at[:, gate], self.row)
                self._multiply([(gate, total)])
                plgpu.wgmma_wait(0)

            lax.fori_loop(0, self.weights.shape[0], add, None)
            return total[...]

        return pl.run_scoped(multiply, plgpu.ACC((ROWS, self.split.units), jnp.float32))

    def _multiply(self, gates_and_sums: list[tuple[Any, Any]]) -> None:
        """Adds the product of the row and a gate's weights to each sum, 128 bytes of a row at a time."""
        from jax.experimental import pallas as pl

        plgpu = _mosaic()

        width = _tile_width(self.row.dtype)

        def multiply(tile: Array, carry: None) -> None:
            inner = pl.ds(tile * width, width)
            for gate, total in gates_and_sums:
                plgpu.wgmma(total, self.row.at[:, inner], self.weights.at[gate, :, inner].transpose((1, 0)))

        # Unrolled, the addresses of all tiles would not fit into the registers.
        lax.fori_loop(0, self.split.features // width, multiply, None)

    def select(self, mask: Any, step: Array, new: tuple[Array, ...], old: tuple[Array, ...]) -> tuple[Array, ...]:
        """Takes the new values where the mask keeps the step."""
        plgpu = _mosaic()

        if mask is None:
            return new
        keep = plgpu.load(mask.at[step, self.rows], optimized=False) != 0
        keep = lax.broadcast_in_dim(keep, new[0].shape, (0,))
        return tuple(jnp.where(keep, *pair) for pair in zip(new, old, strict=True))

    def write(self, refs: Tree, step: Array | None, values: Tree) -> None:
        """Writes this block's examples and units, of one step or of an array without steps."""
        index = (self.rows, self.own) if step is None else (step, self.rows, self.own)
        for ref, value in zip(jax.tree.leaves(refs), jax.tree.leaves(values), strict=True):
            write(ref, value, *index)


def launch(
    run: Callable[[Block, Tree, Tree], None],
    arguments: Tree,
    results: Tree,
    split: Split,
    gates: int,
    batch: int,
    dtype: DTypeLike,
) -> Any:
    """Calls a function in every block, with references to the arguments and to the results in global memory."""
    from jax.experimental import pallas as pl

    plgpu = _mosaic()

    operands, outputs = jax.tree.leaves(arguments), jax.tree.leaves(results)
    operand_tree, output_tree = jax.tree.structure(arguments), jax.tree.structure(results)

    def body(*refs: Any, **scratch: Any) -> None:
        rows = pl.ds(lax.axis_index("rows") * ROWS, ROWS)
        own = pl.ds(lax.axis_index("units") * split.units, split.units)
        block = Block(split, rows, own, **scratch)
        run(
            block,
            jax.tree.unflatten(operand_tree, refs[: len(operands)]),
            jax.tree.unflatten(output_tree, refs[len(operands) :]),
        )

    scratch = {
        "weights": plgpu.SMEM((gates, split.units, split.features), dtype),
        "row": plgpu.SMEM((ROWS, split.features), dtype),
        "loaded": plgpu.Barrier(),
        "met": plgpu.ClusterBarrier(collective_axes=("units",)),
    }
    kernel = plgpu.kernel(
        body,
        out_type=outputs,
        scratch_types=scratch,
        grid=(batch // ROWS,),
        grid_names=("rows",),
        cluster=(split.blocks,),
        cluster_names=("units",),
        # The processor's own tanh errs by 2^-11, four times less than bfloat16 rounds.
        compiler_params=plgpu.CompilerParams(approx_math=dtype == jnp.bfloat16),
    )
    return jax.tree.unflatten(output_tree, kernel(*operands))


def _tile_width(dtype: DTypeLike) -> int:
    """Returns how many numbers 128 bytes hold, the rows of shared memory that a matrix product reads."""
    return 128 // jnp.dtype(dtype).itemsize


def _mosaic() -> Any:
    """Imports Pallas's functions for NVIDIA GPUs where a kernel is traced; they differ between versions of jax."""
    from jax.experimental.pallas import mosaic_gpu

    return mosaic_gpu


def _fence() -> None:
    from jax.experimental.mosaic import gpu as mgpu

    plgpu = _mosaic()
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import llvm

    @plgpu.inline_mgpu()
    def fence(_: Any) -> None:
        llvm.inline_asm(ir.Type.parse("!llvm.void"), [], _FENCE, "", has_side_effects=True)
        mgpu.warpgroup_barrier()

    fence()


def read(ref: Any, *index: Any) -> Array:
    """Reads a part of an array in global memory, as float32."""
    plgpu = _mosaic()

    return plgpu.load(ref.at[index], optimized=False).astype(jnp.float32)


def write(ref: Any, value: Array, *index: Any) -> None:
    """Writes a part of an array in global memory, in its dtype."""
    plgpu = _mosaic()

    if hasattr(plgpu, "store"):
        plgpu.store(ref.at[index], value.astype(ref.dtype), optimized=False)
    else:
        ref[index] = value.astype(ref.dtype)


def add_row(values: Array, row: Array | None) -> Array:
    """Adds a row to every row."""
    return values if row is None else values + lax.broadcast_in_dim(row, values.shape, (1,))
