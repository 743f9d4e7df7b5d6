"""What every encoder asks of a mask."""

import jax
import jax.numpy as jnp


def check_mask(mask: jax.Array | None, shape: tuple[int, ...], name: str) -> None:
    """Checks that a mask is boolean and has one entry for each token.

    Args:
        mask: True = keep, or None.
        shape: `(batch, length)` of the tokens.
        name: whose mask it is, for messages.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: it has another shape.
    """
    if mask is None:
        return
    if mask.dtype != jnp.bool_:
        raise TypeError(f"the {name} mask must be boolean, True = keep; got {mask.dtype}. Compare it: mask != 0.")
    if mask.shape != shape:
        raise ValueError(
            f"the {name} mask must have shape [batch, length] = {shape}; got {mask.shape}. "
            "Pad it together with the tokens."
        )
