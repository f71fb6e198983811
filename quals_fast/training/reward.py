"""QUALS as a reward of TRL's GRPOTrainer, and of all trainers with its convention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from quals_fast.scorer import QualsScorer
from quals_fast.training.rows import as_scorer, check_on_error, score_each
from quals_fast.validation import check_list, check_same_length

# What TRL hands to every reward function beside the columns of the data set.
_OF_THE_HOST = {
    "completion_ids",
    "environments",
    "log_extra",
    "log_metric",
    "trainer_state",
}


class QualsReward:
    """Reward a completion with its QUALS against the document of its row.

    Completions of one document share its encoding, and so do steps that come back to it as long as
    the scorer's cache holds it.

    Args:
        scorer: a scorer, or the name or folder of a model.
        document_column: column of the data set that holds the documents.
        on_error: ``"skip"`` gives a failing row no reward, logs and counts it; ``"raise"`` raises.
        missing_reward: of a completion without a score (no pairs, empty, failed). None tells TRL
            that there is none: such a completion has no advantage and is in no mean.

    Raises:
        ValueError: `on_error` is neither, or `missing_reward` is not finite.

    Example: ``GRPOTrainer(model, reward_funcs=[QualsReward(document_column="article")], ...)``
    """

    def __init__(
        self,
        scorer: QualsScorer | str = "qagen-mini",
        *,
        document_column: str = "document",
        on_error: str = "skip",
        missing_reward: float | None = None,
    ) -> None:
        if missing_reward is not None and not math.isfinite(missing_reward):
            raise ValueError(f"`missing_reward` must be finite or None, but got {missing_reward}")
        self.__name__ = "quals"  # by which TRL logs it
        self.scorer = as_scorer(scorer)
        self.document_column = document_column
        self.on_error = check_on_error(on_error)
        self.missing_reward = missing_reward

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """Return one reward a completion.

        Args:
            prompts: not looked at; the document is a column of its own.
            completions: texts, or chats: lists of messages, of which the assistant's last counts.
            columns: of the data set, one entry a completion, and what TRL adds.

        Raises:
            ValueError: there is no such column, or the lengths differ; if asked for, a row could
                not be scored.
            TypeError: `completions` or the column is not a list.
            Exception: if asked for, whatever scoring raised.
        """
        if self.document_column not in columns:
            present = ", ".join(repr(name) for name in sorted(columns.keys() - _OF_THE_HOST))
            raise ValueError(
                f"QualsReward expected the documents in the column {self.document_column!r}, but "
                f"the data set has {present or 'no column beside the prompt'}; name it with "
                "document_column="
            )
        documents = columns[self.document_column]
        check_list("completions", completions, "texts or chats")
        check_list(self.document_column, documents, "strings")
        check_same_length("completions", completions, documents)
        summaries = [completion_text(completion) for completion in completions]
        rows = score_each(self.scorer, documents, summaries, self.on_error)
        scored = [not math.isnan(row.score) for row in rows]
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


def completion_text(completion: object) -> object:
    """Return the text of a completion: its own, or that of the assistant's last message.

    What has neither shape is returned as it is, for the check of the row to name its type.
    """
    if not isinstance(completion, list | tuple):
        return completion
    if not all(isinstance(message, dict) and "content" in message for message in completion):
        return completion
    own = [m["content"] for m in completion if m.get("role", "assistant") == "assistant"]
    return _content_text(own[-1]) if own else ""


def _content_text(content: object) -> object:
    """Join the text blocks of a message, which newer chats have in the place of a string."""
    if content is None:  # as of a message that only calls tools
        return ""
    if not isinstance(content, list | tuple):
        return content
    if not all(isinstance(block, dict) for block in content):
        return content
    return "".join(str(block.get("text", "")) for block in content if block.get("type") == "text")
