"""The forms of a Transformer block that published models have."""

import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from fusionjax.layers import MultiHeadAttention, TransformerBlock, transformer
from fusionjax.layers.activations import activate
from tests.contracts.parameters import draw_variables, run

TOKENS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 6)), jnp.float32)
MASK = jnp.arange(5) < jnp.array([5, 2, 3])[:, None]


def normal(values, params, epsilon):
    mean, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
    return (values - mean) / np.sqrt(variance + epsilon) * params["scale"] + params["bias"]


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_order_of_normalisation_against_its_equation(norm_first: bool) -> None:
    block = TransformerBlock(2, 13, norm_first=norm_first, norm_epsilon=0.1, activation="relu", scale_init=1.0)
    variables = draw_variables(block, TOKENS)
    params = jax.tree.map(np.asarray, variables["params"])

    def attend(tokens):
        layer = MultiHeadAttention(2)
        return np.asarray(run(layer, {"params": params["self_attention"]}, tokens, mask=MASK).values)

    def perceive(tokens):
        hidden = np.maximum(tokens @ params["mlp_in"]["kernel"] + params["mlp_in"]["bias"], 0)
        return hidden @ params["mlp_out"]["kernel"] + params["mlp_out"]["bias"]

    expected = np.asarray(TOKENS)
    for part, function in (("self_attention", attend), ("mlp", perceive)):
        scale, norm = params[f"{part}_scale"]["scale"], params[f"{part}_norm"]
        if norm_first:
            expected = expected + scale * function(normal(expected, norm, 0.1))
        else:
            expected = normal(expected + scale * function(expected), norm, 0.1)
    found = run(block, variables, TOKENS, mask=MASK).tokens
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_activations_against_their_formulas() -> None:
    numbers = np.linspace(-4, 4, 17, dtype=np.float32)
    cube = [math.sqrt(2 / math.pi) * (x + 0.044715 * x**3) for x in numbers.tolist()]
    expected = {
        "gelu_exact": [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in numbers.tolist()],
        "gelu_tanh": [x * (1 + math.tanh(inner)) / 2 for x, inner in zip(numbers.tolist(), cube, strict=True)],
        "quick_gelu": [x / (1 + math.exp(-1.702 * x)) for x in numbers.tolist()],
        "relu": np.maximum(numbers, 0),
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(activate(jnp.asarray(numbers), kind), values, rtol=1e-5, atol=1e-6, err_msg=kind)
    blocks = {kind: TransformerBlock(2, activation=kind) for kind in expected}
    variables = draw_variables(blocks["relu"], TOKENS)
    outputs = {kind: np.asarray(run(block, variables, TOKENS).tokens) for kind, block in blocks.items()}
    np.testing.assert_array_equal(outputs["gelu_tanh"], run(TransformerBlock(2), variables, TOKENS).tokens)
    assert all(
        np.abs(outputs[one] - outputs[other]).max() > 1e-5 for one in outputs for other in outputs if one < other
    )


def test_scales_of_zero_leave_the_tokens_as_they_are() -> None:
    block = TransformerBlock(2, use_cross_attention=True, scale_init=0.0)
    memory = TOKENS[:, :2, :4]
    shapes = jax.eval_shape(block.init, jax.random.key(0), TOKENS, memory)["params"]
    scales = {name: leaf["scale"].shape for name, leaf in shapes.items() if name.endswith("_scale")}
    assert scales == dict.fromkeys(("self_attention_scale", "cross_attention_scale", "mlp_scale"), (6,))
    variables = draw_variables(block, TOKENS, memory)
    for name in scales:
        variables["params"][name]["scale"] = jnp.zeros(6)
    np.testing.assert_array_equal(run(block, variables, TOKENS, memory).tokens, TOKENS)


@pytest.mark.slow
def test_decoding_after_normalisation_equals_the_causal_whole() -> None:
    block = TransformerBlock(2, features=6, is_causal=True, norm_first=False)
    variables = draw_variables(block, TOKENS)
    cache, parts = block.init_cache(3, 5), []
    for start, end in ((0, 2), (2, 5)):
        output = run(block, variables, TOKENS[:, start:end], cache=cache)
        cache = output.cache
        parts.append(output.tokens)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), run(block, variables, TOKENS).tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_micro_batches_of_every_form(monkeypatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    tokens = np.random.default_rng(1).normal(size=(11, 5, 6)).astype(np.float32)
    block = TransformerBlock(2, 13, norm_first=False, norm_epsilon=1e-3, activation="quick_gelu", scale_init=0.5)
    variables = draw_variables(block, tokens)

    def outcome(hidden_per_step: int):
        monkeypatch.setattr(transformer, "_HIDDEN_PER_STEP", hidden_per_step)

        def total(variables, tokens):
            moved = block.apply(variables, tokens, mask=jnp.arange(5) < jnp.arange(11)[:, None]).tokens
            return jnp.sum(jnp.sin(moved)), moved

        program = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True)).lower(variables, tokens)
        return program.compile()(variables, tokens), "while" in program.as_text()

    (split, has_loop), (whole, has_none) = outcome(2 * 5 * 13), outcome(2**20)
    assert has_loop and not has_none
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5), split, whole)


@pytest.fixture
def unchecked_types():
    """Otherwise the type checker of the tests reports the wrong argument first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_types")
def test_unknown_activation() -> None:
    with pytest.raises(
        ValueError,
        match=r"activation must be one of gelu_tanh, gelu_exact, quick_gelu, relu, tanh; got 'gelu'. Choose one.",
    ):
        TransformerBlock(2, activation="gelu").init(jax.random.key(0), TOKENS)
