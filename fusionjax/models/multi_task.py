"""Several models that share encoders."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn


class MultiTask(nn.Module):
    """Models of several tasks that share modules, such as their encoders.

    Each task is a whole model (`Captioner`, `VisualQuestionAnswering`, `FusionClassifier`, `DualEncoder`, or another
    that takes a batch), built with the very same module objects wherever they share parameters. Each has a batch of its
    own. `task_model` gives one of them back, with its variables, as if it had been trained alone.

    Attributes:
        shared: the modules that tasks share, by name.
        tasks: the models, by name, holding those modules in their fields.

    Raises:
        ValueError: the batch is for no task, or for one that is not there.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fusionjax import encoders, fusion, models
        >>> image, text = encoders.SimpleCNN(features=(5, 7)), encoders.RNNEncoder(vocab_size=11, features=6)
        >>> towers = models.DualEncoder(image, text, features=8)
        >>> answers = models.VisualQuestionAnswering(image, text, fusion.Concat(), num_answers=3)
        >>> model = MultiTask({"image": image, "text": text}, {"retrieval": towers, "vqa": answers})
        >>> batch = {"image": jnp.zeros((2, 30, 30, 3)), "text": jnp.ones((2, 4), int)}
        >>> both = {"retrieval": batch, "vqa": batch}
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), both)
        >>> sorted(variables["params"])
        ['shared_image', 'shared_text', 'tasks_retrieval', 'tasks_vqa']

    References:
        Caruana, "Multitask Learning", 1997, section 1.2, for shared representations.
    """

    shared: Mapping[str, nn.Module]
    tasks: Mapping[str, nn.Module]

    def __call__(self, batch: Mapping[str, Any], *, deterministic: bool = True) -> dict[str, Any]:
        """Computes the outputs of some or all tasks.

        Args:
            batch: the batch of each task, by its name.
            deterministic: switches dropout off.

        Returns:
            Their outputs, by name.
        """
        unknown = sorted(set(batch) - set(self.tasks))
        if unknown or not batch:
            raise ValueError(
                f"the batch must hold one for each task or for some of them, {', '.join(sorted(self.tasks))}; got "
                f"{', '.join(unknown) or 'none'}. Name them alike."
            )
        return {name: self.tasks[name](one, deterministic=deterministic) for name, one in batch.items()}


def task_model(model: MultiTask, variables: Mapping[str, Any], task: str) -> tuple[nn.Module, dict[str, Any]]:
    """Takes one task out of a model of several.

    Args:
        model: of several tasks.
        variables: its collections, as arrays or shapes.
        task: name of the task.

    Returns:
        Its model, and the variables that it has alone.

    Raises:
        ValueError: there is no such task.
    """
    if task not in model.tasks:
        raise ValueError(f"the task must be one of {', '.join(sorted(model.tasks))}; got {task!r}. Name one of them.")
    alone = model.tasks[task]
    places = _shared_fields(model, alone)
    taken = {}
    for collection, tree in variables.items():
        own = dict(tree.get(f"tasks_{task}", {}))
        own |= {field: tree[f"shared_{name}"] for field, name in places.items() if f"shared_{name}" in tree}
        if own:
            taken[collection] = own
    return alone.clone(parent=None), taken


def task_variables(model: MultiTask, variables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Joins the variables of models of one task each; undoes `task_model`.

    Args:
        model: of several tasks.
        variables: of each task's model alone, by its name; where tasks share a module, the first one's are taken.

    Returns:
        The variables of the whole model.
    """
    joined: dict[str, Any] = {}
    for task, collections in variables.items():
        places = _shared_fields(model, model.tasks[task])
        for collection, tree in collections.items():
            whole = joined.setdefault(collection, {})
            for field, value in tree.items():
                if field in places:
                    whole.setdefault(f"shared_{places[field]}", value)
                else:
                    whole.setdefault(f"tasks_{task}", {})[field] = value
    return joined


def _shared_fields(model: MultiTask, alone: nn.Module) -> dict[str, str]:
    """Names of a task's submodules that are shared, and how the whole model calls them."""
    names = {id(module): name for name, module in model.shared.items()}
    places = {}
    for field in dataclasses.fields(alone):
        value = getattr(alone, field.name, None)
        if id(value) in names:
            places[field.name] = names[id(value)]
        elif isinstance(value, Mapping):
            places |= {f"{field.name}_{key}": names[id(one)] for key, one in value.items() if id(one) in names}
    return places
