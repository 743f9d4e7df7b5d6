"""Train state, train step, optimisers, the loop, checkpoints and logging."""

from fusionjax.training.average import start_average, update_average
from fusionjax.training.checkpoints import Checkpoints
from fusionjax.training.interrupt import InterruptGuard
from fusionjax.training.layer_decay import find_layers, scale_by_layer
from fusionjax.training.loop import BatchIterator, FitResult, fit
from fusionjax.training.lora import FROZEN, LoRAConfig, adapt_loss, init_lora, merge_lora
from fusionjax.training.loss import BatchLoss, LossFunction, LossOutput
from fusionjax.training.optimizer import OptimizerConfig, is_kernel, make_optimizer, make_schedule
from fusionjax.training.progress import Progress
from fusionjax.training.state import TrainState
from fusionjax.training.step import TrainStep, make_train_step
from fusionjax.training.task_weighting import (
    TaskWeighting,
    combine_tasks,
    fixed,
    grad_norm,
    mgda,
    min_norm_weights,
    pc_grad,
    sampling_probabilities,
    uncertainty,
)
from fusionjax.training.tasks import TaskLosses
from fusionjax.training.writer import MetricsWriter

__all__ = [
    "FROZEN",
    "BatchIterator",
    "BatchLoss",
    "Checkpoints",
    "FitResult",
    "InterruptGuard",
    "LoRAConfig",
    "LossFunction",
    "LossOutput",
    "MetricsWriter",
    "OptimizerConfig",
    "Progress",
    "TaskLosses",
    "TaskWeighting",
    "TrainState",
    "TrainStep",
    "adapt_loss",
    "combine_tasks",
    "find_layers",
    "fit",
    "fixed",
    "grad_norm",
    "init_lora",
    "is_kernel",
    "make_optimizer",
    "make_schedule",
    "make_train_step",
    "merge_lora",
    "mgda",
    "min_norm_weights",
    "pc_grad",
    "sampling_probabilities",
    "scale_by_layer",
    "start_average",
    "uncertainty",
    "update_average",
]
