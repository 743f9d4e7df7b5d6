"""Whole models, built of encoders, fusions, heads and decoders."""

from fusionjax.models.captioner import Captioner, CaptionerOutput, generate
from fusionjax.models.classifier import ClassifierOutput, FusionClassifier
from fusionjax.models.dual_encoder import DualEncoder, DualEncoderOutput
from fusionjax.models.image_classifier import ImageClassifier
from fusionjax.models.lstm_decoder import AttentionLSTMDecoder, LSTMDecoder
from fusionjax.models.multi_task import MultiTask, task_model, task_variables
from fusionjax.models.question_answering import AnswerOutput, VisualQuestionAnswering
from fusionjax.models.transformer_decoder import TransformerDecoder
from fusionjax.models.words import DecoderOutput

__all__ = [
    "AnswerOutput",
    "AttentionLSTMDecoder",
    "Captioner",
    "CaptionerOutput",
    "ClassifierOutput",
    "DecoderOutput",
    "DualEncoder",
    "DualEncoderOutput",
    "FusionClassifier",
    "ImageClassifier",
    "LSTMDecoder",
    "MultiTask",
    "TransformerDecoder",
    "VisualQuestionAnswering",
    "generate",
    "task_model",
    "task_variables",
]
