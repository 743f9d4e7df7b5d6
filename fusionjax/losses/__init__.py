"""Losses: pure functions that return a sum and its weight, so that a mean over any number of devices stays exact."""

from fusionjax.losses.cross_entropy import Loss, cross_entropy
from fusionjax.losses.info_nce import info_nce
from fusionjax.losses.policy_gradient import leave_one_out, policy_gradient
from fusionjax.losses.sigmoid_contrastive import sigmoid_contrastive
from fusionjax.losses.triplet import triplet

__all__ = [
    "Loss",
    "cross_entropy",
    "info_nce",
    "leave_one_out",
    "policy_gradient",
    "sigmoid_contrastive",
    "triplet",
]
