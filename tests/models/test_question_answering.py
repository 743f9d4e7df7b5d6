"""Question answering: several questions of one image, conditioned encoders, answers that are written, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import encoders, fusion, models
from tests.contracts.parameters import draw_variables, fast_jit, run

RANDOM = np.random.default_rng(3)
IMAGES = RANDOM.uniform(size=(2, 19, 17, 3)).astype(np.float32)
QUESTIONS = RANDOM.integers(1, 11, (2, 3, 5))
ANSWERS = RANDOM.integers(1, 11, (2, 3, 4))
BATCH = {"image": IMAGES, "text": QUESTIONS}


def build(*, is_conditioned=False, writes=False, joined=None):
    image = encoders.SimpleCNN(features=(5, 7), normalization="batch" if is_conditioned else None, pooling="max")
    text = encoders.RNNEncoder(vocab_size=11, features=6, pooling="last")
    head = {"decoder": models.LSTMDecoder(11, features=5, embedding_features=3)} if writes else {"num_answers": 3}
    joined = joined or fusion.LowRankBilinear(features=6, rank=5)
    return models.VisualQuestionAnswering(
        image, text, joined, is_conditioned=is_conditioned, hidden_features=(7,), **head
    )


@pytest.mark.slow
@pytest.mark.parametrize("is_conditioned", [False, True])
def test_several_questions_of_an_image_equal_each_alone(is_conditioned):
    model = build(is_conditioned=is_conditioned)
    variables = draw_variables(model, BATCH)
    together = run(model, variables, BATCH).logits
    assert together.shape == (2, 3, 3) and np.std(together) > 1e-3
    for number in range(3):
        alone = run(model, variables, {"image": IMAGES, "text": QUESTIONS[:, number]}).logits
        np.testing.assert_allclose(alone, together[:, number], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_condition_changes_what_is_seen_and_its_gradient_reaches_the_question():
    model = build(is_conditioned=True, joined=fusion.Concat())
    variables = draw_variables(model, BATCH)

    def total(variables, questions):
        seen = model.apply(variables, {"image": IMAGES, "text": questions}, method="fuse").pooled[:, :7]
        return jnp.sum(seen**2), seen

    differentiate = fast_jit(jax.grad(total, has_aux=True))
    (gradient, one), (_, other) = (differentiate(variables, asked) for asked in (QUESTIONS, QUESTIONS[:, ::-1]))
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_allclose(one.reshape(2, 3, 7)[:, ::-1], other.reshape(2, 3, 7), rtol=1e-4, atol=1e-5)
    assert np.abs(gradient["params"]["question_encoder"]["embedding"]["embedding"]).max() > 0


@pytest.mark.slow
def test_masks_hide_words_and_cells():
    model = build()
    variables = draw_variables(model, BATCH)
    keep = {"image": np.array([[True] * 4 + [False] * 2, [True] * 6]), "text": np.ones(QUESTIONS.shape, bool)}
    keep["text"][:, :, 3:] = False
    shown = run(model, variables, BATCH, masks=keep).logits
    hidden = QUESTIONS.copy()
    hidden[:, :, 3:] = 9
    np.testing.assert_array_equal(run(model, variables, {"image": IMAGES, "text": hidden}, masks=keep).logits, shown)
    assert np.abs(run(model, variables, BATCH).logits - shown).max() > 1e-3


@pytest.mark.slow
def test_answers_are_written_as_they_are_scored():
    model = build(writes=True)
    batch = {**BATCH, "answer": ANSWERS}
    variables = draw_variables(model, batch)
    output = run(model, variables, batch)
    assert output.logits is None and output.word_logits.shape == (2, 3, 3, 11)
    written = models.generate(model, variables, BATCH, max_length=4, method="greedy")
    # Scored again with what was written, the best next word is the one that was written.
    tokens = np.concatenate([np.ones((6, 1), int), written.tokens[:, :-1]], axis=1).reshape(2, 3, 4)
    best = run(model, variables, {**BATCH, "answer": tokens}).word_logits.argmax(-1)
    steps = np.arange(3) < np.minimum(written.lengths, 3)[:, None]
    np.testing.assert_array_equal(best.reshape(6, 3)[steps], written.tokens[:, :3][steps])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"text": QUESTIONS}, r"the batch must hold image, text; image is missing from text. Add it."),
        ({}, r"the batch must hold image, text; image, text is missing from an empty batch. Add it."),
        ({"image": IMAGES, "text": QUESTIONS[0, 0]}, r"questions must have shape .*; got \(5,\). Reshape them."),
    ],
)
def test_batches_that_cannot_be_answered(batch, message):
    with pytest.raises(ValueError, match=message):
        draw_variables(build(), batch)


def test_models_that_cannot_be():
    image, text = encoders.SimpleCNN(features=(5,)), encoders.RNNEncoder(vocab_size=11, features=6)
    for options, found in (
        ({}, "neither"),
        ({"num_answers": 3, "decoder": models.LSTMDecoder(11, features=5)}, "both"),
    ):
        model = models.VisualQuestionAnswering(image, text, fusion.Concat(), **options)
        with pytest.raises(
            ValueError, match=rf"num_answers or writes with a decoder; got {found}. Give one of the two."
        ):
            draw_variables(model, BATCH)
    model = build()
    with pytest.raises(ValueError, match=r"prepare writes answers; got a model without a decoder. Give it one."):
        model.apply(draw_variables(model, BATCH), BATCH, 4, method="prepare")


@pytest.mark.parametrize(
    ("options", "count", "message"),
    [
        ({"normalization": None}, 2, r"a condition modulates normalised stages; got normalization=None, 2 stages"),
        ({"condition_from": 2}, 2, r"got normalization='batch', 2 stages and condition_from=2. Set normalization"),
        ({}, 3, r"conditions must be a multiple of the 2 images; got 3. Give every image the same number of them."),
    ],
)
def test_conditions_that_cannot_be(options, count, message):
    encoder = encoders.SimpleCNN(**{"features": (5, 7), "normalization": "batch", **options})
    with pytest.raises(ValueError, match=message):
        draw_variables(encoder, IMAGES, condition=jnp.ones((count, 3)))
