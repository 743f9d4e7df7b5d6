"""Writes the stored reference values anew; needs torch and open_clip_torch. Run: python -m tests.parity.store"""

from tests.parity import open_clip_losses
from tests.parity.reference import store
from tests.parity.torch_models import MODELS

if __name__ == "__main__":
    for name, compute in {**MODELS, "open_clip_losses": open_clip_losses.compute}.items():
        path = store(name, compute)
        print(path, path.stat().st_size)
