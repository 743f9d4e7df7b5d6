"""Meshes of devices, and how batches and parameters are laid out on them."""

from fusionjax.parallel.memory import keep_host_memory
from fusionjax.parallel.mesh import DATA_AXIS, make_mesh
from fusionjax.parallel.placement import batch_size_of, check_divisible, replicate, shard_batch, unreplicate
from fusionjax.parallel.stacked import stack_batch, stack_replicas, unstack_replicas

__all__ = [
    "DATA_AXIS",
    "batch_size_of",
    "check_divisible",
    "keep_host_memory",
    "make_mesh",
    "replicate",
    "shard_batch",
    "stack_batch",
    "stack_replicas",
    "unreplicate",
    "unstack_replicas",
]
