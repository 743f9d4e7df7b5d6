"""The tables of the convolutional networks: outputs equal those of the libraries that the weights come from."""

import dataclasses
import functools
import importlib.util
from typing import Any

import numpy as np
import pytest

from fusionjax.pretrained import alexnet as alexnet_table
from fusionjax.pretrained import convnext as convnext_table
from fusionjax.pretrained import efficientnet_lite as lite_table
from fusionjax.pretrained import resnet as resnet_table
from fusionjax.pretrained import vgg as vgg_table
from fusionjax.pretrained.architecture import Architecture
from fusionjax.pretrained.published_sizes import PUBLISHED as PUBLISHED_SIZES
from fusionjax.pretrained.published_sizes import find_published
from fusionjax.pretrained.rows import tensors_from
from tests.contracts.parameters import draw_variables, fast_jit
from tests.parity import torch_cnns
from tests.parity.reference import assert_stored, reference
from tests.pretrained import tables
from tests.pretrained.tables import Shapes, Tensors, shapes_of, shapes_written

LITES = (lite_table.EFFICIENTNET_LITE_TIMM, lite_table.EFFICIENTNET_LITE_ORIGINAL)
RESNETS = (resnet_table.RESNET_TORCHVISION, resnet_table.RESNET_TRANSFORMERS)
CONVNEXTS = (
    convnext_table.CONVNEXT_TORCHVISION,
    convnext_table.CONVNEXT_TIMM,
    convnext_table.CONVNEXT_TRANSFORMERS,
)
ARCHITECTURES = (alexnet_table.ALEXNET_TORCHVISION, vgg_table.VGG_TORCHVISION, *LITES, *RESNETS, *CONVNEXTS)
CASES = list(torch_cnns.CASES)


@functools.cache
def arrays_of(name: str) -> Tensors:
    """Images, and the logits and tokens that the other library makes of them with `tensors_of`."""
    arrays = reference(name, torch_cnns.MODELS[name], needs=torch_cnns.CASES[name].needs)
    images, _ = torch_cnns.draw(torch_cnns.CASES[name], torch_cnns.read_shapes(arrays["shapes"]))
    return {**arrays, "images": images}


def tensors_of(name: str) -> Tensors:
    return torch_cnns.draw(torch_cnns.CASES[name], torch_cnns.read_shapes(arrays_of(name)["shapes"]))[1]


def recognise(shapes: Shapes, config: Any = None) -> tuple[Architecture, Any]:
    return tables.recognise(ARCHITECTURES, shapes, config or {})


def load(tensors: Tensors) -> tuple[Architecture, Any, Any]:
    architecture, sizes = recognise(shapes_of(tensors))
    return architecture, sizes, tables.load(tensors, architecture, sizes)


def assert_close(found: Any, expected: np.ndarray) -> None:
    error = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
    assert np.std(expected) > 1e-3 and error < 1e-4, error


@functools.cache
def compiled(architecture: Architecture, sizes: Any) -> Any:
    return fast_jit(architecture.build(sizes).apply)


@pytest.mark.parametrize("name", CASES)
def test_their_weights_give_their_outputs(name: str) -> None:
    arrays = arrays_of(name)
    architecture, sizes, variables = load(tensors_of(name))
    assert name.startswith(architecture.name)
    output = compiled(architecture, sizes)(variables, arrays["images"])
    assert_close(output.logits, arrays["logits"])
    assert_close(output.features.tokens, arrays["tokens"])


@pytest.mark.parametrize("name", CASES)
def test_what_is_stored_is_what_the_library_gives(name: str) -> None:
    if importlib.util.find_spec(torch_cnns.CASES[name].needs) is None:
        pytest.skip(f"{torch_cnns.CASES[name].needs} is not installed")
    assert_stored(name, arrays_of(name))


@pytest.mark.parametrize("name", CASES)
def test_the_way_back_is_exact(name: str) -> None:
    tensors = tensors_of(name)
    architecture, sizes, variables = load(tensors)
    back = dict(tensors_from(architecture.rows(sizes), variables))
    assert back.keys() == tensors.keys()
    for key, tensor in back.items():
        np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_our_weights_give_our_outputs_in_theirs(name: str) -> None:
    case = torch_cnns.CASES[name]
    if importlib.util.find_spec(case.needs) is None:
        pytest.skip(f"{case.needs} is not installed")
    import torch

    architecture, sizes, _ = load(tensors_of(name))
    variables = draw_variables(architecture.build(sizes), *architecture.example(sizes))
    tensors = dict(tensors_from(architecture.rows(sizes), variables))
    module = case.make()
    missing, unexpected = module.load_state_dict(
        {key: torch.tensor(value) for key, value in tensors.items()}, strict=False
    )
    assert not unexpected and all(architecture.is_ignored(one) for one in missing)
    images = arrays_of(name)["images"]
    logits = compiled(architecture, sizes)(variables, images).logits
    assert_close(logits, torch_cnns.run(case, module, images)["logits"])


@pytest.mark.parametrize("name", [name for name in CASES if torch_cnns.CASES[name].needs == "transformers"])
def test_the_config_makes_the_same_model_in_transformers(name: str) -> None:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    architecture, sizes, _ = load(tensors_of(name))
    module = torch_cnns._transformers(architecture.hub_config(sizes))
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items() if not architecture.is_ignored(key)}
    assert shapes == shapes_of(tensors_of(name))
    assert recognise(shapes, architecture.hub_config(sizes)) == (architecture, sizes)


# What is published of them is in test_published.
PUBLISHED = [
    (one, published.sizes)
    for one in ARCHITECTURES
    for published in PUBLISHED_SIZES
    if published.architecture.build == one.build and published.name not in ("vgg13", "resnet152", "convnext-l")
]


@pytest.mark.parametrize(("architecture", "sizes"), PUBLISHED)
def test_published_sizes_are_recognised(architecture: Architecture, sizes: Any) -> None:
    if architecture == convnext_table.CONVNEXT_TRANSFORMERS:
        sizes = dataclasses.replace(sizes, pooled_epsilon=1e-12)
    # What the table would write is recognised as what it was.
    assert recognise(shapes_written(architecture, sizes)) == (architecture, sizes)


RESNET_SHAPES = {"conv1.weight": (5, 3, 7, 7), "fc.weight": (13, 7), "layer1.0.conv1.weight": (7, 5, 3, 3)}
RESNET_BLOCK = {"layer1.0.conv2.weight": (7, 7, 3, 3)}
VGG_SHAPES = {
    "features.0.weight": (2, 3, 3, 3),
    "classifier.0.weight": (17, 18),
    "classifier.3.weight": (19, 17),
    "classifier.6.weight": (13, 19),
}
OTHERS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "no second convolution": (RESNET_SHAPES, {}),
    "ResNeXt": ({**RESNET_SHAPES, "layer1.0.conv2.weight": (7, 1, 3, 3)}, {}),
    "stride in the first": ({**RESNET_SHAPES, **RESNET_BLOCK}, {"downsample_in_bottleneck": True}),
    "wide ResNet": ({**RESNET_SHAPES, **RESNET_BLOCK, "fc.weight": (13, 8)}, {}),
    "ResNet for small images": ({**RESNET_SHAPES, **RESNET_BLOCK, "conv1.weight": (5, 3, 3, 3)}, {}),
    "VGG with normalisation": ({**VGG_SHAPES, "features.1.weight": (2,)}, {}),
    "VGG with other kernels": ({**VGG_SHAPES, "features.0.weight": (2, 3, 5, 5)}, {}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_not_taken_for_ours(name: str) -> None:
    assert all(one.recognise(*OTHERS[name]) is None for one in ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "changed", "config"),
    [
        # MobileNetV2: the same names and strides, but kernels 3x3 everywhere.
        ("efficientnet-lite-timm", {"blocks.2.0.conv_dw.weight": (12, 1, 3, 3)}, {}),
        ("efficientnet-lite-timm", {"blocks.1.0.se.conv_reduce.weight": (5, 18, 1, 1)}, {}),
        # timm's own has the same shapes, but PyTorch's padding.
        ("efficientnet-lite-timm", {}, {"architecture": "efficientnet_lite0"}),
        ("efficientnet-lite-pytorch", {"_blocks.1._se_reduce.weight": (5, 12, 1, 1)}, {}),
        ("convnext-timm", {"stages.0.blocks.0.mlp.fc1.weight": (12, 3, 1, 1)}, {}),
        ("convnext-transformers", {}, {"hidden_act": "relu"}),
    ],
)
def test_relatives_are_not_taken_for_ours(name: str, changed: dict[str, Any], config: dict[str, Any]) -> None:
    shapes = shapes_of(tensors_of(name))
    assert recognise(shapes)[0].name == name
    assert all(one.recognise({**shapes, **changed}, config) is None for one in ARCHITECTURES)


def test_photographs_are_brought_to_the_size_that_the_weights_were_trained_with() -> None:
    timm, original = (
        [one.preparation(find_published(f"efficientnet-lite{variant}").sizes) for variant in range(5)] for one in LITES
    )
    assert [one.size[0] for one in timm] == [224, 240, 260, 300, 380]
    assert [one.size[0] for one in original] == [224, 240, 260, 280, 300]
    assert [one.shorter_side for one in original] == [256, 272, 292, 312, 332]
    assert [one.shorter_side for one in timm] == [256, 272, 292, 331, 413]
    assert [one.interpolation for one in timm] == [*["bicubic"] * 3, *["bilinear"] * 2]
