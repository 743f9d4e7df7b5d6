"""The published convolutional networks in plain PyTorch, under their libraries' names of tensors, at small sizes.

`python -m tests.parity.torch_cnns` stores their values anew; needs torch, and transformers for those of its own.
Every function imports torch when it is called, so that this module loads where torch is missing.
"""

import ast
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.parity.reference import store

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

HALF = ((0.5,) * 3, (0.5,) * 3)


@dataclasses.dataclass(frozen=True)
class Case:
    """A network: `make()` gives a module that maps normalised images to logits and the last grid."""

    make: Callable[[], Any]
    needs: str = "torch"
    size: tuple[int, int] = (75, 67)
    normalization: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET


def run(case: Case, module: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """The logits and the cells of the last grid of images with channels last."""
    import torch

    mean, std = (np.float32(numbers) for numbers in case.normalization)
    with torch.no_grad():
        logits, grid = module.eval()(torch.tensor((images - mean) / std).permute(0, 3, 1, 2))
    return {"logits": logits.numpy(), "tokens": grid.flatten(2).permute(0, 2, 1).numpy()}


def compute(name: str) -> dict[str, np.ndarray]:
    """What the network makes of drawn images and tensors, and what these are called; see `draw`."""
    import torch

    case = CASES[name]
    module = case.make()
    state = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    shapes = {key: shape for key, shape in state.items() if not key.endswith("num_batches_tracked")}
    images, tensors = draw(case, shapes)
    module.load_state_dict({key: torch.tensor(value) for key, value in tensors.items()}, strict=False)
    return {**run(case, module, images), "shapes": np.array([f"{key} {shape}" for key, shape in shapes.items()])}


def draw(case: Case, shapes: Mapping[str, tuple[int, ...]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images and tensors, the same for the same names and shapes, so that they need not be stored."""
    # Of all generators of NumPy the one whose numbers never change with its version.
    generator = np.random.RandomState(0)
    images = np.float32(generator.randint(0, 256, (2, *case.size, 3)) / 256)
    return images, {key: _draw(generator, key, shape) for key, shape in shapes.items()}


def read_shapes(stored: np.ndarray) -> dict[str, tuple[int, ...]]:
    """Names and shapes as `compute` writes them."""
    return {key: ast.literal_eval(shape) for key, shape in (one.split(" ", 1) for one in stored.tolist())}


def _draw(generator: np.random.RandomState, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Variances and scales are positive, and what comes out is of a usual size."""
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return np.float32(generator.uniform(0.5, 1.5, shape))
    return np.float32(generator.normal(0, np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.2, shape))


def _with_dense(features: Any, side: int, classifier: Any) -> Any:
    """torchvision's AlexNet and VGG."""
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.avgpool, self.classifier = features, nn.AdaptiveAvgPool2d(side), classifier

        def forward(self, images: Any) -> tuple[Any, Any]:
            grid = self.features(images)
            return self.classifier(self.avgpool(grid).flatten(1)), grid

    return Network()


def alexnet() -> Any:
    """Five convolutions, three maxima 3x3 and three dense layers."""
    from torch import nn

    features = nn.Sequential(
        nn.Conv2d(3, 2, 11, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(2, 3, 5, 1, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(3, 5, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(5, 7, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(7, 11, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )
    dense = (nn.Dropout(), nn.Linear(44, 17), nn.ReLU(), nn.Dropout(), nn.Linear(17, 19), nn.ReLU(), nn.Linear(19, 13))
    return _with_dense(features, 2, nn.Sequential(*dense))


def vgg() -> Any:
    """Three stages of one and two convolutions."""
    from torch import nn

    layers: list[Any] = []
    inputs = 3
    for stage in ((2,), (3, 5), (7, 11)):
        for width in stage:
            layers += [nn.Conv2d(inputs, width, 3, 1, 1), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    dense = (nn.Linear(99, 17), nn.ReLU(), nn.Dropout(), nn.Linear(17, 19), nn.ReLU(), nn.Dropout(), nn.Linear(19, 13))
    return _with_dense(nn.Sequential(*layers), 3, nn.Sequential(*dense))


def resnet(stage_sizes: tuple[int, ...], features: tuple[int, ...], is_bottleneck: bool) -> Any:
    """As torchvision has it: the stride of a bottleneck is in its second convolution."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            outputs = 4 * width if is_bottleneck else width
            sizes = [(inputs, width, 3, stride), (width, width, 3, 1)]
            if is_bottleneck:
                sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
            for number, (before, after, kernel, step) in enumerate(sizes, 1):
                setattr(self, f"conv{number}", nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False))
                setattr(self, f"bn{number}", nn.BatchNorm2d(after))
            if stride > 1 or inputs != outputs:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )
            self.count = len(sizes)

        def forward(self, grid: Any) -> Any:
            shortcut = self.downsample(grid) if hasattr(self, "downsample") else grid
            for number in range(1, self.count + 1):
                grid = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(grid))
                grid = torch.relu(grid) if number < self.count else grid
            return torch.relu(grid + shortcut)

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 5, 7, 2, 3, bias=False), nn.BatchNorm2d(5)
            self.pool = nn.MaxPool2d(3, 2, 1)
            inputs = 5
            for stage, (size, width) in enumerate(zip(stage_sizes, features, strict=True)):
                blocks = []
                for place in range(size):
                    blocks.append(Block(inputs, width, 2 if stage and not place else 1))
                    inputs = 4 * width if is_bottleneck else width
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.fc = nn.Linear(inputs, 13)

        def forward(self, images: Any) -> tuple[Any, Any]:
            grid = self.pool(torch.relu(self.bn1(self.conv1(images))))
            for stage in range(len(stage_sizes)):
                grid = getattr(self, f"layer{stage + 1}")(grid)
            return self.fc(grid.mean((2, 3))), grid

    return ResNet()


def efficientnet_lite(stage_sizes: tuple[int, ...], features: tuple[int, ...], is_timm: bool) -> Any:
    """Under the names of timm, whose blocks are in stages, or of efficientnet-lite-pytorch, where they are not."""
    from fusionjax.benchmarks.peers.torch_encoders import EfficientNetLite

    class Network(EfficientNetLite):
        def forward(self, images: Any) -> tuple[Any, Any]:
            grid = self.grid(images)
            return getattr(self, self.names[-1])(grid.mean((2, 3))), grid

    sizes = {"stem_features": 5, "head_features": 17, "num_classes": 13}
    return Network(stage_sizes, features, is_timm=is_timm, **sizes)


def convnext(stage_sizes: tuple[int, ...], features: tuple[int, ...], is_timm: bool) -> Any:
    """Under the names of torchvision or of timm."""
    import torch
    from torch import nn

    def last(norm: Any, grid: Any) -> Any:
        return norm(grid.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class Norm(nn.LayerNorm):
        def forward(self, grid: Any) -> Any:
            return last(super().forward, grid)

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            conv, norm = nn.Conv2d(width, width, 7, 1, 3, groups=width), nn.LayerNorm(width, 1e-6)
            dense = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.layers = [conv, norm, *dense]
            if is_timm:
                self.conv_dw, self.norm = conv, norm
                self.mlp = nn.ModuleDict({"fc1": dense[0], "fc2": dense[1]})
                self.gamma = nn.Parameter(torch.ones(width))
            else:
                self.block = nn.ModuleDict({"0": conv, "2": norm, "3": dense[0], "5": dense[1]})
                self.layer_scale = nn.Parameter(torch.ones(width, 1, 1))

        def forward(self, grid: Any) -> Any:
            conv, norm, expand, project = self.layers
            outputs = project(nn.functional.gelu(expand(norm(conv(grid).permute(0, 2, 3, 1)))))
            scale = self.gamma if is_timm else self.layer_scale[:, 0, 0]
            return grid + (scale * outputs).permute(0, 3, 1, 2)

    stem = nn.Sequential(nn.Conv2d(3, features[0], 4, 4), Norm(features[0], 1e-6))
    downs = [
        nn.Sequential(Norm(before, 1e-6), nn.Conv2d(before, after, 2, 2))
        for before, after in itertools.pairwise(features)
    ]
    stages = [
        nn.Sequential(*(Block(width) for _ in range(size))) for size, width in zip(stage_sizes, features, strict=True)
    ]
    norm, head = nn.LayerNorm(features[-1], 1e-6), nn.Linear(features[-1], 13)

    class ConvNeXt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if is_timm:
                self.stem = stem
                parts = [{"blocks": stages[0]}]
                parts += [{"downsample": one, "blocks": two} for one, two in zip(downs, stages[1:], strict=True)]
                self.stages = nn.ModuleList([nn.ModuleDict(part) for part in parts])
                self.head = nn.ModuleDict({"norm": norm, "fc": head})
            else:
                pairs = zip([stem, *downs], stages, strict=True)
                self.features = nn.Sequential(*(part for pair in pairs for part in pair))
                self.classifier = nn.ModuleDict({"0": norm, "2": head})

        def forward(self, images: Any) -> tuple[Any, Any]:
            grid = images
            for down, stage in zip([stem, *downs], stages, strict=True):
                grid = stage(down(grid))
            return head(norm(grid.mean((2, 3)))), grid

    return ConvNeXt()


def _transformers(config: Mapping[str, Any]) -> Any:
    """A classifier of transformers, made of a `config.json`."""
    import transformers
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = {"resnet": "ResNet", "convnext": "ConvNext"}[config["model_type"]]
            settings = getattr(transformers, f"{kind}Config").from_dict(dict(config))
            self.model = getattr(transformers, f"{kind}ForImageClassification")(settings)

        def forward(self, images: Any) -> tuple[Any, Any]:
            outputs = self.model(images, output_hidden_states=True)
            return outputs.logits, outputs.hidden_states[-1]

        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return self.model.state_dict(*args, **kwargs)

        def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return self.model.load_state_dict(*args, **kwargs)

    return Classifier()


def _resnet_config(depths: list[int], hidden_sizes: list[int], layer_type: str) -> dict[str, Any]:
    return {
        "model_type": "resnet",
        "embedding_size": 5,
        "depths": depths,
        "hidden_sizes": hidden_sizes,
        "layer_type": layer_type,
        "num_labels": 13,
    }


CONVNEXT_CONFIG = {
    "model_type": "convnext",
    "num_stages": 3,
    "depths": [1, 2, 1],
    "hidden_sizes": [3, 2, 5],
    "num_labels": 13,
}
CASES: dict[str, Case] = {
    "resnet-torchvision-basic": Case(lambda: resnet((1, 2, 1, 1), (5, 7, 11, 3), is_bottleneck=False)),
    "resnet-torchvision-bottleneck": Case(lambda: resnet((2, 1, 1, 1), (3, 5, 2, 7), is_bottleneck=True)),
    "alexnet-torchvision": Case(alexnet, size=(99, 131)),
    "vgg-torchvision": Case(vgg, size=(37, 43)),
    "efficientnet-lite-timm": Case(
        lambda: efficientnet_lite((1, 2, 1, 1), (3, 2, 5, 7), is_timm=True), normalization=HALF
    ),
    "efficientnet-lite-pytorch": Case(
        lambda: efficientnet_lite((1, 2, 1, 2, 1), (2, 3, 5, 2, 7), is_timm=False), normalization=HALF
    ),
    "convnext-torchvision": Case(lambda: convnext((1, 2, 1), (3, 2, 5), is_timm=False)),
    "convnext-timm": Case(lambda: convnext((1, 2, 1), (3, 2, 5), is_timm=True)),
    "convnext-transformers": Case(lambda: _transformers(CONVNEXT_CONFIG), needs="transformers"),
    "resnet-transformers-basic": Case(
        lambda: _transformers(_resnet_config([1, 2, 1], [5, 7, 11], "basic")), needs="transformers"
    ),
    "resnet-transformers-bottleneck": Case(
        lambda: _transformers(_resnet_config([2, 1, 1], [12, 20, 8], "bottleneck")), needs="transformers"
    ),
}
MODELS: dict[str, Callable[[], dict[str, np.ndarray]]] = {name: (lambda name=name: compute(name)) for name in CASES}


if __name__ == "__main__":
    for one in MODELS:
        path = store(one, MODELS[one])
        print(path, path.stat().st_size)
