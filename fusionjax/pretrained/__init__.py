"""Weights of other libraries, in and out."""

from fusionjax.pretrained.recurrent import rnn_from_linen, rnn_from_torch, rnn_to_linen, rnn_to_torch

__all__ = ["rnn_from_linen", "rnn_from_torch", "rnn_to_linen", "rnn_to_torch"]
