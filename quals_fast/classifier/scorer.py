"""Score summaries with a classifier: the mean probability of a label over their sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import torch

from quals_fast import __version__
from quals_fast.batching import run_batches
from quals_fast.classifier.checkpoint import ClassifierMetric, load_classifier
from quals_fast.classifier.results import (
    ClassifierResult,
    ClassifierScore,
    ClassifierStatus,
    SentenceScore,
)
from quals_fast.classifier.sentences import SentenceSplitter
from quals_fast.models.loading import resolve_device
from quals_fast.processes import limit_threads, survive_fork
from quals_fast.signature import escaped
from quals_fast.validation import check_pair, check_same_length, check_texts, check_tokens


class ClassifierScorer:
    """Score summaries with a sequence classifier; `from_pretrained` loads one."""

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        metric: ClassifierMetric = "classifier",
        positive: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_batch_tokens: int | None = None,
    ) -> ClassifierScorer:
        """Load a classifier.

        Args:
            model: a folder that transformers' ``save_pretrained`` wrote, or OWNER/NAME on the
                Hugging Face hub.
            metric: ``"classifier"``, or ``"factcc"`` for the conventions of FactCC's published
                code.
            positive: name of the label for consistent text.
            revision: branch, tag or commit of a model on the hub.
            device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
            dtype: ``"float32"`` (which ``"auto"`` means), ``"bfloat16"`` or ``"float16"``.
            max_batch_tokens: number of tokens to process at once; sets peak memory.
        """
        raise NotImplementedError

    @property
    def signature(self) -> str:
        """Everything that the scores depend on, in one line."""
        raise NotImplementedError

    def score(
        self,
        documents: Sequence[str],
        summaries: Sequence[str],
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> ClassifierResult:
        """Score each summary against its document."""
        raise NotImplementedError
