"""A Transformer decoder with cross-attention to the image."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.layers import KeyValue, KeyValueCache, TransformerBlock
from fusionjax.models.words import DecoderOutput, WordTable, repeat_rows


class TransformerCarry(NamedTuple):
    """What a Transformer decoder remembers of the words so far.

    Attributes:
        caches: keys and values of each block.
    """

    caches: tuple[KeyValueCache, ...]


class TransformerMemory(NamedTuple):
    """What a Transformer decoder reads of the image, constant while decoding.

    Attributes:
        projected: keys and values of the image's cells for each block, with the batch of images as leading axis.
        mask: True = keep, `[batch, cells]`; None keeps all.
    """

    projected: tuple[KeyValue, ...]
    mask: jax.Array | None


class TransformerDecoder(nn.Module):
    """Causal Transformer blocks over the words, each with cross-attention to the image's cells.

    x_t = E[w_t] + p_t; blocks (pre-norm: self-attention, cross-attention, MLP); logits_t = WordTable(norm(x_t)).

    Attributes:
        vocab_size: number of tokens.
        features: width of the blocks and of a word.
        num_layers: blocks.
        num_heads: of every attention; divides `features`.
        max_length: of a caption in tokens.
        dropout_rate: on words in, in the blocks and on states out.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: a caption is longer than `max_length`.

    Example:
        >>> decoder = TransformerDecoder(vocab_size=11, features=8, num_layers=1, num_heads=2, max_length=6)
        >>> image = Features(jnp.ones((2, 4, 5)), None, jnp.ones((2, 5)), (2, 2))
        >>> output, _ = jax.eval_shape(decoder.init_with_output, jax.random.key(0), image, jnp.ones((6, 3), int))
        >>> output.logits.shape, output.attention.shape
        ((6, 3, 11), (6, 3, 4))

    References:
        Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.1.
        Cornia et al., "Meshed-Memory Transformer for Image Captioning", 2020, arXiv:1912.08226, for captions.
    """

    vocab_size: int
    features: int = 256
    num_layers: int = 2
    num_heads: int = 4
    max_length: int = 64
    dropout_rate: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Makes the layers."""
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.words = WordTable(self.vocab_size, self.features, self.dropout_rate, **kwargs)
        shape = (self.max_length, self.features)
        self.positions = self.param("positions", nn.initializers.normal(0.02), shape, self.param_dtype)
        self.blocks = [
            TransformerBlock(
                self.num_heads,
                features=self.features,
                use_cross_attention=True,
                is_causal=True,
                dropout_rate=self.dropout_rate,
                **kwargs,
            )
            for _ in range(self.num_layers)
        ]
        self.norm = nn.LayerNorm(**kwargs)

    def __call__(self, features: Features, tokens: jax.Array, *, deterministic: bool = True) -> DecoderOutput:
        """Scores the next token at every position.

        Args:
            features: of `batch` images.
            tokens: `[rows, length]`; rows is a multiple of batch, those of one image after each other.
            deterministic: switches dropout off.

        Returns:
            logits `[rows, length, vocab_size]`, and attention `[rows, length, cells]`: the last block's, mean over
            heads.
        """
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(f"captions must have at most {self.max_length} tokens; got {length}. Raise max_length.")
        memory = self._read(features)
        hidden = self.words(tokens, deterministic=deterministic)
        hidden = hidden + self.positions[:length].astype(hidden.dtype)
        hidden, weights, _ = self._blocks(hidden, memory, None, deterministic=deterministic)
        return DecoderOutput(
            logits=self.words.logits(self.norm(hidden), deterministic=deterministic),
            attention=None if weights is None else weights.mean(1),
        )

    def prepare(self, features: Features, max_length: int) -> tuple[TransformerMemory, TransformerCarry]:
        """Projects the image's cells for every block and makes empty caches.

        Args:
            features: of `batch` images.
            max_length: tokens that will be read at most.

        Returns:
            The memory, and the caches with one row an image.

        Raises:
            ValueError: `max_length` is above the decoder's.
        """
        if max_length > self.max_length:
            raise ValueError(f"max_length must be at most the decoder's {self.max_length}; got {max_length}. Lower it.")
        batch, dtype = features.tokens.shape[0], self.dtype or self.param_dtype
        caches = tuple(block.init_cache(batch, max_length, dtype, is_uniform=True) for block in self.blocks)
        return self._read(features), TransformerCarry(caches)

    def step(
        self, memory: TransformerMemory, carry: TransformerCarry, tokens: jax.Array
    ) -> tuple[TransformerCarry, jax.Array]:
        """Reads one token of each row.

        Args:
            memory: of `prepare`, for `batch` images.
            carry: the caches, for `rows` rows.
            tokens: `[rows]`.

        Returns:
            The next caches and the logits `[rows, vocab_size]`.
        """
        hidden = self.words(tokens[:, None])
        position = self.positions[carry.caches[0].index][:, None]
        hidden = hidden + position.astype(hidden.dtype)
        hidden, _, caches = self._blocks(hidden, memory, carry.caches, deterministic=True)
        return TransformerCarry(caches), self.words.logits(self.norm(hidden[:, 0]))

    def _read(self, features: Features) -> TransformerMemory:
        cells = features.kept_tokens
        return TransformerMemory(tuple(block.project_memory(cells) for block in self.blocks), features.mask)

    def _blocks(
        self,
        hidden: jax.Array,
        memory: TransformerMemory,
        caches: tuple[KeyValueCache, ...] | None,
        *,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array | None, tuple[Any, ...]]:
        """Runs all blocks; the weights are the last block's, in teacher forcing only."""
        weights, grown = None, []
        mask = repeat_rows(memory.mask, hidden.shape[0])
        for layer, block in enumerate(self.blocks):
            output = block(
                hidden,
                memory_projected=memory.projected[layer],
                memory_mask=mask,
                cache=None if caches is None else caches[layer],
                return_weights=caches is None and layer == self.num_layers - 1,
                deterministic=deterministic,
            )
            hidden, weights = output.tokens, output.weights
            grown.append(output.cache)
        return hidden, weights, tuple(grown)
