"""Settings of every test: eight virtual CPU devices, shapes of signatures enforced."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
install_import_hook(
    ["fusionjax.ops", "fusionjax.losses", "fusionjax.decoding", "fusionjax.layers"], "beartype.beartype"
)
