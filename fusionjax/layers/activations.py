"""The nonlinearities of perceptrons, by name."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ActivationKind = Literal["gelu_tanh", "gelu_exact", "quick_gelu", "relu", "tanh"]


def activate(values: Float[Array, "..."], kind: ActivationKind) -> Float[Array, "..."]:
    """Applies a nonlinearity to every number.

    GELU is x P(X <= x) for a standard normal X. `gelu_exact` computes it with the error function (BERT, ViT),
    `gelu_tanh` approximates it by x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 (SigLIP), and `quick_gelu` by
    x sigmoid(1.702 x) (CLIP).

    Args:
        values: floating point, of any shape.
        kind: which one.

    Returns:
        The same shape and dtype.

    Raises:
        ValueError: there is no such kind.

    Example:
        >>> activate(jax.numpy.array([-1.0, 2.0]), "relu").tolist()
        [0.0, 2.0]

    References:
        Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)", 2016, arXiv:1606.08415, section 2.
    """
    if kind == "gelu_tanh":
        return jax.nn.gelu(values)
    if kind == "gelu_exact":
        return jax.nn.gelu(values, approximate=False)
    if kind == "quick_gelu":
        return values * jax.nn.sigmoid(1.702 * values)
    if kind == "relu":
        return jax.nn.relu(values)
    if kind == "tanh":
        return jnp.tanh(values)
    raise ValueError(f"activation must be one of {', '.join(get_args(ActivationKind))}; got {kind!r}. Choose one.")
