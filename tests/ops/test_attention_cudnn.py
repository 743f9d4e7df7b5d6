"""Attention by cuDNN: what it is asked for, when it is chosen, and that it lowers for a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from fusionjax import ops
from fusionjax.ops.attention_cudnn import find_cudnn_attention_obstacle


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def draw(*shape, dtype=jnp.bfloat16):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), dtype)


QUERY, KEY = draw(2, 6, 3, 8), draw(2, 10, 3, 8)
# One query of the second example sees no key.
MASK = jnp.asarray(np.random.default_rng(3).random((2, 1, 6, 10)) < 0.6).at[1, :, 4].set(False)


def attend(query, key, mask=None, is_causal=False, implementation="cudnn"):
    return ops.attention(query, key, key, mask=mask, is_causal=is_causal, implementation=implementation).values


@pytest.mark.parametrize(
    ("mask", "is_causal"),
    [(None, True), (MASK, True), (MASK[:, :, :1], False), (MASK[0, 0, 0], False)],
    ids=["none", "full", "keys", "one"],
)
def test_it_gets_masks_of_whole_matrices_and_unseeing_queries_read_zeros(mask, is_causal, monkeypatch):
    """In place of cuDNN, which needs a GPU, JAX's own attention takes what cuDNN would."""
    plain = jax.nn.dot_product_attention

    def stand_in(query, key, value, *, mask, implementation, **options):
        assert implementation == "cudnn"
        assert mask is None or mask.shape[2:] == (6, 10)
        return plain(query, key, value, mask=mask, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    cotangent = draw(2, 6, 3, 8, dtype=jnp.float32)

    def differentiate(implementation, dtype):
        arrays = QUERY.astype(dtype), KEY.astype(dtype)
        values, pull_back = jax.vjp(lambda *arrays: attend(*arrays, mask, is_causal, implementation), *arrays)
        return values, *pull_back(cotangent.astype(dtype))

    expected = differentiate("xla", jnp.float32)
    for actual, reference in zip(differentiate("cudnn", jnp.bfloat16), expected, strict=True):
        assert actual.dtype == jnp.bfloat16
        error = jnp.linalg.norm((actual.astype(jnp.float32) - reference).ravel())
        assert float(error) < 2e-2 * float(jnp.linalg.norm(reference.ravel()))


@pytest.mark.parametrize("mask", [None, MASK], ids=["none", "mask"])
def test_it_lowers_for_cuda_forward_and_backward(mask, monkeypatch):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda capability: True)
    loss = jax.jit(jax.grad(lambda query, key: attend(query, key, mask).astype(jnp.float32).sum(), (0, 1)))
    text = loss.trace(QUERY, KEY).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmha" in text
    assert "Backward" in text


@pytest.mark.parametrize(
    ("dtype", "shape", "platform", "chosen"),
    [
        (jnp.bfloat16, (2, 6, 3, 8), "gpu", "cudnn"),
        (jnp.float16, (2, 6, 3, 8), "gpu", "cudnn"),
        (jnp.float32, (2, 6, 3, 8), "gpu", None),
        (jnp.bfloat16, (2, 6, 3, 12), "gpu", None),
        (jnp.bfloat16, (2, 6, 3, 8), "tpu", None),
    ],
)
def test_the_default_is_cudnn_where_it_can_serve_and_jax_otherwise(dtype, shape, platform, chosen, monkeypatch):
    asked = []

    def stand_in(query, *_, implementation, **__):
        asked.append(implementation)
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    array = draw(*shape, dtype=dtype)
    attend(array, array, implementation=None)
    assert asked == [chosen]


@pytest.mark.parametrize(
    ("query", "key", "mask", "obstacle"),
    [
        (QUERY, KEY, None, None),
        (QUERY, KEY, MASK, None),
        (QUERY, KEY.astype("float16"), None, "query, key and value all bfloat16 or all float16; got bfloat16, float16"),
        (QUERY.astype("float32"), KEY.astype("float32"), None, "all float16; got float32"),
        (QUERY[..., :7], KEY[..., :7], None, "a head_dim of at most 256 that 8 divides; got 7"),
        (draw(1, 2, 1, 264), draw(1, 2, 1, 264), None, "a head_dim of at most 256 that 8 divides; got 264"),
        (QUERY[:, :5], KEY, MASK[:, :, :5], "even numbers of queries and keys; got 5 and 10"),
    ],
)
def test_what_it_cannot_do(query, key, mask, obstacle):
    found = find_cudnn_attention_obstacle(query, key, key, mask)
    assert found is None if obstacle is None else obstacle in found


def test_what_older_gpus_and_others_cannot_do(monkeypatch):
    device = type("Device", (), {"compute_capability": "8.6"})()
    monkeypatch.setattr(jax, "devices", lambda: [device])
    wide = draw(1, 2, 1, 136)
    assert "at most 128 that 8 divides; got 136" in find_cudnn_attention_obstacle(wide, wide, wide, None)
    device.compute_capability = "7.5"
    assert (
        find_cudnn_attention_obstacle(QUERY, KEY, KEY, None) == "cuDNN needs compute capability 8.0 at least; got 7.5"
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.raises(NotImplementedError, match=r"implementation='cudnn' .* needs an NVIDIA GPU; .* 'cpu'"):
        attend(QUERY, KEY)
