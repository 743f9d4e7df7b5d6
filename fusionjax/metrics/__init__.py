"""Metrics: caption scores in pure Python (equal to pycocoevalcap), accuracy, perplexity, confusion matrix, recall."""

from fusionjax.metrics.bleu import bleu
from fusionjax.metrics.captions import caption_metrics
from fusionjax.metrics.cider import CiderScorer, cider_d
from fusionjax.metrics.classification import Accuracy, accuracy, confusion_matrix
from fusionjax.metrics.exact_match import exact_match
from fusionjax.metrics.perplexity import perplexity
from fusionjax.metrics.retrieval import RECALLS, RetrievalRanks, chance_recall, retrieval_ranks, retrieval_scores
from fusionjax.metrics.rouge import rouge_l
from fusionjax.metrics.text import tokenize_caption
from fusionjax.metrics.vqa import accuracy_by_type, consensus_accuracy, normalize_answer

__all__ = [
    "RECALLS",
    "Accuracy",
    "CiderScorer",
    "RetrievalRanks",
    "accuracy",
    "accuracy_by_type",
    "bleu",
    "caption_metrics",
    "chance_recall",
    "cider_d",
    "confusion_matrix",
    "consensus_accuracy",
    "exact_match",
    "normalize_answer",
    "perplexity",
    "retrieval_ranks",
    "retrieval_scores",
    "rouge_l",
    "tokenize_caption",
]
