"""Settings of every test: eight virtual CPU devices, shapes of signatures enforced."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Most of the tests' time is compilation; optimised or not, the programs must be right.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
install_import_hook(
    ["fusionjax.ops", "fusionjax.losses", "fusionjax.decoding", "fusionjax.layers"], "beartype.beartype"
)
