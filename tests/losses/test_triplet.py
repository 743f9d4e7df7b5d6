"""The triplet loss: values and gradients against loops in NumPy; what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import losses, parallel
from tests.losses.contrastive import make_case


def by_loops(images, texts, margin, negatives, mask):
    """Total and gradients of images and texts, one wrong partner after the other."""
    images, texts = images.astype(np.float64), texts.astype(np.float64)
    total, of_images, of_texts = 0.0, np.zeros(images.shape), np.zeros(texts.shape)
    for i in np.flatnonzero(mask):
        others = [j for j in np.flatnonzero(mask) if j != i]
        for partners in ([(i, j) for j in others], [(j, i) for j in others]):
            terms = [
                (margin + images[image] @ texts[text] - images[i] @ texts[i], image, text) for image, text in partners
            ]
            for value, image, text in [max(terms)] if negatives == "hardest" else terms:
                if value > 0:
                    total += value
                    of_images[image] += texts[text]
                    of_texts[text] += images[image]
                    of_images[i] -= texts[i]
                    of_texts[i] -= images[i]
    return total, of_images, of_texts


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_values_and_gradients(negatives, devices):
    case = make_case("masked")
    mesh = parallel.make_mesh(devices)

    def compute(images, texts):
        return losses.triplet(images, texts, margin=0.3, negatives=negatives, mask=jnp.asarray(case.mask)).total

    images, texts = (parallel.shard_batch(jnp.asarray(leaf), mesh) for leaf in case[:2])
    total, gradients = jax.jit(jax.value_and_grad(compute, argnums=(0, 1)))(images, texts)
    expected, *expected_gradients = by_loops(case.images, case.texts, 0.3, negatives, case.mask)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    for one, true in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(one, true, atol=1e-5)


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_a_pair_alone_loses_nothing(negatives):
    one = jnp.ones((1, 3))
    loss, gradient = jax.value_and_grad(lambda images: losses.triplet(images, one, negatives=negatives).total)(one)
    assert loss == 0 and not gradient.any()


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, "margin must not be negative; got -0.1", {"margin": -0.1}),
        (ValueError, 'negatives must be "hardest" or "all"; got \'some\'', {"negatives": "some"}),
        (TypeError, "mask must be boolean, True = counted; got int32", {"mask": jnp.ones(2, jnp.int32)}),
    ],
)
def test_refusals(error, message, options):
    with pytest.raises(error, match=message):
        losses.triplet(jnp.eye(2), jnp.eye(2), **options)
