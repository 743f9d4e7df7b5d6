"""Visual question answering: an image and a question encoded, fused, and an answer chosen or written."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import data, encoders, losses, metrics, models, training
from fusionjax.errors import InputError
from fusionjax.recipes import engine
from fusionjax.recipes.config import DataConfig, TrainingConfig, require_not_negative, require_positive
from fusionjax.recipes.fusions import FusionName, FusionSizes, build_fusion, rate_share
from fusionjax.recipes.questions import (
    QuestionSet,
    QuestionTransform,
    Vocabulary,
    encode_questions,
    learn_vocabulary,
    read_questions,
)
from fusionjax.recipes.report import ClassificationSample, write_classification_report
from fusionjax.recipes.run import Run, finished_metrics, open_run, start_run, write_atomically
from fusionjax.recipes.sources import DataParts, ImageTransform

RECIPE = "vqa"
SOURCES = ("scenes", "easy-vqa", "sort-of-clevr", "vqa", "tfds")

_logger = logging.getLogger("fusionjax")
_RIGHT_AT = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model's shape.

    Attributes:
        cnn_features: of each stage of the image encoder.
        downsampling: in its stages, by max-pooling or by strides of the convolutions, a quarter of the work.
        normalization: in its stages; `film_encoder` needs one.
        image_pooling: of its cells to the vector that fusions of vectors read; `film_encoder` takes `max`.
        use_positions: a learned vector for each of its cells.
        condition_from: the first stage that the question modulates, from 0, for `film_encoder`.
        word_features: of the word vectors; 0 takes each word as a bit of its own, for questions of few different words.
        text_features: of the question encoder's states.
        text_layers: recurrent layers of it; 0 leaves the word vectors as they are.
        text_pooling: of its states to the vector that fusions of vectors read; None takes the last state, and without
            recurrent layers the mean of the word vectors. `flatten` keeps each word and its place, for questions of a
            fixed form.
        cell: of the question encoder.
        fusion_features: width of the fusion.
        fusion_layers: of a fusion that has layers.
        num_heads: of every attention.
        hidden_features: of fully connected layers before the answers.
        answer: `choose` among the training's answers, or `write` one word by word.
        dropout_rate: on image cells, words and fused features.
    """

    cnn_features: tuple[int, ...] = (16, 32, 64, 64)
    downsampling: Literal["pool", "strides"] = "strides"
    normalization: Literal["group", "batch"] | None = "batch"
    image_pooling: Literal["flatten", "mean", "max", "attention"] = "flatten"
    use_positions: bool = True
    condition_from: int = 3
    word_features: int = 32
    text_features: int = 64
    text_layers: int = 1
    text_pooling: Literal["flatten", "mean", "max", "last", "attention"] | None = None
    cell: Literal["lstm", "gru", "elman"] = "gru"
    fusion_features: int = 128
    fusion_layers: int = 2
    num_heads: int = 4
    hidden_features: tuple[int, ...] = (128,)
    answer: Literal["choose", "write"] = "choose"
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        require_not_negative(self, "text_layers", "word_features", "condition_from")
        require_positive(self, "text_features", "fusion_features", "fusion_layers", "num_heads")
        if min(self.hidden_features, default=1) < 1:
            raise InputError(f"hidden_features must be sizes above 0; got {self.hidden_features}. Try 128.")
        if not self.cnn_features or min(self.cnn_features) < 1:
            raise InputError(f"cnn_features must be one or more sizes above 0; got {self.cnn_features}. Try 32 64 64.")
        if not 0 <= self.dropout_rate < 1:
            raise InputError(f"dropout_rate must be in [0, 1); got {self.dropout_rate}. Try 0.1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQAConfig:
    """A run of question answering.

    Attributes:
        output: the run directory; made if missing, resumed if the same command was stopped.
        seed: of the parameters, the order of the data and dropout.
        strategy: `jit` shards each batch over the local devices; `pmap` replicates the step.
        fusion: how image and question are joined; docs/fusion.md helps to choose.
        data: what to learn from.
        model: the model's shape.
        optimizer: how to learn.
        training: how long; a batch is of images, each with `data.questions_per_image` questions.
        report_samples: pictures in the report.
    """

    output: str = "runs/vqa"
    seed: int = 0
    strategy: Literal["jit", "pmap"] = "jit"
    fusion: FusionName = "film_encoder"
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: training.OptimizerConfig = training.OptimizerConfig(
        learning_rate=4e-3, schedule="linear", warmup_steps=100, clip_norm=1.0, weight_decay=1e-2
    )
    training: TrainingConfig = TrainingConfig(epochs=10, batch_size=16)
    report_samples: int = 24

    def __post_init__(self) -> None:
        """Checks the values."""
        require_not_negative(self, "seed", "report_samples")
        if self.fusion == "film_encoder" and self.model.normalization is None:
            raise InputError("film_encoder modulates normalised stages; got normalization None. Set batch or group.")


Config = VQAConfig

# For questions about several objects: more cells when the question reads them.
_RELATIONS = ModelConfig(cnn_features=(16, 32, 32, 64), condition_from=2, fusion_features=64)
# Of a few words: as bits, each in its place. Word vectors that are learned, and a slower rate, first find what can be
# answered without knowing which object is meant, and stay there.
_BITS = dataclasses.replace(
    _RELATIONS,
    cnn_features=(32, 32, 32, 32),
    word_features=0,
    text_layers=0,
    text_pooling="flatten",
    hidden_features=(256, 256, 256),
)
_SLOWER = dataclasses.replace(VQAConfig().optimizer, learning_rate=2e-3)


def preset(source: str, fusion: FusionName = VQAConfig.fusion) -> VQAConfig:
    """The settings that suit a source and a fusion.

    Args:
        source: `"scenes"`, `"easy-vqa"`, `"sort-of-clevr"`, `"vqa"` or `"tfds"`.
        fusion: the learning rate follows it.

    Returns:
        The config; the folder or the name of the data set is still to be given (`dataclasses.replace`).

    Raises:
        InputError: an unknown source.
    """
    config = _preset_of(source)
    rate = config.optimizer.learning_rate * rate_share(fusion)
    optimizer = dataclasses.replace(config.optimizer, learning_rate=rate)
    return dataclasses.replace(config, fusion=fusion, optimizer=optimizer)


def _preset_of(source: str) -> VQAConfig:
    if source == "scenes":
        pictures = DataConfig(size=20_000, objects=3, image_size=64, questions_per_image=5, max_length=12)
        return VQAConfig(data=pictures, model=_RELATIONS, optimizer=_SLOWER)
    if source == "easy-vqa":
        pictures = DataConfig(source="easy-vqa", image_size=64, questions_per_image=5, max_length=12)
        return VQAConfig(
            # Its test part draws the curve and chooses nothing: the last parameters are those that are reported.
            data=dataclasses.replace(pictures, validation_split="test"),
            training=TrainingConfig(epochs=20, batch_size=16),
        )
    if source == "sort-of-clevr":
        pictures = DataConfig(source="sort-of-clevr", size=9800, evaluation_size=200, image_size=75, max_length=5)
        optimizer = dataclasses.replace(VQAConfig().optimizer, learning_rate=3e-3, decay_share=0.3)
        return VQAConfig(
            data=dataclasses.replace(pictures, questions_per_image=20),
            model=_BITS,
            optimizer=optimizer,
            training=TrainingConfig(epochs=15, batch_size=8),
        )
    if source not in SOURCES:
        raise InputError(f"the source must be {', '.join(SOURCES[:-1])} or {SOURCES[-1]}; got {source!r}. Choose one.")
    photographs = DataConfig(
        source=source,  # type: ignore[arg-type]
        image_size=128,
        margin=0.125,
        min_count=2,
        max_length=20,
        questions_per_image=3,
        fields=("image=image", "question=question", "answer=answer"),
    )
    model = ModelConfig(cnn_features=(32, 64, 128, 128, 256), text_features=128, fusion_features=256, dropout_rate=0.2)
    rate = training.OptimizerConfig(learning_rate=1e-3, warmup_steps=500, clip_norm=1.0, weight_decay=1e-2)
    return VQAConfig(data=photographs, model=model, optimizer=rate)


def build_model(config: VQAConfig, vocabulary: Vocabulary) -> models.VisualQuestionAnswering:
    """Builds the model.

    Args:
        config: the settings.
        vocabulary: of the questions and the answers.

    Returns:
        The model, without parameters.
    """
    shape, dtype = config.model, engine.compute_dtype(config.training)
    is_conditioned = config.fusion == "film_encoder"
    image = encoders.SimpleCNN(
        features=shape.cnn_features,
        padding="SAME",
        downsampling=shape.downsampling,
        normalization=shape.normalization,
        pooling="max" if is_conditioned else shape.image_pooling,
        use_positions=shape.use_positions and not is_conditioned,
        condition_from=shape.condition_from,
        coordinates_from=shape.condition_from if is_conditioned else None,
        dropout_rate=shape.dropout_rate,
        mean=0.5,
        std=0.25,
        dtype=dtype,
    )
    text = encoders.RNNEncoder(
        vocabulary.tokenizer.vocab_size,
        shape.text_features,
        cell=shape.cell,
        num_layers=shape.text_layers,
        embedding_features=shape.word_features or None,
        is_one_hot=not shape.word_features,
        embedding_init=jax.nn.initializers.normal(1.0),
        pooling=shape.text_pooling or ("last" if shape.text_layers else "mean"),
        dropout_rate=shape.dropout_rate,
        dtype=dtype,
    )
    sizes = FusionSizes(shape.fusion_features, shape.num_heads, shape.fusion_layers, shape.dropout_rate, dtype)
    writes = shape.answer == "write"
    return models.VisualQuestionAnswering(
        image,
        text,
        build_fusion(config.fusion, sizes),
        None if writes else len(vocabulary.answers),
        hidden_features=shape.hidden_features,
        decoder=models.LSTMDecoder(
            vocabulary.tokenizer.vocab_size,
            features=shape.fusion_features,
            embedding_features=shape.word_features or shape.text_features,
            dropout_rate=shape.dropout_rate,
            dtype=dtype,
        )
        if writes
        else None,
        is_conditioned=is_conditioned,
        dropout_rate=shape.dropout_rate,
        dtype=dtype,
    )


def make_loss(model: models.VisualQuestionAnswering, label_smoothing: float = 0.0) -> training.LossFunction:
    """Makes the training loss: the cross-entropy of the answers, or of their words.

    Args:
        model: the model.
        label_smoothing: share of the target given to all answers, or words, alike.

    Returns:
        `(params, model_state, batch, key) -> LossOutput`.
    """

    def loss_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> training.LossOutput:
        output, updated = model.apply(
            {"params": params, **model_state},
            batch,
            deterministic=False,
            rngs={"dropout": key},
            mutable=list(model_state),
        )
        keep = batch["weight"] > 0
        if output.logits is None:
            targets = batch["answer"][..., 1:]
            mask = (targets != 0) & keep[..., None]
            loss = losses.cross_entropy(output.word_logits, targets, mask=mask, label_smoothing=label_smoothing)
            right = metrics.accuracy(output.word_logits, targets, mask)
            return training.LossOutput(loss.total, loss.weight, {"word_accuracy": (right.total, right.weight)}, updated)
        loss = losses.cross_entropy(output.logits, batch["label"], mask=keep, label_smoothing=label_smoothing)
        right = metrics.accuracy(output.logits, batch["label"], keep)
        return training.LossOutput(loss.total, loss.weight, {"accuracy": (right.total, right.weight)}, updated)

    return loss_fn


def train(config: VQAConfig, *, quiet: bool = False) -> dict[str, float] | None:
    """Trains, evaluates and reports; goes on where the same command was stopped.

    Args:
        config: the settings.
        quiet: shows no progress.

    Returns:
        The metrics on the test part, flat, such as `test/accuracy` and `test/accuracy/count`; None if Ctrl-C stopped
        the training.

    Raises:
        InputError: the data, the settings or the run directory cannot be used.
    """
    finished = finished_metrics(config.output, RECIPE, config)
    if finished is not None:
        _logger.warning("%s has ended already; these are its metrics", config.output)
        return finished
    parts = DataParts(config.data)
    examples = {part: parts[part] for part in ("train", "validation", "test")}
    asked = {part: read_questions(one) for part, one in examples.items()}
    vocabulary = learn_vocabulary(asked["train"], config.data)
    model = build_model(config, vocabulary)
    engine.check_model(lambda: _initialise(model, config))
    run = start_run(config.output, RECIPE, config)
    if (run.path / "answers.json").exists():
        vocabulary = _read_vocabulary(run)
        model = build_model(config, vocabulary)
    vocabulary.tokenizer.save(run.tokenizer)
    write_atomically(run.path / "answers.json", json.dumps(vocabulary.answers) + "\n")
    sets = {part: encode_questions(examples[part], asked[part], vocabulary, config.data, part) for part in examples}
    test = engine.not_empty(sets["test"], "test")
    answerer = Answerer(model, {}, vocabulary, config)

    def validate(variables: dict[str, Any]) -> dict[str, float]:
        answerer.variables = variables
        return answerer.score(sets["validation"])

    variables = _initialise(model, config)
    job = engine.Job(
        run=run,
        training=config.training,
        optimizer=config.optimizer,
        strategy=config.strategy,
        seed=config.seed,
        variables=variables,
        loss_fn=make_loss(model, config.training.label_smoothing),
        loader=data.make_loader(
            sets["train"],
            QuestionTransform(
                config.data, config.data.questions_per_image, True, _answer_tokenizer(config, vocabulary)
            ),
            batch_size=config.training.batch_size,
            shuffle=True,
            seed=config.seed,
            num_workers=config.data.num_workers,
        ),
        epoch_examples=len(sets["train"]),
        validate=validate if len(sets["validation"]) else None,
        quiet=quiet,
    )
    outcome = engine.run_training(job)
    if outcome.interrupted:
        return None
    answerer.variables = outcome.variables
    results = {f"test/{name}": value for name, value in answerer.score(test).items()}
    # All is compiled by now.
    began = time.perf_counter()
    predicted, _, _ = answerer.answer(test)
    results["test/questions_per_second"] = len(predicted) / (time.perf_counter() - began)
    results |= outcome.effort() | engine.count_cost(
        lambda variables, batch: model.apply(variables, batch), outcome.variables, _example_batch(config, 1)
    )
    reached = [row for row in outcome.history if row.get("validation/accuracy", 0.0) >= _RIGHT_AT]
    if reached and "validation/at_seconds" in reached[0]:
        results["train/seconds_to_99"] = reached[0]["validation/at_seconds"]
    _report(run, answerer, test, results, outcome.history)
    run.write_metrics(results)
    return results


def evaluate(
    path: str | Path,
    config_of: Callable[[VQAConfig], VQAConfig] = lambda config: config,
    *,
    split: str = "test",
) -> dict[str, float]:
    """Evaluates a trained run, on its own data or on others.

    Args:
        path: the run directory.
        config_of: changes the settings, such as the folder of the data.
        split: the part of the data.

    Returns:
        Flat metrics, such as `test/accuracy`.

    Raises:
        InputError: the run or the data cannot be used.
    """
    answerer = load(path)
    config = config_of(answerer.config)
    answerer.config = config
    examples = engine.not_empty(DataParts(config.data)[split], split)
    questions = encode_questions(examples, read_questions(examples), answerer.vocabulary, config.data, split)
    return {f"{split}/{name}": value for name, value in answerer.score(questions).items()}


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer to a question about a photograph.

    Attributes:
        answer: in words.
        probability: that the model gives to it, in (0, 1].
    """

    answer: str
    probability: float


def ask(path: str | Path, photograph: str | Path, question: str, *, top: int = 1) -> list[Answer]:
    """Answers a question about a photograph.

    Args:
        path: the run directory.
        photograph: an image file.
        question: in words.
        top: how many answers, the most probable first; a run that writes gives one.

    Returns:
        The answers.

    Raises:
        InputError: the run or the photograph cannot be used, or the question has no word that the run knows.
    """
    if not question.strip():
        raise InputError("a question must not be empty; got one without words. Ask something.")
    answerer = load(path)
    config = answerer.config.data
    tokens = answerer.vocabulary.tokenizer.encode(question, config.max_length)
    if not answerer.vocabulary.tokenizer.knows(question):
        raise InputError(f"a question must have a word that the run was trained with; got {question!r}. Ask otherwise.")
    image = data.load_image(photograph, config.stored_size, fit=config.fit)
    pixels = ImageTransform(config, training=False)(image, np.random.default_rng(0))
    return answerer.answer_one({"image": pixels[None], "text": tokens[None]}, top)


def load(path: str | Path) -> "Answerer":
    """Loads a trained run.

    Args:
        path: the run directory.

    Returns:
        What answers, with the settings of the run.

    Raises:
        InputError: it is no run of this recipe, or it is damaged.
    """
    run = open_run(path)
    if run.recipe != RECIPE:
        raise InputError(f"{run.path} must be a run of {RECIPE}; it is one of {run.recipe}. Give another run.")
    config = run.settings(VQAConfig)
    vocabulary = _read_vocabulary(run)
    model = build_model(config, vocabulary)
    shapes = jax.eval_shape(lambda: _initialise(model, config))
    variables = engine.restore_variables(run, shapes, config.training, config.optimizer)
    return Answerer(model, variables, vocabulary, config)


class Answerer:
    """A trained model that answers.

    Args:
        model: the Linen module.
        variables: its collections.
        vocabulary: of questions and answers.
        config: the settings.
    """

    def __init__(
        self,
        model: models.VisualQuestionAnswering,
        variables: Mapping[str, Any],
        vocabulary: Vocabulary,
        config: VQAConfig,
    ) -> None:
        self.model, self.variables, self.vocabulary, self.config = model, variables, vocabulary, config

        def choose(variables: Any, batch: Any) -> Any:
            logits: jax.Array = model.apply(variables, batch).logits  # type: ignore[union-attr]
            return jax.nn.log_softmax(logits.astype(jnp.float32))

        def write(variables: Any, batch: Any) -> Any:
            length = config.data.answer_length
            output = models.generate(model, variables, batch, max_length=length, method="greedy")
            return output.tokens, output.log_probabilities

        self._choose, self._write = jax.jit(choose), jax.jit(write)

    def answer(self, questions: QuestionSet) -> tuple[list[str], np.ndarray, float]:
        """Answers questions.

        Args:
            questions: to answer.

        Returns:
            The answers in words and their probabilities, in the order of `QuestionSet.questions` in groups; and the
            mean of -log p of the true ones where the model chooses, else of its own.
        """
        count = self.config.data.questions_per_image
        groups = questions.in_groups(count)
        transform = QuestionTransform(self.config.data, count, False)
        batches = engine.whole_batches(groups, transform, self.config.training.batch_size)
        answers: list[str] = []
        probabilities, losses_found = [], []
        sizes = [end - start for _, start, end in groups.places]
        first = 0
        for batch in batches:
            kept = sizes[first : first + len(batch["label"])]
            first += len(kept)
            weight, label = batch.pop("weight"), batch.pop("label")
            if self.model.decoder is not None:
                tokens, log_probabilities = jax.device_get(self._write(self.variables, batch))
                texts = [self.vocabulary.tokenizer.decode(row) for row in tokens]
                for row, size in enumerate(kept):
                    chosen = slice(row * count, row * count + size)
                    answers += texts[chosen]
                    probabilities.append(np.exp(log_probabilities[chosen]))
                    losses_found.append(-log_probabilities[chosen])
                continue
            scores = jax.device_get(self._choose(self.variables, batch))
            for row, size in enumerate(kept):
                best = scores[row, :size].argmax(-1)
                answers += [self.vocabulary.answers[place] for place in best]
                probabilities.append(np.exp(scores[row, :size].max(-1)))
                known = weight[row, :size] > 0
                losses_found.append(-scores[row, :size][known, label[row, :size][known]])
        return answers, np.concatenate(probabilities), float(np.concatenate(losses_found).mean())

    def answer_one(self, batch: dict[str, np.ndarray], top: int) -> list[Answer]:
        """Answers one question about one image.

        Args:
            batch: `image` `[1, size, size, 3]` and `text` `[1, length]`.
            top: how many answers.

        Returns:
            The most probable answers.
        """
        if self.model.decoder is not None:
            tokens, log_probabilities = jax.device_get(self._write(self.variables, batch))
            return [Answer(self.vocabulary.tokenizer.decode(tokens[0]), float(np.exp(log_probabilities[0])))]
        scores = jax.device_get(self._choose(self.variables, batch))[0]
        best = np.argsort(-scores, kind="stable")[: max(1, top)]
        return [Answer(self.vocabulary.answers[place], float(np.exp(scores[place]))) for place in best]

    def score(self, questions: QuestionSet) -> dict[str, float]:
        """Gives `accuracy`, that of each type of question, `loss` and the number of `questions`.

        Where a question has the answers of several people, accuracy is their consensus, see
        `metrics.consensus_accuracy`.
        """
        predicted, _, loss = self.answer(questions)
        asked = list(questions.in_groups(self.config.data.questions_per_image).questions())
        right = [_rightness(answer, one) for answer, one in zip(predicted, asked, strict=True)]
        results = {"accuracy": float(np.mean(right)), "loss": loss, "questions": float(len(right))}
        types = [str(one["type"]) for one in asked]
        if len(set(types)) > 1:
            results |= {
                f"accuracy/{name.replace(' ', '_')}": value
                for name, value in metrics.accuracy_by_type(right, types).items()
            }
        return results


def _rightness(answer: str, question: Mapping[str, Any]) -> float:
    if question.get("answers"):
        return metrics.consensus_accuracy([answer], [question["answers"]])
    return float(answer == str(question["answer"]))


def _report(
    run: Run, answerer: Answerer, questions: QuestionSet, results: dict[str, float], history: list[dict[str, float]]
) -> None:
    predicted, probabilities, _ = answerer.answer(questions)
    groups = questions.in_groups(answerer.config.data.questions_per_image)
    asked = list(groups.questions())
    truths = [str(one["answer"]) for one in asked]
    names = tuple(sorted({*truths, *predicted}))
    numbers = {name: number for number, name in enumerate(names)}
    wrong = [place for place, (one, other) in enumerate(zip(predicted, truths, strict=True)) if one != other]
    missed = set(wrong)
    right = [place for place in range(len(truths)) if place not in missed]
    half = answerer.config.report_samples // 2
    shown = [*wrong[:half], *right[: answerer.config.report_samples - min(half, len(wrong))]]
    images = [place for place, start, end in groups.places for _ in range(start, end)]
    samples = [
        ClassificationSample(
            image=questions.examples[images[place]]["image"],
            sentence=str(asked[place]["question"]),
            label=truths[place],
            prediction=predicted[place],
            probability=float(probabilities[place]),
            name=str(questions.examples.describe(images[place]).get("id", "")),
        )
        for place in shown
    ]
    write_classification_report(
        run.report,
        title=f"Question answering: {run.path.name}",
        summary=results,
        classes=names,
        confusion=metrics.confusion_matrix(
            np.array([numbers[one] for one in truths]), np.array([numbers[one] for one in predicted]), len(names)
        ),
        samples=samples,
        history=history,
    )


def _answer_tokenizer(config: VQAConfig, vocabulary: Vocabulary) -> data.Tokenizer | None:
    return vocabulary.tokenizer if config.model.answer == "write" else None


def _example_batch(config: VQAConfig, questions: int) -> dict[str, Any]:
    side = config.data.image_size
    batch = {
        "image": jnp.zeros((1, side, side, 3), jnp.uint8),
        "text": jnp.ones((1, questions, config.data.max_length), jnp.int32),
    }
    if config.model.answer == "write":
        batch["answer"] = jnp.ones((1, questions, config.data.answer_length), jnp.int32)
    return batch


def _initialise(model: models.VisualQuestionAnswering, config: VQAConfig) -> dict[str, Any]:
    return dict(jax.jit(model.init)(jax.random.key(config.seed), _example_batch(config, 1)))


def _read_vocabulary(run: Run) -> Vocabulary:
    path = run.path / "answers.json"
    try:
        answers: Sequence[str] = json.loads(path.read_text(encoding="utf-8"))
        return Vocabulary(data.Tokenizer.load(run.tokenizer), tuple(answers))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} must list the answers; {error}. Restore it, or train again.") from error
