"""Fusion by compact bilinear pooling."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from fusionjax.encoders import Features
from fusionjax.fusion.checks import check_modalities
from fusionjax.fusion.power import normalise_power
from fusionjax.fusion.vector import as_features


def count_sketch(vectors: jax.Array, features: int, seed: tuple[int, ...]) -> jax.Array:
    """Sums the entries of vectors, with random signs, into random places.

    Args:
        vectors: `[batch, size]`.
        features: number of places.
        seed: of the places and signs.

    Returns:
        `[batch, features]`.

    Example:
        >>> float(jnp.sum(jnp.abs(count_sketch(jnp.eye(3), 8, (0,)))))
        3.0
    """
    random = np.random.default_rng(seed)
    size = vectors.shape[-1]
    places, signs = random.integers(features, size=size), random.choice(np.array([-1, 1], np.float32), size)
    return jnp.zeros((vectors.shape[0], features), vectors.dtype).at[:, places].add(vectors * signs)


class CompactBilinear(nn.Module):
    """Approximates the outer product of the pooled vectors by the circular convolution of their count sketches.

    psi(p)_k = sum over i with h(i) = k of s(i) p_i, for random fixed h and s of each modality; z = ifft(prod_m
    fft(psi_m(p_m))), then signed square root and division by the Euclidean norm. The inner product of two such z
    estimates that of the outer products. A missing modality is the unit of the convolution. h and s are no parameters:
    they follow from `seed`.

    Cost: no parameter; 2 P operations an example for the sketches and about 5 (M + 1) D log2 D for the transforms, for
    pooled sizes of sum P, M modalities and D features.

    Attributes:
        features: size of the sketch.
        seed: of h and s; another seed is another fusion.
        dtype: of the result; the transforms are in float32.

    Raises:
        ValueError: fewer than two modalities, or their batch sizes differ.

    Example:
        >>> one = Features(jnp.ones((2, 3, 5)), None, jnp.ones((2, 5)), (3,))
        >>> two = Features(jnp.ones((2, 4, 7)), None, jnp.zeros((2, 7)), (2, 2))
        >>> fusion, features = CompactBilinear(features=16), {"image": two, "text": one}
        >>> fused, _ = jax.eval_shape(fusion.init_with_output, jax.random.key(0), features)
        >>> fused.pooled.shape
        (2, 16)

    References:
        Gao et al., "Compact Bilinear Pooling", 2016, arXiv:1511.06062, algorithm 2; Fukui et al., "Multimodal Compact
        Bilinear Pooling for Visual Question Answering and Visual Grounding", 2016, arXiv:1606.01847, algorithm 1.
    """

    features: int = 1024
    seed: int = 0
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, features: Mapping[str, Features], *, deterministic: bool = True) -> Features:
        """Fuses the modalities.

        Args:
            features: of each modality, by name.
            deterministic: without effect here; part of the contract.

        Returns:
            pooled `[batch, features]`, which is also the one token.
        """
        check_modalities(features, least=2)
        spectrum: Any = None
        for index, name in enumerate(sorted(features)):
            pooled, present = features[name].kept_pooled, features[name].present[:, None]
            sketch = count_sketch(pooled.astype(jnp.float32), self.features, (self.seed, index))
            # The unit of the convolution has the spectrum one.
            transformed = jnp.where(present, jnp.fft.rfft(sketch), 1)
            spectrum = transformed if spectrum is None else spectrum * transformed
        convolved = jnp.fft.irfft(spectrum, self.features)
        dtype = self.dtype or jnp.result_type(*(one.pooled for one in features.values()))
        return as_features(normalise_power(convolved).astype(dtype))
