import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fusionjax as fj
from fusionjax.models import FusionClassifier
from tests.contracts.parameters import draw_variables, run

IMAGES = np.random.default_rng(0).uniform(size=(3, 11, 13, 3)).astype(np.float32)
TOKENS = np.array([[5, 6, 7, 1], [8, 9, 0, 0], [3, 4, 1, 0]])
BATCH = {"image": IMAGES, "text": TOKENS, "label": np.arange(3)}


def make(**options) -> FusionClassifier:
    return FusionClassifier(
        encoders={
            "image": fj.encoders.SimpleCNN(features=(5,)),
            "text": fj.encoders.RNNEncoder(vocab_size=11, features=6),
        },
        fusion=fj.fusion.Concat(),
        num_classes=3,
        **options,
    )


def test_encodes_fuses_and_classifies() -> None:
    model = make(hidden_features=(13,))
    variables = draw_variables(model, BATCH)
    params = variables["params"]
    pooled = [
        run(encoder, {"params": params[f"encoders_{name}"]}, BATCH[name]).pooled
        for name, encoder in model.encoders.items()
    ]
    expected = np.concatenate(pooled, -1)
    for name in ("hidden_0", "logits"):
        expected = expected @ params[name]["kernel"] + params[name]["bias"]
        expected = np.maximum(expected, 0) if name == "hidden_0" else expected
    output = run(model, variables, BATCH)
    np.testing.assert_allclose(output.logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output.features.pooled, np.concatenate(pooled, -1), rtol=1e-5, atol=1e-6)


def test_masks_reach_their_encoders() -> None:
    model = make()
    variables = draw_variables(model, BATCH)
    mask = jnp.asarray(TOKENS != 0).at[0, 1:].set(False)
    shorter = {**BATCH, "text": np.where(mask, TOKENS, 0)}
    masked = run(model, variables, BATCH, masks={"text": mask}).logits
    np.testing.assert_allclose(masked, run(model, variables, shorter).logits, rtol=1e-5)
    assert not np.allclose(masked[0], run(model, variables, BATCH).logits[0])


def test_dropout_depends_on_the_key() -> None:
    model = make(dropout_rate=0.5)
    variables = draw_variables(model, BATCH)
    one, other = (
        run(model, variables, BATCH, deterministic=False, rngs={"dropout": jax.random.key(seed)}).logits
        for seed in (0, 1)
    )
    assert not np.allclose(one, other)


def make_reader(**options) -> FusionClassifier:
    return FusionClassifier(
        encoders={
            "image": fj.encoders.SimpleCNN(features=(5,)),
            "text": fj.encoders.RNNEncoder(vocab_size=11, features=6, pooling="last"),
        },
        fusion=fj.fusion.WordByWord(features=7),
        num_classes=3,
        next_word_vocab_size=11,
        **options,
    )


def test_surprise_goes_to_the_head() -> None:
    model = make_reader()
    variables = draw_variables(model, BATCH)
    params, output = variables["params"], run(model, variables, BATCH)
    table = jax.tree.map(np.float64, params["next_word"])
    projected = np.float64(output.features.tokens[:, :-1]) @ table["project"]["kernel"] + table["project"]["bias"]
    words = 4 * np.tanh(projected) @ table["table"].T + table["bias"]
    np.testing.assert_allclose(output.next_word_logits, words, rtol=1e-4, atol=1e-5)
    log_probabilities = words - np.log(np.exp(words).sum(-1, keepdims=True))
    surprise = -np.take_along_axis(log_probabilities, TOKENS[:, 1:, None], -1)[..., 0] * (TOKENS[:, 1:] != 0)
    mean = surprise.sum(1) / (TOKENS[:, 1:] != 0).sum(1)
    read = np.concatenate([output.features.pooled, surprise.max(1)[:, None], mean[:, None]], -1)
    expected = read @ params["logits"]["kernel"] + params["logits"]["bias"]
    np.testing.assert_allclose(output.logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_classes_teach_the_next_words_nothing() -> None:
    model = make_reader()
    variables = draw_variables(model, BATCH)

    def total(variables, name: str) -> jax.Array:
        return (getattr(model.apply(variables, BATCH), name) ** 2).sum()

    slopes = jax.jit(jax.grad(total), static_argnums=1)
    assert not np.any(slopes(variables, "logits")["params"]["next_word"]["table"])
    assert np.any(slopes(variables, "logits")["params"]["fusion"]["lstm"]["recurrent_kernel"])
    assert np.any(slopes(variables, "next_word_logits")["params"]["next_word"]["table"])


def test_several_texts_are_as_one_by_one() -> None:
    model = make_reader(hidden_features=(13,))
    variables = draw_variables(model, BATCH)
    texts = np.stack([TOKENS, TOKENS[:, ::-1].copy()], axis=1)
    several = run(model, variables, {"image": IMAGES, "text": texts}, masks={"text": texts != 0})
    assert several.features.pooled.shape == (6, 14)
    for place in (0, 1):
        one = run(model, variables, {"image": IMAGES, "text": texts[:, place]})
        np.testing.assert_allclose(several.logits[:, place], one.logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(several.next_word_logits[:, place], one.next_word_logits, rtol=1e-4, atol=1e-5)


def test_next_words_need_a_token_for_each() -> None:
    with pytest.raises(
        ValueError, match=r"one token for each of the text, \(3, 4\); got \(3, 1\). Use WordByWord, or leave"
    ):
        draw_variables(make(next_word_vocab_size=11), BATCH)


def test_batches_of_other_sizes_are_not_repeated() -> None:
    with pytest.raises(ValueError, match=r"the same batch size; got \{'image': 3, 'text': 6\}"):
        draw_variables(make_reader(), {"image": IMAGES, "text": np.tile(TOKENS, (2, 1))})


def test_next_words_are_of_the_text() -> None:
    model = make_reader().clone(encoders={"a": fj.encoders.RNNEncoder(11, 6), "b": fj.encoders.RNNEncoder(11, 6)})
    model = model.clone(fusion=fj.fusion.WordByWord(query="a", features=5))
    with pytest.raises(ValueError, match=r"next words are those of the modality 'text'; got a, b. Name one of them"):
        draw_variables(model, {"a": TOKENS, "b": TOKENS})


def article_model() -> FusionClassifier:
    return FusionClassifier(
        encoders={
            "image": fj.encoders.SimpleCNN(features=(32, 64, 128)),
            "text": fj.encoders.RNNEncoder(vocab_size=10_000, features=512, cell="lstm", self_attention=True),
        },
        fusion=fj.fusion.Concat(),
        num_classes=100,
    )


def test_the_articles_model_has_the_sizes_of_the_arithmetic() -> None:
    """224x224 images and 100 tokens, as in the README."""
    batch = {
        "image": jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32),
        "text": jax.ShapeDtypeStruct((8, 100), jnp.int32),
    }
    model = article_model()
    output, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), batch)
    # 224 - 2 = 222, / 2 = 111, - 2 = 109, / 2 = 54, - 2 = 52, / 2 = 26 in each direction.
    image, text = 26 * 26 * 128, 100 * 512
    assert image == 86_528
    assert output.features.pooled.shape == (8, image + text) and output.logits.shape == (8, 100)
    sizes = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part)) for name, part in variables["params"].items()
    }
    assert sizes == {
        "encoders_image": (9 * 3 + 1) * 32 + (9 * 32 + 1) * 64 + (9 * 64 + 1) * 128,
        "encoders_text": 10_000 * 512 + 4 * 512 * (512 + 512 + 1) + 4 * (512 + 1) * 512,
        "logits": (image + text + 1) * 100,
    }
    assert sum(sizes.values()) == 22_135_972
    encoder = model.encoders["image"]
    features, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), batch["image"])
    assert (features.grid, features.tokens.shape) == ((26, 26), (8, 676, 128)) and features.pooled.shape == (8, image)


def test_errors() -> None:
    model = make()
    with pytest.raises(ValueError, match=r"modality of the model \(image, text\); text is missing from image. Add it."):
        draw_variables(model, {"image": IMAGES})
    with pytest.raises(ValueError, match=r"image, text is missing from an empty batch."):
        draw_variables(model, {})
    with pytest.raises(ValueError, match=r"masks must be of .* \(image, text\); got one of sound. Rename or drop it."):
        draw_variables(model, BATCH, masks={"sound": TOKENS != 0})
