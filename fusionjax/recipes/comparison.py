"""Several settings of one recipe, each trained with several seeds, in one table."""

import concurrent.futures
import dataclasses
import itertools
import json
import math
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusionjax._extras import require
from fusionjax.errors import InputError
from fusionjax.recipes.run import write_atomically

# Columns beside the quality, where a recipe measures them: title, metric, and what to divide it by.
_COSTS = (
    ("parameters", "model/parameters", 1.0),
    ("GFLOP an example", "model/gflops", 1.0),
    ("trained on, examples/s", "train/examples_per_second", 1.0),
    ("answered, questions/s", "test/questions_per_second", 1.0),
    ("peak memory, MB", "process/peak_memory_mb", 1.0),
    ("s to 99 %", "train/seconds_to_99", 1.0),
)
_START = "import sys; from fusionjax.cli import main; sys.exit(main(sys.argv[1:]))"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a comparison.

    Attributes:
        variant: what is compared, such as `mutan`.
        seed: of the run.
        words: of the command line after `fusionjax train RECIPE`.
        folder: the run directory.
    """

    variant: str
    seed: int
    words: tuple[str, ...]
    folder: Path


@dataclasses.dataclass(frozen=True)
class Row:
    """What the runs of one variant gave.

    Attributes:
        variant: its name.
        seeds: how many runs ended.
        metrics: by name, the mean and the standard deviation over the seeds; the latter is not a number for one seed.
        error: of the last run that failed; None if none did.
    """

    variant: str
    seeds: int
    metrics: dict[str, tuple[float, float]]
    error: str | None = None


def choices_of(kind: type, path: str) -> tuple[str, ...]:
    """Lists the values that a setting can take.

    Args:
        kind: the config dataclass.
        path: of the setting, such as `model.cell`.

    Returns:
        The values of its `Literal`.

    Raises:
        InputError: there is no such setting, or its values are not listed.

    Example:
        >>> from fusionjax.recipes.config import DecodingConfig
        >>> choices_of(DecodingConfig, "method")
        ('beam', 'greedy', 'sample')
    """
    hint: Any = kind
    for name in path.split("."):
        hints = typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else {}
        if name not in hints:
            known = ", ".join(hints) or "none"
            raise InputError(f"there is no setting {path!r}; at {name!r} there are {known}. Name one of these.")
        hint = hints[name]
    values = typing.get_args(hint)
    if not values or not all(isinstance(value, str) for value in values):
        raise InputError(f"the values of {path} are not a list of names; got all. Name the values to compare.")
    return values


def read_variants(entries: Sequence[str], kind: type) -> list[tuple[str, tuple[str, ...]]]:
    """Reads what is varied.

    Args:
        entries: each `SETTING=VALUE,VALUE`, or `SETTING=all`; of several, every combination.
        kind: the recipe's config dataclass.

    Returns:
        The variants: name and words of the command line.

    Raises:
        InputError: an entry cannot be read.

    Example:
        >>> from fusionjax.recipes.config import DecodingConfig
        >>> read_variants(["method=beam,greedy"], DecodingConfig)
        [('beam', ('--method', 'beam')), ('greedy', ('--method', 'greedy'))]
    """
    axes = []
    for entry in entries:
        path, separator, listed = entry.partition("=")
        values = tuple(value.strip() for value in listed.split(",") if value.strip())
        if not separator or not path or not values:
            raise InputError(
                f"what is varied must read SETTING=VALUE,VALUE, such as fusion=concat,mutan; got {entry!r}. Correct it."
            )
        if values == ("all",):
            values = choices_of(kind, path)
        repeated = sorted({value for value in values if values.count(value) > 1})
        if repeated:
            raise InputError(f"each value of {path} must be named once; got {', '.join(repeated)} twice. Remove one.")
        axes.append([(value, ("--" + path.replace("_", "-"), value)) for value in values])
    if not axes:
        raise InputError("a comparison needs something to vary; got nothing. Add --vary SETTING=VALUE,VALUE.")
    return [
        (" ".join(name for name, _ in combination), tuple(word for _, words in combination for word in words))
        for combination in itertools.product(*axes)
    ]


def plan_trials(
    variants: Iterable[tuple[str, tuple[str, ...]]], seeds: Sequence[int], words: Sequence[str], output: Path
) -> list[Trial]:
    """Lists the runs, every variant with the first seed before any with the second.

    Args:
        variants: of `read_variants`.
        seeds: of the runs.
        words: what all share.
        output: the folder of the comparison.

    Returns:
        The runs.
    """
    listed = list(variants)
    trials = []
    for seed in seeds:
        for name, own in listed:
            folder = output / name.replace(" ", "-").replace("/", "-") / f"seed-{seed}"
            own_words = (*words, *own, "--seed", str(seed), "--output", str(folder))
            trials.append(Trial(name, seed, own_words, folder))
    return trials


def share_cores(jobs: int) -> list[tuple[int, ...]]:
    """Divides the processor's cores among runs at the same time.

    Args:
        jobs: how many runs.

    Returns:
        The cores of each; as many for one as for another.

    Raises:
        InputError: there are fewer cores than runs, or the system cannot keep a process to its cores.
    """
    if jobs < 1:
        raise InputError(f"jobs must be 1 or more; got {jobs}. Try 1.")
    if not hasattr(os, "sched_getaffinity"):
        raise InputError(f"jobs must be 1 where a process cannot be kept to its cores; got {jobs}. Leave it out.")
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        raise InputError(f"jobs must be at most the {len(cores)} cores there are; got {jobs}. Lower it.")
    size = len(cores) // jobs
    return [tuple(cores[size * job : size * (job + 1)]) for job in range(jobs)]


def run_trial(recipe: str, trial: Trial, cores: tuple[int, ...] | None = None) -> str | None:
    """Trains one run in a process of its own, or goes on with it, unless it has ended already.

    Args:
        recipe: the name of the recipe.
        trial: what to run.
        cores: of the processor, that it is kept to; None for all.

    Returns:
        None if it ended well, else the last line that it said.

    Raises:
        KeyboardInterrupt: it was stopped by Ctrl-C.
    """
    if (trial.folder / "process.json").exists():
        return None
    trial.folder.parent.mkdir(parents=True, exist_ok=True)
    log = trial.folder.with_name(f"{trial.folder.name}.log")
    start = _START if cores is None else f"import os; os.sched_setaffinity(0, {cores}); {_START}"
    command = [sys.executable, "-c", start, "train", recipe, *trial.words, "--json"]
    began = time.perf_counter()
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            # It has had the signal too, and saves.
            os.waitpid(process.pid, 0)
            raise
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code == 130:
        raise KeyboardInterrupt
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with code {code}"
    # The system counts in KiB.
    found = {"peak_memory_mb": usage.ru_maxrss * 1024 / 1e6, "seconds": time.perf_counter() - began}
    write_atomically(trial.folder / "process.json", json.dumps(found) + "\n")
    return None


def read_trial(trial: Trial) -> dict[str, float] | None:
    """Reads what a run gave.

    Args:
        trial: the run.

    Returns:
        Its metrics, with those of its process as `process/...`; None if it has not ended.
    """
    try:
        metrics = json.loads((trial.folder / "metrics.json").read_text(encoding="utf-8"))
        process = json.loads((trial.folder / "process.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {**metrics, **{f"process/{name}": value for name, value in process.items()}}


def summarise(trials: Sequence[Trial], errors: Mapping[Trial, str]) -> list[Row]:
    """Gives the mean and the spread of every metric over the seeds of each variant.

    Args:
        trials: all runs.
        errors: of those that failed.

    Returns:
        A row for each variant, in their order.
    """
    rows = []
    for name in dict.fromkeys(trial.variant for trial in trials):
        own = [trial for trial in trials if trial.variant == name]
        found = [metrics for metrics in map(read_trial, own) if metrics is not None]
        metrics = {}
        for key in sorted({key for one in found for key in one}):
            values = [one[key] for one in found if key in one and math.isfinite(one[key])]
            if values:
                metrics[key] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan)
        error = next((errors[trial] for trial in reversed(own) if trial in errors), None)
        rows.append(Row(name, len(found), metrics, error))
    return rows


def write_table(rows: Sequence[Row], quality: str) -> str:
    """Writes the rows as a Markdown table, the best first.

    Args:
        rows: of `summarise`.
        quality: the metric by which the rows are ordered; those whose names begin with it and `/` follow it.

    Returns:
        The table.

    Example:
        >>> print(write_table([Row("mutan", 1, {"test/accuracy": (0.9, math.nan)})], "test/accuracy"))
        | variant | seeds | test/accuracy |
        | --- | --- | --- |
        | mutan | 1 | .9000 |
    """
    parts = sorted({key for row in rows for key in row.metrics if key.startswith(f"{quality}/")})
    costs = [cost for cost in _COSTS if any(cost[1] in row.metrics for row in rows)]
    titles = [
        "variant",
        "seeds",
        quality,
        *(part.removeprefix(f"{quality}/") for part in parts),
        *(cost[0] for cost in costs),
    ]
    lines = [f"| {' | '.join(titles)} |", f"| {' | '.join(['---'] * len(titles))} |"]
    for row in sorted(rows, key=lambda row: -row.metrics.get(quality, (-math.inf, 0))[0]):
        cells = [row.variant, str(row.seeds)]
        cells += [_share(row.metrics.get(name)) for name in (quality, *parts)]
        cells += [_number(row.metrics.get(name)) for _, name, _ in costs]
        lines.append(f"| {' | '.join(cells)} |" + (f" failed: {row.error}" if row.error else ""))
    return "\n".join(lines)


def draw_comparison(rows: Sequence[Row], quality: str, path: Path) -> bool:
    """Draws quality against cost.

    Args:
        rows: of `summarise`.
        quality: the metric upwards, shares on a logit scale; across are operations or, where they are not counted,
            parameters.
        path: of the picture, PNG.

    Returns:
        Whether there was anything to draw.

    Raises:
        ImportError: matplotlib is not installed.
    """
    cost = next(
        (name for name in ("model/gflops", "model/parameters") if any(name in row.metrics for row in rows)), None
    )
    shown = [row for row in rows if cost in row.metrics and quality in row.metrics]
    if cost is None or not shown:
        return False
    require("matplotlib", extra="plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for row in shown:
        mean, spread = row.metrics[quality]
        yerr = 0 if math.isnan(spread) else spread
        axes.errorbar(row.metrics[cost][0], mean, yerr=yerr, fmt="o", capsize=3, color="#1f5fa8")
    axes.set_xscale("log")
    if all(0 < row.metrics[quality][0] < 1 for row in shown):
        # .9, .99 and .999 lie as far apart from each other.
        axes.set_yscale("logit", nonpositive="clip")
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.6f}".strip("0"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15)  # for the last name
    axes.set_xlabel("operations of an example, 10^9" if cost == "model/gflops" else "parameters")
    axes.set_ylabel(f"{quality}, mean and standard deviation over seeds")
    axes.grid(alpha=0.3)
    figure.draw_without_rendering()
    _write_names(axes, [(row.variant, row.metrics[cost][0], row.metrics[quality][0]) for row in shown])
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def _write_names(axes: Any, points: Sequence[tuple[str, float, float]]) -> None:
    """Writes each name beside its point, higher where another already stands."""
    taken: list[tuple[float, float, float]] = []
    for name, x, y in sorted(points, key=lambda point: point[2]):
        left, bottom = axes.transData.transform((x, y))
        left, right, bottom = left + 5, left + 5 + 6 * len(name), bottom + 4
        while any(start < right and left < end and abs(bottom - other) < 11 for start, end, other in taken):
            bottom += 1
        taken.append((left, right, bottom))
        axes.annotate(
            name, (x, y), xytext=axes.transData.inverted().transform((left, bottom)), fontsize=8, annotation_clip=False
        )


def compare(
    recipe: str,
    trials: Sequence[Trial],
    output: Path,
    quality: str,
    say: Callable[[str], None] = lambda text: None,
    *,
    jobs: int = 1,
) -> list[Row]:
    """Runs what has not ended yet, and writes `comparison.json`, `comparison.md` and `comparison.png` after each run.

    Args:
        recipe: the name of the recipe.
        trials: of `plan_trials`.
        output: the folder of the comparison.
        quality: the metric that is compared.
        say: shows progress.
        jobs: runs at the same time, each on its share of the processor's cores.

    Returns:
        The rows.

    Raises:
        InputError: every run failed, or there are too many jobs.
        ImportError: matplotlib is not installed; nothing has run then.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    require("matplotlib", extra="plots")
    shares: queue.SimpleQueue[tuple[int, ...] | None] = queue.SimpleQueue()
    for share in [None] if jobs == 1 else share_cores(jobs):
        shares.put(share)

    stopped = threading.Event()

    def work(place: int, trial: Trial) -> str | None:
        if stopped.is_set():
            raise KeyboardInterrupt
        say(f"{place} of {len(trials)}: {trial.variant}, seed {trial.seed}")
        share = shares.get()
        try:
            return run_trial(recipe, trial, share)
        except KeyboardInterrupt:
            stopped.set()
            raise
        finally:
            shares.put(share)

    errors: dict[Trial, str] = {}
    rows: list[Row] = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(work, place, trial): trial for place, trial in enumerate(trials, start=1)}
        try:
            for ended in concurrent.futures.as_completed(running):
                trial, error = running[ended], ended.result()
                if error is not None:
                    errors[trial] = error
                    say(f"  {trial.variant}, seed {trial.seed} failed: {error}")
                rows = summarise(trials, errors)
                records = [dataclasses.asdict(row) for row in rows]
                text = json.dumps(records, indent=1).replace("NaN", "null")
                write_atomically(output / "comparison.json", text + "\n")
                write_atomically(output / "comparison.md", write_table(rows, quality) + "\n")
        except BaseException:
            # Nothing more begins. After Ctrl-C those that run have had the signal too, and save.
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    if len(errors) == len(trials):
        raise InputError(f"one run at least must end; all {len(trials)} failed, the last with: {errors[trials[-1]]}")
    draw_comparison(rows, quality, output / "comparison.png")
    return rows


def _share(found: tuple[float, float] | None) -> str:
    if found is None:
        return "-"
    mean, spread = (f"{value:.4f}".removeprefix("0") for value in found)
    return mean if math.isnan(found[1]) else f"{mean} ± {spread}"


def _number(found: tuple[float, float] | None) -> str:
    return "-" if found is None else f"{found[0]:,.4g}" if found[0] < 1000 else f"{found[0]:,.0f}"
