"""Pure array functions: one signature each, a plain reference and, where it pays, faster implementations."""

from fusionjax.ops.additive_attention import additive_attention
from fusionjax.ops.attention import AttentionOutput, attention, masked_softmax
from fusionjax.ops.bias import add_bias
from fusionjax.ops.convolution import conv2d
from fusionjax.ops.convolution_1d import conv1d
from fusionjax.ops.convolution_pooled import conv2d_relu_max_pool, conv2d_relu_max_pool_stages
from fusionjax.ops.elman import elman, elman_step
from fusionjax.ops.gru import gru, gru_step
from fusionjax.ops.implementations import for_platform, inside_loop
from fusionjax.ops.lstm import LSTMState, lstm, lstm_step, lstm_update
from fusionjax.ops.masks import combine_masks, make_causal_mask, make_padding_mask
from fusionjax.ops.pooling import max_pool2d
from fusionjax.ops.recurrent import RecurrentOutput

__all__ = [
    "AttentionOutput",
    "LSTMState",
    "RecurrentOutput",
    "add_bias",
    "additive_attention",
    "attention",
    "combine_masks",
    "conv1d",
    "conv2d",
    "conv2d_relu_max_pool",
    "conv2d_relu_max_pool_stages",
    "elman",
    "elman_step",
    "for_platform",
    "gru",
    "gru_step",
    "inside_loop",
    "lstm",
    "lstm_step",
    "lstm_update",
    "make_causal_mask",
    "make_padding_mask",
    "masked_softmax",
    "max_pool2d",
]
