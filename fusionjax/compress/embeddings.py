"""Word vectors folded into the layer that reads them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusionjax.compress.modules import Variables, change_modules
from fusionjax.encoders import RNNEncoder
from fusionjax.models import AttentionLSTMDecoder, LSTMDecoder
from fusionjax.models.words import WordTable


def project_embedding(
    table: Float[Array, "vocab inputs"], kernel: Float[Array, "inputs features"], bias: Float[Array, " features"]
) -> Float[Array, "vocab features"]:
    """Computes E W + b once for all tokens, so that a look-up takes the place of the product.

    Args:
        table: E, `[vocab_size, inputs]`.
        kernel: W, `[inputs, features]`.
        bias: b, `[features]`.

    Returns:
        `[vocab_size, features]`, in the common dtype.

    Example:
        >>> table = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> project_embedding(table, jnp.array([[3.0], [5.0]]), jnp.array([7.0])).tolist()
        [[10.0], [17.0]]
    """
    return jnp.matmul(table, kernel, precision=jax.lax.Precision.HIGHEST) + bias


def fold_embeddings(model: nn.Module, variables: Variables) -> tuple[nn.Module, Variables]:
    """Folds word vectors into the recurrent layer that reads them: token -> E W_x + b is one look-up.

    It serves every `RNNEncoder` with an embedding and recurrent layers (of any cell, in one or both directions) and
    every `LSTMDecoder` and `AttentionLSTMDecoder` that is the model or among its fields. Outputs are the same but for
    rounding. The table is gates * features wide, in both directions twice that: 82 MB for 10,000 tokens and an LSTM of
    512 in float32. For inference: dropout on word vectors is refused, and trained further, the table would be free.

    Args:
        model: unbound.
        variables: of it; all but `params` stays as it is.

    Returns:
        The model with `is_folded=True` where it applies, and its variables.

    Raises:
        TypeError: the model is not a Linen module.
        ValueError: the model holds nothing to fold.

    Example:
        >>> from fusionjax import encoders
        >>> encoder, tokens = encoders.RNNEncoder(vocab_size=11, features=6, pooling="last"), jnp.array([[5, 6, 7]])
        >>> variables = encoder.init(jax.random.key(0), tokens)
        >>> folded, folded_variables = fold_embeddings(encoder, variables)
        >>> folded_variables["params"]["embedding"]["embedding"].shape
        (11, 24)
        >>> before, after = encoder.apply(variables, tokens), folded.apply(folded_variables, tokens)
        >>> bool(jnp.allclose(before.pooled, after.pooled, atol=1e-6))
        True
    """

    def fold(module: nn.Module, own: Variables) -> tuple[nn.Module, Variables]:
        for kind, convert in _FOLDS.items():
            reads_words = getattr(module, "num_layers", None) != 0 and not getattr(module, "is_one_hot", False)
            if isinstance(module, kind) and not module.is_folded and reads_words:
                return module.clone(is_folded=True), {**own, "params": convert(module, own["params"])}
        return module, own

    folded, variables = change_modules(model, variables, fold)
    if folded is model:
        names = ", ".join(kind.__name__ for kind in _FOLDS)
        raise ValueError(
            f"the model must be or have among its fields one of {names} that is not folded yet; "
            f"got {type(model).__name__}. Fold by project_embedding what it makes itself."
        )
    return folded, variables


def _fold_encoder(encoder: RNNEncoder, params: Any) -> Any:
    rnn = dict(params["rnn"])
    tables = []
    for direction in ("forward", "backward") if encoder.bidirectional else ("forward",):
        layer = dict(rnn[f"layer_0_{direction}"])
        tables.append(project_embedding(params["embedding"]["embedding"], layer.pop("input_kernel"), layer.pop("bias")))
        rnn[f"layer_0_{direction}"] = layer
    return {**params, "embedding": {"embedding": jnp.concatenate(tables, axis=-1)}, "rnn": rnn}


def _fold_decoder(decoder: LSTMDecoder, params: Any) -> Any:
    lstm, image = dict(params["lstm"]), params["image"]
    kernel, bias = lstm.pop("input_kernel"), lstm.pop("bias")
    entering = {
        "kernel": jnp.matmul(image["kernel"], kernel, precision=jax.lax.Precision.HIGHEST),
        "bias": project_embedding(image["bias"][None], kernel, bias)[0],
    }
    return {**params, "lstm": lstm, "image": entering, "words": _fold_words(params["words"], kernel, bias)}


def _fold_attention_decoder(decoder: AttentionLSTMDecoder, params: Any) -> Any:
    lstm = dict(params["lstm"])
    gates = lstm.pop("input_gates")
    return {**params, "lstm": lstm, "words": _fold_words(params["words"], gates["kernel"], gates["bias"])}


def _fold_words(words: Any, kernel: Array, bias: Array) -> Any:
    return {**words, "projected_table": project_embedding(WordTable.scale * words["table"], kernel, bias)}


_FOLDS: dict[Any, Callable[[Any, Any], Any]] = {
    RNNEncoder: _fold_encoder,
    LSTMDecoder: _fold_decoder,
    AttentionLSTMDecoder: _fold_attention_decoder,
}
