"""What every recipe does alike: start or resume a run, train, and hand over the parameters to evaluate."""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from fusionjax import data, parallel, training
from fusionjax.errors import InputError
from fusionjax.recipes.config import TrainingConfig
from fusionjax.recipes.curves import Curves, read_curves
from fusionjax.recipes.run import Run, write_atomically

_logger = logging.getLogger("fusionjax")
# What the pace of a training is measured by: the first steps fill the queue of batches.
_WARM_UP_STEPS, _PACED_STEPS, _PACED_SECONDS = 3, 10, 2.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a training gave.

    Attributes:
        variables: of the model, to evaluate with: the moving average where there is one.
        learned: the same, adapters not yet added to the parameters, for a training that goes on from it.
        step: steps done.
        history: the curves: one row a log, with `step`.
        interrupted: whether Ctrl-C ended it before its last step.
        seconds: of the training loop in this process, compilation included.
        cpu_seconds: of its processors, all threads together.
        examples: that the training loop in this process learned from.
    """

    variables: dict[str, Any]
    learned: dict[str, Any]
    step: int
    history: list[dict[str, float]]
    interrupted: bool
    seconds: float
    cpu_seconds: float
    examples: int = 0

    def after(self, first: "Outcome") -> "Outcome":
        """Adds the effort of an earlier stage."""
        return dataclasses.replace(
            self,
            step=self.step + first.step,
            seconds=self.seconds + first.seconds,
            cpu_seconds=self.cpu_seconds + first.cpu_seconds,
            examples=self.examples + first.examples,
        )

    def effort(self) -> dict[str, float]:
        """What the training took, as metrics."""
        return {
            "train/steps": float(self.step),
            "train/seconds": self.seconds,
            "train/cpu_seconds": self.cpu_seconds,
            "train/examples_per_second": self.examples / max(self.seconds, 1e-9),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A training to do.

    Attributes:
        run: the run directory.
        training: how long and in what steps.
        optimizer: the optimiser.
        strategy: `"jit"` or `"pmap"`.
        seed: of the order of the data and of dropout.
        variables: the model's collections before the first step.
        loss_fn: sums of the loss of one batch.
        loader: endless batches.
        epoch_examples: examples in one epoch.
        validate: metrics of some variables on the validation part, `loss` among them; None if there is none.
        stage: a second name for the checkpoints and curves of a training that follows another in the same run.
        first_step: added to the step in the curves.
        batch_size: where it is not the training's.
        epochs: where they are not the training's.
        quiet: shows no progress.
        first_link: of the optimiser, before what the settings say, such as `training.combine_tasks`.
        last_link: of the optimiser, after what the settings say, such as `training.scale_by_layer`.
        lora: which parameters get adapters, and which are learned whole; all others stay as they are and are in no
            checkpoint. None learns all.
    """

    run: Run
    training: TrainingConfig
    optimizer: training.OptimizerConfig
    strategy: str
    seed: int
    variables: Mapping[str, Any]
    loss_fn: training.LossFunction
    loader: data.Loader | data.MixedLoader
    epoch_examples: int
    validate: Callable[[dict[str, Any]], dict[str, float]] | None = None
    stage: str = ""
    first_step: int = 0
    batch_size: int | None = None
    epochs: float | None = None
    quiet: bool = False
    first_link: optax.GradientTransformation | None = None
    last_link: optax.GradientTransformation | None = None
    lora: training.LoRAConfig | None = None


def compute_dtype(config: TrainingConfig) -> Any:
    """The dtype of the computation: bfloat16, or None for that of the parameters (float32)."""
    return jnp.bfloat16 if config.precision == "bfloat16" else None


def checkpoint_folder(run: Run, stage: str) -> Path:
    """The checkpoints of a stage of a run."""
    return run.checkpoints / stage if stage else run.checkpoints / "train"


def evaluation_variables(state: training.TrainState, lora: training.LoRAConfig | None = None) -> dict[str, Any]:
    """The variables to evaluate with, adapters added to the parameters."""
    others = dict(state.model_state)
    if lora is None:
        return {"params": state.eval_params, **others}
    return {"params": training.merge_lora(others.pop(training.FROZEN), state.eval_params, lora), **others}


def split_adapters(variables: Mapping[str, Any], lora: training.LoRAConfig | None, seed: int) -> dict[str, Any]:
    """Draws adapters.

    Args:
        variables: of the model; those that are split already stay so.
        lora: the settings; None leaves the variables as they are.
        seed: of the draw.

    Returns:
        The variables with the adapters as `params`, and what stays as it is under `training.FROZEN`.
    """
    if lora is None or training.FROZEN in variables:
        return dict(variables)
    params = variables["params"]
    adapters = training.init_lora(jax.random.key(seed), params, lora)
    flat = flatten_dict(params, sep="/")
    frozen = unflatten_dict({path: leaf for path, leaf in flat.items() if path not in adapters["tuned"]}, sep="/")
    return {**variables, "params": adapters, training.FROZEN: frozen}


def count_cost(apply: Callable[[Any, Any], Any], variables: Any, batch: Any) -> dict[str, float]:
    """Counts what a model is and does.

    Args:
        apply: of the variables and a batch.
        variables: the model's collections.
        batch: one example.

    Returns:
        `model/parameters`, and `model/gflops`: 10^9 operations of the forward pass as XLA counts them, where it does.
    """
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    analysis = jax.jit(apply).lower(variables, batch).cost_analysis() or {}
    counted = {"model/gflops": analysis["flops"] / 1e9} if "flops" in analysis else {}
    return {"model/parameters": float(parameters), **counted}


def total_steps(job: Job) -> int:
    """Steps of the whole training, where its time is not what is given."""
    epochs = job.training.epochs if job.epochs is None else job.epochs
    return max(1, math.ceil(epochs * job.epoch_examples / _batch_size(job)))


def _batch_size(job: Job) -> int:
    return job.batch_size or job.training.batch_size


def run_training(job: Job) -> Outcome:
    """Trains from the newest checkpoint of the run, or from the start, to the end.

    Args:
        job: what to do.

    Returns:
        The outcome; interrupted if Ctrl-C came, with everything saved.

    Raises:
        InputError: the checkpoints or the settings cannot be used.
    """
    config, steps = job.training, _planned_steps(job)
    began, began_cpu = time.perf_counter(), time.process_time()
    job = dataclasses.replace(job, variables=split_adapters(job.variables, job.lora, job.seed))
    optimizer, schedule, train_step = _make_step(job, steps)
    state = _initial_state(job.variables, optimizer, job.training, job.seed)
    folder = checkpoint_folder(job.run, job.stage)
    with training.Checkpoints(folder, leaves_out=_is_frozen) as checkpoints, _open_loader(job) as batches:
        start = 0
        if checkpoints.latest_step is not None:
            state, position, start = checkpoints.restore(state)
            batches.set_state(position)
            if start < steps:
                _logger.warning("going on from step %d of %d", start, steps)
        interrupted = False
        # A stage that has ended stays as it is, with the curves of those after it.
        if start < steps:
            bar = training.Progress(steps, start_step=start, quiet=job.quiet)
            curves = Curves(job.run, start_step=start, stage=job.stage, first_step=job.first_step)
            with curves as writer, bar as progress:
                result = training.fit(
                    state,
                    train_step,
                    batches,
                    total_steps=steps,
                    checkpoints=checkpoints,
                    checkpoint_every=config.checkpoint_every,
                    log_every=config.log_every,
                    evaluate_every=max(1, round(config.validate_every * job.epoch_examples / _batch_size(job))),
                    evaluate=_validation(job),
                    best_metric=None if job.validate is None else "validation/loss",
                    schedule=schedule,
                    writer=writer,
                    progress=progress,
                )
            state, interrupted = result.state, result.interrupted
        step = int(state.step)
        if config.use_best and not interrupted and checkpoints.best_step is not None:
            state, _, _ = checkpoints.restore(state, checkpoints.best_step)
    return Outcome(
        variables=evaluation_variables(state, job.lora),
        learned=evaluation_variables(state),
        step=step,
        history=read_curves(job.run),
        interrupted=interrupted,
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - began_cpu,
        examples=max(0, step - start) * _batch_size(job),
    )


def _make_step(job: Job, steps: int) -> tuple[Any, Callable[[int], Any], training.TrainStep]:
    config = job.training
    try:
        # A short run keeps the share of its warm-up small.
        warmup = min(job.optimizer.warmup_steps, steps // 10)
        optimizer, schedule = training.make_optimizer(dataclasses.replace(job.optimizer, warmup_steps=warmup), steps)
        optimizer = _chain(job.first_link, optimizer, job.last_link)
        mesh = mesh_of(_batch_size(job) // config.accumulate)
        loss_fn = job.loss_fn
        if job.lora is not None:
            loss_fn = training.adapt_loss(loss_fn, job.variables[training.FROZEN], job.lora)
        train_step = training.make_train_step(
            loss_fn,
            optimizer,
            strategy=job.strategy,
            mesh=mesh,
            accumulate=config.accumulate,
            ema_decay=config.ema_decay,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    return optimizer, schedule, train_step


def _open_loader(job: Job) -> Any:
    return iter(job.loader)


def _chain(*links: optax.GradientTransformation | None) -> Any:
    given = [link for link in links if link is not None]
    return given[0] if len(given) == 1 else optax.chain(*given)


def _is_frozen(path: str) -> bool:
    return path.startswith(f"model_state/{training.FROZEN}/")


def _planned_steps(job: Job) -> int:
    """Steps of the whole training; those that fit into a time are measured once, and written down to resume."""
    seconds = job.training.seconds
    if seconds is None:
        return total_steps(job)
    path = job.run.path / f"steps{job.stage and '-'}{job.stage}.json"
    if not path.exists():
        write_atomically(path, json.dumps(max(1, round(seconds / _seconds_per_step(job)))) + "\n")
    try:
        return int(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} must hold the number of steps; {error}. Choose another --output.") from error


def _seconds_per_step(job: Job) -> float:
    """Trains a few steps, on a copy of the parameters, and forgets them."""
    job = dataclasses.replace(job, variables=split_adapters(job.variables, job.lora, job.seed))
    optimizer, _, train_step = _make_step(job, 1000)
    state = train_step.prepare(_initial_state(job.variables, optimizer, job.training, job.seed))
    with _open_loader(job) as batches:
        for _ in range(_WARM_UP_STEPS):
            state, measured = train_step(state, next(batches))
        jax.block_until_ready(measured)
        now = {"wall": time.perf_counter, "processor": time.process_time}[job.training.clock]
        began, steps = now(), 0
        while steps < _PACED_STEPS or now() - began < _PACED_SECONDS:
            state, measured = train_step(state, next(batches))
            jax.block_until_ready(measured)
            steps += 1
        return (now() - began) / steps


def restore_variables(
    run: Run,
    variables: Mapping[str, Any],
    config: TrainingConfig,
    optimizer: training.OptimizerConfig,
    stage: str = "",
    *,
    first_link: optax.GradientTransformation | None = None,
    last_link: optax.GradientTransformation | None = None,
    lora: training.LoRAConfig | None = None,
) -> dict[str, Any]:
    """Reads the variables of a trained run.

    Args:
        run: the run directory.
        variables: the model's collections, as arrays or shapes, for their structure; with `lora` arrays, of which
            those that were not learned are taken.
        config: the training's settings.
        optimizer: the optimiser's settings.
        stage: the last stage of the run.
        first_link: of the training's optimiser.
        last_link: likewise.
        lora: of the training.

    Returns:
        The variables to evaluate with.

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    transformation, _ = training.make_optimizer(dataclasses.replace(optimizer, warmup_steps=0), 1)
    transformation = _chain(first_link, transformation, last_link)
    split = split_adapters(variables, lora, 0)
    template = jax.eval_shape(lambda tree: _initial_state(tree, transformation, config, 0), split)
    if lora is not None:
        others = {**template.model_state, training.FROZEN: split[training.FROZEN]}
        template = dataclasses.replace(template, model_state=others)
    with training.Checkpoints(checkpoint_folder(run, stage), leaves_out=_is_frozen, read_only=True) as checkpoints:
        state, _, _ = checkpoints.restore(template, checkpoints.best_step if config.use_best else None)
    return evaluation_variables(state, lora)


def not_empty(examples: Any, part: str) -> Any:
    """Gives the examples of a part of the data if there are any.

    Args:
        examples: of any sequence.
        part: its name, for the message.

    Returns:
        The examples.

    Raises:
        InputError: there is none.
    """
    if not len(examples):
        raise InputError(f"the part {part!r} of the data must not be empty; it has no example. Choose another part.")
    return examples


def check_model(initialise: Callable[[], Any]) -> None:
    """Finds out whether a model can be built, without computing anything.

    Args:
        initialise: makes the variables of the model.

    Raises:
        InputError: its settings do not go together.
    """
    try:
        jax.eval_shape(initialise)
    except (ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"the model must be one that can be built; got: {reason} Change its settings.") from error


def _initial_state(
    variables: Mapping[str, Any], optimizer: Any, config: TrainingConfig, seed: int
) -> training.TrainState:
    return training.TrainState.create(
        params=variables["params"],
        optimizer=optimizer,
        key=jax.random.key(seed + 1),
        model_state={name: value for name, value in variables.items() if name != "params"},
        ema_decay=config.ema_decay,
    )


def mesh_of(batch_size: int) -> Mesh:
    """The mesh that a training of this batch, or micro-batch, runs on.

    Args:
        batch_size: of a micro-batch.

    Returns:
        The most local devices that divide it.
    """
    devices = jax.local_device_count()
    used = max(count for count in range(1, devices + 1) if batch_size % count == 0)
    if used < devices:
        _logger.warning("batches of %d do not divide over %d devices; %d are used", batch_size, devices, used)
    return parallel.make_mesh(used)


def _validation(job: Job) -> Callable[[training.TrainState], dict[str, float]] | None:
    validate = job.validate
    if validate is None:
        return None
    began, looking = time.perf_counter(), 0.0

    def look(state: training.TrainState) -> dict[str, float]:
        nonlocal looking
        start = time.perf_counter()
        # Of the training alone, in this process; without a budget in seconds curves stay the same bit for bit.
        clock = {} if job.training.seconds is None else {"validation/at_seconds": start - began - looking}
        measured = validate(evaluation_variables(state, job.lora))
        found = {f"validation/{name}": value for name, value in measured.items()}
        looking += time.perf_counter() - start
        return {**found, **clock}

    return look


def whole_batches(
    examples: Sequence[Any], transform: Callable[[Any, np.random.Generator], Mapping[str, Any]], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Goes once through examples in batches of one size; the last one is filled up with zeros.

    Args:
        examples: in order.
        transform: of one example to arrays.
        batch_size: at most.

    Yields:
        Batches of arrays `[size, ...]`.
    """
    size = min(batch_size, len(examples))
    loader = data.make_loader(examples, transform, batch_size=size, shuffle=False, seed=0, num_epochs=1)
    for batch in loader:
        short = size - len(next(iter(batch.values())))
        yield {name: np.pad(value, ((0, short),) + ((0, 0),) * (value.ndim - 1)) for name, value in batch.items()}
