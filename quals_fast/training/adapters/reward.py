"""QUALS as a reward for TRL's GRPOTrainer and trainers with the same convention."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from quals_fast.results import SummaryScore
from quals_fast.scorer import QualsScorer
from quals_fast.training.adapters.rows import as_scorer, check_on_error, score_each
from quals_fast.validation import check_list, check_same_length

# What TRL passes to every reward function besides the columns of the data set.
_OF_THE_HOST = {
    "completion_ids",
    "environments",
    "log_extra",
    "log_metric",
    "trainer_state",
}


class UnscoredBatchWarning(UserWarning):
    """No completion of a batch has a score, so the policy learns nothing from it."""


class QualsReward:
    """Reward function for TRL's ``GRPOTrainer``: the QUALS of a completion given its document.

    Completions of the same document share its encoding. Later steps with that document reuse the
    encoding as long as it is in the scorer's cache.

    Args:
        scorer: A scorer, or the name or folder of a model.
        document_column: Column of the data set with the documents.
        on_error: ``"skip"`` gives a failing row no reward, and logs and counts it; ``"raise"``
            raises the error.
        missing_reward: Reward of a completion without a score (no pairs, empty, failed). None tells
            TRL that there is no reward: the completion gets no advantage and is left out of means.
        max_unscored_batches: Stop the run after this many consecutive batches in which no
            completion has a score, since nothing is learnt from them. Every such batch issues an
            `UnscoredBatchWarning`. None never stops the run.

    Raises:
        ValueError: If `on_error` is invalid, `missing_reward` is not finite, or
            `max_unscored_batches` is below 1.

    Example:
        ```python
        GRPOTrainer(model, reward_funcs=[QualsReward(document_column="article")], ...)
        ```
    """

    def __init__(
        self,
        scorer: QualsScorer | str = "qagen-mini",
        *,
        document_column: str = "document",
        on_error: str = "skip",
        missing_reward: float | None = None,
        max_unscored_batches: int | None = 10,
    ) -> None:
        if missing_reward is not None and not math.isfinite(missing_reward):
            raise ValueError(f"`missing_reward` must be finite or None, but got {missing_reward}")
        if max_unscored_batches is not None and max_unscored_batches < 1:
            raise ValueError(
                f"`max_unscored_batches` must be at least 1 or None, but got {max_unscored_batches}"
            )
        self.__name__ = "quals"  # its name in TRL's logs
        self.scorer = as_scorer(scorer)
        self.document_column = document_column
        self.on_error = check_on_error(on_error)
        self.missing_reward = missing_reward
        self.max_unscored_batches = max_unscored_batches
        self._unscored_batches = 0  # in a row

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """Return the rewards of a batch.

        Args:
            prompts: Not used; documents come from their own column.
            completions: Texts, or chats: lists of messages, of which the assistant's last one is
                scored.
            columns: Columns of the data set, with one entry per completion, and what TRL adds.

        Returns:
            One reward per completion, in nats per token.

        Raises:
            ValueError: If the document column is missing or lengths differ; with
                ``on_error="raise"``, if a row cannot be scored.
            TypeError: If `completions` or the column is not a list.
            RuntimeError: If `max_unscored_batches` consecutive batches have no score.
            Exception: With ``on_error="raise"``, whatever scoring raised.
        """
        if self.document_column not in columns:
            present = ", ".join(repr(name) for name in sorted(columns.keys() - _OF_THE_HOST))
            raise ValueError(
                f"QualsReward expected the documents in the column {self.document_column!r}, but "
                f"the data set has {present or 'no column besides the prompt'}; name the column "
                "with document_column="
            )
        documents = check_list(self.document_column, columns[self.document_column], "strings")
        completions = check_list("completions", completions, "texts or chats")
        check_same_length("completions", completions, documents)
        summaries = [completion_text(completion) for completion in completions]
        rows = score_each(self.scorer, documents, summaries, self.on_error)
        scored = [not math.isnan(row.score) for row in rows]
        self._watch(rows)
        log: Callable[[str, float], None] | None = columns.get("log_metric")
        if log is not None and rows:
            log("quals/scored", sum(scored) / len(rows))
            stats = self.scorer.cache_stats
            if stats is not None and stats.hits + stats.misses:
                log("quals/cache_hits", stats.hits / (stats.hits + stats.misses))
        return [
            row.score if has_score else self.missing_reward
            for row, has_score in zip(rows, scored, strict=True)
        ]

    def _watch(self, rows: Sequence[SummaryScore]) -> None:
        """Warn of a batch without any score, and raise after too many in a row."""
        if not rows:
            return
        if not all(math.isnan(row.score) for row in rows):
            self._unscored_batches = 0
            return
        self._unscored_batches += 1
        statuses = Counter(row.status for row in rows).most_common()
        problem = (
            f"QualsReward has no score for any of {len(rows)} completions "
            f"({', '.join(f'{n} {status}' for status, n in statuses)}); "
            f"batches in a row without a score: {self._unscored_batches}"
        )
        first = next((row.message for row in rows if row.message is not None), None)
        if first is not None:
            problem += f"; first message: {first}"
        most = self.max_unscored_batches
        if most is not None and self._unscored_batches >= most:
            raise RuntimeError(
                f"{problem}; check the completions and the column {self.document_column!r}, or set "
                "max_unscored_batches=None to continue without rewards"
            )
        warnings.warn(problem, UnscoredBatchWarning, stacklevel=3)


def completion_text(completion: object) -> object:
    """Return the text of a completion: its own, or that of the assistant's last message.

    Anything else is returned as it is; the check of the row will name its type.
    """
    if not isinstance(completion, list | tuple):
        return completion
    if not all(isinstance(message, dict) and "content" in message for message in completion):
        return completion
    own = [m["content"] for m in completion if m.get("role", "assistant") == "assistant"]
    return _content_text(own[-1]) if own else ""


def _content_text(content: object) -> object:
    """Join the text blocks of a message, which newer chats have instead of a string."""
    if content is None:  # as in a message that only calls tools
        return ""
    if not isinstance(content, list | tuple):
        return content
    if not all(isinstance(block, dict) for block in content):
        return content
    return "".join(str(block.get("text", "")) for block in content if block.get("type") == "text")
