"""A language of seven tokens whose next depends on the example and the last two, and slow, plain searches of it."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

START, END, WORDS = 1, 2, (4, 5, 6)
VOCAB_SIZE = 7
BANNED = (0, 1, 3)


class Found(NamedTuple):
    score: float
    log_probability: float
    tokens: tuple[int, ...]


class Toy:
    """`table[example, last but one, last]` are the logits of the next token: the memory that `step` closes over."""

    def __init__(self, batch: int = 3, seed: int = 0, sharpness: float = 2.0) -> None:
        shape = (batch, VOCAB_SIZE, VOCAB_SIZE, VOCAB_SIZE)
        self.table = sharpness * np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        self.batch = batch
        self.traces = 0

    def carry(self) -> dict[str, Any]:
        return {
            "before": jnp.zeros(self.batch, jnp.int32),
            "said": jnp.zeros((self.batch, 5)),
            "position": jnp.int32(0),
        }

    def step(self, carry: dict[str, Any], tokens: jax.Array) -> tuple[dict[str, Any], jax.Array]:
        self.traces += 1
        return _step(self.table, carry, tokens)

    def run(self, search: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        """The search as one compiled function of the table and the carry, shared by all toys of one size."""
        sizes = tuple((name, value) for name, value in settings.items() if not isinstance(value, float | jax.Array))
        traced = {name: value for name, value in settings.items() if isinstance(value, float | jax.Array)}
        return _compile(search, self.batch, sizes)(self.table, self.carry(), arguments, traced)

    def next_log_probabilities(self, example: int, tokens: tuple[int, ...]) -> dict[int, float]:
        """Of the allowed tokens only, in float64."""
        before, last = (0, START, *tokens)[-2:]
        logits = self.table[example, before, last].astype(np.float64)
        allowed = [token for token in range(VOCAB_SIZE) if token not in BANNED]
        normaliser = np.log(sum(np.exp(logits[token]) for token in allowed))
        return {token: float(logits[token] - normaliser) for token in allowed}

    def log_probability(self, example: int, tokens: tuple[int, ...]) -> float:
        return sum(self.next_log_probabilities(example, tokens[:i])[token] for i, token in enumerate(tokens))

    def sequences(self, max_length: int) -> Iterator[tuple[int, ...]]:
        """All that a search may answer: ended by the end token, or cut at max_length."""
        for length in range(max_length):
            yield from ((*words, END) for words in itertools.product(WORDS, repeat=length))
        yield from itertools.product(WORDS, repeat=max_length)

    def exhaustive(self, example: int, max_length: int, penalty: float) -> list[Found]:
        """All sequences, the best first."""
        found = []
        for tokens in self.sequences(max_length):
            log_probability = self.log_probability(example, tokens)
            found.append(Found(log_probability / len(tokens) ** penalty, log_probability, tokens))
        return sorted(found, reverse=True)

    def slow_beam_search(self, example: int, max_length: int, num_beams: int, penalty: float) -> list[Found]:
        """Beam search in plain Python over all continuations."""
        beams = [Found(0.0, 0.0, ())]
        for _ in range(max_length):
            candidates = []
            for beam in beams:
                if beam.tokens[-1:] == (END,):
                    candidates.append(beam)
                    continue
                for token, gain in self.next_log_probabilities(example, beam.tokens).items():
                    total, tokens = beam.log_probability + gain, (*beam.tokens, token)
                    candidates.append(Found(total / len(tokens) ** penalty, total, tokens))
            beams = sorted(candidates, reverse=True)[:num_beams]
        return beams


def _step(table: Any, carry: dict[str, Any], tokens: jax.Array) -> tuple[dict[str, Any], jax.Array]:
    examples = jnp.arange(tokens.size) // (tokens.size // len(table))
    logits = jnp.asarray(table)[examples, carry["before"], tokens]
    said = carry["said"] + jax.nn.one_hot(tokens - 2, 5)
    return {"before": tokens, "said": said, "position": carry["position"] + 1}, logits


@functools.cache
def _compile(search: Callable[..., Any], batch: int, sizes: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    def run(table: Any, carry: dict[str, Any], arguments: tuple[Any, ...], traced: dict[str, Any]) -> Any:
        return search(functools.partial(_step, table), carry, *arguments, batch=batch, **dict(sizes), **traced)

    return jax.jit(run)


def strip(tokens: Any) -> tuple[int, ...]:
    """The tokens before the padding."""
    return tuple(int(token) for token in tokens if token != 0)
