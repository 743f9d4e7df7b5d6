"""Classification of an image and a sentence together: the encoders, their fusion, a softmax over classes."""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import data, encoders, fusion, losses, metrics, models, training
from fusionjax.errors import InputError
from fusionjax.recipes import engine
from fusionjax.recipes.backbones import (
    NO_BACKBONES,
    Backbones,
    Slot,
    Slots,
    image_example,
    image_size_of,
    layer_decay_of,
    lora_of,
    open_backbones,
    record_backbones,
    reopen_backbones,
    template_variables,
    text_example,
    tokenizer_of,
    with_weights,
)
from fusionjax.recipes.captions import TextRows
from fusionjax.recipes.config import (
    BackboneConfig,
    DataConfig,
    ImageBackboneConfig,
    TrainingConfig,
    require_not_negative,
    require_positive,
)
from fusionjax.recipes.frozen import ModelInputs
from fusionjax.recipes.report import ClassificationSample, write_classification_report
from fusionjax.recipes.run import Run, finished_metrics, open_run, start_run, write_atomically
from fusionjax.recipes.sources import DataParts, Examples, ImageTransform

RECIPE = "classification"

_logger = logging.getLogger("fusionjax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The classifier's shape.

    Attributes:
        fusion: `concat` (both branches flattened and joined), `cross_attention` (the words look at the image) or
            `word_by_word` (an LSTM reads the sentence and looks at the image before each word).
        cnn_features: of each stage of the image encoder.
        padding: of its convolutions.
        normalization: in its stages.
        cell: of the text encoder.
        text_features: of its states.
        text_layers: recurrent layers of it; 0 leaves the word vectors as they are.
        bidirectional: whether it reads both ways.
        self_attention: whether its states look at each other.
        fusion_features: width of the cross-attention, or of the LSTM that reads word by word.
        fusion_layers: blocks of the cross-attention.
        num_heads: of every attention.
        hidden_features: of fully connected layers before the last one.
        dropout_rate: on image cells, words and fused features.
    """

    fusion: Literal["concat", "cross_attention", "word_by_word"] = "cross_attention"
    cnn_features: tuple[int, ...] = (32, 64, 128)
    padding: Literal["SAME", "VALID"] = "SAME"
    normalization: Literal["group", "batch"] | None = "batch"
    cell: Literal["lstm", "gru", "elman"] = "lstm"
    text_features: int = 128
    text_layers: int = 1
    bidirectional: bool = False
    self_attention: bool = True
    fusion_features: int = 128
    fusion_layers: int = 2
    num_heads: int = 4
    hidden_features: tuple[int, ...] = (128,)
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        require_not_negative(self, "text_layers")
        require_positive(self, "text_features", "fusion_features", "fusion_layers", "num_heads")
        if min(self.hidden_features, default=1) < 1:
            raise InputError(f"hidden_features must be sizes above 0; got {self.hidden_features}. Try 128.")
        if not self.cnn_features or min(self.cnn_features) < 1:
            raise InputError(f"cnn_features must be one or more sizes above 0; got {self.cnn_features}. Try 32 64 128.")
        if not 0 <= self.dropout_rate < 1:
            raise InputError(f"dropout_rate must be in [0, 1); got {self.dropout_rate}. Try 0.1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """A classification run.

    Attributes:
        output: the run directory; made if missing, resumed if the same command was stopped.
        seed: of the parameters, the order of the data and dropout.
        strategy: `jit` shards each batch over the local devices; `pmap` replicates the step.
        data: what to learn from; a folder's `captions.csv` needs a column `label`.
        image: an image encoder with published weights, in place of the one that `model` describes.
        text: a text encoder with published weights, likewise.
        model: the classifier's shape.
        optimizer: how to learn.
        training: how long.
        caption_weight: of a word in the auxiliary loss, beside 1 of a class: the model learns to describe each image by
            `data.captions_per_image` of its captions, word by word; 0 leaves it out. For `word_by_word`.
        report_samples: pictures in the report.
    """

    output: str = "runs/classification"
    seed: int = 0
    strategy: Literal["jit", "pmap"] = "jit"
    data: DataConfig = DataConfig()
    image: ImageBackboneConfig = ImageBackboneConfig()
    text: BackboneConfig = BackboneConfig()
    model: ModelConfig = ModelConfig()
    optimizer: training.OptimizerConfig = training.OptimizerConfig(
        learning_rate=1e-3, warmup_steps=100, clip_norm=1.0, weight_decay=1e-2
    )
    training: TrainingConfig = TrainingConfig(epochs=10, batch_size=64)
    caption_weight: float = 0.0
    report_samples: int = 24

    def __post_init__(self) -> None:
        """Checks the values."""
        require_not_negative(self, "seed", "report_samples", "caption_weight")
        model = self.model
        if self.caption_weight and (model.fusion != "word_by_word" or model.bidirectional or model.self_attention):
            raise InputError(
                "caption_weight needs a model that does not look ahead: fusion word_by_word, without bidirectional and "
                f"self_attention; got {model.fusion}, {model.bidirectional} and {model.self_attention}. Set them, or "
                "set caption_weight to 0."
            )
        if self.caption_weight and self.text.weights is not None:
            raise InputError(
                f"caption_weight needs a text encoder from scratch, which does not look ahead; got {self.text.weights}."
                " Set caption_weight to 0, or leave out text.weights."
            )


Config = ClassificationConfig


def preset(
    source: str, image: ImageBackboneConfig = ImageBackboneConfig(), text: BackboneConfig = BackboneConfig()
) -> ClassificationConfig:
    """The settings that suit a source and, where there are any, published encoders.

    Args:
        source: `"scenes"`, `"flickr"`, `"coco"` or `"tfds"`.
        image: names the weights of an image encoder, and how they are tuned.
        text: the same of a text encoder.

    Returns:
        The config; the folder or the name of the data set is still to be given (`dataclasses.replace`).

    Raises:
        InputError: an unknown source, or weights that cannot be opened.
    """
    if image.weights is not None or text.weights is not None:
        return _on_weights(preset(source), image, text)
    if source == "scenes":
        return ClassificationConfig(
            data=DataConfig(size=16_000, image_size=48, captions_per_image=2, max_length=12),
            model=ModelConfig(fusion="word_by_word", text_layers=0, self_attention=False, fusion_features=256),
            optimizer=training.OptimizerConfig(learning_rate=2e-3, warmup_steps=100, clip_norm=5.0, weight_decay=1e-2),
            training=TrainingConfig(epochs=3, batch_size=32),
            caption_weight=0.1,
        )
    if source not in ("flickr", "coco", "tfds"):
        raise InputError(f"the source must be scenes, flickr, coco or tfds; got {source!r}. Choose one.")
    photographs = DataConfig(source=source, image_size=96, margin=0.125, flip=True, min_count=2, max_length=24)  # type: ignore[arg-type]
    return ClassificationConfig(data=photographs, model=ModelConfig(dropout_rate=0.3))


def _on_weights(
    scratch: ClassificationConfig, image: ImageBackboneConfig, text: BackboneConfig
) -> ClassificationConfig:
    """The settings of a source, with published encoders in place of those from scratch."""
    settings = scratch.data
    if image.weights is not None:
        views = 2 if image.tune == "frozen" and settings.flip else 1
        image = dataclasses.replace(image, views=views)
        settings = dataclasses.replace(settings, image_size=image_size_of(image))
    if text.weights is not None:
        # Rare words are several tokens.
        settings = dataclasses.replace(settings, max_length=settings.max_length + 6)
    return dataclasses.replace(scratch, image=image, text=text, data=settings)


def slots(config: ClassificationConfig) -> Slots:
    """Where the classifier can have published encoders.

    Args:
        config: the settings.

    Returns:
        The slots of the images and of the texts.
    """
    has_tokens = config.model.fusion != "concat"
    return {
        "image": Slot(config.image, "encoders_image", has_tokens=has_tokens),
        "text": Slot(config.text, "encoders_text", has_tokens=has_tokens),
    }


def build_model(
    config: ClassificationConfig, vocab_size: int, num_classes: int, backbones: Backbones = NO_BACKBONES
) -> models.FusionClassifier:
    """Builds the classifier.

    Args:
        config: the settings.
        vocab_size: of the tokenizer.
        num_classes: of the labels.
        backbones: published encoders, opened.

    Returns:
        The model, without parameters.
    """
    shape, dtype = config.model, engine.compute_dtype(config.training)
    built = {part: one.build(dtype=dtype) for part, one in backbones.items()}
    image = built.get("image") or encoders.SimpleCNN(
        features=shape.cnn_features,
        padding=shape.padding,
        normalization=shape.normalization,
        pooling="mean" if shape.fusion == "cross_attention" else "flatten",
        dropout_rate=shape.dropout_rate,
        mean=0.5,
        std=0.5,
        dtype=dtype,
    )
    text = built.get("text") or encoders.RNNEncoder(
        vocab_size,
        shape.text_features,
        cell=shape.cell,
        num_layers=shape.text_layers,
        bidirectional=shape.bidirectional,
        self_attention=shape.self_attention,
        num_heads=shape.num_heads,
        dropout_rate=shape.dropout_rate,
        dtype=dtype,
    )
    joined: Any = fusion.Concat()
    if shape.fusion == "word_by_word":
        joined = fusion.WordByWord(features=shape.fusion_features, dropout_rate=shape.dropout_rate, dtype=dtype)
    if shape.fusion == "cross_attention":
        joined = fusion.CrossAttention(
            features=shape.fusion_features,
            num_heads=shape.num_heads,
            num_layers=shape.fusion_layers,
            dropout_rate=shape.dropout_rate,
            dtype=dtype,
        )
    return models.FusionClassifier(
        {"image": image, "text": text},
        joined,
        num_classes,
        hidden_features=shape.hidden_features,
        next_word_vocab_size=vocab_size if config.caption_weight else None,
        dropout_rate=shape.dropout_rate,
        dtype=dtype,
    )


@dataclasses.dataclass(frozen=True)
class LabelledPairs(Sequence[dict[str, Any]]):
    """Pairs of an image and a sentence, each with a class; an image of a folder gives one pair for each caption.

    Attributes:
        examples: with images, and sentences with labels or captions with one label.
        places: which caption of which example.
    """

    examples: Examples
    places: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        place, caption = self.places[index]
        example = self.examples[place]
        return {**example, "sentence": sentences_of(example)[caption], "label_name": _label(example)}


def label_pairs(examples: Examples, classes: Sequence[str] | None = None) -> LabelledPairs:
    """Pairs images and sentences.

    Args:
        examples: of a source whose examples have a label.
        classes: names that the labels must be among; None allows any.

    Returns:
        The pairs.

    Raises:
        InputError: an example has no label, or one that is not among the classes.
    """
    places = []
    for place in range(len(examples)):
        example = examples.describe(place)
        if _label(example) is None:
            raise InputError(
                f"classification needs a label of every example; {example.get('id', place)} has none. "
                "Add a column label to captions.csv, or map a field to label."
            )
        if classes is not None and _label(example) not in classes:
            raise InputError(
                f"the label of {example.get('id', place)} must be one of the training's, {', '.join(classes)}; got "
                f"{_label(example)!r}. Correct it, or train with it."
            )
        places += [(place, caption) for caption in range(len(sentences_of(example)))]
    return LabelledPairs(examples, tuple(places))


def sentences_of(example: Mapping[str, Any]) -> list[str]:
    """The texts of an example, each of which makes a pair with its image."""
    return [example["sentence"]] if "sentence" in example else list(example["captions"])


def _label(example: Mapping[str, Any]) -> str | None:
    label = example.get("label_name", example.get("label"))
    return None if label is None else str(label)


@dataclasses.dataclass(frozen=True)
class PairTransform:
    """Makes `image`, `text` and `label` of one pair.

    Attributes:
        tokenizer: text to tokens, or to what else the model reads.
        classes: names of the classes.
        config: sizes and augmentation.
        training: whether to augment.
        with_captions: adds the image's captions after the sentence, as many as the config says.
    """

    tokenizer: TextRows
    classes: tuple[str, ...]
    config: DataConfig
    training: bool
    with_captions: bool = False

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Transforms one pair.

        Args:
            example: with `image`, `sentence` and `label_name`.
            rng: what chance depends on.

        Returns:
            `image` and `text`, see `ImageTransform` and `TextRows`, with captions one row of the text for the sentence
            and one for each of these; `label` int32 and `weight` float32, 1.
        """
        image, length = ImageTransform(self.config, self.training)(example["image"], rng), self.config.max_length
        text = self.tokenizer.encode_batch([example["sentence"]], length)[0]
        if self.with_captions:
            count = self.config.captions_per_image
            chosen = [example["captions"][place] for place in rng.permutation(len(example["captions"]))[:count]]
            captions = np.zeros((count, length), np.int32)
            captions[: len(chosen)] = self.tokenizer.encode_batch(chosen, length)
            text = np.concatenate([text[None], captions])
        return {
            "image": image,
            "text": text,
            "label": np.asarray(self.classes.index(example["label_name"]), np.int32),
            "weight": np.ones((), np.float32),
        }


def make_loss(
    model: models.FusionClassifier, label_smoothing: float = 0.0, caption_weight: float = 0.0
) -> training.LossFunction:
    """Makes the training loss: categorical cross-entropy, with the accuracy beside it.

    With a caption weight w it is the cross-entropy of the classes plus w times that of every next word of the captions,
    both summed, over the number of classified sentences.

    Args:
        model: the classifier.
        label_smoothing: share of the target given to all classes alike.
        caption_weight: of a word of the captions; the batch's texts are then the sentence and captions.

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
        logits = output.logits[:, 0] if caption_weight else output.logits
        loss = losses.cross_entropy(logits, batch["label"], label_smoothing=label_smoothing)
        right = metrics.accuracy(logits, batch["label"])
        measured, total = {"accuracy": (right.total, right.weight)}, loss.total
        if caption_weight:
            targets = batch["text"][:, 1:, 1:]
            words = losses.cross_entropy(output.next_word_logits[:, 1:], targets, mask=targets != 0)
            total = total + caption_weight * words.total
            measured["word_loss"] = (words.total, words.weight)
        return training.LossOutput(total, loss.weight, measured, updated)

    return loss_fn


def train(config: ClassificationConfig, *, quiet: bool = False) -> dict[str, float] | None:
    """Trains, evaluates and reports; goes on where the same command was stopped.

    Args:
        config: the settings.
        quiet: shows no progress.

    Returns:
        The metrics on the test part, flat, such as `test/accuracy`; None if Ctrl-C stopped the training.

    Raises:
        InputError: the data, the settings or the run directory cannot be used.
    """
    finished = finished_metrics(config.output, RECIPE, config)
    if finished is not None:
        _logger.warning("%s has ended already; these are its metrics", config.output)
        return finished
    parts = DataParts(config.data)
    pairs = label_pairs(parts["train"])
    backbones = open_backbones(slots(config), config.data)
    classes = _classes_of(pairs)
    tokenizer = tokenizer_of(backbones) or _train_tokenizer(config.data, pairs)
    validation, test = label_pairs(parts["validation"], classes), label_pairs(parts["test"], classes)
    engine.not_empty(test, "test")
    model = build_model(config, tokenizer.vocab_size, len(classes), backbones)
    engine.check_model(lambda: _initialise(model, config, backbones))
    run = start_run(config.output, RECIPE, config)
    record_backbones(run, backbones)
    if (run.path / "classes.json").exists():
        tokenizer, classes = tokenizer_of(backbones) or data.Tokenizer.load(run.tokenizer), _read_classes(run)
        model = build_model(config, tokenizer.vocab_size, len(classes), backbones)
    tokenizer.save(run.tokenizer)
    write_atomically(run.path / "classes.json", json.dumps(classes) + "\n")
    inputs = ModelInputs(tokenizer, backbones)
    parts_of = {"train": pairs, "validation": validation, "test": test}
    stored = inputs.store({name: one.examples for name, one in parts_of.items()}, sentences_of, quiet=quiet)
    pairs, validation, test = (dataclasses.replace(one, examples=stored[name]) for name, one in parts_of.items())
    classifier = Classifier(model, {}, inputs.texts, classes, config)

    def validate(variables: dict[str, Any]) -> dict[str, float]:
        classifier.variables = variables
        return classifier.score(validation)

    job = engine.Job(
        run=run,
        training=config.training,
        optimizer=config.optimizer,
        strategy=config.strategy,
        seed=config.seed,
        variables=with_weights(_initialise(model, config, backbones), backbones),
        loss_fn=make_loss(model, config.training.label_smoothing, config.caption_weight),
        loader=data.make_loader(
            pairs,
            PairTransform(inputs.texts, classes, config.data, training=True, with_captions=config.caption_weight > 0),
            batch_size=config.training.batch_size,
            shuffle=True,
            seed=config.seed,
            num_workers=config.data.num_workers,
        ),
        epoch_examples=len(pairs),
        validate=validate if len(validation) else None,
        quiet=quiet,
        last_link=layer_decay_of(backbones),
        lora=lora_of(backbones),
    )
    outcome = engine.run_training(job)
    if outcome.interrupted:
        return None
    classifier.variables = outcome.variables
    results = {f"test/{name}": value for name, value in classifier.score(test).items()}
    results |= outcome.effort()
    _report(run, classifier, test, results, outcome.history)
    run.write_metrics(results)
    return results


def evaluate(
    path: str | Path,
    config_of: Callable[[ClassificationConfig], ClassificationConfig] = lambda config: config,
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
    run = open_run(path)
    if run.recipe != RECIPE:
        raise InputError(f"{run.path} must be a run of {RECIPE}; it is one of {run.recipe}. Give another run.")
    config = run.settings(ClassificationConfig)
    backbones = reopen_backbones(run, slots(config), config.data)
    tokenizer, classes = tokenizer_of(backbones) or data.Tokenizer.load(run.tokenizer), _read_classes(run)
    model = build_model(config, tokenizer.vocab_size, len(classes), backbones)
    variables = engine.restore_variables(
        run,
        template_variables(lambda: _initialise(model, config, backbones), backbones),
        config.training,
        config.optimizer,
        last_link=layer_decay_of(backbones),
        lora=lora_of(backbones),
    )
    config = config_of(config)
    inputs = ModelInputs(tokenizer, backbones)
    classifier = Classifier(model, variables, inputs.texts, classes, config)
    pairs = engine.not_empty(label_pairs(DataParts(config.data)[split], classes), split)
    stored = inputs.store({"evaluation": pairs.examples}, sentences_of)["evaluation"]
    pairs = dataclasses.replace(pairs, examples=stored)
    return {f"{split}/{name}": value for name, value in classifier.score(pairs).items()}


class Classifier:
    """A trained classifier.

    Args:
        model: the Linen module.
        variables: its collections.
        tokenizer: text to tokens, or to what else the model reads.
        classes: names of the classes.
        config: the settings.
    """

    def __init__(
        self,
        model: models.FusionClassifier,
        variables: Mapping[str, Any],
        tokenizer: TextRows,
        classes: tuple[str, ...],
        config: ClassificationConfig,
    ) -> None:
        self.model, self.variables, self.config = model, variables, config
        self.tokenizer, self.classes = tokenizer, classes

        def logits_of(variables: Any, batch: Any) -> jax.Array:
            output: Any = model.apply(variables, batch)
            return output.logits.astype(jnp.float32)

        self._apply = jax.jit(logits_of)

    def classify(self, pairs: LabelledPairs) -> tuple[np.ndarray, np.ndarray]:
        """Scores pairs.

        Args:
            pairs: to classify.

        Returns:
            Logits `[pairs, num_classes]` and true labels `[pairs]`.
        """
        transform = PairTransform(self.tokenizer, self.classes, self.config.data, training=False)
        logits, labels = [], []
        for batch in engine.whole_batches(pairs, transform, self.config.training.batch_size):
            kept = batch["weight"] > 0
            logits.append(np.asarray(self._apply(self.variables, batch))[kept])
            labels.append(batch["label"][kept])
        return np.concatenate(logits), np.concatenate(labels)

    def score(self, pairs: LabelledPairs) -> dict[str, float]:
        """Gives `accuracy`, `loss` and the number of `pairs`."""
        logits, labels = self.classify(pairs)
        loss = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
        accuracy = float((logits.argmax(1) == labels).mean())
        return {"accuracy": accuracy, "loss": float(loss.mean), "pairs": float(len(labels))}


def _report(
    run: Run, classifier: Classifier, pairs: LabelledPairs, results: dict[str, float], history: list[dict[str, float]]
) -> None:
    logits, labels = classifier.classify(pairs)
    probabilities = np.asarray(jax.nn.softmax(logits))
    predicted = logits.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    half = classifier.config.report_samples // 2
    right = np.flatnonzero(predicted == labels)[: classifier.config.report_samples - min(half, len(wrong))]
    names = classifier.classes
    samples = [
        ClassificationSample(
            image=pairs.examples.picture(pairs.places[place][0]),
            sentence=pairs[place]["sentence"],
            label=names[labels[place]],
            prediction=names[predicted[place]],
            probability=float(probabilities[place, predicted[place]]),
            name=str(pairs[place]["id"]),
        )
        for place in [*wrong[:half].tolist(), *right.tolist()]
    ]
    write_classification_report(
        run.report,
        title=f"Classification: {run.path.name}",
        summary=results,
        classes=names,
        confusion=metrics.confusion_matrix(labels, predicted, len(names)),
        samples=samples,
        history=history,
    )


def _initialise(
    model: models.FusionClassifier, config: ClassificationConfig, backbones: Backbones = NO_BACKBONES
) -> dict[str, Any]:
    batch = {"image": image_example(config.data, backbones), "text": text_example(config.data, backbones)}
    return dict(jax.jit(model.init)(jax.random.key(config.seed), batch))


def _train_tokenizer(config: DataConfig, pairs: LabelledPairs) -> data.Tokenizer:
    examples = (pairs.examples.describe(place) for place in range(len(pairs.examples)))
    texts = (text for example in examples for text in sentences_of(example))
    return data.train_tokenizer(texts, kind=config.tokenizer, vocab_size=config.vocab_size, min_count=config.min_count)


def _classes_of(pairs: LabelledPairs) -> tuple[str, ...]:
    labels = {str(_label(pairs.examples.describe(place))) for place in range(len(pairs.examples))}
    classes = tuple(sorted(labels))
    if len(classes) < 2:
        raise InputError(f"classification needs two classes or more; got {', '.join(classes)}. Check the labels.")
    return classes


def _read_classes(run: Run) -> tuple[str, ...]:
    try:
        return tuple(json.loads((run.path / "classes.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{run.path / 'classes.json'} must list the classes; {error}. Restore it, or train again."
        ) from error
