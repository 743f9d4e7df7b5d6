"""Carries that know how to follow their rows."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.decoding import RowCarry, beam_search
from fusionjax.decoding.carry import follow_carry, repeat_carry
from tests.decoding.toy import Toy


@flax.struct.dataclass
class Pointers:
    """Written words that stay where they are, and which row each row's own stand in."""

    rows: jax.Array

    def repeat_rows(self, copies):
        return Pointers(jnp.repeat(self.rows, copies) * copies + jnp.tile(jnp.arange(copies), self.rows.size))

    def follow_rows(self, parents):
        return Pointers(self.rows.reshape(parents.shape)[jnp.arange(len(parents))[:, None], parents].reshape(-1))


def test_nodes_are_asked_and_arrays_taken_by_rows():
    assert isinstance(Pointers(jnp.arange(2)), RowCarry) and not isinstance(jnp.arange(2), RowCarry)
    carry = {"node": Pointers(jnp.arange(2)), "array": jnp.array([[5], [7]]), "shared": jnp.int32(3)}
    repeated = repeat_carry(carry, 3)
    assert repeated["node"].rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert repeated["array"].tolist() == [[5], [5], [5], [7], [7], [7]]
    followed = follow_carry({**repeated, "array": jnp.arange(6)}, jnp.array([[2, 0, 0], [1, 1, 2]]))
    assert followed["node"].rows.tolist() == followed["array"].tolist() == [2, 0, 0, 4, 4, 5]
    assert followed["shared"] == 3


def test_beam_search_lets_a_node_follow_as_it_does_arrays():
    toy = Toy(seed=3)
    received = []

    def step(carry, tokens):
        inner, logits = toy.step(carry["toy"], tokens)
        jax.debug.callback(lambda *rows: received.append(rows), carry["array"], carry["node"].rows, ordered=True)
        # Each row leaves its own number, by an array and by a node; what it receives is its parent's.
        own = jnp.arange(tokens.size, dtype=jnp.int32)
        return {"toy": inner, "array": own, "node": Pointers(own)}, logits

    start = jnp.arange(3, dtype=jnp.int32)
    carry = {"toy": toy.carry(), "array": start, "node": Pointers(start)}
    output = beam_search(step, carry, batch=3, max_length=5, num_beams=2)
    jax.effects_barrier()
    np.testing.assert_array_equal(output.tokens, toy.run(beam_search, max_length=5, num_beams=2).tokens)
    after_first = received[1:]
    assert len(after_first) > 2 and any((array != np.arange(6)).any() for array, _ in after_first)
    for array, node in after_first:
        np.testing.assert_array_equal(array, node)
