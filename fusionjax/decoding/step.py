"""What all searches share: the step function, its checks, and the loop that takes one token per row and step."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

PADDING_TOKEN = 0

Step = Callable[[Any, Any], tuple[Any, Any]]
"""`step(carry, tokens[rows]) -> (carry, logits[rows, vocab_size])`; see the package's docstring."""

Choose = Callable[[Any, Any], Any]
"""`choose(logits[rows, vocab_size], position) -> tokens[rows]`: what a search does with the scores of one step."""


class DecodingOutput(NamedTuple):
    """One sequence of words per example.

    Attributes:
        tokens: the words with the end token, then padding 0; without an end token where max_length came first;
            `[batch, max_length]` int32.
        log_probabilities: sum of the words' log-probabilities, the end token's included; `[batch]` float32. The model's
            own ones, among the tokens that are not banned, whatever the temperature.
        lengths: how many words there are, the end token included; `[batch]` int32.

    Example:
        >>> import jax.numpy as jnp
        >>> DecodingOutput(jnp.array([[5, 2, 0]]), jnp.array([-0.5]), jnp.array([2])).tokens.shape
        (1, 3)
    """

    tokens: Int[Array, "batch length"]
    log_probabilities: Float[Array, " batch"]
    lengths: Int[Array, " batch"]


class _State(NamedTuple):
    position: Int[Array, ""]
    carry: PyTree
    last: Int[Array, " rows"]
    output: DecodingOutput
    finished: Bool[Array, " rows"]


def decode(
    step: Step,
    carry: PyTree,
    choose: Choose,
    *,
    batch: int,
    max_length: int,
    start_token: int,
    end_token: int,
    banned_tokens: Sequence[int],
) -> DecodingOutput:
    """Takes the token that `choose` picks of each row, until all rows have ended; greedy search and sampling are this.

    Args:
        step: `step(carry, tokens) -> (carry, logits)`.
        carry: what the first step receives.
        choose: `choose(logits, position) -> tokens`; the logits are float32 with -inf at banned tokens.
        batch: how many rows.
        max_length: at most so many words, the end token included.
        start_token: what the first step receives as last token.
        end_token: the token that ends a row.
        banned_tokens: tokens that are never taken.

    Returns:
        `DecodingOutput`.

    Raises:
        ValueError: sizes, tokens or the shapes of the carry or logits that do not fit together.
        TypeError: the step changes the structure or dtype of the carry.

    Example:
        >>> import jax.numpy as jnp
        >>> step = lambda carry, tokens: (carry, jnp.tile(jnp.arange(5.0), (tokens.size, 1)))
        >>> choose = lambda logits, position: jnp.array([4, 2])
        >>> settings = dict(batch=2, max_length=2, start_token=1, end_token=2, banned_tokens=())
        >>> decode(step, (), choose, **settings).tokens.tolist()
        [[4, 4], [2, 0]]
    """
    allowed = check_step(
        step, carry, batch, max_length=max_length, start_token=start_token, end_token=end_token, banned=banned_tokens
    )

    def advance(state: _State) -> _State:
        carry, logits = step(state.carry, state.last)
        logits = jnp.where(allowed, logits.astype(jnp.float32), -jnp.inf)
        chosen = choose(logits, state.position).astype(jnp.int32)
        gains = jnp.take_along_axis(logits, chosen[:, None], axis=1)[:, 0] - jax.nn.logsumexp(logits, axis=1)
        chosen = jnp.where(state.finished, PADDING_TOKEN, chosen)
        output = DecodingOutput(
            tokens=state.output.tokens.at[:, state.position].set(chosen),
            log_probabilities=state.output.log_probabilities + jnp.where(state.finished, 0.0, gains),
            lengths=state.output.lengths + ~state.finished,
        )
        return _State(state.position + 1, carry, chosen, output, state.finished | (chosen == end_token))

    empty = DecodingOutput(
        tokens=jnp.full((batch, max_length), PADDING_TOKEN, jnp.int32),
        log_probabilities=jnp.zeros(batch, jnp.float32),
        lengths=jnp.zeros(batch, jnp.int32),
    )
    first = _State(
        jnp.int32(0), carry, jnp.full(batch, start_token, jnp.int32), empty, finished=jnp.zeros(batch, jnp.bool_)
    )
    return lax.while_loop(lambda state: (state.position < max_length) & ~state.finished.all(), advance, first).output


def check_step(
    step: Step,
    carry: PyTree,
    rows: int,
    *,
    max_length: int,
    start_token: int,
    end_token: int,
    banned: Sequence[int],
) -> Bool[Array, " vocab"]:
    """Checks sizes and shapes without computing anything, and marks the tokens that may be taken.

    Args:
        step: `step(carry, tokens) -> (carry, logits)`.
        carry: what the first step receives.
        rows: how many rows the carry has.
        max_length: at most so many words.
        start_token: what the first step receives as last token.
        end_token: the token that ends a row.
        banned: tokens that are never taken.

    Returns:
        Booleans `[vocab_size]`, True = may be taken.

    Raises:
        ValueError: sizes, tokens or the shapes of the carry or logits that do not fit together.
        TypeError: the step changes the structure or dtype of the carry.

    Example:
        >>> import jax.numpy as jnp
        >>> step = lambda carry, tokens: (carry, jnp.zeros((tokens.size, 4)))
        >>> check_step(step, (), 2, max_length=5, start_token=1, end_token=2, banned=(0, 1)).tolist()
        [False, False, True, True]
    """
    for name, size in (("batch", rows), ("max_length", max_length)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1; got {size}. Pass the number of examples and of words.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        if jnp.ndim(leaf) and jnp.shape(leaf)[0] != rows:
            raise ValueError(
                f"each array of the carry must be a scalar or have a leading axis of batch = {rows}; got "
                f"{jnp.shape(leaf)} at carry{jax.tree_util.keystr(path)}. Let the step close over what is constant."
            )
    after, logits = jax.eval_shape(step, carry, jax.ShapeDtypeStruct((rows,), jnp.int32))
    if logits.ndim != 2 or logits.shape[0] != rows:
        raise ValueError(
            f"step must return logits [rows, vocab_size] with {rows} rows; got {logits.shape}. "
            "Take the last position if the model returns one per token."
        )
    _check_same_carry(carry, after)
    vocab_size = logits.shape[1]
    for name, token in (("start_token", start_token), ("end_token", end_token), *(("banned token", t) for t in banned)):
        if not 0 <= token < vocab_size:
            raise ValueError(
                f"{name} must lie in [0, vocab_size) = [0, {vocab_size}); got {token}. Use the tokenizer's own numbers."
            )
    if end_token in banned:
        raise ValueError(f"end_token {end_token} must not be banned; got banned_tokens {tuple(banned)}. Leave it out.")
    return jnp.ones(vocab_size, jnp.bool_).at[jnp.array(banned, jnp.int32)].set(False)


def _check_same_carry(before: PyTree, after: PyTree) -> None:
    expected = jax.eval_shape(lambda: before)
    if str(jax.tree.structure(before)) != str(jax.tree.structure(after)):
        raise TypeError(
            f"step must return a carry of the structure it received, {jax.tree.structure(before)}; "
            f"got {jax.tree.structure(after)}. Return the new state in the same containers."
        )
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(after), strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise TypeError(
                f"step must keep the shape and dtype of carry{jax.tree_util.keystr(path)}, {old.shape} {old.dtype}; "
                f"got {new.shape} {new.dtype}. Cast the first carry to what the step returns."
            )
