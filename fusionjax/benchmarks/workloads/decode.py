"""Captions written word by word, by greedy or beam search, with fixed random weights."""

import dataclasses
from typing import ClassVar

import numpy as np

from fusionjax.benchmarks.workloads.numbers import check_positive, draw_weights

HEADS = 8
LAYERS = 4
START, END = 1, 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decode:
    """Captions of images that are encoded already: from features `[batch, cells, width]` to words `[batch, steps]`.

    `lstm`: the first state is tanh of two projections of the mean cell; at each step additive attention over the cells
    by the hidden state, an LSTM over the last word's embedding joined with what was attended, and a dense layer to
    logits. `transformer`: embedding and learned position, four blocks with normalisation first (self-attention over a
    cache of keys and values, cross-attention to the cells, whose keys and values are computed once, a perceptron of
    four times the width with GELU), a norm and a dense layer to logits. Sequences have all their `steps` words: the
    end is made improbable, so that no contender stops early. Beams compete by their sums of log-probabilities.

    Attributes:
        model: `lstm` or `transformer`.
        num_beams: followed at once; 1 is greedy search.
        batch_size: images.
        cells: of an image.
        width: of cells, embeddings and states.
        vocab_size: different words.
        steps: words of a caption.
        dtype: of the computation; parameters are float32.
    """

    kind: ClassVar[str] = "decode"
    # The share of words that may differ: sums that are nearly equal fall either way.
    tolerance: ClassVar[float] = 0.02
    train: ClassVar[bool] = False
    model: str
    num_beams: int = 1
    batch_size: int = 1
    cells: int = 49
    width: int = 512
    vocab_size: int = 10_000
    steps: int = 20
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks the sizes."""
        check_positive(self, "num_beams", "batch_size", "cells", "width", "vocab_size", "steps")

    @property
    def name(self) -> str:
        """What the records call it."""
        return f"decode-{self.model}-{'greedy' if self.num_beams == 1 else f'beam-{self.num_beams}'}"

    def inputs(self) -> dict[str, np.ndarray]:
        """Draws `features`, `[batch, cells, width]`."""
        shape = (self.batch_size, self.cells, self.width)
        return {"features": np.random.default_rng(0).standard_normal(shape, np.float32)}

    def weights(self) -> dict[str, np.ndarray]:
        """Draws the weights, by the names of the library's own layers."""
        width = self.width
        shapes: dict[str, tuple[int, ...]] = {"words/embedding": (self.vocab_size, width)}
        if self.model == "lstm":
            for part in ("start_cell", "start_hidden", "attend/memory"):
                shapes |= _dense(f"lstm/{part}", width, width)
            shapes["lstm/attend/query/kernel"], shapes["lstm/attend/energy"] = (width, width), (width,)
            shapes |= _dense("lstm/input_gates", width, 4 * width)
            shapes["lstm/attended_gates/kernel"] = shapes["lstm/recurrent_kernel"] = (width, 4 * width)
        else:
            shapes["positions"] = (self.steps, width)
            for block in range(LAYERS):
                for norm in ("self_attention_norm", "cross_attention_norm", "mlp_norm"):
                    shapes[f"block_{block}/{norm}/scale"] = shapes[f"block_{block}/{norm}/bias"] = (width,)
                for part in ("query", "key", "value", "out"):
                    shapes |= _dense(f"block_{block}/self_attention/{part}", width, width)
                    shapes |= _dense(f"block_{block}/cross_attention/{part}", width, width)
                shapes |= _dense(f"block_{block}/mlp_in", width, 4 * width)
                shapes |= _dense(f"block_{block}/mlp_out", 4 * width, width)
            shapes["norm/scale"] = shapes["norm/bias"] = (width,)
        shapes |= _dense("logits", width, self.vocab_size)
        weights = draw_weights(shapes)
        weights = {path: array + 1 if path.endswith("scale") else array for path, array in weights.items()}
        weights["logits/bias"][END] = -30
        return weights

    def flops(self) -> float:
        """Counts the operations of the products of all steps and beams, and those of the first projections."""
        width, rows = self.width, self.batch_size * self.num_beams
        square = 2 * width * width
        if self.model == "lstm":
            first = self.batch_size * (2 + self.cells) * square
            step = square + 4 * self.cells * width + 12 * square
            return float(first + rows * self.steps * (step + 2 * width * self.vocab_size))
        first = self.batch_size * LAYERS * 2 * self.cells * square
        # Of the words so far a step sees half of all on average.
        seen = self.cells + (self.steps + 1) / 2
        products = rows * self.steps * (LAYERS * 14 * square + 2 * width * self.vocab_size)
        return first + products + rows * self.steps * LAYERS * 4 * width * seen


def _dense(path: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}/kernel": (inputs, outputs), f"{path}/bias": (outputs,)}
