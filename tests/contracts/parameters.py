"""Parameters drawn by NumPy and quick compilation, since compiling takes far longer than computing here."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Compiles in half the time.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def run(module: nn.Module, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """`module.apply`, compiled; keyword arguments are constants."""
    return fast_jit(functools.partial(module.apply, **kwargs))(variables, *args)


def draw_variables(module: nn.Module, *args: Any, seed: int = 0, **kwargs: Any) -> Any:
    """Variables of a module for given inputs: of a usual size, none of them zero, variances and scales positive."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args, **kwargs)
    return jax.tree_util.tree_map_with_path(functools.partial(_draw, np.random.default_rng(seed)), shapes)


def _draw(generator: np.random.Generator, path: Any, leaf: Any) -> jax.Array:
    if path[-1].key in ("var", "scale"):
        return jnp.asarray(generator.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
    size = leaf.shape[-2] ** -0.5 if len(leaf.shape) > 1 else 0.2
    return jnp.asarray(generator.normal(0, size, leaf.shape), leaf.dtype)
