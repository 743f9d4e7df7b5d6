"""jimm (jax-image-models) as a contender: Vision Transformers, CLIP and SigLIP in Flax NNX."""

from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType
from jimm import models
from jimm.common.sharding import NoSharding

from fusionjax.benchmarks.jax_framework import Forward, JaxFramework
from fusionjax.benchmarks.workloads import Encoder, Workload

_MODELS: dict[str, Any] = {"vit": models.VisionTransformer, "clip": models.CLIP, "siglip": models.SigLIP}


class Jimm(JaxFramework):
    """jimm, its model taken apart once, so that a call costs what the compiled function does."""

    packages = ("jax-image-models", "jax", "jaxlib", "flax")

    def __init__(self) -> None:
        # Its parameters are made with a sharding, for which Flax wants a mesh.
        jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,)))

    def inputs_of(self, workload: Workload) -> dict[str, np.ndarray]:
        """Returns the image as jimm takes it, and the text."""
        return workload.normal_inputs() if isinstance(workload, Encoder) else workload.inputs()

    def forward_of(self, workload: Workload) -> tuple[Forward, Any]:
        """Returns the forward pass and its parameters; see `Framework.build`."""
        if not isinstance(workload, Encoder) or workload.train or workload.family not in _MODELS:
            raise NotImplementedError(f"jimm has no workload {workload.name}")
        model = _MODELS[workload.family].from_pretrained(workload.folder, dtype=workload.dtype, sharding=NoSharding)
        graph, state = nnx.split(model)

        def forward(state: Any, inputs: dict[str, jax.Array]) -> jax.Array:
            names = ("image", "text") if workload.length else ("image",)
            return nnx.merge(graph, state)(*(inputs[name] for name in names))

        return forward, state
