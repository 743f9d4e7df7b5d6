"""Values and gradients of the contrastive losses equal open_clip's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import losses
from tests.parity.open_clip_losses import BIAS, SCALES, compute
from tests.parity.reference import reference


@pytest.mark.parametrize("form", ["plain", "chunked"])
@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
def test_losses(name: str, form: str) -> None:
    arrays = reference("open_clip_losses", compute, needs="open_clip")
    leaves = {key: jnp.asarray(arrays[f"input/{key}"]) for key in ("images", "texts")}
    leaves["log_scale"] = jnp.float32(SCALES[name])
    if name == "sigmoid":
        leaves["bias"] = jnp.float32(BIAS)
    function = losses.info_nce if name == "info_nce" else losses.sigmoid_contrastive

    def mean(leaves: dict[str, jax.Array]) -> jax.Array:
        scalars = [jnp.exp(leaves["log_scale"]), *([leaves["bias"]] if "bias" in leaves else [])]
        return function(leaves["images"], leaves["texts"], *scalars, implementation=form, chunk_size=5).mean

    loss, gradients = jax.value_and_grad(mean)(leaves)
    np.testing.assert_allclose(loss, arrays[f"{name}/loss"], rtol=1e-6)
    for key, gradient in gradients.items():
        true = arrays[f"{name}/gradient/{key}"]
        np.testing.assert_allclose(gradient, true, rtol=0, atol=1e-6 * max(1.0, np.abs(true).max()))
