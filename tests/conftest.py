"""Settings of every test: eight virtual CPU devices, shapes of signatures enforced."""

import gc
import os
from importlib import metadata

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Most of the tests' time is compilation; optimised or not, the programs must be right.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS", "0")
# Arrays are so small that PyTorch's and NumPy's threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The older jaxlib compiles in a third of the time without its newest code generator, and in less where a program is not
# cut in parts for several threads; the newer one tests the first.
if metadata.version("jaxlib") < "0.11":
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
install_import_hook(
    ["fusionjax.ops", "fusionjax.losses", "fusionjax.decoding", "fusionjax.layers"], "beartype.beartype"
)


def pytest_collection_finish() -> None:
    """Looks for garbage less often, since most of what there is, modules and compiled programs, lasts to the end."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
