"""Whole models, built of encoders, fusions, heads and decoders."""

from fusionjax.models.captioner import Captioner, CaptionerOutput, generate
from fusionjax.models.classifier import ClassifierOutput, FusionClassifier
from fusionjax.models.lstm_decoder import AttentionLSTMDecoder, LSTMDecoder
from fusionjax.models.transformer_decoder import TransformerDecoder
from fusionjax.models.words import DecoderOutput

__all__ = [
    "AttentionLSTMDecoder",
    "Captioner",
    "CaptionerOutput",
    "ClassifierOutput",
    "DecoderOutput",
    "FusionClassifier",
    "LSTMDecoder",
    "TransformerDecoder",
    "generate",
]
