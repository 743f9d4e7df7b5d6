"""The published encoders in PyTorch: transformers' own, and EfficientNet-Lite written out."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from fusionjax.benchmarks.workloads import Encoder

_KERNEL_SIZES, _STRIDES, _EXPANSIONS = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, 6, 6, 6, 6, 6, 6)
_EPSILON = 1e-3
_ORIGINAL_NAMES = ("_conv_stem", "_bn0", "_blocks", "_conv_head", "_bn1", "_fc")
_TIMM_NAMES = ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "classifier")


class SameConv(nn.Conv2d):
    """A convolution without bias and with TensorFlow's padding: more at the bottom and the right where it is odd."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel_size, stride, groups=groups, bias=False)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """Maps `[batch, channels, height, width]` to fewer rows and columns by the stride."""
        lacking = [
            max((-(-size // stride) - 1) * stride + kernel - size, 0)
            for size, kernel, stride in zip(grid.shape[2:], self.kernel_size, self.stride, strict=True)
        ]
        padding = [each // 2 for each in lacking]
        if any(each % 2 for each in lacking):
            (top, left), (bottom, right) = padding, [each - each // 2 for each in lacking]
            grid, padding = functional.pad(grid, (left, right, top, bottom)), [0, 0]
        return functional.conv2d(grid, self.weight, None, self.stride, padding, groups=self.groups)


class _LiteBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, is_timm: bool) -> None:
        super().__init__()
        width = inputs * expansion
        convs = [SameConv(inputs, width, 1)] if expansion > 1 else []
        convs += [SameConv(width, width, kernel, stride, groups=width), SameConv(width, outputs, 1)]
        names, norms = ["_expand_conv", "_depthwise_conv", "_project_conv"], ["_bn0", "_bn1", "_bn2"]
        names, norms = names[-len(convs) :], norms[-len(convs) :]
        if is_timm:
            names = ["conv_pw", "conv_dw", "conv_pwl"] if expansion > 1 else ["conv_dw", "conv_pw"]
            norms = ["bn1", "bn2", "bn3"][: len(convs)]
        for name, norm, conv in zip(names, norms, convs, strict=True):
            self.add_module(name, conv)
            self.add_module(norm, nn.BatchNorm2d(conv.out_channels, eps=_EPSILON))
        self.names = tuple(zip(names, norms, strict=True))
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        result = grid
        for place, (name, norm) in enumerate(self.names, 1):
            result = getattr(self, norm)(getattr(self, name)(result))
            result = functional.relu6(result, inplace=True) if place < len(self.names) else result
        return grid + result if self.has_shortcut else result


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite under the names of timm, whose blocks are in stages, or of efficientnet-lite-pytorch."""

    def __init__(
        self,
        stage_sizes: Sequence[int],
        features: Sequence[int],
        *,
        stem_features: int = 32,
        head_features: int = 1280,
        num_classes: int = 1000,
        is_timm: bool = True,
    ) -> None:
        super().__init__()
        stages, inputs = [], stem_features
        settings = zip(stage_sizes, features, _KERNEL_SIZES, _STRIDES, _EXPANSIONS, strict=False)
        for size, width, kernel, stride, expansion in settings:
            blocks = []
            for place in range(size):
                blocks.append(_LiteBlock(inputs, width, kernel, 1 if place else stride, expansion, is_timm))
                inputs = width
            stages.append(nn.Sequential(*blocks))
        parts = (
            SameConv(3, stem_features, 3, 2),
            nn.BatchNorm2d(stem_features, eps=_EPSILON),
            nn.Sequential(*(stages if is_timm else itertools.chain(*stages))),
            SameConv(inputs, head_features, 1),
            nn.BatchNorm2d(head_features, eps=_EPSILON),
            nn.Linear(head_features, num_classes),
        )
        self.names = _TIMM_NAMES if is_timm else _ORIGINAL_NAMES
        for name, part in zip(self.names, parts, strict=True):
            self.add_module(name, part)

    def grid(self, images: torch.Tensor) -> torch.Tensor:
        """Maps `[batch, 3, height, width]` to the last grid, `[batch, head_features, rows, columns]`."""
        stem, first, blocks, head, last, _ = (getattr(self, name) for name in self.names)
        grid = blocks(functional.relu6(first(stem(images)), inplace=True))
        return functional.relu6(last(head(grid)), inplace=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps `[batch, 3, height, width]` to logits."""
        return getattr(self, self.names[-1])(self.grid(image).mean((2, 3)))


class Classifier(nn.Module):
    """A classifier of transformers, by its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps `[batch, 3, height, width]` to logits."""
        return self.model(pixel_values=image).logits


class TwoTowers(nn.Module):
    """Two towers of transformers, by the logits of each image with each text."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Maps `[batch, 3, height, width]` and `[batch, length]` to `[batch, batch]`."""
        return self.model(pixel_values=image, input_ids=text).logits_per_image


def load_encoder(workload: Encoder) -> nn.Module:
    """Makes the model of a workload and reads its weights.

    Args:
        workload: what to compute.

    Returns:
        The model, in training.

    Raises:
        ImportError: transformers is not installed, and the family is one of its own.
    """
    if workload.family == "efficientnet-lite":
        return _load_lite(workload.weights())
    import transformers

    if workload.length:
        return TwoTowers(transformers.AutoModel.from_pretrained(workload.folder)).train()
    return Classifier(transformers.AutoModelForImageClassification.from_pretrained(workload.folder)).train()


def _load_lite(weights: Mapping[str, np.ndarray]) -> nn.Module:
    blocks = sorted({tuple(map(int, name.split(".")[1:3])) for name in weights if name.startswith("blocks.")})
    stages = [list(group) for _, group in itertools.groupby(blocks, lambda block: block[0])]

    def count_features(stage: int) -> int:
        name = f"blocks.{stage}.0.conv_pwl.weight"
        return len(weights[name if name in weights else f"blocks.{stage}.0.conv_pw.weight"])

    num_classes, head_features = weights["classifier.weight"].shape
    model = EfficientNetLite(
        [len(stage) for stage in stages],
        [count_features(stage) for stage in range(len(stages))],
        stem_features=len(weights["conv_stem.weight"]),
        head_features=head_features,
        num_classes=num_classes,
    )
    state: dict[str, Any] = {name: torch.from_numpy(array) for name, array in weights.items()}
    # Only the counters of batches have no tensor.
    model.load_state_dict(state, strict=False)
    return model
