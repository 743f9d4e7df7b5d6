"""Two towers: vectors of length 1, the learned scalars, several texts, missing texts, and errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import encoders, models
from tests.contracts.parameters import draw_variables, run

RANDOM = np.random.default_rng(3)
IMAGES = RANDOM.uniform(size=(2, 19, 17, 3)).astype(np.float32)
TEXTS = RANDOM.integers(1, 11, (2, 3, 5))
BATCH = {"image": IMAGES, "text": TEXTS}


def build(**options):
    image = encoders.SimpleCNN(features=(5, 7), pooling="mean")
    text = encoders.RNNEncoder(vocab_size=11, features=6, pooling="last")
    return models.DualEncoder(image, text, features=13, **options)


@pytest.mark.slow
def test_vectors_are_the_projected_features_at_length_one():
    model = build()
    variables = draw_variables(model, BATCH)
    output = run(model, variables, BATCH)
    params = variables["params"]
    pooled = run(model.image_encoder, {"params": params["image_encoder"]}, IMAGES).pooled
    projected = np.asarray(pooled) @ params["image_projection"]["kernel"]
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(output.image, expected, rtol=1e-4, atol=1e-5)
    for number in range(3):
        alone = run(model, variables, {"image": IMAGES, "text": TEXTS[:, number]}).text
        np.testing.assert_allclose(output.text[:, number], alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(output.text, axis=-1), 1, rtol=1e-5)
    apart = run(model, variables, TEXTS, method="encode_text"), run(model, variables, IMAGES, method="encode_image")
    np.testing.assert_allclose(apart[0], output.text, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(apart[1], output.image, rtol=1e-4, atol=1e-5)


def test_scalars_start_as_in_the_papers_and_are_held():
    clip, siglip = build(), build(scale=10.0, bias=-10.0)
    for model, scale, bias in ((clip, 1 / 0.07, None), (siglip, 10.0, -10.0)):
        params = jax.jit(lambda model=model: model.init(jax.random.key(0), BATCH)["params"])()
        found_scale, found_bias = model.apply({"params": params}, method="scalars")
        np.testing.assert_allclose(found_scale, scale, rtol=1e-6)
        assert found_bias is None if bias is None else found_bias == bias
        assert ("bias" in params) == (bias is not None)
        larger = {"params": {**params, "log_scale": jnp.float32(math.log(150.0))}}
        np.testing.assert_allclose(model.apply(larger, method="scalars")[0], 100.0)


def test_an_empty_text_has_a_finite_gradient():
    """Its vector is 0, of no direction."""
    model = build()
    variables = draw_variables(model, {"image": IMAGES, "text": TEXTS[:, 0]})
    tokens = np.zeros((2, 5), int)

    def total(variables):
        vectors = model.apply(variables, tokens, method="encode_text")
        return jnp.sum(vectors * jnp.arange(13)), vectors

    gradient, vectors = jax.jit(jax.grad(total, has_aux=True))(variables)
    assert not vectors.any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_towers_without_projection_and_projections_with_bias():
    model = build(use_image_projection=False, use_projection_bias=True).clone(features=7)
    variables = draw_variables(model, BATCH)
    params = variables["params"]
    assert "image_projection" not in params and params["text_projection"]["bias"].shape == (7,)
    image = run(model.image_encoder, {"params": params["image_encoder"]}, IMAGES)
    expected = image.pooled / np.linalg.norm(image.pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(run(model, variables, BATCH).image, expected, rtol=1e-4, atol=1e-5)
    pooled = run(model.text_encoder, {"params": params["text_encoder"]}, TEXTS[:, 0]).pooled
    projected = pooled @ params["text_projection"]["kernel"] + params["text_projection"]["bias"]
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    found = run(model, variables, TEXTS[:, 0], method="encode_text")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["image", "text"])
def test_towers_without_projection_are_as_wide_as_the_common_space(name):
    with pytest.raises(
        ValueError, match=rf"the {name} encoder's .* common space, 13; got \d. Set features, or use_{name}"
    ):
        draw_variables(build(**{f"use_{name}_projection": False}), BATCH)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"text": TEXTS}, "must hold image and text; image is missing from text. Add it, or call encode_image"),
        ({}, "must hold image and text; image, text is missing from an empty batch"),
        ({"image": IMAGES, "text": TEXTS[0, 0]}, r"tokens must have shape \[batch, length\] or .*; got \(5,\)"),
    ],
)
def test_batches_that_cannot_be_encoded(batch, message):
    with pytest.raises(ValueError, match=message):
        draw_variables(build(), batch)
