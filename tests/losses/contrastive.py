"""Contrastive losses and their gradients in NumPy, float64, one pair after the other; and all their forms."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import losses, parallel

FORMS = (
    "plain",
    "plain over 8 devices",
    "chunked",
    "chunked, one block",
    "ring of 1",
    "ring of 2",
    "ring of 8",
    "ring of 8, chunked",
    "ring by pmap",
)
# The batch divides over 8 devices and not into chunks of 7.
BATCH, WIDTH, CHUNK = 24, 11, 7


class Case(NamedTuple):
    """Inputs of one comparison."""

    images: np.ndarray
    texts: np.ndarray
    scale: float
    mask: np.ndarray


def unit_rows(rng, count, width):
    rows = rng.normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_case(name, batch=BATCH):
    """Random features, and what is hard to sum up."""
    rng = np.random.default_rng(5)
    images, texts, all_of_them = unit_rows(rng, batch, WIDTH), unit_rows(rng, batch, WIDTH), np.ones(batch, bool)
    if name == "random":
        return Case(images, texts, 14.3, all_of_them)
    if name == "masked":
        return Case(images, texts, 14.3, rng.random(batch) < 0.7)
    if name == "large scale":
        return Case(images, texts, 100.0, all_of_them)
    if name == "solved":  # each text is nearly its image, at the largest scale
        near = images + 0.05 * rng.normal(size=images.shape)
        return Case(images, (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32), 100.0, all_of_them)
    assert name == "repeated texts"
    return Case(images, texts[np.arange(batch) % 3], 100.0, all_of_them)


CASES = ("random", "masked", "large scale", "solved", "repeated texts")


def expected(loss, case, bias=-10.0):
    """Total, weight, and the gradients of images, texts, scale and (for the sigmoid) bias."""
    kept = np.flatnonzero(case.mask)
    images, texts = (array.astype(np.float64)[kept] for array in (case.images, case.texts))
    similarity = images @ texts.T
    right = np.eye(len(kept), dtype=bool)
    if loss == "info_nce":
        scores = case.scale * similarity
        by_image, by_text = (np.exp(scores - np.log(np.exp(scores).sum(axis, keepdims=True))) for axis in (1, 0))
        total = -(np.log(by_image[right]) + np.log(by_text[right])).sum() / 2
        slopes = (by_image + by_text) / 2 - right
    else:
        scores = case.scale * similarity + bias
        signs = np.where(right, 1, -1)
        total = np.logaddexp(0, -signs * scores).sum()
        slopes = -signs / (1 + np.exp(signs * scores))
    of_images, of_texts = (np.zeros(case.images.shape) for _ in range(2))
    of_images[kept] = case.scale * slopes @ texts
    of_texts[kept] = case.scale * slopes.T @ images
    gradients = [of_images, of_texts, (slopes * similarity).sum()]
    return total, len(kept), gradients if loss == "info_nce" else [*gradients, slopes.sum()]


@functools.cache
def compiled(loss, form):
    """`(images, texts, mask, scalars) -> (total, weight, gradients)` of one form of a loss."""
    function = {"info_nce": losses.info_nce, "sigmoid": losses.sigmoid_contrastive}[loss]
    devices = 8 if "8" in form or "pmap" in form else 2 if "2" in form else 1
    mesh = parallel.make_mesh(devices)
    options = {
        "plain": {"implementation": "plain"},
        "plain over 8 devices": {"implementation": "plain"},
        "chunked": {"implementation": "chunked", "chunk_size": CHUNK},
        "chunked, one block": {"implementation": "chunked"},
        "ring of 8, chunked": {"mesh": mesh, "chunk_size": 2},
        "ring by pmap": {"axis_name": "data"},
    }.get(form, {"mesh": mesh})

    def value(images, texts, scalars, mask):
        found = function(images, texts, *scalars, mask=mask, **options)
        return found.total, found.weight

    differentiate = jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)
    if "pmap" in form:
        mapped = jax.pmap(differentiate, "data", in_axes=(0, 0, None, 0))

        def run(*arrays):
            images, texts, mask = (parallel.stack_batch(arrays[place], mesh) for place in (0, 1, 3))
            (total, weight), (of_images, of_texts, of_scalars) = mapped(images, texts, arrays[2], mask)
            flat = [leaf.reshape(arrays[0].shape) for leaf in (of_images, of_texts)]
            return (total.sum(), weight.sum()), (*flat, [leaf.sum() for leaf in of_scalars])

        return run
    step = jax.jit(differentiate)

    def run(images, texts, scalars, mask):
        images, texts, mask = (parallel.shard_batch(leaf, mesh) for leaf in (images, texts, mask))
        return step(images, texts, parallel.replicate(scalars, mesh), mask)

    return run


def found(loss, form, case, bias=-10.0):
    """Total, weight and gradients of a form, in the order of `expected`."""
    scalars = [jnp.float32(case.scale)] + [jnp.float32(bias)] * (loss == "sigmoid")
    arrays = (jnp.asarray(leaf) for leaf in (case.images, case.texts))
    (total, weight), (of_images, of_texts, of_scalars) = compiled(loss, form)(*arrays, scalars, jnp.asarray(case.mask))
    return float(total), float(weight), [np.asarray(leaf) for leaf in (of_images, of_texts, *of_scalars)]
