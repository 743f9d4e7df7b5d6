"""The Transformer as text encoder."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from fusionjax.encoders.checks import check_mask
from fusionjax.encoders.features import Features
from fusionjax.encoders.pooling import mean_token
from fusionjax.layers import Dense, TransformerBlock
from fusionjax.layers.activations import ActivationKind

TextPooling = Literal["first", "mean", "last", "end"]


class TextTransformer(nn.Module):
    """Words, their places and, where asked for, their segments are embedded and read by a Transformer.

    tokens -> E[token] + P[place] (+ S[segment]) -> blocks -> states. With `norm_first` the states of the last block are
    normalised (CLIP, SigLIP), without it the embeddings are (BERT), since the blocks then end in a normalisation.
    Masked tokens never change what the others give, wherever they stand.

    Attributes:
        vocab_size: number of different tokens, padding included.
        features: size of the states.
        num_layers: number of blocks.
        num_heads: of each block.
        max_length: number of places that have an embedding.
        mlp_features: hidden size of the perceptrons; None for 4 * `features`.
        num_segments: number of different segments; 0 for no embedding of them.
        norm_first: blocks normalise what their parts read; otherwise what these give, see `TransformerBlock`.
        norm_epsilon: added to the variance of every normalisation.
        activation: of the perceptrons, see `fusionjax.layers.activations.activate`.
        is_causal: a token sees only itself and those before.
        pooling: `"first"` kept state; `"mean"` of the kept ones; the `"last"` kept one; or that of the `"end"` token.
        use_pooler: the pooled vector goes through a dense layer and tanh, as BERT's does.
        padding_id: the token that is masked where no mask is given; None for none.
        end_id: of the end token, whose first occurrence counts; None takes the first of the highest token of each text,
            as CLIP does. A text without it is pooled at its last kept token.
        dropout_rate: on the embeddings, and in the blocks.
        is_frozen: computes as in evaluation and lets no gradient pass.
        dtype: of the computation; normalisation and softmax are in float32 at least.
        param_dtype: of the parameters.

    Raises:
        ValueError: the pooling is unknown, the tokens have not two axes or more places than there are embeddings,
            segments come without embeddings or in another shape, or the mask has another shape.
        TypeError: the tokens or segments are not integers, or the mask is not boolean.

    Example:
        >>> tokens = jnp.array([[5, 6, 7, 0], [8, 0, 0, 0]])
        >>> encoder = TextTransformer(vocab_size=11, features=8, num_layers=1, num_heads=2, pooling="mean")
        >>> features, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), tokens)
        >>> features.tokens.shape, features.mask.shape, features.pooled.shape
        ((2, 4, 8), (2, 4), (2, 8))

    References:
        Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.
        Segments and pooling: Devlin et al., "BERT", 2019, arXiv:1810.04805, section 3 and figure 2.
        The mean: Reimers and Gurevych, "Sentence-BERT", 2019, arXiv:1908.10084, section 3.
        The end token: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
        arXiv:2103.00020, section 2.4.
    """

    vocab_size: int
    features: int = 512
    num_layers: int = 12
    num_heads: int = 8
    max_length: int = 77
    mlp_features: int | None = None
    num_segments: int = 0
    norm_first: bool = True
    norm_epsilon: float = 1e-6
    activation: ActivationKind = "gelu_exact"
    is_causal: bool = False
    pooling: TextPooling = "first"
    use_pooler: bool = False
    padding_id: int | None = 0
    end_id: int | None = None
    dropout_rate: float = 0.0
    is_frozen: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        *,
        segments: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Features:
        """Encodes tokens.

        Args:
            tokens: `[batch, length]` integers.
            mask: True = keep, `[batch, length]`; None keeps every token but `padding_id` and, with pooling `"end"`,
                those after the end.
            segments: `[batch, length]` integers; None for the first one everywhere.
            deterministic: switches dropout off.

        Returns:
            tokens `[batch, length, features]`, zero where masked; pooled `[batch, features]`; grid `(length,)`.
        """
        self._check(tokens, segments)
        check_mask(mask, tokens.shape, "text")
        kwargs: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        deterministic = deterministic or self.is_frozen
        keep, place = self._keep_and_place(tokens, mask)
        if keep is not None:
            # The first of each embedding: what stands under the mask may be no token.
            tokens = jnp.where(keep, tokens, 0)
            segments = None if segments is None else jnp.where(keep, segments, 0)
        states = self._embed(tokens, segments, kwargs)
        # What follows the end is seen by nothing before it anyway.
        is_seen = mask is None and self.padding_id is None and self.is_causal
        states = nn.Dropout(self.dropout_rate, name="dropout")(states, deterministic=deterministic)
        for layer in range(self.num_layers):
            block = TransformerBlock(
                self.num_heads,
                self.mlp_features,
                self.dropout_rate,
                self.is_causal,
                norm_first=self.norm_first,
                norm_epsilon=self.norm_epsilon,
                activation=self.activation,
                name=f"block_{layer}",
                **kwargs,
            )
            states = block(states, mask=None if is_seen else keep, deterministic=deterministic).tokens
        if self.norm_first:
            states = nn.LayerNorm(self.norm_epsilon, name="norm", **kwargs)(states)
        states = states if keep is None else jnp.where(keep[..., None], states, 0)
        if self.pooling == "mean":
            pooled = mean_token(states, keep)
        else:
            pooled = jnp.take_along_axis(states, place[:, None, None], axis=1)[:, 0]
        if self.use_pooler:
            pooled = jnp.tanh(Dense(self.features, name="pooler", **kwargs)(pooled))
        made = Features(tokens=states, mask=keep, pooled=pooled, grid=(tokens.shape[1],))
        return jax.lax.stop_gradient(made) if self.is_frozen else made

    def _embed(self, tokens: jax.Array, segments: jax.Array | None, kwargs: dict[str, Any]) -> jax.Array:
        init = nn.initializers.normal(0.02)

        def embedding(count: int, name: str) -> nn.Embed:
            return nn.Embed(count, self.features, embedding_init=init, name=name, **kwargs)

        states = embedding(self.vocab_size, "token_embedding")(tokens)
        states = states + embedding(self.max_length, "position_embedding")(jnp.arange(tokens.shape[1]))
        if self.num_segments:
            segments = jnp.zeros_like(tokens) if segments is None else segments
            states = states + embedding(self.num_segments, "segment_embedding")(segments)
        return states if self.norm_first else nn.LayerNorm(self.norm_epsilon, name="embedding_norm", **kwargs)(states)

    def _keep_and_place(self, tokens: jax.Array, mask: jax.Array | None) -> tuple[jax.Array | None, jax.Array]:
        """Which tokens count, None for all, and the place of the one that is pooled."""
        keep = jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask)
        if mask is None and self.padding_id is not None:
            keep = jnp.asarray(tokens) != self.padding_id
        places = jnp.arange(tokens.shape[1])
        place = jnp.argmax(keep, axis=1) if self.pooling == "first" else jnp.max(jnp.where(keep, places, 0), axis=1)
        if self.pooling == "end":
            kept = jnp.where(keep, tokens, -1)
            is_end = keep & (kept == (kept.max(axis=1, keepdims=True) if self.end_id is None else self.end_id))
            place = jnp.where(is_end.any(axis=1), jnp.argmax(is_end, axis=1), place)
            keep = keep & (places <= place[:, None]) if mask is None else keep
        are_all_kept = mask is None and self.padding_id is None and self.pooling != "end"
        return None if are_all_kept else keep, place

    def _check(self, tokens: jax.Array, segments: jax.Array | None) -> None:
        if self.pooling not in get_args(TextPooling):
            raise ValueError(
                f"pooling must be one of {', '.join(get_args(TextPooling))}; got {self.pooling!r}. Choose one."
            )
        if tokens.ndim != 2:
            raise ValueError(f"text tokens must have shape [batch, length]; got {tokens.shape}. Pad and stack them.")
        if tokens.shape[1] > self.max_length:
            raise ValueError(
                f"texts must have at most {self.max_length} tokens, which have places; got {tokens.shape[1]}. "
                "Cut them, or raise max_length."
            )
        if segments is not None and (not self.num_segments or segments.shape != tokens.shape):
            raise ValueError(
                f"segments must have the shape of the tokens, {tokens.shape}, and embeddings; got {segments.shape} and "
                f"num_segments={self.num_segments}. Pad them together, or set num_segments."
            )
        for name, array in (("tokens", tokens), ("segments", segments)):
            if array is not None and not jnp.issubdtype(array.dtype, jnp.integer):
                raise TypeError(
                    f"text {name} must be integers; got {array.dtype}. Encode the text with a tokenizer first."
                )
