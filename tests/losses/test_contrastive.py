"""Every form of InfoNCE and the sigmoid loss, on 1, 2 and 8 devices, against NumPy in float64; what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from fusionjax import losses, parallel
from tests.losses.contrastive import CASES, FORMS, Case, expected, found, make_case, unit_rows

LOSSES = ("info_nce", "sigmoid")
CORE = ("plain", "chunked", "ring of 8, chunked", "ring by pmap")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "form", [form if form in CORE else pytest.param(form, marks=pytest.mark.slow) for form in FORMS]
)
@pytest.mark.parametrize("loss", LOSSES)
def test_values_and_gradients(loss, form, case):
    case = make_case(case)
    total, weight, gradients = expected(loss, case)
    found_total, found_weight, found_gradients = found(loss, form, case)
    # Scores are rounded at 6e-8 of the scale, in every form.
    precision = 6e-8 * case.scale
    # The plain form subtracts probabilities from 1, which the streamed ones do not.
    floor = 1e-5 if form.startswith("plain") else 0
    np.testing.assert_allclose(found_total, total, rtol=max(1e-6, 2 * precision), atol=floor)
    assert found_weight == weight
    for one, true in zip(found_gradients, gradients, strict=True):
        np.testing.assert_allclose(one, true, rtol=0, atol=4 * precision * np.abs(gradients[0]).max() + floor)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_one_example_a_device(loss):
    case = make_case("large scale", batch=8)
    total, _, gradients = expected(loss, case)
    found_total, _, found_gradients = found(loss, "ring of 8", case)
    np.testing.assert_allclose(found_total, total, rtol=1e-6)
    np.testing.assert_allclose(found_gradients[0], gradients[0], rtol=0, atol=2e-5 * np.abs(gradients[0]).max())


def test_certainty_is_not_rounded_to_zero():
    """At the largest scale -log p of a sure answer is far below the rounding of logsumexp."""
    case = Case(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 30.0, np.ones(3, bool))
    found_total, _, found_gradients = found("info_nce", "chunked", case)
    np.testing.assert_allclose(found_total, 3 * np.log1p(2 * np.exp(-30)), rtol=1e-5)
    np.testing.assert_allclose(np.diagonal(found_gradients[0]), -30 * 2 * np.exp(-30), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "chunked"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_pair_alone(loss, form):
    one = np.ones((1, 4), np.float32) / 2
    total, _, gradients = found(loss, form, Case(one, one, 10.0, np.ones(1, bool)))
    true, _, true_gradients = expected(loss, Case(one, one, 10.0, np.ones(1, bool)))
    np.testing.assert_allclose(total, true, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradients[0], true_gradients[0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "chunked", "ring of 8"])
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_masked_does_not_matter(loss, form):
    case = make_case("masked")
    other = Case(*(np.where(case.mask[:, None], array, 1e9) for array in case[:2]), *case[2:])
    first, second = (found(loss, form, one) for one in (case, other))
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[2][0], second[2][0])
    assert not first[2][1][~case.mask].any()


@pytest.mark.slow
@pytest.mark.parametrize("loss", [losses.info_nce, losses.sigmoid_contrastive])
def test_bfloat16_features_are_summed_in_float32(loss):
    rng = np.random.default_rng(2)
    images, texts = (jnp.asarray(unit_rows(rng, 5, 7), jnp.bfloat16) for _ in range(2))
    scalars = (10.0,) if loss is losses.info_nce else (10.0, -10.0)

    def total(images, form):
        return loss(images, texts, *scalars, implementation=form, chunk_size=2).total

    plain, chunked = (jax.value_and_grad(total)(images, form) for form in ("plain", "chunked"))
    assert plain[0].dtype == chunked[0].dtype == jnp.float32
    assert chunked[1].dtype == jnp.bfloat16
    np.testing.assert_allclose(plain[0], chunked[0], rtol=1e-6)
    np.testing.assert_allclose(plain[1].astype(float), chunked[1].astype(float), rtol=0.01, atol=1e-4)


def test_a_ring_inside_shard_map_shares_its_scale():
    """Where types say what varies over the devices, the gradient of what they share is summed."""
    case, mesh = make_case("random"), parallel.make_mesh(2)
    split, copied = PartitionSpec("data"), PartitionSpec()

    def local(images, texts, scale):
        return jax.lax.psum(losses.info_nce(images, texts, scale, axis_name="data").total, "data")

    total = jax.shard_map(local, mesh=mesh, in_specs=(split, split, copied), out_specs=copied)
    arrays = (jnp.asarray(case.images), jnp.asarray(case.texts), jnp.float32(case.scale))
    gradients = jax.jit(jax.grad(total, argnums=(0, 2)))(*arrays)
    true = expected("info_nce", case)[2]
    np.testing.assert_allclose(gradients[0], true[0], atol=1e-5)
    np.testing.assert_allclose(gradients[1], true[2], rtol=1e-5)


def test_the_form_follows_the_size_and_the_mesh():
    def holds_the_matrix(count, **options):
        features = jax.ShapeDtypeStruct((count, 3), jnp.float32)
        traced = jax.make_jaxpr(lambda images, texts: losses.info_nce(images, texts, 9.0, **options))(
            features, features
        )
        return f"f32[{count},{count}]" in str(traced)

    assert holds_the_matrix(1024) and not holds_the_matrix(1025)
    assert holds_the_matrix(2000, implementation="plain")
    assert not holds_the_matrix(1024, mesh=parallel.make_mesh(2))


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_memory_grows_with_the_local_batch(loss):
    """The compiled gradient holds some arrays of the features' size and a block, and no matrix of similarities."""
    function = losses.info_nce if loss == "info_nce" else losses.sigmoid_contrastive
    scalars = (9.0,) if loss == "info_nce" else (9.0, -9.0)
    width, chunk = 5, 16

    def temporary(batch, devices):
        options = {"mesh": parallel.make_mesh(devices)} if devices > 1 else {"implementation": "chunked"}

        def total(images, texts):
            return function(images, texts, *scalars, chunk_size=chunk, **options).total

        features = jax.ShapeDtypeStruct((batch, width), jnp.float32)
        gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
        if devices > 1:
            sharding = jax.NamedSharding(options["mesh"], PartitionSpec("data"))
            gradient = jax.jit(jax.grad(total, argnums=(0, 1)), in_shardings=sharding)
        return gradient.lower(features, features).compile().memory_analysis().temp_size_in_bytes

    # A matrix of 4,096 x 4,096 would be 67 MB.
    small, large = temporary(1024, 1), temporary(4096, 1)
    assert large < 6 * small < 6 * 1024 * 4 * 60
    assert temporary(4096, 8) < 5 * temporary(512, 1)


FEATURES = jnp.zeros((6, 4))
TWO_AXES = Mesh(np.asarray(jax.devices()[:4]).reshape(2, 2), ("data", "model"))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, r"one text for each image; got \(6, 4\) and \(5, 4\)", {"texts": jnp.zeros((5, 4))}),
        (ValueError, r"one text for each image; got \(6, 4\) and \(6, 3\)", {"texts": FEATURES[:, :3]}),
        (ValueError, r"mask must have shape \[batch\] = \(6,\); got \(5,\)", {"mask": jnp.ones(5, bool)}),
        (TypeError, "mask must be boolean, True = counted; got float32", {"mask": jnp.ones(6)}),
        (ValueError, "chunk_size must be at least 1; got 0", {"chunk_size": 0}),
        (ValueError, 'implementation must be "plain", "chunked" or "ring"; got \'flat\'', {"implementation": "flat"}),
        (ValueError, "a ring, and nothing else, takes a mesh .*; got 'ring' and neither", {"implementation": "ring"}),
        (
            ValueError,
            "a ring, and nothing else, takes a mesh .*; got 'plain' and one",
            {"implementation": "plain", "mesh": parallel.make_mesh(2)},
        ),
        (
            ValueError,
            "must divide over the 8 devices of the mesh's axis 'data'; got 6 pairs",
            {"mesh": parallel.make_mesh(8)},
        ),
        (ValueError, "axis_name must be an axis of the mesh, data, model; got None", {"mesh": TWO_AXES}),
    ],
)
def test_refusals(error, message, call):
    options = dict(call)
    texts = options.pop("texts", FEATURES)
    with pytest.raises(error, match=message):
        losses.info_nce(FEATURES, texts, 1.0, **options)


def test_one_axis_of_several():
    case = make_case("random")
    value = losses.info_nce(
        jnp.asarray(case.images), jnp.asarray(case.texts), case.scale, mesh=TWO_AXES, axis_name="model"
    )
    np.testing.assert_allclose(value.total, expected("info_nce", case)[0], rtol=1e-6)
