"""Settings of a ConSeq run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from quals_fast.config import check_choice, check_integer, check_number

By: TypeAlias = Literal["quals", "rouge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConSeqConfig:
    """Settings of a ConSeq run: how samples are drawn, scored and learnt from.

    The defaults are the published settings (arXiv 2105.04623; docs/semantics.md 1.5); `batch_size`
    and `seed` are this project's own choice.

    Args:
        num_samples: Number of summaries to sample for each document.
        top_k: Sample each token from this many most likely ones.
        min_length: Minimum length of a sample, in tokens.
        max_length: Maximum length of a sample, in tokens.
        by: Metric that scores the summaries: ``"quals"``, or ``"rouge"``, the baseline.
        positive_fraction: Share of documents to choose, those whose references score highest. A
            document is learnt from if it is in this share and in that of `negative_fraction`.
        negative_fraction: Share of documents to choose, those whose worst samples score lowest.
        learning_rate: Initial learning rate of Adam; it falls linearly to 0.
        epochs: Number of passes over the chosen documents.
        batch_size: Number of documents per step, each with two summaries, and per batch when
            sampling.
        label_smoothing: Label smoothing of both parts of the loss, from 0 to 0.999.
        max_source_tokens: Truncate documents to this many tokens for the summariser.
        max_target_tokens: Truncate the summaries to learn from to this many tokens.
        save_steps: Number of steps between checkpoints.
        seed: Random seed for sampling and training.

    Raises:
        ValueError: If a value is out of range.
        TypeError: If a value has the wrong type.
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
