"""Comparisons: what is varied, what runs, what is written, and going on."""

import json
import math
import os
import sys

import pytest
from matplotlib.figure import Figure

from fusionjax.errors import InputError
from fusionjax.recipes import comparison
from fusionjax.recipes.comparison import (
    Row,
    Trial,
    choices_of,
    plan_trials,
    read_variants,
    share_cores,
    summarise,
    write_table,
)
from fusionjax.recipes.vqa import VQAConfig


@pytest.fixture
def trials(tmp_path):
    variants = read_variants(["fusion=concat,mutan"], VQAConfig)
    return plan_trials(variants, (3, 5), ["--data.size", "7"], tmp_path)


def end(trial, metrics, process=None):
    trial.folder.mkdir(parents=True)
    (trial.folder / "metrics.json").write_text(json.dumps(metrics))
    if process is not None:
        (trial.folder / "process.json").write_text(json.dumps(process))


def test_the_choices_of_a_setting():
    assert choices_of(VQAConfig, "model.cell") == ("lstm", "gru", "elman")
    assert {"concat", "film_encoder", "q_former"} <= set(choices_of(VQAConfig, "fusion"))


def test_every_combination_of_what_is_varied():
    found = read_variants(["fusion=concat, mutan", "model.cell=gru,lstm"], VQAConfig)
    assert [name for name, _ in found] == ["concat gru", "concat lstm", "mutan gru", "mutan lstm"]
    assert found[3][1] == ("--fusion", "mutan", "--model.cell", "lstm")
    assert len(read_variants(["model.cell=all"], VQAConfig)) == 3


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["fusion"], r"must read SETTING=VALUE,VALUE, such as fusion=concat,mutan; got 'fusion'. Correct it."),
        (["fusion="], r"must read SETTING=VALUE,VALUE, such as fusion=concat,mutan; got 'fusion='. Correct it."),
        (["fusion=concat,concat"], r"each value of fusion must be named once; got concat twice. Remove one."),
        ([], r"a comparison needs something to vary; got nothing. Add --vary SETTING=VALUE,VALUE."),
        (
            ["model.core=all"],
            r"there is no setting 'model.core'; at 'core' there are cnn_features, .* Name one of these.",
        ),
        (["seed=all"], r"the values of seed are not a list of names; got all. Name the values to compare."),
    ],
)
def test_what_cannot_be_varied(entries, message):
    with pytest.raises(InputError, match=message):
        read_variants(entries, VQAConfig)


def test_all_variants_have_a_seed_before_any_has_the_next(trials, tmp_path):
    assert [(trial.variant, trial.seed) for trial in trials] == [
        ("concat", 3), ("mutan", 3), ("concat", 5), ("mutan", 5),
    ]  # fmt: skip
    last = "--data.size", "7", "--fusion", "mutan", "--seed", "5", "--output", str(tmp_path / "mutan" / "seed-5")
    assert trials[3].words == last


def test_means_and_spreads_over_the_seeds_that_ended(trials):
    end(
        trials[0], {"test/accuracy": 0.5, "test/accuracy/count": 0.25, "model/gflops": 0.125}, {"peak_memory_mb": 100.0}
    )
    end(trials[2], {"test/accuracy": 0.7, "test/accuracy/count": float("nan")}, {"peak_memory_mb": 300.0})
    end(trials[1], {"test/accuracy": 0.9}, {"peak_memory_mb": 200.0})
    end(trials[3], {"test/accuracy": 0.1})  # its process has not ended
    rows = summarise(trials, {trials[3]: "it broke"})
    assert [(row.variant, row.seeds, row.error) for row in rows] == [("concat", 2, None), ("mutan", 1, "it broke")]
    assert rows[0].metrics["test/accuracy"] == pytest.approx((0.6, 0.2**0.5 * 0.1 * 10**0.5))
    assert rows[0].metrics["process/peak_memory_mb"][0] == 200
    assert rows[0].metrics["test/accuracy/count"][0] == 0.25
    assert rows[1].metrics["test/accuracy"][0] == 0.9 and math.isnan(rows[1].metrics["test/accuracy"][1])
    table = write_table(rows, "test/accuracy").splitlines()
    assert table[0] == "| variant | seeds | test/accuracy | count | GFLOP an example | peak memory, MB |"
    assert table[2] == "| mutan | 1 | .9000 | - | - | 200 | failed: it broke"
    assert table[3] == "| concat | 2 | .6000 ± .1414 | .2500 | 0.125 | 200 |"


def test_a_figure_of_quality_against_cost(tmp_path):
    rows = [
        Row("mutan", 1, {"test/accuracy": (0.9, math.nan), "model/gflops": (0.1, math.nan)}),
        # A spread beyond all that a share can be.
        Row("concat", 2, {"test/accuracy": (0.99, 0.02), "model/gflops": (0.2, 0.0)}),
    ]
    assert comparison.draw_comparison(rows, "test/accuracy", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert not comparison.draw_comparison(rows, "test/cider", tmp_path / "none.png")


def test_names_in_the_figure_do_not_cover_each_other():
    axes = Figure(figsize=(9, 5)).add_subplot()
    points = [("mutan", 1.0, 2.0), ("concat", 1.0, 2.01), ("film", 1.0, 2.02), ("mlb", 9.0, 2.0)]
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 4)
    comparison._write_names(axes, points)
    places = {text.get_text(): axes.transData.transform(text.xyann) for text in axes.texts}
    up = [places[name][1] for name in ("mutan", "concat", "film")]
    assert up[1] - up[0] >= 11 and up[2] - up[1] >= 11
    assert places["mlb"][1] == pytest.approx(up[0])
    assert places["concat"][0] == pytest.approx(axes.transData.transform((1.0, 2.0))[0] + 5)


@pytest.fixture
def pretend(monkeypatch):
    """In place of a training, a process that does as its fusion says, and notes that it ran."""
    program = """
import json, pathlib, sys
words = sys.argv[1:]
folder = pathlib.Path(words[words.index("--output") + 1])
fusion = words[words.index("--fusion") + 1]
print("the fusion must be another; got", fusion)
if fusion == "mutan":
    sys.exit(2)
folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.json").write_text(json.dumps({"test/accuracy": 0.5, "model/parameters": 7.0}))
with (folder / "ran").open("a") as file:
    file.write("x")
"""
    monkeypatch.setattr(comparison, "_START", program)


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.wait4")
def test_runs_once_notes_failures_and_goes_on(pretend, trials, tmp_path):
    said = []
    rows = comparison.compare("vqa", trials[:2], tmp_path, "test/accuracy", said.append)
    assert [(row.variant, row.seeds, row.error) for row in rows] == [
        ("concat", 1, None),
        ("mutan", 0, "the fusion must be another; got mutan"),
    ]
    assert rows[0].metrics["process/peak_memory_mb"][0] > 1
    assert (
        said[0] == "1 of 2: concat, seed 3"
        and said[-1] == "  mutan, seed 3 failed: the fusion must be another; got mutan"
    )
    assert "| concat | 1 | .5000 | 7 |" in (tmp_path / "comparison.md").read_text()
    assert json.loads((tmp_path / "comparison.json").read_text())[1]["seeds"] == 0
    assert (tmp_path / "comparison.png").exists()
    comparison.compare("vqa", trials[:1], tmp_path, "test/accuracy")
    assert (trials[0].folder / "ran").read_text() == "x"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs os.sched_getaffinity")
def test_runs_at_the_same_time_have_cores_of_their_own(monkeypatch, tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    # Each waits until the other runs too.
    program = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
folder.mkdir(parents=True)
while len(list(folder.parent.parent.glob("*/seed-0"))) < 2:
    time.sleep(0.01)
cores = sorted(os.sched_getaffinity(0))
(folder / "metrics.json").write_text(json.dumps({"test/accuracy": cores[0], "cores": len(cores)}))
"""
    monkeypatch.setattr(comparison, "_START", program)
    trials = plan_trials(read_variants(["fusion=concat,mutan"], VQAConfig), (0,), [], tmp_path)
    rows = comparison.compare("vqa", trials, tmp_path, "test/accuracy", jobs=2)
    assert {row.metrics["test/accuracy"][0] for row in rows} == {cores[0], cores[len(cores) // 2]}
    assert [row.metrics["cores"][0] for row in rows] == [len(cores) // 2] * 2


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (0, r"jobs must be 1 or more; got 0. Try 1."),
        (99_991, r"jobs must be at most the \d+ cores there are; got 99991. Lower it."),
    ],
)
def test_jobs_that_cannot_be(jobs, message):
    with pytest.raises(InputError, match=message):
        share_cores(jobs)


def test_jobs_where_a_process_cannot_be_kept_to_its_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    message = r"jobs must be 1 where a process cannot be kept to its cores; got 2. Leave it out."
    with pytest.raises(InputError, match=message):
        share_cores(2)


def test_where_every_run_fails(pretend, trials, tmp_path):
    message = r"one run at least must end; all 1 failed, the last with: the fusion must be another; got mutan"
    with pytest.raises(InputError, match=message):
        comparison.compare("vqa", trials[1:2], tmp_path, "test/accuracy")


def test_nothing_more_begins_where_the_table_cannot_be_written(pretend, tmp_path, monkeypatch):
    def refuse(path, text):
        if path.name.startswith("comparison"):
            raise OSError("no space left")

    monkeypatch.setattr(comparison, "write_atomically", refuse)
    said = []
    many = plan_trials(read_variants(["fusion=concat"], VQAConfig), range(9), [], tmp_path)
    with pytest.raises(OSError, match="no space left"):
        comparison.compare("vqa", many, tmp_path, "test/accuracy", said.append)
    assert len(said) <= 3


def test_ctrl_c_in_a_run_ends_the_comparison(monkeypatch, tmp_path):
    monkeypatch.setattr(comparison, "_START", "import sys; sys.exit(130)")
    trials = [Trial(name, 0, (), tmp_path / name / "seed-0") for name in ("concat", "mutan")]
    said = []
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        comparison.compare("vqa", trials, tmp_path, "test/accuracy", said.append)
    assert said == ["1 of 2: concat, seed 0"]
    assert not (tmp_path / "comparison.md").exists()


def test_without_matplotlib_nothing_runs(pretend, trials, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'needs the module .matplotlib.* pip install "fusionjax\[plots\]"'):
        comparison.compare("vqa", trials, tmp_path, "test/accuracy")
    assert not list(tmp_path.iterdir())
