"""A block of a Transformer."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from fusionjax.layers.activations import ActivationKind, activate
from fusionjax.layers.dense import Dense
from fusionjax.layers.key_value_cache import KeyValue, KeyValueCache
from fusionjax.layers.multi_head_attention import MultiHeadAttention
from fusionjax.ops.implementations import count_devices, on_platform
from fusionjax.ops.micro_batches import map_micro_batches

# Hidden units of the perceptron per micro-batch and device, and the fewest steps that pay. Measured on a CPU, forward
# and with gradients.
_HIDDEN_PER_STEP = 2**20
_FEWEST_STEPS = 4


class TransformerBlockOutput(NamedTuple):
    """What a Transformer block returns.

    Attributes:
        tokens: `[batch, length, features]`.
        weights: `[batch, heads, length, keys]`, float32, of the cross-attention if there is one, otherwise of the
            self-attention; None unless asked for.
        cache: the cache with the new tokens, or None if none was given.
    """

    tokens: Float[Array, "batch length features"]
    weights: Float[Array, "batch heads length keys"] | None
    cache: KeyValueCache | None


class _Scale(nn.Module):
    """A learned factor of each feature."""

    start: float
    param_dtype: Dtype

    @nn.compact
    def __call__(self, values: Array) -> Array:
        init = nn.initializers.constant(self.start)
        return values * self.param("scale", init, values.shape[-1:], self.param_dtype).astype(values.dtype)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention if wanted, and a perceptron, each on normalised tokens and added to them.

    tokens += SelfAttention(Norm(tokens)); tokens += CrossAttention(Norm(tokens), memory); tokens += MLP(Norm(tokens)).
    Unlike in the paper the normalisation comes first (Xiong et al., 2020), which trains without long warm-up, and the
    perceptron uses GELU. Without `norm_first` it is as in the paper: tokens = Norm(tokens + SelfAttention(tokens)) and
    so on. The submodules are `self_attention`, `cross_attention`, `mlp_in`, `mlp_out` and the norms
    `self_attention_norm`, `cross_attention_norm`, `mlp_norm`.

    On a CPU a large batch without memory, cache, weights or dropout goes through the block a few examples at a time,
    so that what lies between stays in the cache; the gradient computes again whatever is not the product of a kernel.

    Attributes:
        num_heads: number of heads.
        mlp_features: hidden size of the perceptron; None for 4 * the tokens' size.
        dropout_rate: share of the features dropped after each part.
        is_causal: tokens see only themselves and those before.
        use_cross_attention: also attend to a memory.
        features: size of the tokens; None to take it from them, but `init_cache` and `project_memory` need it.
        norm_first: normalise what a part reads; otherwise the sum of its input and output.
        norm_epsilon: added to the variance of a normalisation.
        activation: of the perceptron, see `fusionjax.layers.activations.activate`.
        scale_init: what the learned factors begin with by which each feature of a part's output is multiplied before it
            is added (`self_attention_scale`, `cross_attention_scale`, `mlp_scale`); None for no factors.
        dtype: dtype of the computation; None for the common one of inputs and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: there is no such activation, or a memory is missing or unexpected.

    Example:
        >>> tokens, memory = jnp.ones((3, 5, 8)), jnp.ones((3, 7, 6))
        >>> block = TransformerBlock(num_heads=2, use_cross_attention=True)
        >>> block.apply(block.init(jax.random.key(0), tokens, memory), tokens, memory).tokens.shape
        (3, 5, 8)

    References:
        Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, figure 1; Xiong et al., "On Layer
        Normalization in the Transformer Architecture", 2020, arXiv:2002.04745.
    """

    num_heads: int
    mlp_features: int | None = None
    dropout_rate: float = 0.0
    is_causal: bool = False
    use_cross_attention: bool = False
    features: int | None = None
    norm_first: bool = True
    norm_epsilon: float = 1e-6
    activation: ActivationKind = "gelu_tanh"
    scale_init: float | None = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Makes the parts."""
        norm = partial(nn.LayerNorm, self.norm_epsilon, dtype=self.dtype, param_dtype=self.param_dtype)
        attention = partial(
            MultiHeadAttention, self.num_heads, self.features, dtype=self.dtype, param_dtype=self.param_dtype
        )
        self.self_attention_norm = norm()
        self.self_attention = attention()
        if self.use_cross_attention:
            self.cross_attention_norm = norm()
            self.cross_attention = attention()
        self.mlp_norm = norm()
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.scale_init is not None:
            scale = partial(_Scale, self.scale_init, self.param_dtype)
            self.self_attention_scale = scale()
            if self.use_cross_attention:
                self.cross_attention_scale = scale()
            self.mlp_scale = scale()

    def __call__(
        self,
        tokens: Float[Array, "batch length features"],
        memory: Float[Array, "batch keys memory_features"] | None = None,
        *,
        mask: Bool[Array, "..."] | None = None,
        memory_mask: Bool[Array, "..."] | None = None,
        memory_projected: KeyValue | None = None,
        cache: KeyValueCache | None = None,
        return_weights: bool = False,
        deterministic: bool = True,
    ) -> TransformerBlockOutput:
        """Transforms tokens.

        Args:
            tokens: `[batch, length, features]`; with a cache, the next tokens.
            memory: `[batch, keys, memory_features]` for the cross-attention.
            mask: True = keep; `[batch, length]` or broadcastable to `[batch, heads, length, length]`; with a cache it
                speaks of all its `max_length` tokens.
            memory_mask: True = keep; `[batch, keys]` or broadcastable to `[batch, heads, length, keys]`.
            memory_projected: what `project_memory` returned, in place of `memory`; it may have fewer rows, see
                `MultiHeadAttention`.
            cache: what was decoded so far; see `init_cache`.
            return_weights: also return attention weights.
            deterministic: switch dropout off; otherwise the random key `"dropout"` is needed.

        Returns:
            A `TransformerBlockOutput`.

        Raises:
            ValueError: a memory is missing or unexpected, or sizes do not fit.
        """
        given = memory is not None or memory_projected is not None
        if given != self.use_cross_attention:
            raise ValueError(
                f"a memory is needed exactly with use_cross_attention; got use_cross_attention="
                f"{self.use_cross_attention} and {'a' if given else 'no'} memory. Change one of the two."
            )
        plain = cache is None and not given and not return_weights and (deterministic or not self.dropout_rate)
        if plain and self._is_worth_splitting(tokens):
            return TransformerBlockOutput(self._transform_in_micro_batches(tokens, mask), None, None)
        attended = self.self_attention(
            self._before("self_attention", tokens),
            mask=mask,
            is_causal=self.is_causal and cache is None,
            cache=cache,
            return_weights=return_weights and not self.use_cross_attention,
        )
        tokens = self._add("self_attention", tokens, attended.values, deterministic)
        weights = attended.weights
        if self.use_cross_attention:
            read = self.cross_attention(
                self._before("cross_attention", tokens),
                memory,
                mask=memory_mask,
                keys_values_projected=memory_projected,
                return_weights=return_weights,
            )
            tokens = self._add("cross_attention", tokens, read.values, deterministic)
            weights = read.weights
        tokens = self._add("mlp", tokens, self._perceive(self._before("mlp", tokens)), deterministic)
        return TransformerBlockOutput(tokens, weights, attended.cache)

    def _before(self, part: str, tokens: Array) -> Array:
        """What a part reads."""
        return getattr(self, f"{part}_norm")(tokens) if self.norm_first else tokens

    def _add(self, part: str, tokens: Array, values: Array, deterministic: bool) -> Array:
        """Adds what a part makes."""
        if self.scale_init is not None:
            values = getattr(self, f"{part}_scale")(values)
        tokens = tokens + self.dropout(values, deterministic=deterministic)
        return tokens if self.norm_first else getattr(self, f"{part}_norm")(tokens)

    def _is_worth_splitting(self, tokens: Array) -> bool:
        # What a caller captures on the way must not be cut.
        if not on_platform("cpu") or self.is_initializing() or self.is_mutable_collection("intermediates"):
            return False
        return tokens.shape[0] >= _FEWEST_STEPS * self._examples_per_step(tokens) * count_devices()

    def _examples_per_step(self, tokens: Array) -> int:
        _, length, features = tokens.shape
        hidden = length * (self.mlp_features or 4 * features)
        return max(1, round(_HIDDEN_PER_STEP / max(1, hidden)))

    def _transform_in_micro_batches(self, tokens: Array, mask: Array | None) -> Array:
        block, variables = self.unbind()

        @partial(jax.checkpoint, prevent_cse=False, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
        def transform(variables: Any, tokens: Array, mask: Array | None) -> Array:
            output: Any = block.apply(variables, tokens, mask=mask)
            return output.tokens

        examples = self._examples_per_step(tokens)
        if mask is not None and mask.shape[0] == tokens.shape[0]:
            return map_micro_batches(partial(transform, variables), (tokens, mask), examples)
        return map_micro_batches(lambda part: transform(variables, part, mask), (tokens,), examples)

    def project_memory(self, memory: Float[Array, "batch keys memory_features"]) -> KeyValue:
        """Projects the memory once, for many calls.

        Args:
            memory: `[batch, keys, memory_features]`.

        Returns:
            A `KeyValue` to pass as `memory_projected`.
        """
        return self.cross_attention.project(memory)

    @nn.nowrap
    def init_cache(
        self, batch: int, max_length: int, dtype: Dtype | None = None, *, is_uniform: bool = False
    ) -> KeyValueCache:
        """Makes an empty cache of the self-attention.

        Args:
            batch: number of rows.
            max_length: how many tokens it can hold.
            dtype: dtype of keys and values; None for that of the computation.
            is_uniform: all rows always hold the same number of tokens, so that a step writes in place.

        Returns:
            A `KeyValueCache` of zeros.
        """
        attention = MultiHeadAttention(self.num_heads, self.features, parent=None)
        dtype = dtype or self.dtype or self.param_dtype
        return attention.init_cache(batch, max_length, dtype, is_uniform=is_uniform)

    @nn.compact
    def _perceive(self, tokens: Array) -> Array:
        dense = partial(Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        hidden = dense(self.mlp_features or 4 * tokens.shape[-1], name="mlp_in")(tokens)
        return dense(tokens.shape[-1], name="mlp_out")(activate(hidden, self.activation))
