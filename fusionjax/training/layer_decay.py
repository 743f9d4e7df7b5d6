"""Smaller steps for the layers nearer to the input, when a pretrained model is tuned."""

import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import optax


def scale_by_layer(decay: float, layers: Sequence[str]) -> optax.GradientTransformation:
    """Scales the updates of layer i of n by decay ** (n - i); to be chained after an optimiser.

    What no layer names, such as a new head, keeps its whole step.

    Args:
        decay: in (0, 1]; 0.65 to 0.85 is usual for a Transformer.
        layers: from the input to the output, each a regular expression that is searched for in the parameter's path
            (`encoder/stage_0_block_1/conv_0/conv/kernel`); the first that is found counts.

    Returns:
        An optax transformation without state.

    Raises:
        ValueError: the decay is out of its range, there is no layer, or, at the first step, a layer that names no
            parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = optax.chain(optax.sgd(1.0), scale_by_layer(0.5, ["stem", "block_0"]))
        >>> params = {"stem": jnp.zeros(()), "block_0": jnp.zeros(()), "head": jnp.zeros(())}
        >>> gradients = jax.tree.map(jnp.ones_like, params)
        >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        >>> {name: float(value) for name, value in updates.items()}
        {'block_0': -0.5, 'head': -1.0, 'stem': -0.25}

    References:
        Clark et al., "ELECTRA", 2020, arXiv:2003.10555, appendix A; Bao et al., "BEiT", 2021, arXiv:2106.08254,
        appendix H.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be above 0 and at most 1; got {decay}. Try 0.75.")
    if not layers:
        raise ValueError("layers must name one layer or more; got none. Give them from the input to the output.")
    patterns = [re.compile(layer) for layer in layers]

    def scale(updates: Any, params: Any) -> Any:
        del params
        found: set[int] = set()

        def scale_leaf(path: Any, leaf: jax.Array) -> jax.Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            place = next((place for place, pattern in enumerate(patterns) if pattern.search(name)), None)
            if place is None:
                return leaf
            found.add(place)
            return leaf * decay ** (len(patterns) - place)

        scaled = jax.tree_util.tree_map_with_path(scale_leaf, updates)
        idle = [layers[place] for place in range(len(layers)) if place not in found]
        if idle:
            raise ValueError(f"every layer must name a parameter; {', '.join(idle)} names none. Look at the paths.")
        return scaled

    return optax.stateless(scale)


def find_layers(module: nn.Module, *inputs: Any, prefix: str = "") -> list[str]:
    """Names the layers of a module from its input to its output, for `scale_by_layer`.

    A layer is a part of the module that it calls directly, such as a block; those before the first one whose name ends
    in a number, such as embeddings and their normalisation, and the module's own parameters, are one layer together.

    Args:
        module: such as an encoder.
        inputs: of its call, arrays or shapes.
        prefix: path of the module within a model, such as `encoder/`.

    Returns:
        A regular expression for each layer.

    Example:
        >>> from fusionjax import encoders
        >>> encoder = encoders.VisionTransformer(features=6, num_layers=2, num_heads=2, image_size=(32, 32))
        >>> find_layers(encoder, jnp.zeros((1, 32, 32, 3)))
        ['(^|/)(class_token|patches|positions)(/|$)', '(^|/)(block_0)(/|$)', '(^|/)(block_1)(/|$)', '(^|/)(norm)(/|$)']
    """
    called: list[str] = []

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if (path := context.module.path) and path[0] not in called:
            called.append(path[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        params = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    parts = [name for name in called if name in params]
    numbered = [place for place, name in enumerate(parts) if re.search(r"_\d+$", name)]
    first = numbered[0] if numbered else 0
    start = sorted({*(name for name in params if name not in parts), *parts[:first]})
    groups = [start] * bool(start) + [[name] for name in parts[first:]]
    return [f"(^|/){prefix}({'|'.join(map(re.escape, group))})(/|$)" for group in groups]
