"""Weights of other libraries, in and out."""

from fusionjax.pretrained.architecture import Architecture, CaptionTokens, ImagePreparation
from fusionjax.pretrained.layouts import Layout
from fusionjax.pretrained.loading import Pretrained, find_architecture, load, rename, save
from fusionjax.pretrained.published import PublishedEncoder, encoder_of_header, open_encoder
from fusionjax.pretrained.published_sizes import (
    PUBLISHED,
    Published,
    count_multiply_adds,
    count_parameters,
    find_published,
)
from fusionjax.pretrained.recurrent import rnn_from_linen, rnn_from_torch, rnn_to_linen, rnn_to_torch
from fusionjax.pretrained.registry import ARCHITECTURES
from fusionjax.pretrained.rows import Row

__all__ = [
    "ARCHITECTURES",
    "PUBLISHED",
    "Architecture",
    "CaptionTokens",
    "ImagePreparation",
    "Layout",
    "Pretrained",
    "Published",
    "PublishedEncoder",
    "Row",
    "count_multiply_adds",
    "count_parameters",
    "encoder_of_header",
    "find_architecture",
    "find_published",
    "load",
    "open_encoder",
    "rename",
    "rnn_from_linen",
    "rnn_from_torch",
    "rnn_to_linen",
    "rnn_to_torch",
    "save",
]
