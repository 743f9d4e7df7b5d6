"""Low-rank adapters: a few numbers learned beside each kernel, for a model that stays as it is."""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from fusionjax.training.loss import BatchLoss, LossFunction, LossOutput
from fusionjax.training.optimizer import is_kernel

FROZEN = "frozen_params"  # the name of the model's own parameters among the variables that are not learned


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Which kernels get adapters, and of which rank.

    Attributes:
        rank: of every adapter.
        alpha: the product of the adapters is scaled by alpha / rank; None takes the rank, for a scale of 1.
        kernels: a regular expression that is searched for in a kernel's path; by default all.
        tuned: a regular expression for parameters that are learned whole, such as `head`; by default none.

    Raises:
        ValueError: the rank is below 1, or alpha is not above 0.

    Example:
        >>> LoRAConfig(rank=4, kernels="(query|value)/kernel").rank
        4
    """

    rank: int = 8
    alpha: float | None = None
    kernels: str = "kernel"
    tuned: str = "(?!)"

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1; got {self.rank}. Try 8.")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"alpha must be above 0; got {self.alpha}. None scales by 1.")

    @property
    def scale(self) -> float:
        """Of the product of the adapters."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


def init_lora(key: jax.Array, params: Any, config: LoRAConfig) -> dict[str, Any]:
    """Draws adapters: `down` with variance 1 over its inputs, `up` of zeros, so that the model starts as it is.

    A kernel of more than two axes, a convolution's, is taken as a matrix of all but its last axis and the last one.

    Args:
        key: random key.
        params: of the model.
        config: the settings.

    Returns:
        What is learned: by path `{"down": [inputs, rank], "up": [rank, outputs]}`, and under `"tuned"` by path the
        parameters that are learned whole.

    Raises:
        ValueError: no kernel's path matches.

    Example:
        >>> params = {"dense": {"kernel": jnp.ones((5, 7)), "bias": jnp.ones(7)}}
        >>> adapters = init_lora(jax.random.key(0), params, LoRAConfig(rank=2, tuned="bias"))
        >>> adapters["dense/kernel"]["down"].shape, list(adapters["tuned"])
        ((5, 2), ['dense/bias'])
    """
    flat = flatten_dict(params, sep="/")
    kernels = flatten_dict(is_kernel(params), sep="/")
    tuned = {path: leaf for path, leaf in flat.items() if re.search(config.tuned, path)}
    chosen = [path for path in flat if kernels[path] and path not in tuned and re.search(config.kernels, path)]
    if not chosen:
        raise ValueError(f"kernels must name a kernel of the model; {config.kernels!r} names none. Look at the paths.")
    adapters: dict[str, Any] = {"tuned": tuned}
    for path, one in zip(chosen, jax.random.split(key, len(chosen)), strict=True):
        kernel = flat[path]
        inputs, outputs = math.prod(kernel.shape[:-1]), kernel.shape[-1]
        down = jax.random.normal(one, (inputs, config.rank), kernel.dtype) / math.sqrt(inputs)
        adapters[path] = {"down": down, "up": jnp.zeros((config.rank, outputs), kernel.dtype)}
    return adapters


def merge_lora(params: Any, adapters: Any, config: LoRAConfig) -> Any:
    """Adds the adapters to the kernels: W + scale down up.

    Args:
        params: of the model.
        adapters: of `init_lora`.
        config: the settings.

    Returns:
        Parameters of the same shapes, to train through or to save.

    Example:
        >>> params = {"dense": {"kernel": jnp.zeros((5, 7))}}
        >>> adapters = {"tuned": {}, "dense/kernel": {"down": jnp.ones((5, 2)), "up": jnp.ones((2, 7))}}
        >>> merge_lora(params, adapters, LoRAConfig(rank=2))["dense"]["kernel"][0, 0]
        Array(2., dtype=float32)

    References:
        Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685, eq. 3.
    """
    flat = dict(flatten_dict(params, sep="/")) | dict(adapters["tuned"])
    for path, pair in adapters.items():
        if path != "tuned":
            added = config.scale * (pair["down"] @ pair["up"])
            flat[path] = flat[path] + added.reshape(flat[path].shape).astype(flat[path].dtype)
    return unflatten_dict(flat, sep="/")


def adapt_loss(loss_fn: LossFunction, params: Any, config: LoRAConfig) -> LossFunction:
    """Makes the loss of a model that of its adapters: gradients and optimiser's state are those of the adapters alone.

    The model's own parameters go with its other variables, under `FROZEN`: `model_state = {**state, FROZEN: params}`.

    Args:
        loss_fn: of the model's parameters; a `BatchLoss` stays one.
        params: the same as under `FROZEN`; a `BatchLoss` compares with the few that it needs for that.
        config: the settings.

    Returns:
        A loss function of the adapters, for any train step.

    Example:
        >>> def loss_fn(params, model_state, batch, key):
        ...     return LossOutput((batch["x"] @ params["kernel"]).sum(), jnp.float32(len(batch["x"])))
        >>> params, config = {"kernel": jnp.ones((3, 1))}, LoRAConfig(rank=1)
        >>> adapters = init_lora(jax.random.key(0), params, config)
        >>> batch = {"x": jnp.ones((2, 3))}
        >>> float(adapt_loss(loss_fn, params, config)(adapters, {FROZEN: params}, batch, jax.random.key(1)).total)
        6.0
    """

    def split(adapters: Any, model_state: Any) -> tuple[Any, Any]:
        rest = {name: value for name, value in model_state.items() if name != FROZEN}
        return merge_lora(jax.lax.stop_gradient(model_state[FROZEN]), adapters, config), rest

    if isinstance(loss_fn, BatchLoss):
        whole = loss_fn

        def encode(adapters: Any, model_state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
            merged, rest = split(adapters, model_state)
            features, rest = whole.encode(merged, rest, batch, key)
            return features, {**rest, FROZEN: model_state[FROZEN]}

        def compare(adapters: Any, features: Any, batch: Any) -> LossOutput:
            return whole.compare(merge_lora(params, adapters, config), features, batch)

        return BatchLoss(encode, compare)

    def adapted(adapters: Any, model_state: Any, batch: Any, key: jax.Array) -> LossOutput:
        merged, rest = split(adapters, model_state)
        output = loss_fn(merged, rest, batch, key)
        state = rest if output.model_state is None else output.model_state
        return output._replace(model_state={**state, FROZEN: model_state[FROZEN]})

    return adapted
