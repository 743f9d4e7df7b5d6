"""Decoding: words one after another from a step function, by greedy search, sampling or beam search.

A step function holds all that the search needs to know of a model: `step(carry, tokens) -> (carry, logits)` takes the
last token of each row, `[rows]` int32, and gives the scores of the next, `[rows, vocab_size]`. The carry is any pytree
whose arrays have a leading axis of rows (the state of an LSTM, a key/value cache) or are scalars, which all rows share
(a position). What never changes, such as the features of the images, is not part of the carry: the step closes over it,
so that no search copies or reorders it. Rows are laid out example by example, so that with `batch` examples in the
memory, rows = batch x copies and the copies of one example lie side by side:

    memory = encode(images)                                    # [batch, cells, features], once
    keys = project(memory)                                     # [batch, cells, features], once

    def step(hidden, tokens):                                  # [batch * copies, features], [batch * copies]
        queries = hidden.reshape(batch, -1, features)          # [batch, copies, features]
        weights = jax.nn.softmax(queries @ keys.swapaxes(1, 2))
        attended = (weights @ memory).reshape(hidden.shape)    # [batch * copies, features]
        hidden = cell(hidden, embedding[tokens], attended)
        return hidden, hidden @ output

    greedy_search(step, hidden, batch=batch, max_length=20)                 # copies = 1
    beam_search(step, hidden, batch=batch, max_length=20, num_beams=3)      # copies = 3, the same step and carry

A part of the carry that is a `RowCarry` is asked to follow the chosen beams itself, as a cache of keys and values does
without moving them.

All searches are one `lax.while_loop` that ends as soon as every row has ended, and may be called inside `jax.jit`.
"""

from fusionjax.decoding.beam import BeamSearchOutput, beam_search
from fusionjax.decoding.carry import RowCarry
from fusionjax.decoding.greedy import greedy_search
from fusionjax.decoding.sampling import sample
from fusionjax.decoding.step import DecodingOutput, Step

__all__ = ["BeamSearchOutput", "DecodingOutput", "RowCarry", "Step", "beam_search", "greedy_search", "sample"]
