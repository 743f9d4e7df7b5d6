"""The contrastive losses and their gradients by open_clip's own classes, at its defaults for temperature and bias."""

import numpy as np

# Of `open_clip.model.CLIP`, and what its training sets with --siglip.
SCALES = {"info_nce": np.log(1 / 0.07), "sigmoid": np.log(10.0)}
BIAS = -10.0


def compute() -> dict[str, np.ndarray]:
    """Features of 13 pairs, and for each loss its value and the gradients of features, log scale and bias."""
    import torch
    from open_clip import ClipLoss, SigLipLoss

    rng = np.random.default_rng(7)
    inputs = {}
    for name in ("images", "texts"):
        rows = rng.normal(size=(13, 17))
        inputs[name] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    arrays = {f"input/{name}": value for name, value in inputs.items()}
    for name, module in (("info_nce", ClipLoss()), ("sigmoid", SigLipLoss())):
        leaves = {key: torch.tensor(value, requires_grad=True) for key, value in inputs.items()}
        leaves["log_scale"] = torch.tensor(np.float32(SCALES[name]), requires_grad=True)
        if name == "sigmoid":
            leaves["bias"] = torch.tensor(BIAS, requires_grad=True)
        loss = module(leaves["images"], leaves["texts"], leaves["log_scale"].exp(), leaves.get("bias"))
        loss.backward()
        arrays[f"{name}/loss"] = loss.detach().numpy()
        arrays |= {f"{name}/gradient/{key}": leaf.grad.numpy() for key, leaf in leaves.items()}
    return arrays
