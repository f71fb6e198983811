"""Any text classifier, or FactCC, as a metric: does the document support each sentence?

Source: docs/evaluate.md; arXiv 1910.12840, salesforce/factCC at 23ec0ac.
"""

from quals_fast.classifier.results import ClassifierResult, ClassifierScore, SentenceScore
from quals_fast.classifier.scorer import ClassifierScorer

__all__ = ["ClassifierResult", "ClassifierScore", "ClassifierScorer", "SentenceScore"]
