"""Losses: pure functions that return a sum and its weight, so that a mean over any number of devices stays exact."""

from fusionjax.losses.cross_entropy import Loss, cross_entropy

__all__ = ["Loss", "cross_entropy"]
