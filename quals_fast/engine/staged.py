"""The pass of a CPU: generate for all summaries, filter each, then rescore for all documents.

Each stage makes its own batches of texts of like length, and reads what it needs to know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from quals_fast.config import DecodingConfig
from quals_fast.engine.filtering import KeptPair, keep_pairs
from quals_fast.models.tokenizer import Source
from quals_fast.results import TokenLogprobs


class Scored(NamedTuple):
    """A summary after a pass."""

    pairs: list[KeptPair]
    n_hypotheses: int
    document_logprobs: list[TokenLogprobs]  # of each pair


class StagedPass:
    """Scores pairs stage by stage.

    Args:
        generator: the model.
        generate: its search, as `generation.generate`.
        rescore: its rescoring, as `rescoring.rescore`.
        config: settings of the search.
        max_pairs: as in `ScoringConfig`.
        max_batch_tokens: tokens that the network holds at once.
    """

    def __init__(
        self,
        generator: Any,
        generate: Callable[..., Any],
        rescore: Callable[..., Any],
        config: DecodingConfig,
        max_pairs: int | None,
        max_batch_tokens: int,
    ) -> None:
        self._generator, self._config = generator, config
        self._generate, self._rescore = generate, rescore
        self._max_pairs, self._max_batch_tokens = max_pairs, max_batch_tokens

    def score(
        self,
        documents: Sequence[Source],
        summaries: Sequence[str],
        sources: Sequence[Source],
        on_progress: Callable[[int], None],
    ) -> list[Scored]:
        """Score each summary against its document.

        Args:
            documents: tokens of each document.
            summaries: texts.
            sources: tokens of each summary.
            on_progress: called with the number of summaries that were just searched.
        """
        generator, budget = self._generator, self._max_batch_tokens
        kept: dict[int, tuple[list[KeptPair], int]] = {}
        for i, hypotheses in self._generate(
            generator, [source.input_ids for source in sources], self._config, budget
        ):
            pairs = keep_pairs(
                hypotheses,
                summaries[i],
                sources[i].text_ids,
                generator.tokenizer,
                generator.settings,
                self._max_pairs,
            )
            kept[i] = pairs, len(hypotheses)
            on_progress(1)
        in_order = [kept[i] for i in range(len(summaries))]
        targets = [[pair.hypothesis.token_ids for pair in pairs] for pairs, _ in in_order]
        logprobs = self._rescore(generator, [d.input_ids for d in documents], targets, budget)
        return [Scored(*one, of_pairs) for one, of_pairs in zip(in_order, logprobs, strict=True)]
