"""Writes the stored reference values anew; needs torch. Run: python -m tests.parity.store"""

from tests.parity.reference import store
from tests.parity.torch_models import MODELS

if __name__ == "__main__":
    for name, compute in MODELS.items():
        path = store(name, compute)
        print(path, path.stat().st_size)
