"""The commands: each parses its words, calls a recipe and gives a result to show."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from fusionjax import recipes
from fusionjax._extras import require
from fusionjax.benchmarks.commands import COMMANDS, run_command, usage
from fusionjax.cli.parsing import parse, value_of
from fusionjax.errors import InputError
from fusionjax.recipes import comparison, vqa
from fusionjax.recipes import search as searching
from fusionjax.recipes.config import BackboneConfig, DataConfig, DecodingConfig
from fusionjax.recipes.run import open_run
from fusionjax.recipes.zero_shot import TEMPLATES

tyro = require("tyro", extra="cli")

RECIPES: dict[str, ModuleType] = {
    "captioning": recipes.captioning,
    "classification": recipes.classification,
    "multi-task": recipes.multi_task,
    "retrieval": recipes.retrieval,
    "vqa": recipes.vqa,
}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command gives.

    Attributes:
        value: what `--json` prints.
        text: what is printed without it.
        interrupted: whether Ctrl-C ended it.
    """

    value: Any
    text: str
    interrupted: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """What to evaluate on; whatever is not given is as in training.

    Attributes:
        split: the part of the data; `all` takes every part together.
        source: the kind of data.
        path: the folder.
        name: of the TFDS data set.
    """

    split: str = "test"
    source: Literal["scenes", "flickr", "coco", "tfds", "easy-vqa", "sort-of-clevr", "vqa"] | None = None
    path: str | None = None
    name: str | None = None

    def apply(self, config: DataConfig) -> DataConfig:
        """Changes the settings of a run to these."""
        source = self.source
        if source is None and self.path is not None and config.source == "scenes":
            source = "flickr"
        changes: dict[str, Any] = {"source": source, "path": self.path, "name": self.name}
        return dataclasses.replace(config, **{name: value for name, value in changes.items() if value is not None})


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingChanges:
    """How to write captions; whatever is not given is as in the run.

    Attributes:
        method: `beam`, `greedy` or `sample`.
        num_beams: captions followed at once, for `beam`.
        length_penalty: log-probabilities are divided by length to this power, for `beam`.
        temperature: of the sampling.
        top_k: samples from so many words only.
        top_p: samples from the most probable words of this share together.
        seed: of the sampling.
    """

    method: Literal["beam", "greedy", "sample"] | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def apply(self, config: DecodingConfig) -> DecodingConfig:
        """Changes the settings of a run to these."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(config, **given)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The metrics of a trained run, also on other data.

    Attributes:
        run: the run directory.
        data: what to evaluate on.
        decoding: how captions are written.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    data: EvaluationData = EvaluationData()
    decoding: DecodingChanges = DecodingChanges()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionOptions:
    """Captions for photographs, by a run of captioning or by published weights.

    Attributes:
        inputs: image files; before them, without --weights, the run directory.
        weights: a file, a folder, or the id of a model of the Hugging Face hub.
        architecture: of the weights; told from the tensors if not given.
        prompt: words with which every caption of the weights begins, such as `a photo of`.
        max_length: tokens that the weights write at most, after the prompt and with the end; 30 if not given.
        decoding: how captions are written.
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN] PHOTO [PHOTO ...]")]
    weights: str | None = None
    architecture: str | None = None
    prompt: str = ""
    max_length: int | None = None
    decoding: DecodingChanges = DecodingChanges()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskOptions:
    """An answer to a question about a photograph.

    Attributes:
        run: the run directory.
        photograph: an image file.
        question: in words.
        top: answers, the most probable first.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    photograph: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTO")]
    question: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="QUESTION")]
    top: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """Photographs named: by a published classifier, or among any classes by a run of retrieval or a published CLIP.

    Attributes:
        inputs: image files; before them, without --weights, the run directory.
        weights: a file, a folder, or the id of a model of the Hugging Face hub.
        architecture: of the weights; told from the tensors if not given.
        labels: a text file with the names of a classifier's own classes, one a line.
        classes: names to choose among, for a model of images and texts.
        templates: prompts with `{}` for such a name; of several, a class is their mean. By default `a photo of a {}`.
        top: classes shown, the most probable first.
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN] PHOTO [PHOTO ...]")]
    weights: str | None = None
    architecture: str | None = None
    labels: str | None = None
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    top: int = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Weights read under the names of one library and written, with the same values, under those of another.

    Attributes:
        source: a file, a folder, or the id of a model of the Hugging Face hub.
        folder: of the result.
        to: architecture to write, such as resnet-transformers; that of the source if not given.
        architecture: of the source; told from the tensors if not given.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    to: str | None = None
    architecture: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Photographs of a folder that a text describes, found by a run of retrieval or a published CLIP or SigLIP.

    Attributes:
        inputs: the text to search for; before it, without --weights, the run directory.
        images: the folder of the photographs; it is encoded once.
        weights: a folder, or the id of a model of the Hugging Face hub.
        architecture: of the weights; told from the tensors if not given.
        top: photographs, the best first.
        index: kind of the index, as faiss.index_factory takes it; Flat is exact.
        page: where the HTML page goes; search.html, in the run directory if there is one, if not given.
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN] TEXT")]
    images: str
    weights: str | None = None
    architecture: str | None = None
    top: int = 10
    index: str = "Flat"
    page: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Settings of one recipe beside each other; all other options are the recipe's.

    Attributes:
        vary: what is compared, as SETTING=VALUE,VALUE or SETTING=all, such as fusion=concat,mutan; of several, every
            combination.
        seeds: each variant is trained with.
        output: the folder of the comparison; the same command goes on where it was stopped.
        metric: that is compared.
        jobs: runs at the same time, each on its share of the processor's cores.
    """

    vary: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    output: str = "runs/comparison"
    metric: str = "test/accuracy"
    jobs: int = 1


def train(words: Sequence[str]) -> Result:
    """`fusionjax train RECIPE ...`.

    Args:
        words: the recipe and its options.

    Returns:
        The final metrics.

    Raises:
        InputError: bad settings or data.
    """
    name = words[0] if words else ""
    if name in ("--help", "-h"):
        return Result(sorted(RECIPES), f"usage: fusionjax train RECIPE ...\nRECIPE is {_one_of(sorted(RECIPES))}")
    recipe, rest = _recipe("train", name), list(words[1:])
    config = parse(recipe.Config, f"fusionjax train {name}", rest, default=_preset(recipe, rest))
    metrics = recipe.train(config)
    if metrics is None:
        again = shlex.join(["fusionjax", "train", *words])
        print(f"stopped; a checkpoint is saved. To go on: {again}", file=sys.stderr)
        return Result({"interrupted": True, "output": config.output}, "", interrupted=True)
    return Result(metrics, f"{_table(metrics)}\n\nreport: {config.output}/report.html")


def evaluate(words: Sequence[str]) -> Result:
    """`fusionjax evaluate RUN ...`.

    Args:
        words: the run directory and options.

    Returns:
        The metrics.

    Raises:
        InputError: the run or the data cannot be used.
    """
    options = parse(EvaluateOptions, "fusionjax evaluate", words)
    name = open_run(options.run).recipe
    if name not in RECIPES:
        raise InputError(
            f"{options.run} must be a run of {_one_of(sorted(RECIPES))}; it is one of {name!r}. Train one."
        )
    recipe = RECIPES[name]

    def change(config: Any) -> Any:
        changed = dataclasses.replace(config, data=options.data.apply(config.data))
        if hasattr(config, "decoding"):
            changed = dataclasses.replace(changed, decoding=options.decoding.apply(config.decoding))
        return changed

    metrics = recipe.evaluate(options.run, change, split=options.data.split)
    return Result(metrics, _table(metrics))


def caption(words: Sequence[str]) -> Result:
    """`fusionjax caption RUN PHOTO ...`, or `fusionjax caption PHOTO ... --weights FILE`.

    Args:
        words: photographs, after the run directory where there is one, and options.

    Returns:
        A list of `{image, caption, log_probability}`.

    Raises:
        InputError: the run, the weights or a photograph cannot be used.
    """
    options = parse(CaptionOptions, "fusionjax caption", words)
    photographs = _photographs("caption", options)
    if options.weights:
        written = recipes.weights.caption(
            options.weights,
            photographs,
            architecture=options.architecture,
            prompt=options.prompt,
            max_length=options.max_length,
            decoding=options.decoding.apply(DecodingConfig()),
        )
    else:
        _refuse(options, "architecture", "prompt", "max_length", use="--weights", instead="a run")
        written = recipes.captioning.caption(options.inputs[0], photographs, options.decoding.apply)
    rows = [
        {"image": photograph, "caption": one.caption, "log_probability": one.log_probability}
        for photograph, one in zip(photographs, written, strict=True)
    ]
    return Result(rows, "\n".join(f"{row['image']}: {row['caption']}  ({row['log_probability']:.2f})" for row in rows))


def ask(words: Sequence[str]) -> Result:
    """`fusionjax ask RUN PHOTO QUESTION`.

    Args:
        words: the run directory, a photograph, a question and options.

    Returns:
        A list of `{answer, probability}`.

    Raises:
        InputError: the run, the photograph or the question cannot be used.
    """
    options = parse(AskOptions, "fusionjax ask", words)
    found = recipes.vqa.ask(options.run, options.photograph, options.question, top=options.top)
    rows = [dataclasses.asdict(one) for one in found]
    return Result(rows, "\n".join(f"{row['answer']}  ({row['probability']:.3f})" for row in rows))


def classify(words: Sequence[str]) -> Result:
    """`fusionjax classify PHOTO ... --weights FILE`, or with `--classes NAME NAME ...`, also `classify RUN PHOTO ...`.

    Args:
        words: photographs, after the run directory where there is one, and options.

    Returns:
        A list of `{image, top: [{label, probability}]}`.

    Raises:
        InputError: the weights, the run, a photograph or the classes cannot be used.
    """
    options = parse(ClassifyOptions, "fusionjax classify", words)
    photographs = _photographs("classify", options)
    if options.weights:
        if options.classes:
            _refuse(options, "labels", use="a classifier's own classes", instead="--classes")
        else:
            _refuse(options, "templates", use="--classes", instead="none")
        found = recipes.weights.classify(
            options.weights,
            photographs,
            architecture=options.architecture,
            labels=options.labels,
            classes=options.classes,
            templates=options.templates or TEMPLATES,
            top=options.top,
        )
    else:
        _refuse(options, "architecture", "labels", use="--weights", instead="a run")
        found = recipes.retrieval.classify(
            options.inputs[0],
            photographs,
            options.classes,
            options.templates or TEMPLATES,
            top=options.top,
        )
    rows = [
        {"image": photograph, "top": [dataclasses.asdict(one) for one in best]}
        for photograph, best in zip(photographs, found, strict=True)
    ]
    lines = [
        f"{photograph}: {', '.join(f'{one.label} ({one.probability:.3f})' for one in best)}"
        for photograph, best in zip(photographs, found, strict=True)
    ]
    return Result(rows, "\n".join(lines))


def _photographs(command: str, options: CaptionOptions | ClassifyOptions) -> tuple[str, ...]:
    """The image files, which follow the run directory where no weights are given."""
    photographs = options.inputs if options.weights else options.inputs[1:]
    if not photographs:
        after = "" if options.weights else " after the run"
        raise InputError(f"{command} needs at least one photograph{after}; got none. Name image files.")
    return photographs


def _refuse(options: CaptionOptions | ClassifyOptions, *names: str, use: str, instead: str) -> None:
    """Refuses what would have no effect."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in (None, "", ())]
    if given:
        raise InputError(f"{' and '.join(given)} can be used with {use} only; got {instead}. Leave out one of the two.")


def convert(words: Sequence[str]) -> Result:
    """`fusionjax convert SOURCE FOLDER`.

    Args:
        words: the weights, the folder of the result, and options.

    Returns:
        `{from, to, folder}`.

    Raises:
        InputError: the weights cannot be used or written.
    """
    options = parse(ConvertOptions, "fusionjax convert", words)
    names = recipes.weights.convert(options.source, options.folder, to=options.to, architecture=options.architecture)
    value = {"from": names[0], "to": names[1], "folder": options.folder}
    return Result(value, f"{names[0]} to {names[1]}: {options.folder}/model.safetensors")


def search(words: Sequence[str]) -> Result:
    """`fusionjax search RUN TEXT --images DIR`, or `fusionjax search TEXT --weights FOLDER --images DIR`.

    Args:
        words: a text, after the run directory where there is one, and options.

    Returns:
        A list of `{image, score}`.

    Raises:
        InputError: the run, the weights, the text or the folder cannot be used.
    """
    options = parse(SearchOptions, "fusionjax search", words)
    count, expected = (1, "a text") if options.weights else (2, "a run and a text")
    if len(options.inputs) != count:
        raise InputError(f"search needs {expected}; got {shlex.join(options.inputs) or 'none'}. Quote the text.")
    if options.architecture and not options.weights:
        raise InputError("--architecture can be used with --weights only; got a run. Leave out one of the two.")
    text = options.inputs[-1]
    if options.weights:
        embedder = recipes.weights.load_embedder(options.weights, architecture=options.architecture)
    else:
        embedder = recipes.retrieval.load(options.inputs[0])
    searching.check_query(embedder, text, options.top)
    index = searching.build_index(embedder, options.images, kind=options.index)
    hits = index.search(text, top=options.top)
    page = options.page or ("search.html" if options.weights else f"{options.inputs[0]}/search.html")
    searching.write_search_page(page, text, hits)
    rows = [dataclasses.asdict(hit) for hit in hits]
    return Result(rows, "\n".join(f"{hit.score:.3f}  {hit.image}" for hit in hits) + f"\n\npage: {page}")


def compare(words: Sequence[str]) -> Result:
    """`fusionjax compare RECIPE --vary SETTING=VALUE,VALUE ...`.

    Args:
        words: the recipe, what is compared, and the recipe's options.

    Returns:
        A list of rows: variant, seeds, metrics with mean and spread.

    Raises:
        InputError: bad settings, or every run failed.
    """
    name = words[0] if words else ""
    if name in ("--help", "-h"):
        parse(CompareOptions, "fusionjax compare RECIPE", ["--help"])
    recipe = _recipe("compare", name)
    options, rest = parse(CompareOptions, f"fusionjax compare {name}", words[1:], return_unknown_args=True)
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise InputError(f"seeds must be one or more different numbers; got {options.seeds}. Try --seeds 0 1 2.")
    output = Path(options.output)
    trials = comparison.plan_trials(comparison.read_variants(options.vary, recipe.Config), options.seeds, rest, output)
    # What cannot be parsed shows before anything is trained.
    for trial in trials:
        parse(recipe.Config, f"fusionjax train {name}", trial.words, default=_preset(recipe, trial.words))
    rows = comparison.compare(
        name,
        trials,
        output,
        options.metric,
        lambda text: print(text, file=sys.stderr, flush=True),
        jobs=options.jobs,
    )
    table = comparison.write_table(rows, options.metric)
    return Result([dataclasses.asdict(row) for row in rows], f"{table}\n\nfigure: {output / 'comparison.png'}")


def _recipe(command: str, name: str) -> ModuleType:
    if name not in RECIPES:
        raise InputError(f"{command} needs a recipe, {_one_of(sorted(RECIPES))}; got {name!r}. See fusionjax --help.")
    return RECIPES[name]


def _preset(recipe: ModuleType, words: Sequence[str]) -> Any:
    """The settings that suit the source and, in a recipe that has settings for each of them, the fusion."""
    source = value_of(words, "--data.source", "scenes")
    if recipe is not vqa:
        return recipe.preset(source, **_backbones(recipe, words))
    fusion: Any = value_of(words, "--fusion", vqa.Config.fusion)
    # One that is unknown is left to the parser, which lists them.
    return vqa.preset(source, fusion) if fusion in comparison.choices_of(vqa.Config, "fusion") else vqa.preset(source)


def _backbones(recipe: ModuleType, words: Sequence[str]) -> dict[str, BackboneConfig]:
    """The published encoders that are asked for, on which the other settings depend too."""
    found: dict[str, BackboneConfig] = {}
    for name in ("image", "text"):
        plain = getattr(recipe.Config, name, None)
        weights = value_of(words, f"--{name}.weights", "")
        if isinstance(plain, BackboneConfig) and weights:
            tune: Any = value_of(words, f"--{name}.tune", plain.tune)
            # One that is unknown is left to the parser, which lists them.
            tune = tune if tune in comparison.choices_of(type(plain), "tune") else plain.tune
            architecture = value_of(words, f"--{name}.architecture", "") or None
            found[name] = dataclasses.replace(plain, weights=weights, architecture=architecture, tune=tune)
    return found


def bench(words: Sequence[str]) -> Result:
    """`fusionjax bench WORKLOAD ...`.

    Args:
        words: the workload and options.

    Returns:
        A list of benchmark records.

    Raises:
        InputError: an unknown workload.
    """
    name = words[0] if words else ""
    if name in ("--help", "-h"):
        return Result(list(COMMANDS), usage())
    if name not in COMMANDS:
        raise InputError(
            f"bench needs a workload, {_one_of(list(COMMANDS))}; got {name!r}. See fusionjax bench --help."
        )
    records, text = run_command(name, parse(COMMANDS[name].options, f"fusionjax bench {name}", words[1:]))
    return Result(records, text)


def _one_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _table(metrics: dict[str, float]) -> str:
    width = max(len(name) for name in metrics)
    return "\n".join(f"{name:{width}s}  {value:.4f}" for name, value in metrics.items())
