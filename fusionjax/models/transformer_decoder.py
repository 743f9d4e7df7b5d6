"""A Transformer decoder with cross-attention to the image."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.layers import KeyValue, KeyValueCache, TransformerBlock
from fusionjax.layers.activations import ActivationKind
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
        projected: keys and values for each block of what is read, the image's cells after its pooled vector where that
            is read too, with the batch of images as leading axis.
        mask: True = keep, `[batch, keys]`; None keeps all.
    """

    projected: tuple[KeyValue, ...]
    mask: jax.Array | None


class TransformerDecoder(nn.Module):
    """Causal Transformer blocks over the words, each with cross-attention to the image's cells.

    x_t = E[w_t] + p_t; blocks (pre-norm: self-attention, cross-attention, MLP); logits_t = WordTable(norm(x_t)).
    Without `norm_first` the embeddings are normalised and the last states are not, since the blocks then end in a
    normalisation, as in BERT.

    Attributes:
        vocab_size: number of tokens.
        features: width of the blocks and of a word.
        num_layers: blocks.
        num_heads: of every attention; divides `features`.
        max_length: of a caption in tokens.
        dropout_rate: on words in, in the blocks and on states out.
        mlp_features: hidden size of the perceptrons; None for 4 * `features`.
        norm_first: blocks normalise what their parts read; otherwise what these give, see `TransformerBlock`.
        norm_epsilon: added to the variance of every normalisation.
        activation: of the perceptrons, see `fusionjax.layers.activations.activate`.
        word_scale: of embeddings and logits, see `WordTable`.
        word_activation: before the product with the table that gives the logits.
        use_word_norm: normalises after that nonlinearity, as BERT does.
        reads_pooled: the cross-attention also reads the image's pooled vector, such as a class token, which is then as
            wide as the cells.
        dtype: of the computation.
        param_dtype: of the parameters.

    Raises:
        ValueError: a caption is longer than `max_length`, or the pooled vector is to be read and of another width than
            the cells.

    Example:
        >>> decoder = TransformerDecoder(vocab_size=11, features=8, num_layers=1, num_heads=2, max_length=6)
        >>> image = Features(jnp.ones((2, 4, 5)), None, jnp.ones((2, 5)), (2, 2))
        >>> output, _ = jax.eval_shape(decoder.init_with_output, jax.random.key(0), image, jnp.ones((6, 3), int))
        >>> output.logits.shape, output.attention.shape
        ((6, 3, 11), (6, 3, 4))

    References:
        Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.1.
        Cornia et al., "Meshed-Memory Transformer for Image Captioning", 2020, arXiv:1912.08226, for captions.
        Li et al., "BLIP: Bootstrapping Language-Image Pre-training", 2022, arXiv:2201.12086, for a decoder after BERT.
    """

    vocab_size: int
    features: int = 256
    num_layers: int = 2
    num_heads: int = 4
    max_length: int = 64
    dropout_rate: float = 0.0
    mlp_features: int | None = None
    norm_first: bool = True
    norm_epsilon: float = 1e-6
    activation: ActivationKind = "gelu_tanh"
    word_scale: float = 4.0
    word_activation: ActivationKind = "tanh"
    use_word_norm: bool = False
    reads_pooled: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Makes the layers."""
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.words = WordTable(
            self.vocab_size,
            self.features,
            self.dropout_rate,
            self.word_scale,
            self.word_activation,
            self.norm_epsilon if self.use_word_norm else None,
            **kwargs,
        )
        shape = (self.max_length, self.features)
        self.positions = self.param("positions", nn.initializers.normal(0.02), shape, self.param_dtype)
        self.blocks = [
            TransformerBlock(
                self.num_heads,
                self.mlp_features,
                self.dropout_rate,
                is_causal=True,
                use_cross_attention=True,
                features=self.features,
                norm_first=self.norm_first,
                norm_epsilon=self.norm_epsilon,
                activation=self.activation,
                **kwargs,
            )
            for _ in range(self.num_layers)
        ]
        norm = nn.LayerNorm(self.norm_epsilon, **kwargs)
        if self.norm_first:
            self.norm = norm
        else:
            self.embedding_norm = norm

    def __call__(self, features: Features, tokens: jax.Array, *, deterministic: bool = True) -> DecoderOutput:
        """Scores the next token at every position.

        Args:
            features: of `batch` images.
            tokens: `[rows, length]`; rows is a multiple of batch, those of one image after each other.
            deterministic: switches dropout off.

        Returns:
            logits `[rows, length, vocab_size]`, and attention `[rows, length, cells]`: the last block's, mean over
            heads; what it lacks of 1 went to the pooled vector.
        """
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(f"captions must have at most {self.max_length} tokens; got {length}. Raise max_length.")
        memory = self._read(features)
        hidden = self._embed(tokens, self.positions[:length], deterministic=deterministic)
        hidden, weights, _ = self._blocks(hidden, memory, None, deterministic=deterministic)
        return DecoderOutput(
            logits=self.words.logits(hidden, deterministic=deterministic),
            attention=None if weights is None else weights.mean(1)[..., int(self.reads_pooled) :],
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
        positions = self.positions[carry.caches[0].index][:, None]
        hidden = self._embed(tokens[:, None], positions, deterministic=True)
        hidden, _, caches = self._blocks(hidden, memory, carry.caches, deterministic=True)
        return TransformerCarry(caches), self.words.logits(hidden[:, 0])

    def _read(self, features: Features) -> TransformerMemory:
        cells, mask = features.kept_tokens, features.mask
        if self.reads_pooled:
            if features.pooled.shape[-1] != cells.shape[-1]:
                raise ValueError(
                    f"a pooled vector that is read must be as wide as the cells, {cells.shape[-1]}; got "
                    f"{features.pooled.shape[-1]}. Take an encoder that pools a class token, or set reads_pooled=False."
                )
            # [batch, 1 + cells, features]
            cells = jnp.concatenate([features.kept_pooled[:, None].astype(cells.dtype), cells], axis=1)
            mask = None if mask is None else jnp.concatenate([features.present[:, None], mask], axis=1)
        return TransformerMemory(tuple(block.project_memory(cells) for block in self.blocks), mask)

    def _embed(self, tokens: jax.Array, positions: jax.Array, *, deterministic: bool) -> jax.Array:
        hidden = self.words(tokens, deterministic=deterministic)
        hidden = hidden + positions.astype(hidden.dtype)
        return hidden if self.norm_first else self.embedding_norm(hidden)

    def _blocks(
        self,
        hidden: jax.Array,
        memory: TransformerMemory,
        caches: tuple[KeyValueCache, ...] | None,
        *,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array | None, tuple[Any, ...]]:
        """Runs all blocks, and the normalisation after them; the weights are the last's, in teacher forcing only."""
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
        return self.norm(hidden) if self.norm_first else hidden, weights, tuple(grown)
