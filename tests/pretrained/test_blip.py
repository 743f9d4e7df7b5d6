"""BLIP's captioner: gradients and captions as transformers has them, files, words and pictures."""

import functools
import importlib.util
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fusionjax import data, losses, models, pretrained
from fusionjax.cli import main
from fusionjax.errors import InputError
from fusionjax.pretrained.blip import BLIP_TRANSFORMERS
from fusionjax.pretrained.files import write_safetensors
from fusionjax.pretrained.resnet import RESNET_TORCHVISION, ResNetSizes
from fusionjax.pretrained.rows import tensors_from
from fusionjax.recipes import weights
from fusionjax.recipes.config import DecodingConfig
from fusionjax.recipes.writing import CaptionWriter
from tests.contracts.parameters import draw_variables, fast_jit
from tests.parity.reference import reference
from tests.parity.torch_cnns import read_shapes
from tests.parity.torch_transformers import (
    BLIP_CONFIG,
    BLIP_GRADIENTS,
    BLIP_LENGTH,
    BLIP_PROMPT,
    BLIP_SEARCHES,
    CASES,
    CLIP_CHANNELS,
    MODELS,
    draw,
    load_hub,
)

NAME = "blip-transformers"
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
START, END = 21, 13
# The model's last tokens, such as its start, are not among them, as in the published files; 5, 11, 3: a photo of.
PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "of", "##s", "a", "dog", "##ing", "run", "the", "[MASK]", "photo", "grass", "[SEP]"),
    *("on", "red", "##house", "cat", ".", ",", "!"),
]
WORDS, WORD_BIAS = "text_decoder.bert.embeddings.word_embeddings.weight", "text_decoder.cls.predictions.bias"
COPIES = {"text_decoder.cls.predictions.decoder.weight": WORDS, "text_decoder.cls.predictions.decoder.bias": WORD_BIAS}
Tensors = dict[str, np.ndarray]


@functools.cache
def arrays() -> Tensors:
    """Inputs, and what transformers makes of them with `tensors`."""
    found = reference(NAME, MODELS[NAME], needs="transformers")
    return {**found, **draw(CASES[NAME], read_shapes(found["shapes"]))[0]}


@functools.cache
def tensors() -> Tensors:
    return draw(CASES[NAME], read_shapes(arrays()["shapes"]))[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as transformers writes them with a `config.json`, a vocabulary and photographs."""
    folder = tmp_path_factory.mktemp("blip")
    write_safetensors(folder / "model.safetensors", tensors())
    (folder / "config.json").write_text(json.dumps(BLIP_CONFIG))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    generator = np.random.default_rng(0)
    for place, (height, width) in enumerate([(37, 53), (71, 29), (32, 32)]):
        Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{place}.png")
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> pretrained.Pretrained:
    return pretrained.load(folder)


def photographs(folder: Path) -> list[str]:
    return [str(folder / f"{place}.png") for place in range(3)]


def needs_transformers() -> None:
    if not HAS_TRANSFORMERS:
        pytest.skip("transformers is not installed")


def test_gradients_of_the_loss_equal_theirs(loaded: pretrained.Pretrained) -> None:
    text, expected = jnp.asarray(arrays()["tokens"]), arrays()

    @fast_jit
    @jax.value_and_grad
    def loss(variables: Any) -> Any:
        output: Any = loaded.model.apply(variables, {"image": expected["images"], "text": text})
        found = losses.cross_entropy(output.logits, text[:, 1:], mask=text[:, 1:] != 0)
        return found.total / found.weight

    found, gradients = loss(loaded.variables)
    assert math.isclose(found, expected["loss"], rel_tol=1e-5)
    named = dict(tensors_from(loaded.architecture.rows(loaded.sizes), gradients))
    for name in BLIP_GRADIENTS:
        wanted = expected[f"gradient of {name}"]
        error = np.abs(named[name] - wanted).max() / np.abs(wanted).max()
        assert np.std(wanted) > 1e-5 and error < 1e-4, (name, error)


@pytest.mark.parametrize("prompt", [(), BLIP_PROMPT], ids=["alone", "after a prompt"])
def test_captions_are_theirs_word_for_word(loaded: pretrained.Pretrained, prompt: tuple[int, ...]) -> None:
    ends = loaded.caption_tokens
    assert (ends.start, ends.end, ends.max_length) == (START, END, 17)

    @fast_jit
    def write(variables: Any, images: Any, length_penalty: Any) -> Any:
        settings = {"max_length": BLIP_LENGTH, "prompt": prompt, "banned_tokens": ()}
        search = functools.partial(
            models.generate, loaded.model, variables, images, start_token=ends.start, end_token=ends.end, **settings
        )
        return {1: search(method="greedy"), 3: search(num_beams=3, length_penalty=length_penalty)}

    lengths = []
    for name, settings in BLIP_SEARCHES.items():
        kind, beams = f"{name} after a prompt" if prompt else name, settings["num_beams"]
        written = write(loaded.variables, arrays()["images"], settings.get("length_penalty", 1.0))[beams]
        for row, sequence in enumerate(arrays()[kind]):
            words = sequence[1 + len(prompt) :].tolist()
            # Theirs repeats a token after the end.
            words = words[: words.index(END) + 1] if END in words else words
            lengths.append(len(words))
            assert written.tokens[row, : written.lengths[row]].tolist() == words, kind
        if beams > 1:
            np.testing.assert_allclose(written.scores[:, 0], arrays()[f"scores of {kind}"], rtol=1e-4)
    assert len(set(lengths)) > 2


def test_step_by_step_is_all_at_once_and_an_image_is_projected_once(loaded: pretrained.Pretrained) -> None:
    words = np.random.default_rng(0).integers(0, 23, (6, 9))

    @fast_jit
    def write(variables: Any, images: Any) -> Any:
        apply = functools.partial(loaded.model.apply, variables)
        memory, carry = apply(images, words.shape[1], method="prepare")
        carry = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), carry)
        step = functools.partial(apply, memory, method="step")
        text = np.pad(words, ((0, 0), (0, 1))).reshape(2, 3, -1)
        return memory, jax.lax.scan(step, carry, words.T)[1], apply({"image": images, "text": text}).logits

    memory, written, taught = write(loaded.variables, arrays()["images"])
    np.testing.assert_allclose(written.swapaxes(0, 1), taught.reshape(6, 9, -1), rtol=1e-4, atol=1e-5)
    # Two images, though six captions are written: 16 patches and the class token, 3 heads of 5 features.
    assert [part.shape for one in memory.projected for part in one] == [(2, 3, 17, 5)] * 4


def test_what_is_saved_is_loaded_by_transformers_and_back(loaded: pretrained.Pretrained, tmp_path: Path) -> None:
    needs_transformers()
    import torch
    import transformers

    pretrained.save(tmp_path / "ours", loaded)
    model = transformers.BlipForConditionalGeneration.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    assert model.config.text_config.sep_token_id == END
    mean, std = (np.float32(numbers) for numbers in CLIP_CHANNELS)
    pixels = torch.tensor((arrays()["images"] - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = model(pixels, torch.tensor(arrays()["tokens"])).logits.numpy()
    np.testing.assert_allclose(logits, arrays()["logits"], rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "theirs")
    again = pretrained.load(tmp_path / "theirs")
    assert again.architecture is BLIP_TRANSFORMERS and again.sizes == loaded.sizes
    jax.tree.map(np.testing.assert_array_equal, again.variables, loaded.variables)


def test_words_that_are_stored_twice_or_under_their_other_name(folder: Path, tmp_path: Path) -> None:
    expected = pretrained.load(folder)
    twice = {**tensors(), **{copy: tensors()[name] for copy, name in COPIES.items()}}
    counted = {"text_decoder.bert.embeddings.position_ids": np.arange(17)[None]}
    other = {name: tensor for name, tensor in twice.items() if name not in COPIES.values()}
    (tmp_path / "config.json").write_text(json.dumps(BLIP_CONFIG))
    for stored in ({**twice, **counted}, other):
        write_safetensors(tmp_path / "model.safetensors", stored)
        found = pretrained.load(tmp_path)
        assert found.sizes == expected.sizes
        jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)
    for copy, name in COPIES.items():
        write_safetensors(tmp_path / "model.safetensors", {**twice, copy: 2 * twice[copy]})
        message = f"{copy} must repeat {name}, with which it is tied; got other values. Give weights that were trained"
        with pytest.raises(InputError, match=message):
            pretrained.load(tmp_path)


def test_words_that_lack_the_published_start_are_not_taken_for_published_ones() -> None:
    shapes = {name: tensor.shape for name, tensor in tensors().items()}
    assert BLIP_TRANSFORMERS.recognise(shapes, BLIP_CONFIG) is not None
    assert BLIP_TRANSFORMERS.recognise(shapes, {}) is None


def test_photographs_become_their_pixels(folder: Path, loaded: pretrained.Pretrained) -> None:
    needs_transformers()
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    ready = loaded.preparation
    assert ready.size == (32, 32) and ready.shorter_side is None
    pictures = [data.load_image(one) for one in photographs(folder)]
    ours = np.stack([data.prepare_image(one, ready.size, interpolation=ready.interpolation) for one in pictures])
    processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    theirs = np.stack(processor([Image.fromarray(one) for one in pictures])["pixel_values"])
    mean, std = (np.float32(numbers) for numbers in CLIP_CHANNELS)
    np.testing.assert_array_equal(np.rint((theirs.transpose(0, 2, 3, 1) * std + mean) * 255), ours)
    np.testing.assert_allclose((ours / np.float32(255) - mean) / std, theirs.transpose(0, 2, 3, 1), atol=1e-6)


def test_words_become_their_tokens_and_back(folder: Path, tmp_path: Path) -> None:
    needs_transformers()
    from transformers import BertTokenizer

    theirs = BertTokenizer.from_pretrained(folder)
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists() and not (tmp_path / "vocab.txt").exists()
    # Published files may ask for rows of one length.
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    whole["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    text, ids = "A photo of, DOGS running!", [5, 6, 4, 18, 16, 7, 19, 1, 5, 13, 0]
    for place in (folder, tmp_path):
        ours = data.read_tokenizer(place, "bert", 64)
        assert ours is not None and ours.words(text) == theirs(text).input_ids[1:-1]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    (tmp_path / "tokenizer.json").unlink()
    shutil.copy(folder / "vocab.txt", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = data.read_tokenizer(tmp_path, "bert", 64)
    assert cased is not None and cased.tokens(cased.words("A photo")) == ["[UNK]", "photo"]


@pytest.mark.parametrize("prompt", ["", "a Photo of"])
def test_the_command_writes_what_transformers_writes(
    folder: Path, capsys: pytest.CaptureFixture[str], prompt: str
) -> None:
    needs_transformers()
    import torch
    from transformers import BertTokenizer, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    processor = BlipProcessor(
        BlipImageProcessorPil(size={"height": 32, "width": 32}), BertTokenizer.from_pretrained(folder)
    )
    model = load_hub(BLIP_CONFIG, tensors())
    words = ["caption", *photographs(folder), "--weights", str(folder), "--json", "--max-length", str(BLIP_LENGTH)]
    assert main([*words, "--prompt", prompt, "--decoding.method", "greedy"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["image"] for row in rows] == photographs(folder)
    for row in rows:
        # Alone, as each was asked for.
        picture = Image.open(row["image"])
        inputs = processor(images=picture, text=prompt or None, return_tensors="pt")
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=BLIP_LENGTH, num_beams=1)[0]
        assert row["caption"] == processor.decode(tokens, skip_special_tokens=True).strip()
        assert row["caption"].startswith(prompt.lower()) and row["log_probability"] < 0
    assert len({row["caption"] for row in rows}) > 1


def test_every_way_to_decode(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = weights.caption(
        folder, photographs(folder), max_length=BLIP_LENGTH, decoding=DecodingConfig(length_penalty=0.0)
    )
    # What is ended at once has no words, and is likelier than whatever has some.
    assert [(one.words, one.caption) for one in found] == [((), "")] * 3
    words = ["caption", photographs(folder)[0], "--weights", str(folder), "--max-length", str(BLIP_LENGTH)]
    assert main([*words, "--prompt", "a dog", "--decoding.method", "sample", "--decoding.top-k", "5"]) == 0
    assert re.fullmatch(rf"{photographs(folder)[0]}: a dog.*  \(-\d+\.\d\d\)\n", capsys.readouterr().out)


def test_heat_maps_are_those_of_the_words_after_the_prompt(loaded: pretrained.Pretrained, folder: Path) -> None:
    words = loaded.tokenizer
    assert words is not None
    before = (START, *BLIP_PROMPT)
    writer = CaptionWriter(loaded.model, loaded.variables, words, 13, before=before, end=END, banned=())
    (written,) = writer.write(arrays()["images"][:1], DecodingConfig(method="greedy"), look=True)
    ids = arrays()["greedy after a prompt"][0].tolist()
    ids = ids[: ids.index(END)]
    assert written.caption == words.decode(ids[1:]) and written.words == tuple(words.tokens(ids[4:]))
    batch = {"image": arrays()["images"][:1], "text": np.array([[*ids, END]])}
    attention = fast_jit(loaded.model.apply)(loaded.variables, batch).attention[0, 3:-1]
    np.testing.assert_allclose(written.attention, attention.reshape(-1, 4, 4), rtol=1e-4, atol=1e-6)


def test_what_cannot_be_used_is_told_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ResNetSizes(stage_sizes=(1,), features=(3,), stem_features=3, is_bottleneck=False, num_classes=5)
    variables = draw_variables(RESNET_TORCHVISION.build(sizes), np.zeros((1, 32, 32, 3), np.float32))
    write_safetensors(tmp_path / "w.safetensors", dict(tensors_from(RESNET_TORCHVISION.rows(sizes), variables)))
    without, damaged = tmp_path / "without", tmp_path / "damaged"
    for place in (without, damaged):
        place.mkdir()
        for name in ("model.safetensors", "config.json"):
            shutil.copy(folder / name, place)
    (damaged / "tokenizer.json").write_text("{}")
    photograph, there = photographs(folder)[0], ["--weights", str(folder)]
    for words, message in (
        (
            ["--weights", str(tmp_path / "w.safetensors")],
            "w.safetensors must hold weights of a captioner; got resnet-tor",
        ),
        (
            ["--weights", str(without)],
            "without must have a tokenizer beside the weights; there is none. Give a folder with its tok",
        ),
        (["--weights", str(damaged)], "tokenizer.json: expected the JSON of a tokenizer; it is damaged"),
        (
            [*there, "--prompt", "a dog on the red grass", "--max-length", "12"],
            "prompt and caption must have at most 17 tokens together; got 6 and 12. Shorten the prompt, or lo",
        ),
        (there, "prompt and caption must have at most 17 tokens together; got 0 and 30. Shorten the prompt, or lower"),
        ([*there, "--max-length", "0"], "max_length must be at least 1; got 0. Ask for 30."),
        ([*there, "--architecture", "vit-timm"], "must hold weights of vit-timm; got"),
        (
            ["--prompt", "a", "--max-length", "0"],
            "--prompt and --max-length can be used with --weights only; got a run. Leave out one of the two.",
        ),
    ):
        run = [] if "--weights" in words else ["run"]
        assert main(["caption", *run, photograph, *words]) == 2
        output, errors = capsys.readouterr()
        assert message in errors and (output, errors.count("\n")) == ("", 1)
    assert main(["caption", *there]) == 2
    assert capsys.readouterr().err == "fusionjax: caption needs at least one photograph; got none. Name image files.\n"
