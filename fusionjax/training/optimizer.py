"""Optimisers and learning-rate schedules from one small configuration."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which optimiser, and how its learning rate runs.

    Attributes:
        name: `"adamw"` (Adam, with decoupled weight decay if any), `"adam"` (no decay), `"lion"` or `"sgd"`.
        learning_rate: the highest rate, reached after the warm-up.
        schedule: after the warm-up: `"constant"`, or `"cosine"` or `"linear"` down to `end_fraction`.
        warmup_steps: steps over which the rate rises from 0 in a straight line.
        decay_share: share of the steps after the warm-up over which `"cosine"` or `"linear"` falls, the last ones;
            before them the rate stays at its height. 1 falls from the end of the warm-up on.
        end_fraction: the rate of the last step, as a fraction of `learning_rate`.
        weight_decay: decay per unit of learning rate; of kernels only, never of biases, scales or embeddings.
        clip_norm: gradients with a larger global norm are scaled down to it; `None` leaves them.
        b1: decay of the first moment; momentum for `"sgd"`.
        b2: decay of the second moment; not used by `"sgd"`.

    Raises:
        ValueError: an unknown name or schedule, or a number out of its range.

    Example:
        >>> OptimizerConfig(learning_rate=3e-4, warmup_steps=100).schedule
        'cosine'

    References:
        Kingma and Ba, "Adam", 2014, arXiv 1412.6980; Loshchilov and Hutter, "Decoupled Weight Decay Regularization",
        2017, arXiv 1711.05101; Chen et al., "Symbolic Discovery of Optimization Algorithms" (Lion), 2023,
        arXiv 2302.06675.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 0
    decay_share: float = 1.0
    end_fraction: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    b1: float = 0.9
    b2: float = 0.999

    def __post_init__(self) -> None:
        """Checks every field."""
        _check_choice("name", self.name, tuple(_SCALERS))
        _check_choice("schedule", self.schedule, ("constant", "cosine", "linear"))
        _check_range("learning_rate", self.learning_rate, 0.0, float("inf"))
        _check_range("warmup_steps", self.warmup_steps, 0, float("inf"))
        _check_range("decay_share", self.decay_share, 0.0, 1.0)
        _check_range("end_fraction", self.end_fraction, 0.0, 1.0)
        _check_range("weight_decay", self.weight_decay, 0.0, float("inf"))
        _check_range("b1", self.b1, 0.0, 1.0)
        _check_range("b2", self.b2, 0.0, 1.0)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0; got {self.clip_norm}. None leaves gradients as they are.")
        if self.name == "adam" and self.weight_decay:
            raise ValueError(f'"adam" has no weight decay; got weight_decay {self.weight_decay}. Use name "adamw".')


def make_schedule(config: OptimizerConfig, total_steps: int) -> Callable[[Any], Any]:
    """Builds the learning rate as a function of the step.

    rate(t) = learning_rate * t / warmup_steps in the warm-up; then `learning_rate` until the decay begins; in it, with
    x = the share of its steps done and e = `end_fraction`: 1 (constant), e + (1 - e) (1 + cos(pi x)) / 2 (cosine), or
    1 - (1 - e) x (linear), times `learning_rate`.

    Args:
        config: the configuration.
        total_steps: steps of the whole run, warm-up included.

    Returns:
        A function from the step (int or scalar array) to the learning rate.

    Raises:
        ValueError: the warm-up takes as many steps as the run, or more.

    Example:
        >>> schedule = make_schedule(OptimizerConfig(learning_rate=1.0, schedule="linear", warmup_steps=2), 6)
        >>> [float(schedule(step)) for step in range(7)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    steps = total_steps - config.warmup_steps
    if steps < 1:
        raise ValueError(
            f"warmup_steps must be below the run's total_steps = {total_steps}; got {config.warmup_steps}. "
            "Shorten the warm-up or train longer."
        )
    rate, end = config.learning_rate, config.end_fraction
    falling = max(1, round(steps * config.decay_share))
    after = {
        "constant": optax.constant_schedule(rate),
        "cosine": optax.cosine_decay_schedule(rate, falling, alpha=end),
        "linear": optax.linear_schedule(rate, rate * end, falling),
    }[config.schedule]
    parts, starts = [after], []
    if falling < steps:
        parts, starts = [optax.constant_schedule(rate), *parts], [total_steps - falling]
    if config.warmup_steps:
        parts, starts = [optax.linear_schedule(0.0, rate, config.warmup_steps), *parts], [config.warmup_steps, *starts]
    return optax.join_schedules(parts, starts) if starts else after


def make_optimizer(
    config: OptimizerConfig, total_steps: int
) -> tuple[optax.GradientTransformation, Callable[[Any], Any]]:
    """Builds the optimiser: clip, scale by the method, add weight decay to kernels, multiply by the rate.

    Args:
        config: the configuration.
        total_steps: steps of the whole run, on which the schedule depends.

    Returns:
        `(optimizer, schedule)`: an optax transformation, and the learning rate as a function of the step.

    Raises:
        ValueError: as `make_schedule`.

    Example:
        >>> optimizer, schedule = make_optimizer(OptimizerConfig(name="sgd", b1=0.0, learning_rate=0.5), 10)
        >>> params = {"bias": jnp.ones(1)}
        >>> updates, _ = optimizer.update({"bias": jnp.ones(1)}, optimizer.init(params), params)
        >>> float(updates["bias"][0])
        -0.5
    """
    schedule = make_schedule(config, total_steps)
    parts = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    parts.append(_SCALERS[config.name](config))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=is_kernel))
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule)), schedule


def is_kernel(params: Any) -> Any:
    """Marks the parameters that weight decay applies to: named `kernel` or `..._kernel`, with two axes or more.

    Args:
        params: tree of arrays.

    Returns:
        The same tree of booleans.

    Example:
        >>> is_kernel({"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})
        {'dense': {'bias': False, 'kernel': True}}
    """

    def decays(path: tuple[Any, ...], leaf: Any) -> bool:
        # A name may be a whole path itself, as those of adapters are.
        name = jax.tree_util.keystr(path[-1:], simple=True).rpartition("/")[2]
        return (name == "kernel" or name.endswith("_kernel")) and jnp.ndim(leaf) >= 2

    return jax.tree_util.tree_map_with_path(decays, params)


def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=config.b1, b2=config.b2)


def _lion(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_lion(b1=config.b1, b2=config.b2)


def _sgd(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.trace(decay=config.b1)


_SCALERS: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "adamw": _adam,
    "adam": _adam,
    "lion": _lion,
    "sgd": _sgd,
}


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{field} must be one of {', '.join(choices)}; got {value!r}. Choose one of these.")


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{field} must be between {low} and {high}; got {value}. Change {field}.")
