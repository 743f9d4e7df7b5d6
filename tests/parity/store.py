"""Writes the stored reference values anew. Run: python -m tests.parity.store

It needs torch, open_clip_torch, transformers and sentencepiece.
"""

from tests.parity import hub_images, hub_tokenizers, open_clip_losses
from tests.parity.reference import store
from tests.parity.torch_models import MODELS

if __name__ == "__main__":
    others = {**hub_tokenizers.MODELS, **hub_images.MODELS, "open_clip_losses": open_clip_losses.compute}
    for name, compute in {**MODELS, **others}.items():
        path = store(name, compute)
        print(path, path.stat().st_size)
