"""The gradient of a reward that is known only of whole sentences."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fusionjax.losses.cross_entropy import Loss


def policy_gradient(
    logits: Float[Array, "rows length vocab"],
    tokens: Int[Array, "rows length"],
    advantages: Float[Array, " rows"],
    *,
    mask: Bool[Array, "rows length"],
) -> Loss:
    """Computes the sum of -advantage x log p(token), whose gradient raises the probability of sentences that paid.

    The gradient of the expected reward E[r] is E[(r - b) grad log p(sentence)] for sampled sentences and any baseline b
    that does not depend on them (REINFORCE). The advantage r - b is taken as a constant. The value of this loss means
    nothing; its gradient does.

    Args:
        logits: of the model that the sentences were sampled from.
        tokens: the sampled sentences.
        advantages: reward less baseline of each.
        mask: True for the words, the end token included.

    Returns:
        `Loss(total, weight)`, float32; the weight is the number of words.

    Example:
        >>> logits = jnp.zeros((1, 2, 4))
        >>> loss = policy_gradient(logits, jnp.array([[3, 2]]), jnp.array([0.5]), mask=jnp.array([[True, True]]))
        >>> round(float(loss.total), 4), float(loss.weight)
        (1.3863, 2.0)

    References:
        Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", 1992.
        Rennie et al., "Self-critical Sequence Training for Image Captioning", 2017, arXiv:1612.00563, eq. 6 and 7.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    # [rows, length]
    chosen = jnp.take_along_axis(log_probabilities, tokens[..., None], axis=-1)[..., 0]
    weighted = jnp.where(mask, chosen * jax.lax.stop_gradient(advantages)[:, None], 0.0)
    return Loss(-weighted.sum(), mask.sum(dtype=jnp.float32))


def leave_one_out(rewards: Float[Array, "examples samples"]) -> Float[Array, "examples samples"]:
    """Subtracts from each reward the mean reward of the same example's other samples.

    The mean of the others does not depend on the sample itself, so the gradient stays unbiased, and it needs no model
    of its own and no further decoding.

    Args:
        rewards: of several samples of each example; at least two.

    Returns:
        The advantages, `[examples, samples]`; they sum to 0 over the samples.

    Raises:
        ValueError: there is only one sample of each.

    Example:
        >>> leave_one_out(jnp.array([[1.0, 2.0, 6.0]])).tolist()
        [[-3.0, -1.5, 4.5]]

    References:
        Kool, van Hoof and Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019.
    """
    samples = rewards.shape[1]
    if samples < 2:
        raise ValueError(f"leave_one_out needs two samples of each example or more; got {samples}. Draw more.")
    return (rewards - rewards.mean(axis=1, keepdims=True)) * samples / (samples - 1)
