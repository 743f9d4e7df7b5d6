"""Records as figures: ratios to the peers, the roofline, curves over a growing size."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusionjax._extras import require
from fusionjax.benchmarks.record import Record
from fusionjax.benchmarks.report import ratio
from fusionjax.benchmarks.results import Results, group_key
from fusionjax.errors import InputError

# One colour for each contender in all figures; distinct also to eyes that do not tell red from green.
_COLORS = {
    "fusionjax": "#0072B2",
    "torch": "#E69F00",
    "torch.compile": "#D55E00",
    "keras-tensorflow": "#009E73",
    "keras-tensorflow-xla": "#7F7F7F",
    "keras-jax": "#56B4E9",
    "flax": "#CC79A7",
    "jimm": "#F0E442",
}


def draw(results: Results, folder: str, name: str) -> list[Path]:
    """Draws ratios where there are peers, a roofline where there are ceilings, and curves where a size grows.

    Args:
        results: of a command.
        folder: where the files go; made if it is not there.
        name: of the command, with which file names begin.

    Returns:
        The files, PNG.

    Raises:
        InputError: the folder cannot be made.
        ImportError: matplotlib is not installed.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--plot must be a folder to write to; got {folder} ({error.strerror}). Choose another."
        ) from None
    require("matplotlib", extra="plots").use("Agg")
    groups = _group(results.records)
    files = []
    if any(len(group) > 1 for group in groups.values()):
        files.append(_save(_ratio_bars(groups), target / f"{name}-ratios.png"))
    if results.ceilings and any(key in results.intensities for key in groups):
        files.append(_save(_roofline(results, groups), target / f"{name}-roofline.png"))
    for axis, records in results.series.items():
        files.append(_save(_curve(axis, records), target / f"{name}-{axis}.png"))
    return files


def _group(records: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(group_key(record), []).append(record)
    return groups


def _new_axes(width: float, height: float) -> tuple[Any, Any]:
    pyplot = require("matplotlib.pyplot", extra="plots")
    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=140)
    require("matplotlib.pyplot", extra="plots").close(figure)
    return path


def _ratio_bars(groups: dict[str, list[Record]]) -> Any:
    """Our time over each peer's; shorter is better, and 1 is as fast as the peer."""
    bars = []
    for group in groups.values():
        ours = next((record for record in group if record.contender == "fusionjax"), None)
        if ours is None:
            continue
        found = [(record.contender, ratio(ours, record)) for record in group if record.contender != "fusionjax"]
        bars.append((_label(group[0]), [(contender, value) for contender, value in found if value]))
    rows = sum(len(values) + 1 for _, values in bars)
    figure, axes = _new_axes(8, 1.2 + 0.24 * rows)
    height, ticks, named = 0.0, [], set()
    for label, values in bars:
        ticks.append((height + (len(values) - 1) / 2, label))
        for contender, value in values:
            legend = None if contender in named else contender
            named.add(contender)
            axes.barh(height, value, 0.85, color=_COLORS.get(contender, "grey"), label=legend)
            axes.text(value, height, f" {value:.2f}", va="center", fontsize=8)
            height += 1
        height += 1
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("our median time / theirs (left of the line: fusionjax is faster)")
    if named:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _label(record: Record) -> str:
    first = next(iter(record.shapes.values()), [0])
    return f"{record.workload}\n{'x'.join(map(str, first))}"


def _roofline(results: Results, groups: dict[str, list[Record]]) -> Any:
    ceilings: Any = results.ceilings
    figure, axes = _new_axes(9, 5)
    points = [
        (results.intensities[key], record)
        for key, group in groups.items()
        for record in group
        # Inference options do other operations than the workload counts.
        if key in results.intensities and record.achieved_tflops and record.implementation == "default"
    ]
    low = min([0.1, *(place / 2 for place, _ in points)])
    high = max([1000.0, *(place * 2 for place, _ in points)])
    corner = 1000 * ceilings.tflops / ceilings.gb_per_second
    xs = [low, min(max(corner, low), high), high]
    ys = [min(ceilings.tflops, x * ceilings.gb_per_second / 1000) for x in xs]
    axes.plot(xs, ys, color="black", linewidth=1.2)
    axes.text(high, ceilings.tflops, f"{ceilings.tflops:.2f} TFLOP/s", ha="right", va="bottom", fontsize=8)
    axes.text(1.5 * xs[0], ys[0], f" {ceilings.gb_per_second:.0f} GB/s", ha="left", va="bottom", fontsize=8)
    named = set()
    for place, record in points:
        legend = None if record.contender in named else record.contender
        named.add(record.contender)
        color = _COLORS.get(record.contender, "grey")
        axes.scatter(place, record.achieved_tflops, color=color, label=legend, s=28, alpha=0.85)
    shown = [(key, group) for key, group in groups.items() if key in results.intensities]
    for letter, (key, group) in zip(string.ascii_letters, shown, strict=False):
        reached = [record.achieved_tflops for record in group if record.achieved_tflops]
        if reached:
            lowest = results.intensities[key], min(reached)
            axes.annotate(letter, lowest, (0, -16), textcoords="offset points", ha="center")
            axes.scatter([], [], marker=f"${letter}$", color="black", label=_label(group[0]).replace("\n", ", "))
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("operations for each byte of inputs and weights")
    axes.set_ylabel("TFLOP/s")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _curve(axis: str, records: Sequence[Record]) -> Any:
    """Milliseconds over the size that grows: of the first input the first, second or third number."""
    place = ("batch", "length", "features").index(axis)
    figure, axes = _new_axes(7, 4.2)
    measured = [(next(iter(record.shapes.values()))[place], record) for record in records if record.median_ms]
    for contender in dict.fromkeys(record.contender for _, record in measured):
        line = sorted((size, record.median_ms) for size, record in measured if record.contender == contender)
        color = _COLORS.get(contender, "grey")
        axes.plot(*zip(*line, strict=True), marker="o", markersize=4, color=color, label=contender)
    sizes = sorted({size for size, _ in measured})
    axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="median ms")
    axes.set_title(records[0].workload, fontsize=10)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    return figure
