import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.encoders import SimpleCNN
from fusionjax.models import AttentionLSTMDecoder, Captioner, LSTMDecoder, TransformerDecoder, generate
from tests.contracts.parameters import draw_variables, fast_jit, run

IMAGES = np.random.default_rng(0).uniform(size=(3, 11, 13, 3)).astype(np.float32)
TEXT = np.random.default_rng(1).integers(1, 11, (3, 2, 6))
BATCH = {"image": IMAGES, "text": TEXT}


def make(decoder) -> tuple[Captioner, dict]:
    model = Captioner(SimpleCNN(features=(5,), pooling="mean"), decoder)
    return model, draw_variables(model, BATCH)


@pytest.fixture(scope="module")
def looking() -> tuple[Captioner, dict]:
    return make(AttentionLSTMDecoder(11, features=5, embedding_features=7, attention_features=3))


def test_several_captions_of_an_image_equal_one_at_a_time(looking) -> None:
    model, variables = looking
    apply = fast_jit(model.apply)
    together = apply(variables, BATCH)
    assert together.logits.shape == (3, 2, 5, 11) and together.attention.shape == (3, 2, 5, 20)
    for caption in range(2):
        alone = apply(variables, {"image": IMAGES, "text": TEXT[:, caption]})
        np.testing.assert_allclose(alone.logits, together.logits[:, caption], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(alone.attention, together.attention[:, caption], rtol=1e-5, atol=1e-6)


def _rescored(model: Captioner, variables: dict, written) -> np.ndarray:
    """The log-probability of written captions by teacher forcing, among the words that may be written."""
    text = jnp.pad(written.tokens, ((0, 0), (1, 0)), constant_values=1)
    logits = run(model, variables, {"image": IMAGES, "text": text}).logits
    chances = jax.nn.log_softmax(logits.at[..., jnp.array([0, 1, 3])].set(-jnp.inf))
    chosen = jnp.take_along_axis(chances, written.tokens[..., None], -1)[..., 0]
    return np.where(written.tokens == 0, 0, chosen).sum(1)


def test_greedy_takes_the_best_word_each_time(looking) -> None:
    model, variables = looking
    written = fast_jit(lambda variables: generate(model, variables, IMAGES, max_length=6, method="greedy"))(variables)
    np.testing.assert_allclose(_rescored(model, variables, written), written.log_probabilities, rtol=1e-4)
    text = jnp.pad(written.tokens, ((0, 0), (1, 0)), constant_values=1)
    logits = np.array(run(model, variables, {"image": IMAGES, "text": text}).logits)
    logits[..., [0, 1, 3]] = -np.inf
    assert (np.where(written.tokens == 0, 0, logits.argmax(-1)) == written.tokens).all()


@pytest.mark.parametrize(
    "decoder",
    [LSTMDecoder(11, 5, 7), TransformerDecoder(11, 6, num_layers=1, num_heads=2, max_length=8)],
    ids=["LSTMDecoder", "TransformerDecoder"],
)
def test_beams_keep_their_states_and_caches(decoder) -> None:
    model, variables = make(decoder)
    compiled = fast_jit(lambda variables: generate(model, variables, IMAGES, max_length=6, num_beams=4))
    written = compiled(variables)
    np.testing.assert_allclose(_rescored(model, variables, written), written.log_probabilities, rtol=1e-4)
    assert written.beams.shape == (3, 4, 6) and (np.diff(written.scores, axis=1) <= 0).all()


@pytest.mark.parametrize(
    "decoder",
    [LSTMDecoder(11, 5, 7), TransformerDecoder(11, 6, num_layers=1, num_heads=2, max_length=9)],
    ids=["LSTMDecoder", "TransformerDecoder"],
)
def test_captions_go_on_from_a_prompt(decoder) -> None:
    model, variables = make(decoder)
    settings = {"max_length": 6, "prompt": (4, 0, 7), "start_token": 9, "end_token": 5, "banned_tokens": (10,)}

    @fast_jit
    def write(variables):
        sampling = {"method": "sample", "key": jax.random.key(0), "num_samples": 2, "top_k": 1}
        greedy = generate(model, variables, IMAGES, method="greedy", **settings)
        return greedy, generate(model, variables, IMAGES, **sampling, **settings)

    greedy, sampled = write(variables)
    text = jnp.concatenate([jnp.tile(jnp.array([9, 4, 0, 7]), (3, 1)), greedy.tokens], 1)
    logits = np.array(run(model, variables, {"image": IMAGES, "text": text}).logits)[:, 3:]
    logits[..., 10] = -np.inf
    written = np.arange(6) < greedy.lengths[:, None]
    assert (logits.argmax(-1) == greedy.tokens)[written].all() and (greedy.tokens[~written] == 0).all()
    assert (np.repeat(greedy.tokens, 2, axis=0) == sampled.tokens).all()
    # Without the prompt, or with its parts in another order, they would not be as probable.
    chances = np.take_along_axis(np.array(jax.nn.log_softmax(logits)), np.array(greedy.tokens)[..., None], -1)[..., 0]
    np.testing.assert_allclose(np.where(written, chances, 0).sum(1), greedy.log_probabilities, rtol=1e-4)


def test_sampling_depends_on_the_key_and_top_k_of_one_is_greedy(looking) -> None:
    model, variables = looking

    @fast_jit
    def write(seed):
        sampling = {"method": "sample", "key": jax.random.key(seed), "num_samples": 2}
        return generate(model, variables, IMAGES, max_length=6, **sampling)

    one, again = write(0), write(0)
    assert (one.tokens == again.tokens).all() and any((one.tokens != write(seed).tokens).any() for seed in (1, 2, 3))
    # Two captions of each image, one after the other.
    assert one.tokens.shape == (6, 6)
    for sample in range(2):
        mine = jax.tree.map(lambda leaf, sample=sample: leaf[sample::2], one)
        np.testing.assert_allclose(_rescored(model, variables, mine), mine.log_probabilities, rtol=1e-4)
    key, compiled = jax.random.key(0), fast_jit(generate, static_argnames=("model", "max_length", "method", "top_k"))
    only = compiled(model, variables, IMAGES, max_length=6, method="sample", top_k=1, key=key)
    greedy = compiled(model, variables, IMAGES, max_length=6, method="greedy")
    assert (only.tokens == greedy.tokens).all()


def test_dropout_is_off_while_decoding() -> None:
    model, variables = make(LSTMDecoder(11, 5, 7, dropout_rate=0.5))
    key = {"dropout": jax.random.key(0)}
    dropped = run(model, variables, BATCH, deterministic=False, rngs=key)
    assert not np.allclose(dropped.logits, run(model, variables, BATCH).logits)
    assert jax.eval_shape(lambda: generate(model, variables, IMAGES, max_length=4)).tokens.shape == (3, 4)
    assert jax.eval_shape(lambda: model.apply(variables, IMAGES, method="encode")).grid == (4, 5)


def test_errors(looking) -> None:
    model, variables = looking
    with pytest.raises(ValueError, match=r"the batch must hold image and text; got image. Add the captions to score"):
        model.apply(variables, {"image": IMAGES})
    with pytest.raises(ValueError, match=r"must hold image and text; got an empty batch."):
        model.apply(variables, {})
    with pytest.raises(ValueError, match=r"\[batch, captions, length\]; got \(6,\). Reshape them."):
        model.apply(variables, {"image": IMAGES, "text": TEXT[0, 0]})
    with pytest.raises(TypeError, match=r"captions must be integers; got float32. Encode them with a tokenizer first."):
        model.apply(variables, {"image": IMAGES, "text": np.float32(TEXT)})
    with pytest.raises(ValueError, match=r"method must be 'beam', 'greedy' or 'sample'; got 'best'. Choose one."):
        generate(model, variables, IMAGES, max_length=4, method="best")
    with pytest.raises(ValueError, match=r"sampling needs a random key; got None. Pass key=jax.random.key\(seed\)."):
        generate(model, variables, IMAGES, max_length=4, method="sample")
    message = (
        r"the prompt's tokens must lie in \[0, vocab_size\) = \[0, 11\); got \[1, 11\]. Encode it with the model's"
    )
    with pytest.raises(ValueError, match=message):
        generate(model, variables, IMAGES, max_length=4, prompt=(11, 3))
