"""QUALS of one summary, step by step: docs/semantics.md 1, arXiv 2105.04623 and its program.

Source: amazon-science/fact-check-summarization, preprocess/evaluate_hypo.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from quals_fast.config import DecodingConfig, ScoringConfig
from quals_fast.models.checkpoint import check_fits
from quals_fast.models.tokenizer import QATokenizer
from quals_fast.processes import limit_threads, survive_fork
from quals_fast.reference.diverse_beam import Trace, diverse_beam_search
from quals_fast.reference.model import ReferenceModel
from quals_fast.results import Hypothesis, QAPair, QualsResult, SummaryScore, nested_like
from quals_fast.signature import signature
from quals_fast.validation import check_pair, check_same_length, check_texts, check_tokens


def generate(
    model: ReferenceModel, summary: str, config: DecodingConfig, trace: Trace | None = None
) -> list[Hypothesis]:
    """Generate question-answer sequences from a summary (step 1)."""
    (source,) = model.checkpoint.tokenizer.encode([summary])
    decoder = model.decoder(model.encode(source.input_ids), config.num_beams)
    return diverse_beam_search(decoder, config, trace)


def split_at_sep(
    token_ids: Sequence[int], special: Sequence[int | None], sep: int
) -> tuple[list[int], list[int]] | None:
    """Return question and answer ids, or None unless there is exactly one SEP."""
    plain = [token for token in token_ids if token not in special]
    if plain.count(sep) != 1:
        return None
    middle = plain.index(sep)
    return plain[:middle], plain[middle + 1 :]


def answer_stands_in(answer_ids: list[int], summary: str, tokenizer: QATokenizer) -> bool:
    """Return whether the answer is a span of the summary (step 2).

    An empty one is not, nor one with an unknown token.

    The text rule is the published one; the rule on ids is for WordPiece, which decodes with
    spaces that the source did not have.
    """
    if tokenizer.unknown_token_id in answer_ids:
        return False  # it may stand for one word here and for another in the summary
    (source,) = tokenizer.encode([summary])
    if tokenizer.answer_match == "text":
        answer, text = tokenizer.decode(answer_ids), tokenizer.spelled(source)
        return answer.strip() != "" and answer.lower() in text.lower()
    ids, n = list(source.text_ids), len(answer_ids)
    return n > 0 and any(ids[i : i + n] == answer_ids for i in range(len(ids) - n + 1))


def select(pairs: list[tuple[str, str, float]], max_pairs: int | None) -> list[int]:
    """Choose among (question, answer, summed search score), in order of selection.

    Answers take turns, each with its best remaining question (docs/semantics.md 1.3).
    """
    by_score = sorted(range(len(pairs)), key=lambda i: -pairs[i][2])
    buckets: dict[str, list[int]] = {}
    for i in by_score:
        buckets.setdefault(pairs[i][1].lower(), []).append(i)
    questions: dict[str, set[str]] = {answer: set() for answer in buckets}
    chosen: list[int] = []
    while any(buckets.values()):
        before = len(chosen)
        for answer, bucket in buckets.items():
            if not bucket:
                continue
            i = bucket.pop(0)
            question = pairs[i][0].lower()
            if question not in questions[answer]:
                questions[answer].add(question)
                chosen.append(i)
        if max_pairs is not None and (len(chosen) >= max_pairs or len(chosen) == before):
            break
    return chosen


def keep(
    model: ReferenceModel, summary: str, hypotheses: list[Hypothesis], max_pairs: int | None
) -> list[tuple[int, str, str]]:
    """Filter and select: index, question and answer of each kept hypothesis (step 2)."""
    tokenizer, conventions = model.checkpoint.tokenizer, model.checkpoint.conventions
    special = (conventions.eos_token_id, conventions.pad_token_id, conventions.forced_bos_token_id)
    candidates: list[tuple[int, str, str]] = []
    for index, hypothesis in enumerate(hypotheses):
        parts = split_at_sep(hypothesis.token_ids, special, conventions.sep_token_id)
        if parts is not None and answer_stands_in(parts[1], summary, tokenizer):
            candidates.append((index, tokenizer.decode(parts[0]), tokenizer.decode(parts[1])))
    pairs = [
        (question, answer, hypotheses[index].search_sum) for index, question, answer in candidates
    ]
    return [candidates[i] for i in select(pairs, max_pairs)]


def score(
    model: ReferenceModel,
    document: str,
    summary: str,
    decoding: DecodingConfig | None = None,
    scoring: ScoringConfig | None = None,
) -> SummaryScore:
    """Score one summary: generate, then `score_hypotheses`, if its tokens say enough."""
    problem = check_tokens(*model.checkpoint.tokenizer.encode([document, summary]))
    if problem is not None:
        return problem
    hypotheses = generate(model, summary, decoding or DecodingConfig())
    return score_hypotheses(model, document, summary, hypotheses, scoring)


def score_hypotheses(
    model: ReferenceModel,
    document: str,
    summary: str,
    hypotheses: list[Hypothesis],
    scoring: ScoringConfig | None = None,
) -> SummaryScore:
    """Filter, rescore and aggregate what was generated (steps 2 to 4).

    The encoder runs anew for every pair, as in the published program.
    """
    scoring = scoring or ScoringConfig()
    tokenizer = model.checkpoint.tokenizer
    source_of_document, source_of_summary = tokenizer.encode([document, summary])
    sep = model.checkpoint.conventions.sep_token_id
    pairs = []
    for index, question, answer in keep(model, summary, hypotheses, scoring.max_pairs):
        chosen = hypotheses[index]
        states = model.encode(source_of_document.input_ids)  # once per pair, as published
        pairs.append(
            QAPair(
                question=question,
                answer=answer,
                token_ids=chosen.token_ids,
                tokens=tokenizer.readable_tokens(chosen.token_ids),
                summary_logprobs=chosen.logprobs
                if scoring.summary_logprob == "model"
                else chosen.search_logprobs,
                document_logprobs=tuple(model.token_logprobs(states, chosen.token_ids)),
                first_counted=0 if scoring.tokens == "all" else chosen.token_ids.index(sep) + 1,
            )
        )
    return SummaryScore.of_pairs(
        tuple(pairs),
        no_pairs_score=scoring.no_pairs_score,
        n_hypotheses=len(hypotheses),
        num_beams=len(hypotheses),  # float32 does not overflow
        truncated_tokens=source_of_document.truncated_tokens + source_of_summary.truncated_tokens,
        unknown_tokens=source_of_document.unknown_tokens + source_of_summary.unknown_tokens,
    )


class ReferenceScorer:
    """The reference behind the interface of `QualsScorer.score`, one summary at a time.

    Args:
        model: the bundled model's name, or a folder.
        decoding: settings of the search.
        scoring: settings of the score.
    """

    def __init__(
        self,
        model: str | Path = "qagen-mini",
        *,
        decoding: DecodingConfig | None = None,
        scoring: ScoringConfig | None = None,
    ) -> None:
        limit_threads(None)
        self.model = ReferenceModel(model)
        self.decoding, self.scoring = decoding or DecodingConfig(), scoring or ScoringConfig()
        checkpoint = self.model.checkpoint
        check_fits(checkpoint.shape, checkpoint.conventions, self.decoding)
        self.signature = signature(
            self.decoding,
            self.scoring,
            model=self.model.checkpoint.name,
            digest=self.model.checkpoint.digest,
            dtype="float32",
            backend="reference",
        )

    def score(
        self,
        documents: Sequence[str],
        summaries: Sequence[str],
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> QualsResult:
        """Score each summary against its document."""
        texts, entries = check_texts("documents", documents), check_texts("summaries", summaries)
        check_same_length("summaries", entries, texts)
        survive_fork("cpu")
        rows = []
        for document, summary in zip(texts, entries, strict=True):
            rows.append(
                check_pair(document, summary)
                or score(self.model, str(document), str(summary), self.decoding, self.scoring)
            )
            if on_progress is not None:
                on_progress(1)
        return QualsResult(nested_like(entries, rows), self.signature)
