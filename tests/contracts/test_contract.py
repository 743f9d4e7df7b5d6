"""What every encoder, fusion, decoder and model keeps to, whatever it computes."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from fusionjax import encoders, fusion, models
from fusionjax.parallel import make_mesh
from tests.contracts.costs import FORMULAS, measure, sizes_of
from tests.contracts.parameters import draw_variables, fast_jit
from tests.contracts.table import ALIKE, BATCH, ROWS, VECTORS, Row, read


@dataclasses.dataclass(frozen=True)
class Case:
    """A row with its parameters, none of them zero."""

    row: Row
    module: nn.Module
    variables: Any

    def compute(self, variables: Any, inputs: Any) -> dict[str, Any]:
        return read(self.module.apply(variables, **inputs))

    @functools.cached_property
    def compiled(self) -> Any:
        return fast_jit(self.compute)

    @functools.cached_property
    def outputs(self) -> dict[str, Any]:
        """Those that come with the gradients, so that one program less is compiled."""
        return jax.device_get(self.gradients(*_split(self.variables, self.row.inputs))[1])

    @functools.cached_property
    def gradients(self) -> Any:
        """From floating and other leaves to gradients of a weighted sum of all outputs, and the outputs."""
        leaves, structure = jax.tree.flatten((self.variables, self.row.inputs))
        places = [np.issubdtype(leaf.dtype, np.floating) for leaf in leaves]

        def weigh(floating: list[Any], others: list[Any]) -> tuple[jax.Array, Any]:
            sources = iter(floating), iter(others)
            filled = [next(sources[0] if place else sources[1]) for place in places]
            outputs = self.compute(*jax.tree.unflatten(structure, filled))
            return sum(jnp.sum(value * _weights(value)) for value in outputs.values()), outputs

        return fast_jit(jax.grad(weigh, has_aux=True))


@functools.cache
def _case_of(name: str) -> Case:
    row = next(row for row in ROWS if row.name == name)
    module = row.build(None)
    return Case(row, module, draw_variables(module, **row.inputs))


def _params(rows: list[Row]) -> list[Any]:
    return [pytest.param(row.name, marks=[pytest.mark.slow] if row.name in ALIKE else [], id=row.name) for row in rows]


@pytest.fixture(scope="module", params=_params(ROWS))
def case(request: pytest.FixtureRequest) -> Case:
    return _case_of(request.param)


@pytest.fixture(scope="module", params=_params([row for row in ROWS if row.name not in ALIKE]))
def distinct_case(request: pytest.FixtureRequest) -> Case:
    """A row of those that do not only repeat others' use of Flax."""
    return _case_of(request.param)


def _signs(leaf: Any) -> np.ndarray:
    """Ones of random sign, the same for the same shape."""
    return np.random.default_rng(leaf.size).choice(np.float32([-1, 1]), leaf.shape)


def _assert_equal(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    assert found.keys() == expected.keys() and expected
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def test_every_public_member_is_in_the_table() -> None:
    """A new encoder, fusion or model without a row fails here."""
    # MultiTask is several of the others, and tests/models/test_multi_task.py compares each with itself alone.
    helpers = {encoders.TokenPooling, fusion.TokenProjection, models.MultiTask}
    public = {getattr(package, name) for package in (encoders, fusion, models) for name in package.__all__}
    modules = {one for one in public if isinstance(one, type) and issubclass(one, nn.Module)}
    assert modules - helpers == {type(row.build(None)) for row in ROWS}


def test_shapes_and_dtypes(case: Case) -> None:
    assert {name: value.shape for name, value in case.outputs.items()} == case.row.shapes
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in case.outputs.values())
    for name, value in case.outputs.items():
        assert np.std(value) > 1e-3, f"{name} is constant"
    if "attention" in case.outputs:
        np.testing.assert_allclose(case.outputs["attention"].sum(-1), 1, rtol=1e-5)


def test_costs_equal_the_closed_formula(case: Case) -> None:
    if "features" not in case.row.inputs or "tokens" in case.row.inputs:
        pytest.skip("it is no fusion")
    features = case.row.inputs["features"]
    expected = FORMULAS[type(case.module)](case.module, sizes_of(features))
    assert measure(case.module, case.variables, features) == expected


@pytest.mark.slow
def test_content_under_a_mask_changes_nothing(case: Case) -> None:
    if case.row.hide is None:
        pytest.skip("it takes no mask")
    hidden = case.row.hide(case.row.inputs)
    before, after = jax.tree.leaves(case.row.inputs), jax.tree.leaves(hidden)
    assert any(not np.array_equal(*pair) for pair in zip(before, after, strict=True))
    (plain, expected), (gradients, outputs) = (
        jax.device_get(case.gradients(*_split(case.variables, inputs))) for inputs in (case.row.inputs, hidden)
    )
    _assert_equal(outputs, expected, tolerance=1e-6)
    # NaN would equal NaN.
    assert all(np.isfinite(gradient).all() for gradient in plain)
    _assert_equal(dict(enumerate(gradients)), dict(enumerate(plain)))


@pytest.mark.slow
def test_longer_padding_changes_nothing(case: Case) -> None:
    if case.row.pad is None:
        pytest.skip("the length is part of the architecture")
    padded = case.compiled(case.variables, case.row.pad(case.row.inputs))
    _assert_equal(case.row.trim(padded), case.outputs)


@pytest.mark.slow
def test_eager_equals_jit(distinct_case: Case) -> None:
    case = distinct_case
    _assert_equal(case.compute(case.variables, jax.tree.map(jnp.asarray, case.row.inputs)), case.outputs)


def test_gradients_equal_finite_differences(case: Case) -> None:
    """Along one direction of random signs for every parameter and every floating input."""
    if case.row.stops:
        pytest.skip("part of the gradient is stopped by design")
    start, others = _split(case.variables, case.row.inputs)
    weights, step = {name: _weights(value) for name, value in case.outputs.items()}, np.float32(case.row.step)
    # What rounding of the outputs alone can make of the quotient; gradients are mostly above one.
    noise = np.finfo(np.float32).eps * sum(np.abs(case.outputs[name] * weights[name]).sum() for name in weights) / step
    for place, gradient in enumerate(jax.device_get(case.gradients(start, others)[0])):
        assert np.isfinite(gradient).all()
        signs, ends = _signs(gradient), []
        for side in (step, -step):
            moved = [leaf + side * signs if at == place else leaf for at, leaf in enumerate(start)]
            outputs = case.gradients(moved, others)[1]
            # Summed in float64, since the difference is small.
            ends.append(sum(np.sum(np.float64(outputs[name]) * weights[name]) for name in weights))
        slope, expected = (ends[0] - ends[1]) / (2 * step), np.sum(gradient * signs)
        size = np.linalg.norm(gradient.ravel())
        assert abs(slope - expected) <= 0.04 * size + max(noise, 1e-2), f"argument {place} of shape {gradient.shape}"


def _split(variables: Any, inputs: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The floating leaves and the others, as NumPy arrays, with which nothing is compiled."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((variables, inputs))]
    floating = [np.issubdtype(leaf.dtype, np.floating) for leaf in leaves]
    return (
        [leaf for leaf, which in zip(leaves, floating, strict=True) if which],
        [leaf for leaf, which in zip(leaves, floating, strict=True) if not which],
    )


def _weights(value: Any) -> np.ndarray:
    return np.random.default_rng(7).normal(size=value.shape).astype(np.float32)


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16(case: Case) -> None:
    module = case.row.build(jnp.bfloat16)
    inputs = case.row.inputs
    shapes = jax.eval_shape(module.init, jax.random.key(0), **inputs)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    if not jax.tree.leaves(shapes):
        inputs = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.dtype == np.float32 else leaf, inputs)
    outputs = fast_jit(lambda variables, inputs: read(module.apply(variables, **inputs)))(case.variables, inputs)
    for name, expected in case.outputs.items():
        assert outputs[name].dtype == (jnp.float32 if name in ("attention", *VECTORS) else jnp.bfloat16)
        error = np.abs(np.float32(outputs[name]) - expected).max() / np.abs(expected).max()
        assert error < 0.05, name


@pytest.mark.slow
def test_vmap_equals_one_by_one(distinct_case: Case) -> None:
    case = distinct_case
    stacked = jax.tree.map(
        lambda leaf: np.stack([leaf, np.roll(leaf, leaf.shape[0] // BATCH, axis=0)]), case.row.inputs
    )
    outputs = jax.device_get(fast_jit(jax.vmap(case.compute, in_axes=(None, 0)))(case.variables, stacked))
    _assert_equal({name: value[0] for name, value in outputs.items()}, case.outputs)
    rolled = {name: np.roll(value, value.shape[0] // BATCH, axis=0) for name, value in case.outputs.items()}
    _assert_equal({name: value[1] for name, value in outputs.items()}, rolled)


def test_sharded_over_eight_devices_equals_one(case: Case) -> None:
    mesh = make_mesh(8)
    inputs = jax.device_put(case.row.inputs, NamedSharding(mesh, PartitionSpec("data")))
    variables = jax.device_put(case.variables, NamedSharding(mesh, PartitionSpec()))
    _assert_equal(case.compiled(variables, inputs), case.outputs)


@pytest.mark.slow
def test_works_inside_nnx(distinct_case: Case) -> None:
    case = distinct_case
    inputs = jax.tree.map(jnp.asarray, case.row.inputs)
    wrapped = nnx.bridge.ToNNX(case.module, rngs=nnx.Rngs(0))
    random_state = nnx.to_pure_dict(nnx.state(wrapped))
    # Only the shapes of the initialisation, since compiling initializers takes long; examples/nnx_encoder.py does all.
    wrapped = nnx.eval_shape(lambda wrapped: wrapped.lazy_init(**inputs), wrapped)
    state = nnx.state(wrapped)
    assert jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(wrapped, nnx.Param))) == jax.tree.map(
        jnp.shape, case.variables.get("params", {})
    )
    # NNX joins the collections of Linen in one tree.
    nnx.replace_by_pure_dict(state, functools.reduce(_merge, case.variables.values(), random_state))
    nnx.update(wrapped, state)
    _assert_equal(read(wrapped(**inputs)), case.outputs)


def _merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Joins two nested dictionaries."""
    shared = {name: _merge(one[name], other[name]) for name in one.keys() & other.keys()}
    return {**one, **other, **shared}
