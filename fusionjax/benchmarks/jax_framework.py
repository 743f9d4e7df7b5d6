"""What the contenders on JAX share: compilation, training steps, waiting."""

import importlib.metadata
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fusionjax.benchmarks.workloads import Workload

Forward = Callable[[Any, dict[str, jax.Array]], Any]
# Also takes the running statistics, and gives them anew.
TrainedForward = Callable[[Any, Any, dict[str, jax.Array]], tuple[Any, Any]]

LEARNING_RATE = 1e-4


class Program(NamedTuple):
    """What one call of a workload computes, not yet compiled.

    Attributes:
        function: of the arguments.
        arguments: the parameters; running statistics and the optimiser's state where there is one; and last the inputs
            by name, in NumPy.
        num_carried: how many of the arguments, from the first, a call replaces by its first outputs.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    num_carried: int = 0


class JaxFramework:
    """A contender on JAX. A subclass says what its forward pass is.

    Attributes:
        packages: whose versions the records name.
    """

    packages: tuple[str, ...] = ("jax", "flax", "optax")

    def forward_of(self, workload: Workload) -> tuple[Forward, Any]:
        """Returns the forward pass and its parameters; see `Framework.build`."""
        raise NotImplementedError(f"{type(self).__name__} has no workload {workload.name}")

    def training_of(self, workload: Workload) -> tuple[TrainedForward, Any, Any]:
        """Returns the forward pass in training, its parameters and its running statistics; see `Framework.build`."""
        forward, parameters = self.forward_of(workload)
        return lambda parameters, statistics, inputs: (forward(parameters, inputs), statistics), parameters, {}

    def inputs_of(self, workload: Workload) -> dict[str, np.ndarray]:
        """Returns what the forward pass takes, by name."""
        return workload.inputs()

    def versions(self) -> dict[str, str]:
        """Returns the versions of its packages."""
        return {name: importlib.metadata.version(name) for name in self.packages}

    def device(self) -> str:
        """Returns the kind of device that it computes on."""
        return jax.devices()[0].device_kind

    def program_of(self, workload: Workload) -> Program:
        """Returns what one call computes: a forward pass, a step of Adam, or gradients of inputs and parameters."""
        inputs = self.inputs_of(workload)
        if "label" in inputs:
            return _training_step(*self.training_of(workload), inputs)
        forward, parameters = self.forward_of(workload)
        if not workload.train:
            return Program(forward, (parameters, inputs))

        def loss(parameters: Any, inputs: dict[str, jax.Array]) -> jax.Array:
            return jnp.mean(jnp.square(forward(parameters, inputs).astype(jnp.float32)))

        return Program(jax.value_and_grad(loss, argnums=(0, 1)), (parameters, inputs))

    def build(self, workload: Workload) -> Callable[[], Any]:
        """Prepares a workload; see `Framework.build`."""
        program = self.program_of(workload)
        *carried, inputs = program.arguments
        inputs = {name: jnp.asarray(array) for name, array in inputs.items()}
        compiled = jax.jit(program.function, donate_argnums=tuple(range(program.num_carried)))
        if not program.num_carried:
            return lambda: compiled(*carried, inputs)

        def run() -> jax.Array:
            *carried[:], output = compiled(*carried, inputs)
            return output

        return run

    def wait(self, outputs: Any) -> None:
        """Waits until the outputs of a call are there."""
        jax.block_until_ready(outputs)

    def fetch(self, outputs: Any) -> list[np.ndarray]:
        """Copies the outputs to the host: of training the loss and the gradients of the inputs, sorted by name."""
        if isinstance(outputs, tuple):
            # Of gradients: the loss, then those of parameters and inputs.
            loss, (_, inputs) = outputs
            outputs = [loss, *(inputs[name] for name in sorted(inputs))]
        arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(outputs)]
        return [array if array.dtype.kind == "i" else array.astype(np.float32) for array in arrays]

    def peak_memory_bytes(self) -> int | None:
        """Returns the most that was in use on an accelerator; None on a CPU."""
        statistics = jax.local_devices()[0].memory_stats()
        return statistics["peak_bytes_in_use"] if statistics else None


def _training_step(forward: TrainedForward, parameters: Any, statistics: Any, inputs: dict[str, np.ndarray]) -> Program:
    optimizer = optax.adam(LEARNING_RATE)

    def step(parameters: Any, statistics: Any, state: Any, inputs: dict[str, jax.Array]) -> tuple[Any, ...]:
        def loss(parameters: Any) -> tuple[jax.Array, Any]:
            logits, changed = forward(parameters, statistics, inputs)
            each = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), inputs["label"])
            return each.mean(), changed

        (value, changed), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), changed, state, value

    return Program(step, (parameters, statistics, optimizer.init(parameters), inputs), num_carried=3)


def nest(weights: dict[str, np.ndarray]) -> Any:
    """Turns paths into nested dictionaries of JAX arrays.

    Args:
        weights: arrays by path, such as `"text/lstm/bias"`.

    Returns:
        The tree of a module's parameters.

    Example:
        >>> nest({"text/lstm/bias": np.zeros(2)})["text"]["lstm"]["bias"].shape
        (2,)
    """
    tree: dict[str, Any] = {}
    for path, array in weights.items():
        *parents, leaf = path.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = jnp.asarray(array)
    return tree
