"""Batch normalisation folded into the convolution or dense layer before it."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from fusionjax.compress.modules import Variables, change_modules
from fusionjax.encoders import SimpleCNN

_EPSILON = 1e-5


def fold_batch_norm(
    kernel: Float[Array, "*window inputs features"],
    bias: Float[Array, " features"] | None,
    *,
    mean: Float[Array, " features"],
    var: Float[Array, " features"],
    scale: Float[Array, " features"] | None = None,
    offset: Float[Array, " features"] | None = None,
    epsilon: float = _EPSILON,
) -> tuple[Float[Array, "*window inputs features"], Float[Array, " features"]]:
    """Folds a batch normalisation that follows a convolution or a dense layer into its kernel and bias.

    scale (x * kernel + bias - mean) / sqrt(var + epsilon) + offset = x * (kernel r) + (bias - mean) r + offset with
    r = scale / sqrt(var + epsilon). It holds for convolutions of any dimensions, strides, padding and groups.

    Args:
        kernel: `[..., inputs / groups, features]`.
        bias: `[features]`, or None.
        mean: the stored mean, `[features]`.
        var: the stored variance, `[features]`.
        scale: of the normalisation, `[features]`; None for ones.
        offset: its bias, `[features]`; None for zeros.
        epsilon: added to the variance; that of the normalisation.

    Returns:
        The kernel and the bias of a layer without normalisation, in the dtype of the kernel.

    Raises:
        ValueError: a vector has not as many entries as the kernel has features.

    Example:
        >>> mean, var = jnp.array([3.0]), jnp.array([4.0])
        >>> kernel, bias = fold_batch_norm(jnp.array([[10.0]]), None, mean=mean, var=var, epsilon=0.0)
        >>> kernel.tolist(), bias.tolist()
        ([[5.0]], [-1.5])

    References:
        Ioffe and Szegedy, "Batch Normalization", 2015, arXiv:1502.03167, section 3.1.
    """
    features = kernel.shape[-1]
    vectors = {"bias": bias, "mean": mean, "var": var, "scale": scale, "offset": offset}
    for name, vector in vectors.items():
        if vector is not None and jnp.shape(vector) != (features,):
            raise ValueError(
                f"{name} must have shape [features] = ({features},), as the kernel {jnp.shape(kernel)} has; "
                f"got {jnp.shape(vector)}. Pair the layer with the normalisation that follows it."
            )
    ratio = (1.0 if scale is None else scale) / jnp.sqrt(var + epsilon)
    shifted = ((0.0 if bias is None else bias) - mean) * ratio + (0.0 if offset is None else offset)
    return (kernel * ratio).astype(kernel.dtype), shifted.astype(kernel.dtype)


def fold_batch_norm_layers(variables: Variables, layers: Mapping[str, str], *, epsilon: float = _EPSILON) -> Variables:
    """Folds the batch normalisations of a tree of variables into the layers that they follow.

    Args:
        variables: `params` and `batch_stats`, as `flax.linen.BatchNorm` names them.
        layers: from the path of a layer to that of its normalisation, such as `{"block_0/conv": "block_0/norm"}`.
        epsilon: of the normalisations.

    Returns:
        The variables of a model without these normalisations, whose layers all have a bias. What is left without
        entries is left out.

    Raises:
        ValueError: there is no kernel or no statistics at a path, two layers have one normalisation, or sizes differ.

    Example:
        >>> ones = jnp.ones(2)
        >>> params = {"conv": {"kernel": jnp.ones((3, 2))}, "norm": {"scale": ones, "bias": ones}}
        >>> variables = {"params": params, "batch_stats": {"norm": {"mean": ones, "var": ones}}}
        >>> folded = fold_batch_norm_layers(variables, {"conv": "norm"})
        >>> list(folded), sorted(folded["params"]["conv"])
        (['params'], ['bias', 'kernel'])
    """
    flat = {name: flatten_dict(tree, sep="/") for name, tree in variables.items()}
    params, stats = dict(flat["params"]), dict(flat.get("batch_stats", {}))
    if len(set(layers.values())) != len(layers):
        raise ValueError(f"every layer must have a normalisation of its own; got {dict(layers)}. Name each one once.")
    for layer, norm in layers.items():
        for name, tree, leaf in ((layer, params, "kernel"), (norm, stats, "mean"), (norm, stats, "var")):
            if f"{name}/{leaf}" not in tree:
                known = ", ".join(sorted(path[: -len(leaf) - 1] for path in tree if path.endswith(f"/{leaf}")))
                raise ValueError(
                    f"there must be a {leaf} at each path of layers; got {name!r}, known are {known or 'none'}. "
                    "Give paths within params, parts joined by '/'."
                )
        params[f"{layer}/kernel"], params[f"{layer}/bias"] = fold_batch_norm(
            params[f"{layer}/kernel"],
            params.get(f"{layer}/bias"),
            mean=stats.pop(f"{norm}/mean"),
            var=stats.pop(f"{norm}/var"),
            scale=params.pop(f"{norm}/scale", None),
            offset=params.pop(f"{norm}/bias", None),
            epsilon=epsilon,
        )
    folded = {**flat, "params": params, "batch_stats": stats}
    return {name: unflatten_dict(tree, sep="/") for name, tree in folded.items() if tree}


def fold_batch_norms(model: nn.Module, variables: Variables) -> tuple[nn.Module, Variables]:
    """Folds the batch normalisations of the encoders within a model into their convolutions.

    It serves every `SimpleCNN` with `normalization="batch"` that is the model or among its fields: it becomes one
    without normalisation, whose stages are computed as one. Its pooling comes before the normalisation; the largest
    stays the largest only if no scale is negative. Outputs are the same but for rounding. For other modules see
    `fold_batch_norm_layers`.

    Args:
        model: unbound.
        variables: of it, not traced.

    Returns:
        The model without these normalisations, and its variables.

    Raises:
        TypeError: the model is not a Linen module.
        ValueError: the model holds nothing to fold, or a scale is negative.

    Example:
        >>> from fusionjax import encoders
        >>> images = jnp.ones((2, 10, 10, 3))
        >>> encoder = encoders.SimpleCNN(features=(5,), normalization="batch")
        >>> folded, variables = fold_batch_norms(encoder, encoder.init(jax.random.key(0), images))
        >>> folded.normalization is None, list(variables), folded.apply(variables, images).tokens.shape
        (True, ['params'], (2, 16, 5))
    """

    def fold(module: nn.Module, own: Variables) -> tuple[nn.Module, Variables]:
        if not isinstance(module, SimpleCNN) or module.normalization != "batch":
            return module, own
        stages = range(len(module.features))
        for stage in stages:
            _check_scale(own["params"][f"norm_{stage}"], stage)
        layers = {f"conv_{stage}": f"norm_{stage}" for stage in stages}
        return module.clone(normalization=None), fold_batch_norm_layers(own, layers)

    folded, variables = change_modules(model, variables, fold)
    if folded is model:
        raise ValueError(
            "the model must be or have among its fields a SimpleCNN with normalization='batch'; "
            f"got {type(model).__name__}. Fold others by fold_batch_norm_layers."
        )
    return folded, variables


def _check_scale(norm: Any, stage: int) -> None:
    least = float(np.min(np.asarray(norm["scale"])))
    if least < 0:
        raise ValueError(
            f"the scales of norm_{stage} must not be negative, since the largest is taken before them; got {least}. "
            "Keep the normalisation."
        )
