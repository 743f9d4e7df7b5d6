"""The classic CNN in PyTorch's order (convolution, ReLU, pooling, then a fully connected layer).

`python -m tests.parity.torch_simple_cnn` stores its values anew; needs torch.
"""

import numpy as np

from tests.parity.reference import store


def simple_cnn() -> dict[str, np.ndarray]:
    """Two stages without padding, flattened in the order of rows, columns and features, and a hidden layer."""
    import torch

    torch.manual_seed(7)
    stages = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(5, 7, 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
    )
    dense = torch.nn.Linear(42, 11)
    images = torch.rand(2, 3, 19, 17, requires_grad=True)
    grid = stages(images)
    tokens = grid.permute(0, 2, 3, 1).flatten(1, 2)
    pooled = torch.relu(dense(tokens.flatten(1)))
    sum(
        (value * torch.cos(torch.arange(value.numel()).reshape(value.shape))).sum() for value in (tokens, pooled)
    ).backward()
    weights = {"conv_0": stages[0], "conv_1": stages[3], "dense_0": dense}
    result = {"images": images, "images_gradient": images.grad, "tokens": tokens, "pooled": pooled}
    for name, layer in weights.items():
        for part in ("weight", "bias"):
            result |= {f"{name}/{part}": getattr(layer, part), f"{name}/{part}_gradient": getattr(layer, part).grad}
    return {name: tensor.detach().numpy() for name, tensor in result.items()}


if __name__ == "__main__":
    print(store("simple_cnn", simple_cnn))
