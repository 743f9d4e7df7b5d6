"""Words in and out of a decoder, by one table."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.layers.activations import ActivationKind, activate


@flax.struct.dataclass
class DecoderOutput:
    """What a decoder gives in teacher forcing.

    Attributes:
        logits: of the next token; `[rows, length, vocab_size]`.
        attention: share of each image cell, `[rows, length, cells]`; None where the decoder does not look at cells.
    """

    logits: jax.Array
    attention: jax.Array | None


def repeat_rows(tree: Any, rows: int) -> Any:
    """Repeats each row of every array, so that `rows` come out: b0, b0, ..., b1, b1, ...

    Args:
        tree: arrays with a leading axis that divides `rows`.
        rows: number of rows wanted.

    Returns:
        The same structure, `[rows, ...]`.

    Raises:
        ValueError: the leading axis of an array does not divide `rows`.

    Example:
        >>> repeat_rows({"hidden": jnp.array([5, 7])}, 4)["hidden"].tolist()
        [5, 5, 7, 7]
    """

    def repeat(leaf: jax.Array) -> jax.Array:
        check_rows(leaf.shape[0], rows)
        return jnp.repeat(leaf, rows // leaf.shape[0], axis=0)

    return jax.tree.map(repeat, tree)


def check_rows(images: int, rows: int) -> None:
    """Checks that rows of tokens divide over images.

    Args:
        images: how many.
        rows: how many.

    Raises:
        ValueError: they do not.
    """
    if rows % images:
        raise ValueError(
            f"rows of tokens must be a multiple of the {images} images; got {rows}. "
            "Give every image the same number of captions."
        )


class WordTable(nn.Module):
    """One table of word vectors that embeds tokens and scores the next ones.

    embed(w) = scale E[w]; logits(x) = scale E tanh(W x + b) + d. Sharing the table halves the parameters and helps
    where captions are few. BERT has another nonlinearity, and normalises what it gives before the product with E.

    Attributes:
        vocab_size: rows of the table.
        features: width of a word vector.
        dropout_rate: on the embedded words, on x and on what is multiplied with the table.
        scale: of embeddings and logits; vectors start with length 1.
        activation: the nonlinearity of the logits, see `fusionjax.layers.activations.activate`.
        norm_epsilon: added to the variance of the normalisation after it; None for no normalisation.
        dtype: of the computation.
        param_dtype: of the parameters.
        projected_features: width of a second table, from which words come in: scale E W_x + b of the layer that reads
            them, for inference; None for words by the one table.

    Raises:
        ValueError: words of the second table are to be dropped.

    Example:
        >>> table = WordTable(vocab_size=11, features=4)
        >>> vectors, _ = jax.eval_shape(table.init_with_output, jax.random.key(0), jnp.ones((2, 3), int))
        >>> vectors.shape
        (2, 3, 4)

    References:
        Press and Wolf, "Using the Output Embedding to Improve Language Models", 2017, arXiv:1608.05859.
        With a normalisation: Devlin et al., "BERT", 2019, arXiv:1810.04805, in its published code.
    """

    vocab_size: int
    features: int
    dropout_rate: float = 0.0
    scale: float = 4.0
    activation: ActivationKind = "tanh"
    norm_epsilon: float | None = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    projected_features: int | None = None

    def setup(self) -> None:
        """Makes the table, the projection and the bias."""
        init = nn.initializers.normal(self.features**-0.5)
        self.table = self.param("table", init, (self.vocab_size, self.features), self.param_dtype)
        if self.projected_features is not None:
            projected = (self.vocab_size, self.projected_features)
            self.projected_table = self.param("projected_table", init, projected, self.param_dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,), self.param_dtype)
        self.project = nn.Dense(self.features, dtype=self.dtype, param_dtype=self.param_dtype)
        if self.norm_epsilon is not None:
            self.norm = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, param_dtype=self.param_dtype)
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(self, tokens: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Embeds tokens.

        Args:
            tokens: `[...]` integers.
            deterministic: switches dropout off.

        Returns:
            `[..., features]`, or `[..., projected_features]` of the second table.
        """
        if self.projected_features is not None:
            if self.dropout_rate and not deterministic:
                raise ValueError(
                    f"folded words cannot be dropped in part; got dropout_rate={self.dropout_rate} and "
                    "deterministic=False. Train the decoder before it is folded."
                )
            return self.projected_table[tokens].astype(self.dtype or self.param_dtype)
        vectors = self.table[tokens].astype(self.dtype or self.param_dtype) * self.scale
        return self.dropout(vectors, deterministic=deterministic)

    def logits(self, hidden: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Scores the next tokens.

        Args:
            hidden: `[..., width]`.
            deterministic: switches dropout off.

        Returns:
            `[..., vocab_size]`.
        """
        projected = activate(self.project(self.dropout(hidden, deterministic=deterministic)), self.activation)
        projected = projected if self.norm_epsilon is None else self.norm(projected)
        projected = self.dropout(projected, deterministic=deterministic)
        return projected @ self.table.astype(projected.dtype).T * self.scale + self.bias.astype(projected.dtype)
