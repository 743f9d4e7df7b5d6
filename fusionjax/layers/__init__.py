"""Linen modules, thin over `fusionjax.ops`."""

from fusionjax.layers.additive_attention import AdditiveAttention
from fusionjax.layers.attention_lstm import AttentionLSTM, AttentionLSTMOutput, AttentionMemory
from fusionjax.layers.batch_norm import BatchNorm
from fusionjax.layers.conv import Conv
from fusionjax.layers.dense import Dense
from fusionjax.layers.elman import Elman
from fusionjax.layers.film import FiLM
from fusionjax.layers.gru import GRU
from fusionjax.layers.key_value_cache import KeyValue, KeyValueCache
from fusionjax.layers.lstm import LSTM
from fusionjax.layers.multi_head_attention import (
    MultiHeadAttention,
    MultiHeadAttentionOutput,
)
from fusionjax.layers.rnn import RNN
from fusionjax.layers.transformer import TransformerBlock, TransformerBlockOutput

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdditiveAttention",
    "AttentionLSTM",
    "AttentionLSTMOutput",
    "AttentionMemory",
    "BatchNorm",
    "Conv",
    "Dense",
    "Elman",
    "FiLM",
    "KeyValue",
    "KeyValueCache",
    "MultiHeadAttention",
    "MultiHeadAttentionOutput",
    "TransformerBlock",
    "TransformerBlockOutput",
]
