"""Which generated sequences are question-answer pairs about the summary, and which are kept.

Source: docs/semantics.md 1.3; amazon-science/fact-check-summarization, preprocess/evaluate_hypo.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from quals_fast.models.checkpoint import Conventions
from quals_fast.models.tokenizer import QATokenizer, Source
from quals_fast.results import Hypothesis


class KeptPair(NamedTuple):
    """A hypothesis that was kept, read as question and answer."""

    question: str
    answer: str
    hypothesis: Hypothesis


def keep_pairs(
    hypotheses: Sequence[Hypothesis],
    summary: Source,
    tokenizer: QATokenizer,
    conventions: Conventions,
    max_pairs: int | None,
) -> list[KeptPair]:
    """Drop sequences that are not pairs about the summary, then select.

    Args:
        hypotheses: as generated from the summary.
        summary: where answers are looked up.
        tokenizer: says whether answers are matched by ids or by text.
        conventions: special ids.
        max_pairs: as in `ScoringConfig`.

    Returns:
        The kept pairs in the order of selection.
    """
    return select(pairs_about(hypotheses, summary, tokenizer, conventions), max_pairs)


def pairs_about(
    hypotheses: Sequence[Hypothesis],
    summary: Source,
    tokenizer: QATokenizer,
    conventions: Conventions,
) -> list[KeptPair]:
    """Drop sequences that are not pairs about the summary; arguments as for `keep_pairs`."""
    haystack = haystack_of(summary, tokenizer)
    pairs = []
    for hypothesis in hypotheses:
        parts = split_at_sep(hypothesis.token_ids, conventions)
        if parts is None:
            continue
        question_ids, answer_ids = parts
        answer = tokenizer.decode(answer_ids)
        if tokenizer.unknown_token_id in answer_ids:  # it may stand for another word there
            continue
        if answer.strip() and needle_of(answer_ids, answer, tokenizer) in haystack:
            pairs.append(KeptPair(tokenizer.decode(question_ids), answer, hypothesis))
    return pairs


def haystack_of(summary: Source, tokenizer: QATokenizer) -> str:
    """Return a summary as answers are looked up in it."""
    if tokenizer.answer_match == "ids":
        return _as_text(summary.text_ids)
    return tokenizer.spelled(summary).lower()


def needle_of(answer_ids: Sequence[int], answer: str, tokenizer: QATokenizer) -> str:
    """Return an answer as it is looked up in a summary."""
    return _as_text(answer_ids) if tokenizer.answer_match == "ids" else answer.lower()


def split_at_sep(
    token_ids: Sequence[int], conventions: Conventions
) -> tuple[list[int], list[int]] | None:
    """Return the ids of question and answer, or None unless there is exactly one SEP."""
    special = (conventions.eos_token_id, conventions.pad_token_id, conventions.forced_bos_token_id)
    ids = [token for token in token_ids if token not in special]
    if ids.count(conventions.sep_token_id) != 1:
        return None
    middle = ids.index(conventions.sep_token_id)
    return ids[:middle], ids[middle + 1 :]


def select(pairs: Sequence[KeptPair], max_pairs: int | None) -> list[KeptPair]:
    """Let the distinct answers take turns, each with its best remaining question.

    A question that its answer already has is lost, and with it the answer's turn. Selection stops
    at the end of the round that reaches `max_pairs`, or that adds nothing.
    """
    by_answer: dict[str, list[KeptPair]] = {}
    for pair in sorted(pairs, key=lambda pair: -pair.hypothesis.search_sum):
        by_answer.setdefault(pair.answer.lower(), []).append(pair)
    kept: dict[tuple[str, str], KeptPair] = {}
    for round_ in zip_longest(*by_answer.values()):
        before = len(kept)
        for pair in filter(None, round_):
            kept.setdefault((pair.answer.lower(), pair.question.lower()), pair)
        if max_pairs is not None and (len(kept) >= max_pairs or len(kept) == before):
            break
    return list(kept.values())


def _as_text(token_ids: Sequence[int]) -> str:
    """Return token ids as characters: a run of ids is then a substring."""
    return "".join(map(chr, token_ids))
