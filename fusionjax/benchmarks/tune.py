"""The table of choices: the best implementation of each operation and shape class, as measured."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusionjax.benchmarks.record import Record
from fusionjax.ops.choices import Choice

REFERENCE, PLAIN = "xla", "plain"
# An implementation serves both directions: what gains in one must not lose more than this to plain Flax in the other
# (or, where all lose more, not much more than the others),
MOST_LOSS, TOLERANCE = 1.1, 1.05
# and it must be worth more compilation than the reference.
LEAST_GAIN = 1.03

# Its gradients are XLA's own. Inside of a loop over micro-batches, where `conv2d_relu_max_pool_stages` puts them, the
# whole training step of the fusion model took four times as long with them.
_UNSUITED = {("cpu", "conv2d_relu_max_pool", "stacked")}

Times = dict[str, float]  # milliseconds by implementation


def best_choices(records: Sequence[Record], platform: str) -> list[Choice]:
    """Finds the best named implementation of each operation, shape class and dtype, for both directions together.

    An operation does not know whether gradients will be asked for. So the forward pass and training count alike: what
    is compared is the geometric mean, over both and over the cases of a class, of the times relative to plain Flax's.
    The least wins among those that take at most 1.1 times as long as plain Flax in every case and direction, or, where
    none does, among those whose worst ratio is within 5 % of the least. What gains less than 3 % on the reference
    (`"xla"`) is left to it. A time is the shortest sample, since interference only adds to it.

    Args:
        records: of `bench ops`, one shape class after another.
        platform: that they were measured on: `cpu`, `gpu` or `tpu`.

    Returns:
        The rows.

    Example:
        >>> times = {"plain": (2.0, 10.0), "taps": (2.1, 5.9), "xla": (1.9, 10.1)}
        >>> records = [
        ...     Record(
        ...         contender="any", implementation=name, samples_ms=[each], dtype="float32", shapes={},
        ...         workload=f"conv2d-{direction}, dilation", versions={"jax": "0.10.2"},
        ...     )
        ...     for name, pair in times.items()
        ...     for each, direction in zip(pair, ("forward", "train"))
        ... ]
        >>> best_choices(records, "cpu")[0].implementation, best_choices(records, "cpu")[0].gain
        ('taps', 1.271)
    """
    classes: dict[tuple[str, str, str, str], dict[str, dict[str, Times]]] = {}
    for record in records:
        if not record.samples_ms or record.error:
            continue
        operation, _, shape_class = record.workload.partition(", ")
        op, _, direction = operation.rpartition("-")
        key = ".".join(record.versions["jax"].split(".")[:2]), op, shape_class, record.dtype
        case = classes.setdefault(key, {}).setdefault(str(record.shapes), {})
        case.setdefault(direction, {})[record.implementation] = min(record.samples_ms)
    rows = []
    for key, cases in classes.items():
        unsuited = {name for on, op, name in _UNSUITED if (on, op) == (platform, key[1])}
        costs = _costs(list(cases.values()), unsuited)
        if costs:
            best = min(costs, key=lambda name: costs[name] * (LEAST_GAIN if name != REFERENCE else 1.0))
            rows.append(Choice(platform, *key, best, round(1 / costs[best], 3)))
    return rows


def _costs(cases: list[dict[str, Times]], unsuited: set[str]) -> Times:
    """Returns the time over plain Flax's, of the implementations that never lose much."""
    if not all(len(case) == 2 for case in cases):
        return {}
    names = set.intersection(*[set(times) for case in cases for times in case.values()]) - {"default", PLAIN} - unsuited
    losses = {name: max(times[name] / times[PLAIN] for case in cases for times in case.values()) for name in names}
    limit = max(MOST_LOSS, TOLERANCE * min(losses.values(), default=0))
    return {
        name: statistics.geometric_mean(times[name] / times[PLAIN] for case in cases for times in case.values())
        for name in sorted(names)
        if losses[name] <= limit
    }


def write_choices(path: str, rows: Sequence[Choice]) -> None:
    """Writes the rows as JSON, one a line; those of other platforms, versions, dtypes and operations are kept.

    Args:
        path: of the file, which may not be there yet.
        rows: of `best_choices`.
    """
    file = Path(path)
    new = [row._asdict() for row in rows]
    replaced = {_group(row) for row in new}
    before: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    merged = sorted([row for row in before if _group(row) not in replaced] + new, key=_group)
    lines = ",\n ".join(json.dumps(row) for row in merged)
    file.write_text(f"[{lines}]\n")


def _group(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["platform"], row["jax"], row["dtype"], row["op"]
