"""Several tasks in one model: captions, answers, classes and retrieval of the same images, on shared encoders."""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from fusionjax import data, encoders, models, training
from fusionjax.errors import InputError
from fusionjax.recipes import captioning, classification, engine, retrieval, vqa
from fusionjax.recipes.captions import CaptionTransform
from fusionjax.recipes.config import DataConfig, TrainingConfig, require_not_negative, require_positive
from fusionjax.recipes.fusions import FusionName, FusionSizes, build_fusion
from fusionjax.recipes.questions import (
    QuestionTransform,
    Vocabulary,
    encode_questions,
    learn_vocabulary,
    read_questions,
)
from fusionjax.recipes.report import CaptionSample, write_report
from fusionjax.recipes.run import Run, finished_metrics, open_run, start_run, write_atomically
from fusionjax.recipes.sources import DataParts, Examples
from fusionjax.recipes.writing import CaptionWriter

RECIPE = "multi-task"
TaskName = Literal["captioning", "vqa", "classification", "retrieval"]
WeightingName = Literal["fixed", "uncertainty", "grad_norm", "pc_grad", "mgda", "mgda_normalized"]

_logger = logging.getLogger("fusionjax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model's shape: what the tasks share, and their heads.

    Attributes:
        cnn_features: of each stage of the image encoder.
        downsampling: in its stages, by max-pooling or by strides of the convolutions.
        normalization: in its stages.
        image_pooling: of its cells to the vector that fusions of vectors and two towers read.
        word_features: of the word vectors.
        text_features: of the text encoder's states.
        text_layers: recurrent layers of it; 0 averages the word vectors.
        cell: of the text encoder.
        fusion: of image and text, for answers and classes.
        features: width of the fusions, of the decoder and of the space of the two towers.
        fusion_layers: of a fusion that has layers.
        num_heads: of every attention.
        hidden_features: of fully connected layers before answers and classes.
        dropout_rate: on image cells, words and fused features.
    """

    cnn_features: tuple[int, ...] = (16, 32, 64, 64)
    downsampling: Literal["pool", "strides"] = "strides"
    normalization: Literal["group", "batch"] | None = "batch"
    image_pooling: Literal["flatten", "mean", "max", "attention"] = "flatten"
    word_features: int = 32
    text_features: int = 64
    text_layers: int = 1
    cell: Literal["lstm", "gru", "elman"] = "gru"
    fusion: FusionName = "low_rank_tensor"
    features: int = 128
    fusion_layers: int = 1
    num_heads: int = 4
    hidden_features: tuple[int, ...] = (128,)
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        require_not_negative(self, "text_layers")
        require_positive(self, "word_features", "text_features", "features", "fusion_layers", "num_heads")
        if not self.cnn_features or min(self.cnn_features) < 1:
            raise InputError(f"cnn_features must be one or more sizes above 0; got {self.cnn_features}. Try 32 64 64.")
        if not 0 <= self.dropout_rate < 1:
            raise InputError(f"dropout_rate must be in [0, 1); got {self.dropout_rate}. Try 0.1.")
        if self.fusion == "film_encoder":
            raise InputError(
                "film_encoder changes the image encoder for each text, so that tasks cannot share it; "
                "got fusion film_encoder. Take film or another."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTaskConfig:
    """A run of several tasks.

    Attributes:
        output: the run directory; made if missing, resumed if the same command was stopped.
        seed: of the parameters, the order of the data and dropout.
        tasks: that are learned; one alone is that task's model of the same shape.
        weighting: of the tasks: `fixed`, `uncertainty` (Kendall et al.), `grad_norm`, `pc_grad`, `mgda` or, of
            gradients brought to length 1, `mgda_normalized`.
        task_weights: for `fixed`, in the order of the tasks; none weighs all alike.
        mixing: `together`, a batch of every task in each step; `in_turn`, one task a step, drawn by chance.
        temperature: of the draws in turn: 1 by the number of examples, larger ones more evenly.
        data: what to learn from.
        model: the model's shape.
        optimizer: how to learn.
        training: how long; the batch size is that of each task.
        report_samples: pictures in the report.
    """

    output: str = "runs/multi-task"
    seed: int = 0
    tasks: tuple[TaskName, ...] = ("captioning", "vqa", "classification", "retrieval")
    weighting: WeightingName = "fixed"
    task_weights: tuple[float, ...] = ()
    mixing: Literal["together", "in_turn"] = "together"
    temperature: float = 1.0
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: training.OptimizerConfig = training.OptimizerConfig(
        learning_rate=2e-3, schedule="linear", warmup_steps=100, clip_norm=1.0, weight_decay=1e-2
    )
    training: TrainingConfig = TrainingConfig(epochs=5, batch_size=16)
    report_samples: int = 12

    def __post_init__(self) -> None:
        """Checks the values."""
        require_not_negative(self, "seed", "report_samples")
        require_positive(self, "temperature")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise InputError(f"tasks must be one or more different ones; got {self.tasks}. Try captioning vqa.")
        if self.task_weights and (self.weighting != "fixed" or len(self.task_weights) != len(self.tasks)):
            raise InputError(
                f"task_weights must be one for each of the {len(self.tasks)} tasks, of weighting fixed; got "
                f"{self.task_weights} and {self.weighting}. Correct them, or leave them out."
            )
        if min(self.task_weights, default=0.0) < 0:
            raise InputError(f"task_weights must not be negative; got {self.task_weights}. Correct them.")
        if self.mixing == "in_turn" and self.weighting in ("grad_norm", "pc_grad", "mgda", "mgda_normalized"):
            raise InputError(
                f"{self.weighting} compares the gradients of one step, which has one task in turn. Set mixing together."
            )


Config = MultiTaskConfig


def preset(source: str) -> MultiTaskConfig:
    """The settings that suit a source.

    Args:
        source: `"scenes"`, whose pictures have captions, questions and true and false sentences.

    Returns:
        The config.

    Raises:
        InputError: an unknown source.
    """
    if source != "scenes":
        raise InputError(f"several tasks need a source with examples of each, scenes; got {source!r}. Choose it.")
    return MultiTaskConfig(data=DataConfig(size=8000, image_size=48, questions_per_image=3, max_length=12))


def first_link(config: MultiTaskConfig) -> Any:
    """The first link of the optimiser, which makes one gradient of the tasks'.

    Args:
        config: names the weighting.

    Returns:
        The transformation; its gradients are compared over what the tasks share.
    """
    rule = {
        "fixed": lambda: training.fixed(config.task_weights or None),
        "uncertainty": training.uncertainty,
        "grad_norm": training.grad_norm,
        "pc_grad": lambda: training.pc_grad(config.seed),
        "mgda": training.mgda,
        "mgda_normalized": lambda: training.mgda(normalize=True),
    }[config.weighting]()
    return training.combine_tasks(
        rule, len(config.tasks), shared=lambda path: jax.tree_util.keystr(path[:1]).startswith("['shared_")
    )


def build_model(config: MultiTaskConfig, vocabulary: Vocabulary, num_classes: int) -> models.MultiTask:
    """Builds the model.

    Args:
        config: the settings.
        vocabulary: of all texts, and the answers.
        num_classes: of the classification.

    Returns:
        The model, without parameters.
    """
    shape, dtype, words = config.model, engine.compute_dtype(config.training), vocabulary.tokenizer.vocab_size
    image = encoders.SimpleCNN(
        features=shape.cnn_features,
        padding="SAME",
        downsampling=shape.downsampling,
        normalization=shape.normalization,
        pooling=shape.image_pooling,
        use_positions=True,
        dropout_rate=shape.dropout_rate,
        mean=0.5,
        std=0.25,
        dtype=dtype,
    )
    text = encoders.RNNEncoder(
        words,
        shape.text_features,
        cell=shape.cell,
        num_layers=shape.text_layers,
        embedding_features=shape.word_features,
        embedding_init=jax.nn.initializers.normal(1.0),
        pooling="last" if shape.text_layers else "mean",
        dropout_rate=shape.dropout_rate,
        dtype=dtype,
    )
    sizes = FusionSizes(shape.features, shape.num_heads, shape.fusion_layers, shape.dropout_rate, dtype)
    head: dict[str, Any] = {
        "hidden_features": shape.hidden_features,
        "dropout_rate": shape.dropout_rate,
        "dtype": dtype,
    }
    decoder = models.AttentionLSTMDecoder(
        words,
        features=shape.features,
        embedding_features=shape.word_features,
        attention_features=shape.features // 2,
        dropout_rate=shape.dropout_rate,
        dtype=dtype,
    )
    build: dict[str, Callable[[], Any]] = {
        "captioning": lambda: models.Captioner(image, decoder),
        "vqa": lambda: models.VisualQuestionAnswering(
            image, text, build_fusion(shape.fusion, sizes), len(vocabulary.answers), **head
        ),
        "classification": lambda: models.FusionClassifier(
            {"image": image, "text": text}, build_fusion(shape.fusion, sizes), num_classes, **head
        ),
        "retrieval": lambda: models.DualEncoder(image, text, shape.features, dtype=dtype),
    }
    return models.MultiTask({"image": image, "text": text}, {name: build[name]() for name in config.tasks})


def make_loss(model: models.MultiTask, config: MultiTaskConfig) -> training.TaskLosses:
    """Makes the losses of all tasks: those of their own recipes, on the shared parameters.

    Args:
        model: of several tasks.
        config: the settings.

    Returns:
        The losses by task.
    """
    smoothing = config.training.label_smoothing
    mesh = engine.mesh_of(config.training.batch_size // config.training.accumulate)
    make: dict[str, Callable[[Any], training.LossFunction]] = {
        "captioning": lambda alone: captioning.make_loss(alone, smoothing),
        "vqa": lambda alone: vqa.make_loss(alone, smoothing),
        "classification": lambda alone: classification.make_loss(alone, smoothing),
        "retrieval": lambda alone: retrieval.make_loss(alone, retrieval.Config(), mesh),
    }
    return training.TaskLosses({name: _on_shared(model, name, make[name](model.tasks[name])) for name in config.tasks})


def _on_shared(model: models.MultiTask, task: str, loss_fn: training.LossFunction) -> training.LossFunction:
    """A task's own loss as one of the whole model's parameters."""

    def alone(params: Any, model_state: Any) -> tuple[Any, Any]:
        own = dict(models.task_model(model, {"params": params, **model_state}, task)[1])
        return own.pop("params"), own

    def joined(model_state: Any, own: Any) -> Any:
        """The whole state, with what the task has changed of it."""
        changed = models.task_variables(model, {task: own})
        return {name: {**tree, **changed.get(name, {})} for name, tree in model_state.items()}

    if isinstance(loss_fn, training.BatchLoss):

        def encode(params: Any, model_state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
            features, own = loss_fn.encode(*alone(params, model_state), batch, key)
            return features, joined(model_state, own)

        def compare(params: Any, features: Any, batch: Any) -> training.LossOutput:
            return loss_fn.compare(alone(params, {})[0], features, batch)

        return training.BatchLoss(encode, compare)

    def loss(params: Any, model_state: Any, batch: Any, key: jax.Array) -> training.LossOutput:
        output = loss_fn(*alone(params, model_state), batch, key)
        return output._replace(model_state=joined(model_state, output.model_state))

    return loss


@dataclasses.dataclass(frozen=True)
class Words:
    """What the texts, the answers and the classes of a run are numbered by.

    Attributes:
        vocabulary: the words of all texts, and the answers.
        classes: names of the classes.
    """

    vocabulary: Vocabulary
    classes: tuple[str, ...]


def learn_words(config: DataConfig, examples: Examples) -> Words:
    """Learns the words of captions, questions, answers and sentences together.

    Args:
        config: the tokenizer's settings.
        examples: of the training part.

    Returns:
        The words.
    """
    asked = read_questions(examples)
    described = [examples.describe(place) for place in range(len(examples))]
    texts = [str(text) for one in described for text in (*one["captions"], one["sentence"])]
    texts += [str(one[name]) for group in asked for one in group for name in ("question", "answer")]
    tokenizer = data.train_tokenizer(
        texts, kind=config.tokenizer, vocab_size=config.vocab_size, min_count=config.min_count
    )
    classes = tuple(sorted({str(one.get("label_name", one.get("label"))) for one in described}))
    return Words(Vocabulary(tokenizer, learn_vocabulary(asked, config).answers), classes)


def train(config: MultiTaskConfig, *, quiet: bool = False) -> dict[str, float] | None:
    """Trains, evaluates and reports; goes on where the same command was stopped.

    Args:
        config: the settings.
        quiet: shows no progress.

    Returns:
        The metrics of every task on the test part, flat, such as `test/vqa/accuracy`; None if Ctrl-C stopped the
        training.

    Raises:
        InputError: the data, the settings or the run directory cannot be used.
    """
    finished = finished_metrics(config.output, RECIPE, config)
    if finished is not None:
        _logger.warning("%s has ended already; these are its metrics", config.output)
        return finished
    parts = DataParts(config.data)
    examples, test = parts["train"], engine.not_empty(parts["test"], "test")
    words = learn_words(config.data, examples)
    model = build_model(config, words.vocabulary, len(words.classes))
    engine.check_model(lambda: _initialise(model, config))
    run = start_run(config.output, RECIPE, config)
    if (run.path / "words.json").exists():
        words = _read_words(run)
        model = build_model(config, words.vocabulary, len(words.classes))
    words.vocabulary.tokenizer.save(run.tokenizer)
    listed = {"answers": words.vocabulary.answers, "classes": words.classes}
    write_atomically(run.path / "words.json", json.dumps(listed) + "\n")
    loaders: dict[str, data.Loader] = {name: _loader(name, config, words, examples) for name in config.tasks}
    sizes = {name: len(loader.source) for name, loader in loaders.items()}
    in_turn = config.mixing == "in_turn"
    shares = training.sampling_probabilities(sizes, config.temperature) if in_turn else None
    job = engine.Job(
        run=run,
        training=config.training,
        optimizer=config.optimizer,
        strategy="jit",
        seed=config.seed,
        variables=_initialise(model, config),
        loss_fn=make_loss(model, config),
        loader=data.MixedLoader(loaders=loaders, probabilities=shares, seed=config.seed),
        epoch_examples=sum(sizes.values()) if in_turn else max(sizes.values()),
        quiet=quiet,
        first_link=first_link(config),
    )
    outcome = engine.run_training(job)
    if outcome.interrupted:
        return None
    results, samples = _score(model, outcome.variables, words, config, test, "test")
    results |= outcome.effort()
    results["model/parameters"] = float(sum(leaf.size for leaf in jax.tree.leaves(outcome.variables["params"])))
    title = f"Several tasks: {run.path.name}"
    write_report(run.report, title=title, summary=results, samples=samples, history=outcome.history)
    run.write_metrics(results)
    return results


def evaluate(
    path: str | Path,
    config_of: Callable[[MultiTaskConfig], MultiTaskConfig] = lambda config: config,
    *,
    split: str = "test",
) -> dict[str, float]:
    """Evaluates all tasks of a trained run, on its own data or on others.

    Args:
        path: the run directory.
        config_of: changes the settings, such as the source of the data.
        split: the part of the data.

    Returns:
        Flat metrics, such as `test/vqa/accuracy`.

    Raises:
        InputError: the run or the data cannot be used.
    """
    run = open_run(path)
    if run.recipe != RECIPE:
        raise InputError(f"{run.path} must be a run of {RECIPE}; it is one of {run.recipe}. Give another run.")
    config = run.settings(MultiTaskConfig)
    words = _read_words(run)
    model = build_model(config, words.vocabulary, len(words.classes))
    shapes = jax.eval_shape(lambda: _initialise(model, config))
    variables = engine.restore_variables(run, shapes, config.training, config.optimizer, first_link=first_link(config))
    config = config_of(config)
    examples = engine.not_empty(DataParts(config.data)[split], split)
    return _score(model, variables, words, config, examples, split)[0]


def _loader(task: str, config: MultiTaskConfig, words: Words, examples: Examples) -> data.Loader:
    tokenizer, settings = words.vocabulary.tokenizer, config.data
    source: Any = examples
    transform: Any = CaptionTransform(tokenizer, settings, training=True)
    if task == "vqa":
        source = encode_questions(examples, read_questions(examples), words.vocabulary, settings, "train")
        transform = QuestionTransform(settings, settings.questions_per_image, True)
    elif task == "classification":
        source = classification.label_pairs(examples)
        transform = classification.PairTransform(tokenizer, words.classes, settings, training=True)
    return data.make_loader(
        source,
        transform,
        batch_size=config.training.batch_size,
        shuffle=True,
        # Of several tasks in one step each has other images.
        seed=config.seed + list(config.tasks).index(task),  # type: ignore[arg-type]
        num_workers=settings.num_workers,
    )


def _score(
    model: models.MultiTask,
    variables: Mapping[str, Any],
    words: Words,
    config: MultiTaskConfig,
    examples: Examples,
    split: str,
) -> tuple[dict[str, float], list[CaptionSample]]:
    """The metrics of every task, by its own recipe, and written captions to show."""
    results: dict[str, float] = {}
    samples: list[CaptionSample] = []
    shared: dict[str, Any] = {"data": config.data, "training": config.training}
    for task in config.tasks:
        alone: Any
        alone, own = models.task_model(model, variables, task)
        if task == "captioning":
            writer = CaptionWriter(alone, own, words.vocabulary.tokenizer, config.data.max_length)
            settings: Any = captioning.Config(**shared, report_samples=config.report_samples)
            scores, samples = captioning.score_captions(writer, settings, examples, task)
            results |= {f"{split}/{name}": value for name, value in scores.items()}
            continue
        if task == "vqa":
            answerer = vqa.Answerer(alone, own, words.vocabulary, vqa.Config(**shared))
            questions = encode_questions(examples, read_questions(examples), words.vocabulary, config.data, split)
            scores = answerer.score(questions)
        elif task == "classification":
            settings = classification.Config(**shared)
            classifier = classification.Classifier(alone, own, words.vocabulary.tokenizer, words.classes, settings)
            scores = classifier.score(classification.label_pairs(examples, words.classes))
        else:
            settings = retrieval.Config(**shared)
            embedder = retrieval.make_embedder(alone, own, words.vocabulary.tokenizer, settings, Path(config.output))
            scores = retrieval.score(embedder, settings, examples)
        results |= {f"{split}/{task}/{name}": value for name, value in scores.items()}
    return results, samples


def _initialise(model: models.MultiTask, config: MultiTaskConfig) -> dict[str, Any]:
    side, length = config.data.image_size, config.data.max_length
    batch = {"image": jnp.zeros((1, side, side, 3), jnp.uint8), "text": jnp.ones((1, length), jnp.int32)}
    return dict(jax.jit(model.init)(jax.random.key(config.seed), dict.fromkeys(config.tasks, batch)))


def _read_words(run: Run) -> Words:
    path = run.path / "words.json"
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = Vocabulary(data.Tokenizer.load(run.tokenizer), tuple(listed["answers"]))
        return Words(vocabulary, tuple(listed["classes"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} must list answers and classes; {error}. Restore it, or train again.") from error
