"""Beam search."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from fusionjax.decoding.carry import follow_carry, repeat_carry
from fusionjax.decoding.step import PADDING_TOKEN, Step, check_step
from fusionjax.decoding.top_k import top_k


class BeamSearchOutput(NamedTuple):
    """The best sequence of words per example, and all the beams it was chosen from.

    Attributes:
        tokens: the best beam's words with the end token, then padding 0; `[batch, max_length]` int32.
        log_probabilities: sum of its words' log-probabilities, the end token's included; `[batch]` float32.
        lengths: how many words it has, the end token included; `[batch]` int32.
        beams: the words of all beams, the best first; `[batch, num_beams, max_length]` int32.
        scores: log-probability / length^length_penalty of all beams; `[batch, num_beams]` float32, -inf where there
            were fewer sequences than beams (their words mean nothing).

    Example:
        >>> import jax.numpy as jnp
        >>> beams, scores = jnp.array([[[5, 2, 0], [4, 2, 0]]]), jnp.array([[-0.25, -1.0]])
        >>> BeamSearchOutput(beams[:, 0], 2 * scores[:, 0], jnp.array([2]), beams, scores).beams.shape
        (1, 2, 3)
    """

    tokens: Int[Array, "batch length"]
    log_probabilities: Float[Array, " batch"]
    lengths: Int[Array, " batch"]
    beams: Int[Array, "batch beams length"]
    scores: Float[Array, "batch beams"]


class _Beams(NamedTuple):
    tokens: Int[Array, "batch beams length"]
    log_probabilities: Float[Array, "batch beams"]
    lengths: Int[Array, "batch beams"]
    finished: Bool[Array, "batch beams"]
    scores: Float[Array, "batch beams"]


class _State(NamedTuple):
    position: Int[Array, ""]
    carry: PyTree
    last: Int[Array, " rows"]
    beams: _Beams


def beam_search(
    step: Step,
    carry: PyTree,
    *,
    batch: int,
    max_length: int,
    num_beams: int,
    length_penalty: float | Float[Array, ""] = 1.0,
    start_token: int = 1,
    end_token: int = 2,
    banned_tokens: Sequence[int] = (0, 1, 3),
) -> BeamSearchOutput:
    """Keeps the num_beams best sequences of each example at each step, and returns the best at the end.

    Candidates, all continuations of all beams, compete by log-probability / length^length_penalty, so by the mean over
    the words at penalty 1 and by the sum at 0. A beam that has ended competes as it is, for free. With one beam this is
    greedy search; with as many beams as there are sequences it is exhaustive. transformers has the same scores, but
    sets a beam that has ended aside and follows num_beams open ones while they may win, so that another sequence can.

    Rows are laid out example by example: the step sees batch x num_beams rows, those of one example side by side, and
    only the carry follows the chosen beams.

    Args:
        step: `step(carry, tokens[rows]) -> (carry, logits[rows, vocab_size])`, closing over what is constant.
        carry: what the first step receives, for `batch` rows: a pytree of arrays `[batch, ...]`, repeated here for the
            beams, scalars, which all rows share, or nodes that are a `RowCarry`.
        batch: how many examples.
        max_length: at most so many words, the end token included.
        num_beams: how many sequences are kept per example.
        length_penalty: 0 prefers short captions, 1 is neutral, above 1 prefers long ones. May be traced.
        start_token: what the first step receives as last token.
        end_token: the token that ends a caption.
        banned_tokens: never taken; by default padding, start and unknown. Probabilities are those among the others.

    Returns:
        `BeamSearchOutput`: as greedy search returns, and all beams with their scores.

    Raises:
        ValueError: num_beams below 1; sizes, tokens or the shapes of the carry or logits that do not fit together.
        TypeError: the step changes the structure or dtype of the carry.

    Example:
        >>> import jax.numpy as jnp
        >>> table = jnp.log(jnp.array([[0.6, 0.4, 0.0], [0.3, 0.3, 0.4], [0.0, 0.1, 0.9]]))  # words 0 and 1, end 2
        >>> step = lambda carry, tokens: (carry, table[tokens])
        >>> settings = dict(batch=1, max_length=2, start_token=0, end_token=2, banned_tokens=())
        >>> beam_search(step, (), num_beams=3, **settings).tokens.tolist()
        [[0, 0]]

    References:
        Wu et al., "Google's Neural Machine Translation System", 2016, arXiv:1609.08144, section 7; here the divisor is
        length^penalty instead of ((5 + length) / 6)^penalty, and there is no coverage penalty.
    """
    if num_beams < 1:
        raise ValueError(f"num_beams must be at least 1; got {num_beams}. 1 is greedy search; 3 to 5 are usual.")
    allowed = check_step(
        step, carry, batch, max_length=max_length, start_token=start_token, end_token=end_token, banned=banned_tokens
    )

    def advance(state: _State) -> _State:
        carry, logits = step(state.carry, state.last)
        logits = jnp.where(allowed, logits.astype(jnp.float32), -jnp.inf)
        beams, parents, last = _select(state.beams, logits, state.position, end_token, length_penalty)
        return _State(state.position + 1, follow_carry(carry, parents), last.reshape(-1), beams)

    first = _State(
        position=jnp.int32(0),
        carry=repeat_carry(carry, num_beams),
        last=jnp.full(batch * num_beams, start_token, jnp.int32),
        beams=_start_beams(batch, num_beams, max_length),
    )
    beams = lax.while_loop(lambda state: (state.position < max_length) & _is_open(state.beams), advance, first).beams
    return BeamSearchOutput(
        tokens=beams.tokens[:, 0],
        log_probabilities=beams.log_probabilities[:, 0],
        lengths=beams.lengths[:, 0],
        beams=beams.tokens,
        scores=beams.scores,
    )


def _start_beams(batch: int, num_beams: int, max_length: int) -> _Beams:
    """All beams of an example start equal, so only the first is alive (score 0) and the others dead (score -inf)."""
    alive = jnp.where(jnp.arange(num_beams) == 0, 0.0, -jnp.inf)
    scores = jnp.tile(alive.astype(jnp.float32), (batch, 1))
    return _Beams(
        tokens=jnp.full((batch, num_beams, max_length), PADDING_TOKEN, jnp.int32),
        log_probabilities=scores,
        lengths=jnp.zeros((batch, num_beams), jnp.int32),
        finished=jnp.zeros((batch, num_beams), jnp.bool_),
        scores=scores,
    )


def _is_open(beams: _Beams) -> Bool[Array, ""]:
    """Whether any living beam has not ended."""
    return ~(beams.finished | jnp.isneginf(beams.log_probabilities)).all()


def _select(
    beams: _Beams,
    logits: Float[Array, "rows vocab"],
    position: Int[Array, ""],
    end_token: int,
    length_penalty: float | Float[Array, ""],
) -> tuple[_Beams, Int[Array, "batch beams"], Int[Array, "batch beams"]]:
    """The best beams of all continuations, with the parent and the last token of each.

    Only the best continuations of each beam can be among the best of all, so the logits are read twice (top_k and
    logsumexp) and never normalised; what competes is `[batch, beams, beams]`.
    """
    batch, num_beams, _ = beams.tokens.shape
    values, words = top_k(logits, min(num_beams, logits.shape[1]))
    gains = values - jax.nn.logsumexp(logits, axis=1, keepdims=True)
    # [batch, beams, best continuations]
    gains, words = gains.reshape(batch, num_beams, -1), words.reshape(batch, num_beams, -1)
    # a beam that has ended has one continuation: itself, for free
    itself = jnp.where(jnp.arange(gains.shape[2]) == 0, 0.0, -jnp.inf)
    finished = beams.finished[:, :, None]
    sums = beams.log_probabilities[:, :, None] + jnp.where(finished, itself, gains)
    words = jnp.where(finished, PADDING_TOKEN, words)
    lengths = beams.lengths + ~beams.finished
    scores = sums / lengths[:, :, None].astype(jnp.float32) ** length_penalty

    best, index = lax.top_k(scores.reshape(batch, -1), num_beams)
    parents = index // gains.shape[2]
    words = jnp.take_along_axis(words.reshape(batch, -1), index, axis=1)
    kept = _Beams(
        tokens=jnp.take_along_axis(beams.tokens, parents[:, :, None], axis=1).at[:, :, position].set(words),
        log_probabilities=jnp.take_along_axis(sums.reshape(batch, -1), index, axis=1),
        lengths=jnp.take_along_axis(lengths, parents, axis=1),
        finished=jnp.take_along_axis(beams.finished, parents, axis=1) | (words == end_token),
        scores=best,
    )
    return kept, parents, words
