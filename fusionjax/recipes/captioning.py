"""Captioning: photographs in, sentences out. Train, evaluate, use."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax import data, encoders, losses, metrics, models, training
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
    with_weights,
)
from fusionjax.recipes.captions import CaptionTransform, train_tokenizer
from fusionjax.recipes.config import (
    DataConfig,
    DecodingConfig,
    ImageBackboneConfig,
    TrainingConfig,
    require_not_negative,
    require_positive,
)
from fusionjax.recipes.frozen import ModelInputs
from fusionjax.recipes.report import CaptionSample, write_report
from fusionjax.recipes.reward import CaptionReward, RewardConfig, make_reward_loss
from fusionjax.recipes.run import Run, finished_metrics, open_run, start_run
from fusionjax.recipes.sources import DataParts, Examples, ImageTransform, Places, PlaceTransform
from fusionjax.recipes.writing import CaptionWriter, Written

RECIPE = "captioning"
REWARD_STAGE = "reward"

_logger = logging.getLogger("fusionjax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The captioner's shape.

    Attributes:
        decoder: `attention` (an LSTM that looks at the image before each word), `lstm` (one started from the image) or
            `transformer`.
        cnn_features: of each stage of the image encoder.
        padding: of its convolutions.
        normalization: in its stages.
        pooling: of its cells to the vector that the LSTM decoders start from; `flatten` keeps where things are, `mean`
            has fewer parameters.
        use_positions: adds a learned vector to each cell, so that the decoder can tell where it is.
        features: of the LSTM; of the Transformer.
        embedding_features: of a word, for the LSTM decoders.
        attention_features: of the attention, for the LSTM that looks.
        num_layers: of the Transformer.
        num_heads: of the Transformer.
        dropout_rate: on image cells, words and states.
    """

    decoder: Literal["attention", "lstm", "transformer"] = "attention"
    cnn_features: tuple[int, ...] = (32, 64, 128)
    padding: Literal["SAME", "VALID"] = "SAME"
    normalization: Literal["group", "batch"] | None = "batch"
    pooling: Literal["flatten", "mean", "attention"] = "flatten"
    use_positions: bool = True
    features: int = 256
    embedding_features: int = 128
    attention_features: int = 128
    num_layers: int = 2
    num_heads: int = 4
    dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        """Checks the values."""
        require_positive(self, "features", "embedding_features", "attention_features", "num_layers", "num_heads")
        if not self.cnn_features or min(self.cnn_features) < 1:
            raise InputError(f"cnn_features must be one or more sizes above 0; got {self.cnn_features}. Try 32 64 128.")
        if not 0 <= self.dropout_rate < 1:
            raise InputError(f"dropout_rate must be in [0, 1); got {self.dropout_rate}. Try 0.3.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptioningConfig:
    """A captioning run.

    Attributes:
        output: the run directory; made if missing, resumed if the same command was stopped.
        seed: of the parameters, the order of the data and dropout.
        strategy: `jit` shards each batch over the local devices; `pmap` replicates the step.
        data: what to learn from.
        image: an image encoder with published weights, in place of the one that `model` describes.
        model: the captioner's shape.
        optimizer: how to learn.
        training: how long.
        reward: the second stage, in which sampled captions are rewarded.
        decoding: how captions are written for the evaluation.
        report_samples: pictures in the report.
    """

    output: str = "runs/captioning"
    seed: int = 0
    strategy: Literal["jit", "pmap"] = "jit"
    data: DataConfig = DataConfig()
    image: ImageBackboneConfig = ImageBackboneConfig()
    model: ModelConfig = ModelConfig()
    optimizer: training.OptimizerConfig = training.OptimizerConfig(
        learning_rate=2e-3, warmup_steps=100, clip_norm=5.0, weight_decay=1e-2
    )
    training: TrainingConfig = TrainingConfig(epochs=6, batch_size=32)
    reward: RewardConfig = RewardConfig()
    decoding: DecodingConfig = DecodingConfig()
    report_samples: int = 12

    def __post_init__(self) -> None:
        """Checks the values."""
        require_not_negative(self, "seed", "report_samples")
        if self.reward.epochs and self.reward.batch_size % self.training.accumulate:
            sizes = f"{self.training.accumulate} and {self.reward.batch_size}"
            raise InputError(f"accumulate must divide reward.batch_size; got {sizes}. Change one of them.")


Config = CaptioningConfig


def preset(source: str, image: ImageBackboneConfig = ImageBackboneConfig()) -> CaptioningConfig:
    """The settings that suit a source and, where there is one, a published encoder.

    Args:
        source: `"scenes"`, `"flickr"`, `"coco"` or `"tfds"`.
        image: names the weights, and how they are tuned.

    Returns:
        The config; the folder or the name of the data set is still to be given (`dataclasses.replace`).

    Raises:
        InputError: an unknown source, or weights that cannot be opened.
    """
    if image.weights is not None:
        return _on_weights(preset(source), image)
    if source == "scenes":
        scenes = DataConfig(size=16_000, image_size=48, captions_per_image=2, max_length=12)
        schedule = TrainingConfig(epochs=4, batch_size=16, ema_decay=0.99)
        return CaptioningConfig(data=scenes, model=ModelConfig(dropout_rate=0.0), training=schedule)
    if source not in ("flickr", "coco", "tfds"):
        raise InputError(f"the source must be scenes, flickr, coco or tfds; got {source!r}. Choose one.")
    photographs = DataConfig(
        source=source,  # type: ignore[arg-type]
        image_size=80,
        margin=0.125,
        flip=True,
        captions_per_image=5,
        min_count=3,
        max_length=18,
    )
    return CaptioningConfig(
        data=photographs,
        model=ModelConfig(
            pooling="mean",
            cnn_features=(32, 64, 128, 192),
            features=256,
            embedding_features=192,
            attention_features=64,
            dropout_rate=0.3,
        ),
        optimizer=training.OptimizerConfig(
            learning_rate=2e-3, warmup_steps=100, clip_norm=5.0, weight_decay=1e-2, b2=0.98
        ),
        training=TrainingConfig(epochs=18, batch_size=16, label_smoothing=0.1),
        reward=RewardConfig(epochs=4, caption_weight=0.1),
    )


def _on_weights(scratch: CaptioningConfig, image: ImageBackboneConfig) -> CaptioningConfig:
    """The settings of a source, with a published encoder in place of one from scratch."""
    is_frozen = image.tune == "frozen"
    return dataclasses.replace(
        scratch,
        image=dataclasses.replace(
            image, features=256, dropout_rate=0.3, views=2 if is_frozen and scratch.data.flip else 1
        ),
        data=dataclasses.replace(scratch.data, image_size=image_size_of(image)),
    )


def slots(config: CaptioningConfig) -> Slots:
    """Where the captioner can have a published encoder.

    Args:
        config: the settings.

    Returns:
        The slot of the images.
    """
    return {"image": Slot(config.image, "encoder", has_tokens=config.model.decoder != "lstm")}


def build_model(config: CaptioningConfig, vocab_size: int, backbones: Backbones = NO_BACKBONES) -> models.Captioner:
    """Builds the captioner.

    Args:
        config: the settings.
        vocab_size: of the tokenizer.
        backbones: published encoders, opened.

    Returns:
        The model, without parameters.
    """
    shape, dtype = config.model, engine.compute_dtype(config.training)
    encoder: Any
    if "image" in backbones:
        encoder = backbones["image"].build(use_positions=shape.use_positions, dtype=dtype)
    else:
        encoder = encoders.SimpleCNN(
            features=shape.cnn_features,
            padding=shape.padding,
            normalization=shape.normalization,
            pooling=shape.pooling,
            use_positions=shape.use_positions,
            dropout_rate=shape.dropout_rate,
            mean=0.5,
            std=0.5,
            dtype=dtype,
        )
    common: dict[str, Any] = {"features": shape.features, "dropout_rate": shape.dropout_rate, "dtype": dtype}
    decoder: Any
    if shape.decoder == "transformer":
        decoder = models.TransformerDecoder(
            vocab_size,
            num_layers=shape.num_layers,
            num_heads=shape.num_heads,
            max_length=config.data.max_length,
            **common,
        )
    elif shape.decoder == "lstm":
        decoder = models.LSTMDecoder(vocab_size, embedding_features=shape.embedding_features, **common)
    else:
        decoder = models.AttentionLSTMDecoder(
            vocab_size,
            embedding_features=shape.embedding_features,
            attention_features=shape.attention_features,
            **common,
        )
    return models.Captioner(encoder, decoder)


def make_loss(model: models.Captioner, label_smoothing: float = 0.0) -> training.LossFunction:
    """Makes the training loss: cross-entropy of every next word, padding left out.

    Args:
        model: the captioner.
        label_smoothing: share of the target given to all words alike.

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
        targets = batch["text"][..., 1:]
        loss = losses.cross_entropy(output.logits, targets, mask=targets != 0, label_smoothing=label_smoothing)
        return training.LossOutput(loss.total, loss.weight, model_state=updated)

    return loss_fn


def train(config: CaptioningConfig, *, quiet: bool = False) -> dict[str, float] | None:
    """Trains, evaluates and reports; goes on where the same command was stopped.

    Args:
        config: the settings.
        quiet: shows no progress.

    Returns:
        The metrics on the test part, flat, such as `test/cider_d`; None if Ctrl-C stopped the training.

    Raises:
        InputError: the data, the settings or the run directory cannot be used.
    """
    finished = finished_metrics(config.output, RECIPE, config)
    if finished is not None:
        _logger.warning("%s has ended already; these are its metrics", config.output)
        return finished
    parts = DataParts(config.data)
    examples, validation, test = parts["train"], parts["validation"], engine.not_empty(parts["test"], "test")
    tokenizer = train_tokenizer(config.data, examples)
    backbones = open_backbones(slots(config), config.data)
    model = build_model(config, tokenizer.vocab_size, backbones)
    engine.check_model(lambda: _initialise(model, config, backbones))
    run = start_run(config.output, RECIPE, config)
    record_backbones(run, backbones)
    if run.tokenizer.exists():
        tokenizer = data.Tokenizer.load(run.tokenizer)
        model = build_model(config, tokenizer.vocab_size, backbones)
    tokenizer.save(run.tokenizer)
    inputs = ModelInputs(tokenizer, backbones)
    stored = inputs.store({"train": examples, "validation": validation, "test": test}, quiet=quiet)
    examples, validation, test = stored["train"], stored["validation"], stored["test"]
    validate = _validation(model, tokenizer, config, validation) if len(validation) else None
    job = _caption_job(run, config, model, tokenizer, examples, backbones)
    job = dataclasses.replace(job, validate=validate, quiet=quiet)
    outcome = first = engine.run_training(job)
    if config.reward.epochs and not outcome.interrupted:
        job = _reward_job(job, config, model, tokenizer, examples, outcome)
        outcome = engine.run_training(job).after(first)
    if outcome.interrupted:
        return None
    writer = CaptionWriter(model, outcome.variables, tokenizer, config.data.max_length, inputs=inputs)
    results, samples = score_captions(writer, config, test, "test")
    results |= outcome.effort()
    title = f"Captioning: {run.path.name}"
    write_report(run.report, title=title, summary=results, samples=samples, history=outcome.history)
    run.write_metrics(results)
    return results


def _caption_job(
    run: Run,
    config: CaptioningConfig,
    model: models.Captioner,
    tokenizer: data.Tokenizer,
    examples: Examples,
    backbones: Backbones,
) -> engine.Job:
    """The first stage: the captions of the training part, word by word."""
    return engine.Job(
        run=run,
        training=config.training,
        optimizer=config.optimizer,
        strategy=config.strategy,
        seed=config.seed,
        variables=with_weights(_initialise(model, config, backbones), backbones),
        loss_fn=make_loss(model, config.training.label_smoothing),
        loader=data.make_loader(
            examples,
            CaptionTransform(tokenizer, config.data, training=True),
            batch_size=config.training.batch_size,
            shuffle=True,
            seed=config.seed,
            num_workers=config.data.num_workers,
        ),
        epoch_examples=len(examples),
        last_link=layer_decay_of(backbones),
        lora=lora_of(backbones),
    )


def _reward_job(
    job: engine.Job,
    config: CaptioningConfig,
    model: models.Captioner,
    tokenizer: data.Tokenizer,
    examples: Examples,
    outcome: engine.Outcome,
) -> engine.Job:
    """The second stage: sampled captions, rewarded."""
    captions = [examples.describe(place)["captions"] for place in range(len(examples))]
    reward = CaptionReward(tokenizer, captions, config.data.max_length)
    return dataclasses.replace(
        job,
        stage=REWARD_STAGE,
        first_step=outcome.step,
        batch_size=config.reward.batch_size,
        epochs=config.reward.epochs,
        optimizer=_reward_optimizer(config),
        seed=config.seed + 1,
        variables=outcome.learned,
        loss_fn=make_reward_loss(
            model,
            reward,
            samples=config.reward.samples,
            max_length=config.data.max_length,
            caption_weight=config.reward.caption_weight,
            label_smoothing=config.training.label_smoothing,
        ),
        loader=data.make_loader(
            Places(examples),
            PlaceTransform(CaptionTransform(tokenizer, config.data, training=True)),
            batch_size=config.reward.batch_size,
            shuffle=True,
            seed=config.seed + 1,
        ),
    )


def _reward_optimizer(config: CaptioningConfig) -> training.OptimizerConfig:
    return dataclasses.replace(
        config.optimizer,
        learning_rate=config.reward.learning_rate,
        schedule="linear",
        warmup_steps=20,
        end_fraction=0.05,
    )


def evaluate(
    path: str | Path,
    config_of: Callable[[CaptioningConfig], CaptioningConfig] = lambda config: config,
    *,
    split: str = "test",
) -> dict[str, float]:
    """Evaluates a trained run, on its own data or on others.

    Args:
        path: the run directory.
        config_of: changes the settings, such as the folder of the data or the decoding.
        split: the part of the data.

    Returns:
        Flat metrics, such as `test/cider_d`.

    Raises:
        InputError: the run or the data cannot be used.
    """
    writer, config = load(path)
    config = config_of(config)
    examples = engine.not_empty(DataParts(config.data)[split], split)
    stored = writer.inputs.store({"evaluation": examples})["evaluation"]
    return score_captions(writer, config, stored, split)[0]


def caption(
    path: str | Path,
    photographs: Sequence[str | Path],
    decoding_of: Callable[[DecodingConfig], DecodingConfig] = lambda config: config,
) -> list[Written]:
    """Writes a caption for each photograph.

    Args:
        path: the run directory.
        photographs: image files.
        decoding_of: changes the way of the run.

    Returns:
        One `Written` a photograph.

    Raises:
        InputError: the run or a photograph cannot be used.
    """
    writer, config = load(path)
    side = config.data.stored_size
    transform = ImageTransform(config.data, training=False)
    images = [data.load_image(photograph, side, fit=config.data.fit) for photograph in photographs]
    pixels = np.stack([transform(image, np.random.default_rng(0)) for image in images])
    return writer.write(pixels, decoding_of(config.decoding))


def load(path: str | Path) -> tuple[CaptionWriter, CaptioningConfig]:
    """Loads a trained captioner.

    Args:
        path: the run directory.

    Returns:
        What writes captions, and the settings of the run.

    Raises:
        InputError: it is no run of this recipe, or it is damaged.
    """
    run = open_run(path)
    if run.recipe != RECIPE:
        raise InputError(f"{run.path} must be a run of {RECIPE}; it is one of {run.recipe}. Give another run.")
    config = run.settings(CaptioningConfig)
    tokenizer = data.Tokenizer.load(run.tokenizer)
    backbones = reopen_backbones(run, slots(config), config.data)
    model = build_model(config, tokenizer.vocab_size, backbones)
    template = template_variables(lambda: _initialise(model, config, backbones), backbones)
    stage, optimizer = "", config.optimizer
    if config.reward.epochs:
        stage, optimizer = REWARD_STAGE, _reward_optimizer(config)
    variables = engine.restore_variables(
        run,
        template,
        config.training,
        optimizer,
        stage,
        last_link=layer_decay_of(backbones),
        lora=lora_of(backbones),
    )
    inputs = ModelInputs(tokenizer, backbones)
    return CaptionWriter(model, variables, tokenizer, config.data.max_length, inputs=inputs), config


def _initialise(
    model: models.Captioner, config: CaptioningConfig, backbones: Backbones = NO_BACKBONES
) -> dict[str, Any]:
    batch = {"image": image_example(config.data, backbones), "text": jnp.ones((1, 3), jnp.int32)}
    return dict(jax.jit(model.init)(jax.random.key(config.seed), batch))


def _all_captions(writer: CaptionWriter, examples: Examples, config: CaptioningConfig) -> tuple[float, float]:
    captions = max(len(example["captions"]) for example in examples)
    whole = dataclasses.replace(config.data, captions_per_image=captions)
    transform = CaptionTransform(writer.tokenizer, whole, training=False)
    return writer.cross_entropy(engine.whole_batches(examples, transform, config.training.batch_size))


def _validation(
    model: models.Captioner, tokenizer: data.Tokenizer, config: CaptioningConfig, examples: Examples
) -> Callable[[dict[str, Any]], dict[str, float]]:
    writer = CaptionWriter(model, {}, tokenizer, config.data.max_length)

    def validate(variables: dict[str, Any]) -> dict[str, float]:
        writer.variables = variables
        total, weight = _all_captions(writer, examples, config)
        return {"loss": total / weight}

    return validate


def score_captions(
    writer: CaptionWriter, config: CaptioningConfig, examples: Examples, split: str
) -> tuple[dict[str, float], list[CaptionSample]]:
    """Writes captions for a part of the data and scores them.

    Args:
        writer: of captions.
        config: the settings.
        examples: with images and captions.
        split: name of the part, for the metrics.

    Returns:
        Flat metrics, such as `test/cider_d`, and samples for the report.
    """
    transform = ImageTransform(config.data, training=False)
    pixels = np.stack([transform(example["image"], np.random.default_rng(0)) for example in examples])
    written = writer.write(pixels, config.decoding)
    candidates = [metrics.tokenize_caption(one.caption) for one in written]
    references = [[metrics.tokenize_caption(text) for text in example["captions"]] for example in examples]
    total, weight = _all_captions(writer, examples, config)
    scores = metrics.caption_metrics(candidates, references)
    results = {f"{split}/{name}": value for name, value in scores.items()}
    results[f"{split}/perplexity"] = metrics.perplexity(total, weight)
    results[f"{split}/images"] = float(len(examples))
    places = np.linspace(0, len(examples) - 1, min(config.report_samples, len(examples))).astype(int)
    shown = writer.write(pixels[places], config.decoding, look=True)
    samples = [
        CaptionSample(
            image=transform(examples.picture(place), np.random.default_rng(0)),
            references=tuple(examples[place]["captions"]),
            caption=one.caption,
            words=one.words,
            attention=one.attention,
            log_probability=one.log_probability,
            name=str(examples[place]["id"]),
        )
        for place, one in zip(places.tolist(), shown, strict=True)
    ]
    return results, samples
