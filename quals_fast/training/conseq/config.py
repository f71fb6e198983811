"""Settings of a ConSeq run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from quals_fast.config import check_choice, check_integer, check_number

By: TypeAlias = Literal["quals", "rouge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConSeqConfig:
    """How samples are drawn, judged and learnt from; the defaults are the published ones.

    Batch size and seed are our own.

    Args:
        num_samples: summaries drawn of each document.
        top_k: likeliest tokens that a sample draws from.
        min_length: tokens of a sample, at least.
        max_length: tokens of a sample, at most.
        by: what judges: ``"quals"``, or ``"rouge"``, the baseline.
        positive_fraction: of the documents, by score of the reference, from above.
        negative_fraction: of the documents, by score of the worst sample, from below.
        learning_rate: of Adam at the beginning; it falls linearly to 0.
        epochs: over the chosen documents.
        batch_size: documents a step, each with two summaries; samples are drawn of as many at once.
        label_smoothing: of both parts of the loss.
        max_source_tokens: documents are cut to so many for the summariser.
        max_target_tokens: summaries to learn from likewise.
        save_steps: steps from checkpoint to checkpoint.
        seed: of samples and training.

    Raises:
        ValueError: a value out of range.
        TypeError: a value of the wrong type.

    Source: docs/semantics.md 1.5; arXiv 2105.04623.
    """

    num_samples: int = 6
    top_k: int = 50
    min_length: int = 10
    max_length: int = 60
    by: By = "quals"
    positive_fraction: float = 0.3
    negative_fraction: float = 0.3
    learning_rate: float = 3e-6
    epochs: int = 2
    batch_size: int = 8
    label_smoothing: float = 0.1
    max_source_tokens: int = 1024
    max_target_tokens: int = 256
    save_steps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("by", self.by, get_args(By))
        for name in ("num_samples", "top_k", "min_length", "max_length", "epochs", "batch_size",
                     "max_source_tokens", "max_target_tokens", "save_steps"):  # fmt: skip
            check_integer(name, getattr(self, name), 1)
        check_integer("seed", self.seed, 0)
        for name in ("positive_fraction", "negative_fraction"):
            check_number(name, getattr(self, name), 0.0, 1.0)
            if getattr(self, name) == 0:
                raise ValueError(f"`{name}` must be above 0, but got 0")
        check_number("label_smoothing", self.label_smoothing, 0.0, 0.999)
        check_number("learning_rate", self.learning_rate, 0.0)
        if self.max_length < self.min_length:
            raise ValueError(
                f"`max_length` must be at least `min_length`, but got {self.max_length} with a "
                f"`min_length` of {self.min_length}"
            )
