"""How much each task counts: rules that turn the tasks' losses and gradients into weights, for any optimiser."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

_MOST_TASKS = 8


class TaskWeighting(NamedTuple):
    """A rule that weighs tasks; made by `fixed`, `uncertainty`, `grad_norm`, `pc_grad` or `mgda`.

    All of them give the sum over tasks of weight x gradient, and need no more of the gradients than the products of
    every two: the matrix gram_ij = g_i . g_j, `[tasks, tasks]`, whatever the model and the mesh.

    Attributes:
        init: `(number of tasks) -> state`.
        weigh: `(gram, losses, present, state) -> (weights, state)`; present tells which tasks the step has, boolean
            `[tasks]`, losses are float32 `[tasks]` and 0 where absent.
    """

    init: Callable[[int], Any]
    weigh: Callable[[jax.Array, jax.Array, jax.Array, Any], tuple[jax.Array, Any]]


class CombineState(NamedTuple):
    """The state of `combine_tasks`.

    Attributes:
        weights: of the last step, float32 `[tasks]`.
        rule: state of the weighting.
    """

    weights: jax.Array
    rule: Any


def combine_tasks(
    weighting: TaskWeighting, num_tasks: int, *, shared: Callable[[tuple[Any, ...]], bool] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Makes one gradient of those of several tasks: the first link of an optimiser for `TaskLosses`.

    Its updates are gradients `[tasks, ...]`, its extra argument `losses` `[tasks]`; a task whose loss is NaN is not in
    the step. Chain it with any optimiser: `optax.chain(combine_tasks(pc_grad(), 3), optax.adamw(1e-3))`.

    Args:
        weighting: the rule.
        num_tasks: how many there are.
        shared: `(path) -> bool`, of the parameters whose gradients are compared, the path as
            `jax.tree_util.tree_map_with_path` gives it; None compares all. Parameters of one task alone add nothing to
            products of two tasks, but do to the length of its own gradient.

    Returns:
        The transformation.

    Raises:
        ValueError: `num_tasks` is below 1.

    Example:
        >>> chain = optax.chain(combine_tasks(fixed([1.0, 0.5]), 2), optax.sgd(1.0))
        >>> params = {"w": jnp.zeros(3)}
        >>> gradients = {"w": jnp.array([[1.0, 1.0, 0.0], [0.0, 2.0, 4.0]])}
        >>> updates, _ = chain.update(gradients, chain.init(params), params, losses=jnp.ones(2))
        >>> updates["w"].tolist()
        [-1.0, -2.0, -2.0]
    """
    if num_tasks < 1:
        raise ValueError(f"num_tasks must be at least 1; got {num_tasks}. Count the tasks.")

    def init(params: Any) -> CombineState:
        del params
        return CombineState(jnp.ones(num_tasks, jnp.float32), weighting.init(num_tasks))

    def update(
        updates: Any, state: CombineState, params: Any = None, *, losses: jax.Array, **extra: Any
    ) -> tuple[Any, CombineState]:
        del params, extra
        leaves = jax.tree_util.tree_leaves_with_path(updates)
        flat = [leaf.reshape(num_tasks, -1).astype(jnp.float32) for path, leaf in leaves if not shared or shared(path)]
        gram = jnp.stack([leaf @ leaf.T for leaf in flat]).sum(0)
        present = ~jnp.isnan(losses)
        weights, rule = weighting.weigh(gram, jnp.where(present, losses, 0.0), present, state.rule)
        weights = jnp.where(present, weights, 0.0)
        combined = jax.tree.map(lambda leaf: jnp.tensordot(weights.astype(leaf.dtype), leaf, axes=1), updates)
        return combined, CombineState(weights, rule)

    return optax.GradientTransformationExtraArgs(init, update)


def fixed(weights: Sequence[float] | None = None) -> TaskWeighting:
    """Weighs tasks by numbers that stay.

    Args:
        weights: one for each task; None weighs all by 1.

    Returns:
        The rule.

    Raises:
        ValueError: there are not as many weights as tasks, or one is negative.
    """
    if weights is not None and min(weights, default=-1) < 0:
        raise ValueError(f"weights of tasks must not be negative; got {list(weights)}. Give one for each task.")

    def init(num_tasks: int) -> tuple[()]:
        if weights is not None and len(weights) != num_tasks:
            raise ValueError(
                f"weights must be one for each of the {num_tasks} tasks; got {list(weights)}. Correct them."
            )
        return ()

    def weigh(gram: jax.Array, losses: jax.Array, present: jax.Array, state: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        del losses, present
        return jnp.ones(len(gram)) if weights is None else jnp.asarray(weights, jnp.float32), state

    return TaskWeighting(init, weigh)


def uncertainty(learning_rate: float = 0.01) -> TaskWeighting:
    """Weighs each task by how certain the model is of it, which is learned (Kendall et al.).

    The loss is sum_k exp(-s_k) L_k + s_k / 2, with s_k = log sigma_k^2 of a task of classes (for a regression the paper
    has half of the first term); each s_k starts at 0 and follows its own gradient, 1/2 - exp(-s_k) L_k, so that the
    weight goes to 1 / (2 L_k). It learns at a rate of its own, by plain gradient descent.

    Args:
        learning_rate: of the s_k.

    Returns:
        The rule; its state are the s_k, `[tasks]`.

    Raises:
        ValueError: the rate is not above 0.

    References:
        Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
        Semantics", 2018, arXiv:1705.07115, eq. 7 and 10.
    """
    _check_rate(learning_rate)

    def weigh(
        gram: jax.Array, losses: jax.Array, present: jax.Array, log_variances: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del gram
        weights = jnp.exp(-log_variances)
        slopes = jnp.where(present, 0.5 - weights * losses, 0.0)
        return weights, log_variances - learning_rate * slopes

    return TaskWeighting(lambda num_tasks: jnp.zeros(num_tasks, jnp.float32), weigh)


class GradNormState(NamedTuple):
    """The state of `grad_norm`.

    Attributes:
        weights: float32 `[tasks]`; their sum is the number of tasks.
        first_losses: of each task's first step, `[tasks]`; 0 before it.
    """

    weights: jax.Array
    first_losses: jax.Array


def grad_norm(alpha: float = 1.5, learning_rate: float = 0.025) -> TaskWeighting:
    """Brings the tasks' gradients to lengths by which all of them train at the same pace (GradNorm).

    With G_k = w_k ||g_k||, their mean G, and r_k = (L_k / L_k at the start) / the mean of that over tasks, the weights
    go down the slope of sum_k |G_k - G r_k^alpha|, the target held fixed, and are brought back to a sum of the number
    of tasks. The gradients are those of all parameters, where the paper takes the last shared layer; name others by
    `shared` of `combine_tasks`. The slope is taken relative to the mean length, so that the rate means the same for
    every model.

    Args:
        alpha: how strongly slow tasks are helped; 0 only makes the gradients equally long.
        learning_rate: of the weights, by plain gradient descent; the paper has 0.025.

    Returns:
        The rule.

    Raises:
        ValueError: the rate is not above 0, or alpha is negative.

    References:
        Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", 2018,
        arXiv:1711.02257, eq. 1 and 2, algorithm 1.
    """
    _check_rate(learning_rate)
    if alpha < 0:
        raise ValueError(f"alpha must not be negative; got {alpha}. 1.5 is usual; 0 only makes gradients equally long.")

    def init(num_tasks: int) -> GradNormState:
        return GradNormState(jnp.ones(num_tasks, jnp.float32), jnp.zeros(num_tasks, jnp.float32))

    def weigh(
        gram: jax.Array, losses: jax.Array, present: jax.Array, state: GradNormState
    ) -> tuple[jax.Array, GradNormState]:
        first = jnp.where(present & (state.first_losses == 0), losses, state.first_losses)
        lengths = jnp.sqrt(jnp.diagonal(gram))
        count = jnp.maximum(present.sum(), 1)

        def mean(values: jax.Array) -> jax.Array:
            return jnp.where(present, values, 0.0).sum() / count

        ratios = losses / jnp.where(first == 0, 1.0, first)
        paces = ratios / jnp.maximum(mean(ratios), 1e-12)
        targets = mean(state.weights * lengths) * paces**alpha
        slopes = jnp.sign(state.weights * lengths - targets) * lengths
        slopes = slopes / jnp.maximum(mean(lengths), 1e-12)
        moved = jnp.maximum(state.weights - learning_rate * jnp.where(present, slopes, 0.0), 1e-3)
        moved *= len(gram) / moved.sum()
        return state.weights, GradNormState(moved, first)

    return TaskWeighting(init, weigh)


def pc_grad(seed: int = 0) -> TaskWeighting:
    """Takes out of each task's gradient what goes against another task's (PCGrad).

    Each gradient, in turn for every other task in an order of chance, loses its part along that task's original
    gradient where their product is negative: g_i -= (g_i . g_j) / ||g_j||^2 g_j. The result is the sum.

    Args:
        seed: of the orders.

    Returns:
        The rule.

    References:
        Yu et al., "Gradient Surgery for Multi-Task Learning", 2020, arXiv:2001.06782, algorithm 1.
    """

    def weigh(gram: jax.Array, losses: jax.Array, present: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del losses, present
        count, (key, own) = len(gram), jax.random.split(key)

        def project(row: jax.Array, key: jax.Array) -> jax.Array:
            # The gradient as a sum of the original ones.
            def remove(shares: jax.Array, other: jax.Array) -> tuple[jax.Array, None]:
                product = shares @ gram[:, other]
                part = jnp.minimum(product, 0.0) / jnp.maximum(gram[other, other], 1e-30)
                return shares.at[other].add(jnp.where(other == row, 0.0, -part)), None

            start = jnp.zeros(count).at[row].set(1.0)
            return jax.lax.scan(remove, start, jax.random.permutation(key, count))[0]

        shares = jax.vmap(project)(jnp.arange(count), jax.random.split(own, count))
        return shares.sum(0), key

    return TaskWeighting(lambda num_tasks: jax.random.key(seed), weigh)


def mgda(*, normalize: bool = False) -> TaskWeighting:
    """Takes the shortest gradient among all weighted means of the tasks' (MGDA): a step down for every task.

    The weights, at least 0 and of sum 1, minimise ||sum_k w_k g_k||. They are found exactly, by solving for every set
    of tasks that may have weights above 0, up to eight tasks.

    Args:
        normalize: scales each gradient to length 1 before, so that a small loss does not get all the weight.

    Returns:
        The rule.

    Raises:
        ValueError: there are more than eight tasks.

    References:
        Desideri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", 2012. Sener and Koltun,
        "Multi-Task Learning as Multi-Objective Optimization", 2018, arXiv:1810.04650, eq. 3.
    """

    def init(num_tasks: int) -> tuple[()]:
        if num_tasks > _MOST_TASKS:
            raise ValueError(
                f"mgda solves for {_MOST_TASKS} tasks at most; got {num_tasks}. Join some, or use pc_grad."
            )
        return ()

    def weigh(gram: jax.Array, losses: jax.Array, present: jax.Array, state: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        del losses
        lengths = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 1e-30))
        scales = 1 / lengths if normalize else jnp.ones(len(gram))
        weights = min_norm_weights(gram * scales[:, None] * scales, present)
        return weights * scales, state

    return TaskWeighting(init, weigh)


def min_norm_weights(gram: jax.Array, present: jax.Array) -> jax.Array:
    """Finds the point of the smallest norm among the weighted means of some vectors.

    Args:
        gram: their products, `[count, count]`.
        present: which of them may have a weight, boolean `[count]`.

    Returns:
        The weights, at least 0 and of sum 1; all 0 where none may have one.

    Example:
        >>> vectors = jnp.array([[2.0, 0.0], [0.0, 1.0]])
        >>> [round(float(weight), 4) for weight in min_norm_weights(vectors @ vectors.T, jnp.ones(2, bool))]
        [0.2, 0.8]
    """
    count = len(gram)
    sets = jnp.asarray([one for one in itertools.product([False, True], repeat=count) if any(one)])
    # Relative to the largest, so that the small ridge means the same for every model.
    gram = gram / jnp.maximum(jnp.diagonal(gram).max(), 1e-30)

    def solve(members: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The smallest norm among sums of these alone, with weights of any sign."""
        both = members[:, None] & members[None, :]
        matrix = jnp.where(both, gram, 0.0) + jnp.diag(jnp.where(members, 1e-7, 1.0))
        weights = jnp.linalg.solve(matrix, members.astype(gram.dtype))
        weights = jnp.where(members, weights / weights.sum(), 0.0)
        is_allowed = (weights >= -1e-6).all() & (present | ~members).all() & jnp.isfinite(weights).all()
        return weights, jnp.where(is_allowed, weights @ gram @ weights, jnp.inf)

    weights, norms = jax.vmap(solve)(sets)
    best = jnp.maximum(weights[norms.argmin()], 0.0)
    return jnp.where(present.any(), best / jnp.maximum(best.sum(), 1e-12), 0.0)


def sampling_probabilities(sizes: Mapping[str, int], temperature: float = 1.0) -> dict[str, float]:
    """How often each task is drawn: p_k proportional to size_k^(1 / temperature).

    Args:
        sizes: examples of each task.
        temperature: 1 draws by size; the larger, the more evenly; infinity draws all alike.

    Returns:
        The probabilities by name, of sum 1.

    Raises:
        ValueError: a size or the temperature is not above 0, or there is no task.

    Example:
        >>> sampling_probabilities({"vqa": 400, "captioning": 100}, temperature=2.0)
        {'vqa': 0.6666666666666666, 'captioning': 0.3333333333333333}

    References:
        Arivazhagan et al., "Massively Multilingual Neural Machine Translation in the Wild", 2019, arXiv:1907.05019,
        section 4.2.
    """
    if not sizes or min(sizes.values()) < 1:
        raise ValueError(f"every task needs examples, and there must be one; got {dict(sizes)}. Leave empty ones out.")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0; got {temperature}. 1 draws by size, larger more evenly.")
    powers = np.array(list(sizes.values()), np.float64) ** (1 / temperature)
    return dict(zip(sizes, (powers / powers.sum()).tolist(), strict=True))


def _check_rate(learning_rate: float) -> None:
    if not learning_rate > 0:
        raise ValueError(f"learning_rate of the weights must be above 0; got {learning_rate}. Try 0.01.")
