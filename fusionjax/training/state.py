"""Everything that a training run carries from one step to the next."""

from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import optax

from fusionjax.training.average import start_average
from fusionjax.training.leaves import is_key


@flax.struct.dataclass
class TrainState:
    """The state of a training run: what a step reads and writes, and what a checkpoint holds.

    Attributes:
        step: steps done so far; int32 scalar.
        params: the trained parameters.
        model_state: the model's other variables, such as running statistics; `{}` when it has none.
        opt_state: the optimiser's state.
        ema_params: exponential moving average of the parameters, or `None`.
        key: typed random key of the run; step `t` draws from `fold_in(key, t)`.

    Example:
        >>> params = {"dense": {"kernel": jnp.ones((2, 3))}}
        >>> state = TrainState.create(params=params, optimizer=optax.adam(1e-3), key=jax.random.key(0))
        >>> int(state.step), state.ema_params
        (0, None)
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema_params: Any
    key: jax.Array

    @classmethod
    def create(
        cls,
        *,
        params: Any,
        optimizer: optax.GradientTransformation,
        key: jax.Array,
        model_state: Any = None,
        ema_decay: float | None = None,
    ) -> Self:
        """Builds the state of step 0.

        Args:
            params: initial parameters.
            optimizer: the optax transformation that the train step uses.
            key: typed random key, from `jax.random.key`.
            model_state: the model's other variables.
            ema_decay: give the train step's value, so that the average is kept; `None` keeps none.

        Returns:
            The state at step 0, with fresh optimiser state.

        Raises:
            TypeError: `key` is not a typed random key.
        """
        if not is_key(key):
            raise TypeError(f"key must be a typed random key; got {key!r}. Make it with jax.random.key(seed).")
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state={} if model_state is None else model_state,
            opt_state=optimizer.init(params),
            ema_params=None if ema_decay is None else start_average(params),
            key=key,
        )

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate with: the moving average where there is one, in the parameters' dtypes."""
        if self.ema_params is None:
            return self.params
        return jax.tree.map(lambda average, param: average.astype(param.dtype), self.ema_params, self.params)
