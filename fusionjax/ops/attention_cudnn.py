"""When cuDNN's flash attention can serve."""

from jaxtyping import Array, Bool, Float

from fusionjax.ops.gpu import find_compute_capability, find_gpu_obstacle

_AMPERE, _HOPPER = (8, 0), (9, 0)
_DTYPES = ("bfloat16", "float16")


def find_cudnn_attention_obstacle(
    query: Float[Array, "*batch queries heads head_dim"],
    key: Float[Array, "*batch keys heads head_dim"],
    value: Float[Array, "*batch keys heads value_dim"],
    mask: Bool[Array, "..."] | None,
) -> str | None:
    """Says why cuDNN cannot serve a call.

    Args:
        query: `[..., queries, heads, head_dim]`.
        key: `[..., keys, heads, head_dim]`.
        value: `[..., keys, heads, value_dim]`.
        mask: the mask of the call, which cuDNN adds to the logits; its gradient then takes even lengths only.

    Returns:
        The reason in words, or None where it can.
    """
    obstacle = find_gpu_obstacle("cuDNN")
    if obstacle is not None:
        return obstacle
    capability = find_compute_capability(_HOPPER)
    if capability < _AMPERE:
        return f"cuDNN needs compute capability 8.0 at least; got {'.'.join(map(str, capability))}"
    dtypes = sorted({str(array.dtype) for array in (query, key, value)})
    if len(dtypes) > 1 or dtypes[0] not in _DTYPES:
        return f"cuDNN takes query, key and value all bfloat16 or all float16; got {', '.join(dtypes)}"
    most = 256 if capability >= _HOPPER else 128
    head_dim = query.shape[-1]
    if head_dim > most or head_dim % 8:
        return f"cuDNN takes a head_dim of at most {most} that 8 divides; got {head_dim}"
    lengths = query.shape[-3], key.shape[-3]
    if mask is not None and any(length % 2 for length in lengths):
        return f"cuDNN takes a mask with even numbers of queries and keys; got {lengths[0]} and {lengths[1]}"
    return None
