"""Retrieval: images and captions in one space, each found by the other. Train, evaluate, name classes."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fusionjax import data, encoders, losses, metrics, models, parallel, training
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
from fusionjax.recipes.captions import CaptionTransform, TextTokenizer, train_tokenizer
from fusionjax.recipes.config import (
    BackboneConfig,
    DataConfig,
    ImageBackboneConfig,
    TrainingConfig,
    require_not_negative,
    require_positive,
)
from fusionjax.recipes.embedder import Embedder
from fusionjax.recipes.frozen import ModelInputs
from fusionjax.recipes.labels import Label
from fusionjax.recipes.retrieval_report import RetrievalSample, write_retrieval_report
from fusionjax.recipes.run import finished_metrics, open_run, start_run
from fusionjax.recipes.sources import DataParts, Examples, ImageTransform
from fusionjax.recipes.zero_shot import TEMPLATES, check_prompts, name_classes

RECIPE = "retrieval"
LossName = Literal["info_nce", "sigmoid", "hardest_triplet", "all_triplets"]

_logger = logging.getLogger("fusionjax")
_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The two towers' shape.

    Attributes:
        cnn_features: of each stage of the image encoder.
        downsampling: in its stages, by max-pooling or by strides of the convolutions.
        normalization: in its stages.
        image_pooling: of its cells to one vector.
        word_features: of the word vectors.
        text_features: of the text encoder's states, each direction.
        text_layers: recurrent layers of it; 0 averages the word vectors.
        cell: of the text encoder.
        is_bidirectional: whether it reads both ways.
        text_pooling: of its states to one vector.
        features: of the common space.
        dropout_rate: on image cells, words and pooled features.
    """

    cnn_features: tuple[int, ...] = (32, 64, 128, 256)
    downsampling: Literal["pool", "strides"] = "pool"
    normalization: Literal["group", "batch"] | None = "batch"
    image_pooling: Literal["flatten", "mean", "max", "attention"] = "mean"
    word_features: int = 128
    text_features: int = 128
    text_layers: int = 1
    cell: Literal["lstm", "gru", "elman"] = "gru"
    is_bidirectional: bool = True
    text_pooling: Literal["mean", "max", "last", "attention"] = "mean"
    features: int = 256
    dropout_rate: float = 0.3

    def __post_init__(self) -> None:
        """Checks the values."""
        require_not_negative(self, "text_layers")
        require_positive(self, "word_features", "text_features", "features")
        if not self.cnn_features or min(self.cnn_features) < 1:
            raise InputError(f"cnn_features must be one or more sizes above 0; got {self.cnn_features}. Try 32 64 128.")
        if not 0 <= self.dropout_rate < 1:
            raise InputError(f"dropout_rate must be in [0, 1); got {self.dropout_rate}. Try 0.3.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """A run of retrieval.

    Attributes:
        output: the run directory; made if missing, resumed if the same command was stopped.
        seed: of the parameters, the order of the data and dropout.
        strategy: `jit` shards each batch over the local devices; `pmap` replicates the step.
        loss: `info_nce` (CLIP), `sigmoid` (SigLIP), or triplets with the hardest wrong partner (VSE++) or all of them.
        margin: of the triplets.
        data: what to learn from; a step takes `captions_per_image` captions of each image, at random, and compares the
            images with the first of each, with the second of each, and so on.
        image: an image encoder with published weights, in place of the one that `model` describes.
        text: a text encoder with published weights, likewise.
        model: the towers' shape.
        optimizer: how to learn.
        training: how long; with `accumulate` the batch is encoded in parts and compared as a whole.
        report_samples: queries in the report.
    """

    output: str = "runs/retrieval"
    seed: int = 0
    strategy: Literal["jit", "pmap"] = "jit"
    loss: LossName = "info_nce"
    margin: float = 0.2
    data: DataConfig = DataConfig()
    image: ImageBackboneConfig = ImageBackboneConfig()
    text: BackboneConfig = BackboneConfig()
    model: ModelConfig = ModelConfig()
    optimizer: training.OptimizerConfig = training.OptimizerConfig(
        learning_rate=1e-3, warmup_steps=100, clip_norm=1.0, weight_decay=1e-2
    )
    training: TrainingConfig = TrainingConfig(epochs=10, batch_size=32)
    report_samples: int = 12

    def __post_init__(self) -> None:
        """Checks the values."""
        require_not_negative(self, "seed", "report_samples", "margin")
        if self.strategy == "pmap" and "triplet" in self.loss:
            raise InputError(f"pmap has rings for info_nce and sigmoid only; got loss {self.loss}. Use strategy jit.")


Config = RetrievalConfig


def preset(
    source: str, image: ImageBackboneConfig = ImageBackboneConfig(), text: BackboneConfig = BackboneConfig()
) -> RetrievalConfig:
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
        scenes = DataConfig(size=8000, image_size=48, max_length=12)
        model = ModelConfig(cnn_features=(16, 32, 64), image_pooling="flatten", features=128, dropout_rate=0.0)
        return RetrievalConfig(data=scenes, model=model)
    if source not in ("flickr", "coco", "tfds"):
        raise InputError(f"the source must be scenes, flickr, coco or tfds; got {source!r}. Choose one.")
    photographs = DataConfig(
        source=source,  # type: ignore[arg-type]
        image_size=96,
        margin=1 / 6,
        flip=True,
        captions_per_image=5,
        min_count=2,
        max_length=26,
    )
    return RetrievalConfig(data=photographs, training=TrainingConfig(epochs=60, batch_size=32))


def _on_weights(scratch: RetrievalConfig, image: ImageBackboneConfig, text: BackboneConfig) -> RetrievalConfig:
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


def slots(config: RetrievalConfig) -> Slots:
    """Where the two towers can have published encoders.

    Args:
        config: the settings.

    Returns:
        The slots of the images and of the texts.
    """
    return {
        "image": Slot(config.image, "image_encoder", has_tokens=False),
        "text": Slot(config.text, "text_encoder", has_tokens=False),
    }


def build_model(config: RetrievalConfig, vocab_size: int, backbones: Backbones = NO_BACKBONES) -> models.DualEncoder:
    """Builds the two towers.

    Args:
        config: the settings.
        vocab_size: of the tokenizer.
        backbones: published encoders, opened.

    Returns:
        The model, without parameters.
    """
    shape, dtype = config.model, engine.compute_dtype(config.training)
    built = {part: one.build(dtype=dtype) for part, one in backbones.items()}
    image = built.get("image") or encoders.SimpleCNN(
        features=shape.cnn_features,
        padding="SAME",
        downsampling=shape.downsampling,
        normalization=shape.normalization,
        pooling=shape.image_pooling,
        dropout_rate=shape.dropout_rate,
        mean=0.5,
        std=0.25,
        dtype=dtype,
    )
    text = built.get("text") or encoders.RNNEncoder(
        vocab_size,
        shape.text_features,
        cell=shape.cell,
        num_layers=shape.text_layers,
        bidirectional=shape.is_bidirectional and shape.text_layers > 0,
        embedding_features=shape.word_features,
        pooling=shape.text_pooling,
        dropout_rate=shape.dropout_rate,
        dtype=dtype,
    )
    is_sigmoid = config.loss == "sigmoid"
    return models.DualEncoder(
        image,
        text,
        features=shape.features,
        scale=10.0 if is_sigmoid else 1 / 0.07,
        bias=-10.0 if is_sigmoid else None,
        dropout_rate=shape.dropout_rate,
        dtype=dtype,
    )


def make_loss(model: models.DualEncoder, config: RetrievalConfig, mesh: Mesh | None = None) -> training.BatchLoss:
    """Makes the training loss: every image of the batch against a caption of each, however the batch is encoded.

    Of several captions of each image, the loss is the mean over the first of each, the second of each, and so on: a
    step of k captions encodes its images once.

    Args:
        model: the two towers.
        config: names the loss; under `pmap` its ring goes over the axis `"data"`.
        mesh: over whose devices the batch is split; of one device, or None, there is no ring.

    Returns:
        The loss in two parts.
    """

    def encode(params: Any, model_state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        output, updated = model.apply(
            {"params": params, **model_state},
            batch,
            deterministic=False,
            rngs={"dropout": key},
            mutable=list(model_state),
        )
        return (output.image, output.text), updated

    def compare(params: Any, features: Any, batch: Any) -> training.LossOutput:
        scalars: Any = model.apply({"params": params}, method="scalars")
        scale, bias = scalars
        # [batch, features], [batch, captions, features]
        images, texts = features
        keep = (batch["text"] != 0).any(-1)
        found = [
            compare_pairs(config, images, texts[:, place], scale, bias, keep[:, place], mesh)
            for place in range(texts.shape[1])
        ]
        total = jnp.stack([one.total for one in found]).sum()
        weight = jnp.stack([one.weight for one in found]).sum()
        return training.LossOutput(total, weight, {"scale": (scale * weight, weight)})

    return training.BatchLoss(encode, compare)


def compare_pairs(
    config: RetrievalConfig,
    images: jax.Array,
    texts: jax.Array,
    scale: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array,
    mesh: Mesh | None = None,
) -> losses.Loss:
    """Computes the loss that a config names.

    Args:
        config: the settings.
        images: `[batch, features]`.
        texts: `[batch, features]`.
        scale: of the model.
        bias: of the model.
        mask: True = counted, `[batch]`.
        mesh: over whose devices the batch is split.

    Returns:
        The loss of all pairs.
    """
    if config.loss == "hardest_triplet":
        return losses.triplet(images, texts, margin=config.margin, mask=mask)
    if config.loss == "all_triplets":
        return losses.triplet(images, texts, margin=config.margin, negatives="all", mask=mask)
    ring: dict[str, Any] = {}
    if mesh is not None and mesh.size > 1:
        ring = {"axis_name": parallel.DATA_AXIS} if config.strategy == "pmap" else {"mesh": mesh}
    if bias is None:
        return losses.info_nce(images, texts, scale, mask=mask, **ring)
    return losses.sigmoid_contrastive(images, texts, scale, bias, mask=mask, **ring)


def train(config: RetrievalConfig, *, quiet: bool = False) -> dict[str, float] | None:
    """Trains, evaluates and reports; goes on where the same command was stopped.

    Args:
        config: the settings.
        quiet: shows no progress.

    Returns:
        The metrics on the test part, flat, such as `test/image_to_text/recall_at_5` and `test/mean_recall`; None if
        Ctrl-C stopped the training.

    Raises:
        InputError: the data, the settings or the run directory cannot be used.
    """
    finished = finished_metrics(config.output, RECIPE, config)
    if finished is not None:
        _logger.warning("%s has ended already; these are its metrics", config.output)
        return finished
    parts = DataParts(config.data)
    examples, validation, test = (parts[part] for part in ("train", "validation", "test"))
    for part, one in (("train", examples), ("validation", validation), ("test", engine.not_empty(test, "test"))):
        check_captions(one, part)
    backbones = open_backbones(slots(config), config.data)
    tokenizer = tokenizer_of(backbones) or train_tokenizer(config.data, examples)
    model = build_model(config, tokenizer.vocab_size, backbones)
    engine.check_model(lambda: _initialise(model, config, backbones))
    run = start_run(config.output, RECIPE, config)
    record_backbones(run, backbones)
    if run.tokenizer.exists() and "text" not in backbones:
        tokenizer = data.Tokenizer.load(run.tokenizer)
        model = build_model(config, tokenizer.vocab_size, backbones)
    tokenizer.save(run.tokenizer)
    inputs = ModelInputs(tokenizer, backbones)
    stored = inputs.store({"train": examples, "validation": validation, "test": test}, captions_of, quiet=quiet)
    examples, validation, test = stored["train"], stored["validation"], stored["test"]
    embedder = make_embedder(model, {}, tokenizer, config, run.path, inputs)

    def validate(variables: dict[str, Any]) -> dict[str, float]:
        embedder.variables = variables
        scores = score(embedder, config, validation)
        return {name: scores[name] for name in ("loss", "mean_recall")}

    job = engine.Job(
        run=run,
        training=config.training,
        optimizer=config.optimizer,
        strategy=config.strategy,
        seed=config.seed,
        variables=with_weights(_initialise(model, config, backbones), backbones),
        loss_fn=make_loss(model, config, engine.mesh_of(config.training.batch_size // config.training.accumulate)),
        loader=data.make_loader(
            examples,
            CaptionTransform(inputs.texts, config.data, training=True),
            batch_size=config.training.batch_size,
            shuffle=True,
            seed=config.seed,
            num_workers=config.data.num_workers,
        ),
        epoch_examples=len(examples),
        validate=validate if len(validation) else None,
        quiet=quiet,
        last_link=layer_decay_of(backbones),
        lora=lora_of(backbones),
    )
    outcome = engine.run_training(job)
    if outcome.interrupted:
        return None
    embedder.variables = outcome.variables
    results = {f"test/{name}": value for name, value in score(embedder, config, test).items()}
    results |= outcome.effort()
    results |= engine.count_cost(
        lambda variables, batch: model.apply(variables, batch), outcome.variables, _example_batch(config, backbones)
    )
    write_retrieval_report(
        run.report,
        title=f"Retrieval: {run.path.name}",
        summary=results,
        samples=_samples(embedder, test, config.report_samples),
        history=outcome.history,
    )
    run.write_metrics(results)
    return results


def evaluate(
    path: str | Path,
    config_of: Callable[[RetrievalConfig], RetrievalConfig] = lambda config: config,
    *,
    split: str = "test",
) -> dict[str, float]:
    """Evaluates a trained run, on its own data or on others.

    Args:
        path: the run directory.
        config_of: changes the settings, such as the folder of the data.
        split: the part of the data.

    Returns:
        Flat metrics, such as `test/mean_recall`.

    Raises:
        InputError: the run or the data cannot be used.
    """
    embedder, trained = _load(path)
    config = config_of(trained)
    examples = engine.not_empty(DataParts(config.data)[split], split)
    check_captions(examples, split)
    examples = embedder.inputs.store({"evaluation": examples}, captions_of)["evaluation"]
    return {f"{split}/{name}": value for name, value in score(embedder, config, examples).items()}


def load(path: str | Path) -> Embedder:
    """Loads a trained run.

    Args:
        path: the run directory.

    Returns:
        What encodes images and texts.

    Raises:
        InputError: it is no run of this recipe, or it is damaged.
    """
    return _load(path)[0]


def _load(path: str | Path) -> tuple[Embedder, RetrievalConfig]:
    run = open_run(path)
    if run.recipe != RECIPE:
        raise InputError(f"{run.path} must be a run of {RECIPE}; it is one of {run.recipe}. Give another run.")
    config = run.settings(RetrievalConfig)
    backbones = reopen_backbones(run, slots(config), config.data)
    tokenizer = tokenizer_of(backbones) or data.Tokenizer.load(run.tokenizer)
    model = build_model(config, tokenizer.vocab_size, backbones)
    variables = engine.restore_variables(
        run,
        template_variables(lambda: _initialise(model, config, backbones), backbones),
        config.training,
        config.optimizer,
        last_link=layer_decay_of(backbones),
        lora=lora_of(backbones),
    )
    inputs = ModelInputs(tokenizer, backbones)
    return make_embedder(model, variables, tokenizer, config, run.path, inputs), config


def make_embedder(
    model: models.DualEncoder,
    variables: Mapping[str, Any],
    tokenizer: TextTokenizer,
    config: RetrievalConfig,
    folder: Path,
    inputs: ModelInputs | None = None,
) -> Embedder:
    """Makes an embedder of two trained towers.

    Args:
        model: the Linen module.
        variables: its collections.
        tokenizer: text to tokens.
        config: the settings of the training.
        folder: of the run, in which indexes of photographs are kept.
        inputs: what brings images and texts to the model; None takes pixels and tokens.

    Returns:
        What encodes images and texts.
    """
    transform, rng = ImageTransform(config.data, training=False), np.random.default_rng(0)
    stored, fit = config.data.stored_size, config.data.fit
    return Embedder(
        model,
        variables,
        tokenizer,
        length=config.data.max_length,
        read=lambda path: data.load_image(path, stored, fit=fit),
        inputs=inputs,
        prepare=lambda image: transform(image, rng),
        preparation=f"{stored} {fit} {config.data.image_size}",
        batch_size=config.training.batch_size,
        indexes=folder / "indexes",
    )


def classify(
    path: str | Path,
    photographs: Sequence[str | Path],
    classes: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    *,
    top: int = 5,
) -> list[list[Label]]:
    """Names what is on photographs, among classes that the run was never trained on as such (zero-shot).

    The vector of a class is the mean of those of its prompts, brought to length 1; the probabilities are the softmax of
    the similarities, or with the loss `sigmoid` their sigmoids, which do not add up to 1.

    Args:
        path: the run directory.
        photographs: image files.
        classes: two names or more.
        templates: prompts with `{}` where the name goes.
        top: how many classes, the most probable first.

    Returns:
        For each photograph its classes.

    Raises:
        InputError: the run, a photograph, the classes or a template cannot be used.

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
        arXiv:2103.00020, section 3.1.4, for prompts and their ensembles.
    """
    check_prompts(classes, templates)
    return name_classes(load(path), photographs, classes, templates, top=top)


def encode_part(embedder: Embedder, examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Encodes all images and all captions of a part of the data.

    Args:
        embedder: of images and texts.
        examples: with images and captions.

    Returns:
        Features of the images and of the captions, and the place of each caption's image.
    """
    captions = [list(examples.describe(place)["captions"]) for place in range(len(examples))]
    owners = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    images = embedder.images(examples[place]["image"] for place in range(len(examples)))
    return images, embedder.texts([caption for own in captions for caption in own]), owners


def score(embedder: Embedder, config: RetrievalConfig, examples: Examples) -> dict[str, float]:
    """Scores two towers on a part of the data.

    Args:
        embedder: of images and texts.
        config: the settings, of which the loss counts.
        examples: with images and captions.

    Returns:
        Recalls and median ranks, `chance/mean_recall` of a random order, and `loss` with first captions.
    """
    images, texts, owners = encode_part(embedder, examples)
    mesh = parallel.make_mesh() if jax.local_device_count() > 1 else None
    scores = metrics.retrieval_scores(metrics.retrieval_ranks(images, texts, owners, mesh=mesh))
    counts = np.bincount(owners)
    chances = [
        metrics.chance_recall(candidates, right, min(count, candidates))
        for candidates, rights in ((len(texts), counts.tolist()), (len(images), [1] * len(counts)))
        for right in rights
        for count in metrics.RECALLS
    ]
    first = np.searchsorted(owners, np.arange(len(images)))
    scalars: Any = embedder.model.apply(embedder.variables, method="scalars")
    scale, bias = scalars
    alone = dataclasses.replace(config, strategy="jit")
    loss = compare_pairs(
        alone, jnp.asarray(images), jnp.asarray(texts[first]), scale, bias, jnp.ones(len(images), bool)
    )
    sizes = {"images": float(len(images)), "captions": float(len(texts))}
    return {**scores, "chance/mean_recall": float(np.mean(chances)), "loss": float(loss.mean), **sizes}


def check_captions(examples: Examples, part: str) -> None:
    """Checks that every image has a caption.

    Args:
        examples: of the part.
        part: its name, for the message.

    Raises:
        InputError: one has none.
    """
    for place in range(len(examples)):
        example = examples.describe(place)
        if not any(str(caption).strip() for caption in example.get("captions", ())):
            raise InputError(
                f"every image needs a caption; {example.get('id', place)} of the part {part!r} has none. Add one, or "
                "leave the image out."
            )


def _samples(embedder: Embedder, examples: Examples, count: int) -> list[RetrievalSample]:
    """Captions at even distances, each with the images that it found first."""
    if not count:
        return []
    images, texts, owners = encode_part(embedder, examples)
    captions = [caption for place in range(len(examples)) for caption in examples.describe(place)["captions"]]
    samples = []
    for text in np.unique(np.linspace(0, len(texts) - 1, count).astype(int)).tolist():
        scores = images @ texts[text]
        best = np.argsort(-scores, kind="stable")[:_SHOWN].tolist()
        samples.append(
            RetrievalSample(
                query=captions[text],
                images=[examples.picture(place) for place in best],
                names=[str(examples.describe(place).get("id", place)) for place in best],
                scores=[float(scores[place]) for place in best],
                right=best.index(owners[text]) if owners[text] in best else None,
            )
        )
    return samples


def captions_of(example: Mapping[str, Any]) -> Iterable[str]:
    """The texts of an example that the towers read."""
    return [str(caption) for caption in example["captions"]]


def _example_batch(config: RetrievalConfig, backbones: Backbones = NO_BACKBONES) -> dict[str, jax.Array]:
    return {"image": image_example(config.data, backbones), "text": text_example(config.data, backbones)}


def _initialise(
    model: models.DualEncoder, config: RetrievalConfig, backbones: Backbones = NO_BACKBONES
) -> dict[str, Any]:
    return dict(jax.jit(model.init)(jax.random.key(config.seed), _example_batch(config, backbones)))
