"""Losses: pure functions that return a sum and its weight, so that a mean over any number of devices stays exact."""

from fusionjax.losses.cross_entropy import Loss, cross_entropy
from fusionjax.losses.policy_gradient import leave_one_out, policy_gradient

__all__ = ["Loss", "cross_entropy", "leave_one_out", "policy_gradient"]
