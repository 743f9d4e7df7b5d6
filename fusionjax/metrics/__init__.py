"""Metrics: caption scores in pure Python (equal to pycocoevalcap), accuracy, perplexity, confusion matrix."""

from fusionjax.metrics.bleu import bleu
from fusionjax.metrics.captions import caption_metrics
from fusionjax.metrics.cider import CiderScorer, cider_d
from fusionjax.metrics.classification import Accuracy, accuracy, confusion_matrix
from fusionjax.metrics.exact_match import exact_match
from fusionjax.metrics.perplexity import perplexity
from fusionjax.metrics.rouge import rouge_l
from fusionjax.metrics.text import tokenize_caption

__all__ = [
    "Accuracy",
    "CiderScorer",
    "accuracy",
    "bleu",
    "caption_metrics",
    "cider_d",
    "confusion_matrix",
    "exact_match",
    "perplexity",
    "rouge_l",
    "tokenize_caption",
]
