"""Models made faster for inference: pure functions from a model and its variables to others, called as before."""

from fusionjax.compress.batch_norm import fold_batch_norm, fold_batch_norm_layers, fold_batch_norms
from fusionjax.compress.embeddings import fold_embeddings, project_embedding
from fusionjax.compress.narrow import to_bfloat16

__all__ = [
    "fold_batch_norm",
    "fold_batch_norm_layers",
    "fold_batch_norms",
    "fold_embeddings",
    "project_embedding",
    "to_bfloat16",
]
