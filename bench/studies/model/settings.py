"""What each setting is worth: agreement with people against cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.shared.common import Pair, texts_of
from bench.shared.timing import in_turn, ratios
from bench.studies.model.passes import Row, Stored, run_pass, run_truncated, truncated
from bench.studies.model.quality import PARTS
from quals_fast import DecodingConfig, QualsScorer, ScoringConfig
from quals_fast.evaluation import agreement

DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Settings to compare.

    Attributes:
        group: what is varied.
        decoding: of the search.
        scoring: of the score.
        dtype: what is computed in which type.
        model: another folder than the model's, such as an int8 export.
        document_tokens: to which documents are cut; None leaves the model's own.
        same_work: costs what the default costs, since only the sum differs.
    """

    group: str = DEFAULT
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    dtype: str = "auto"
    model: str | None = None
    document_tokens: int | None = None
    same_work: bool = False

    def scorer(self, model: str, device: str) -> QualsScorer:
        """Return what scores so."""
        scorer = QualsScorer.from_pretrained(
            self.model or model,
            device=device,
            dtype=self.dtype,
            decoding=self.decoding,
            scoring=self.scoring,
        )
        return scorer if self.document_tokens is None else truncated(scorer, self.document_tokens)


def variants(positions: int, int8: str | None) -> dict[str, Variant]:
    """Return what is compared, by name; documents are cut to what the model's positions allow."""
    compared = {
        DEFAULT: Variant(),
        "rule hamming": Variant(group="rule", decoding=DecodingConfig(rule="hamming")),
        "summary_logprob search": Variant(
            group="log-probability",
            scoring=ScoringConfig(summary_logprob="search"),
            same_work=True,
        ),
        "answer tokens only": Variant(
            group="tokens", scoring=ScoringConfig(tokens="answer"), same_work=True
        ),
    }
    for pairs in (5, 20, None):
        name = "all" if pairs is None else pairs
        compared[f"max_pairs {name}"] = Variant(
            group="pairs", scoring=ScoringConfig(max_pairs=pairs)
        )
    for beams in (8, 15, 30):
        decoding = DecodingConfig(num_beams=beams, num_beam_groups=beams)
        compared[f"{beams} beams"] = Variant(group="beams", decoding=decoding)
    for tokens in (256, 512, 1024):
        if tokens < positions:
            compared[f"documents of {tokens} tokens"] = Variant(
                group="documents", document_tokens=tokens
            )
    compared["dtype float32"] = Variant(group="dtype", dtype="float32")
    if int8 is not None:
        compared["int8 (ONNX)"] = Variant(group="dtype", model=int8)
    return compared


class Passes:
    """The stored passes of one model, each run when it is first asked for.

    Args:
        model: its folder or name.
        device: where it runs.
        folder: where passes are stored.
    """

    def __init__(self, model: str, device: str, folder: Path) -> None:
        self._model, self._device, self._folder = model, device, folder
        self._scorers: dict[Any, QualsScorer] = {}

    def scores(self, variant: Variant, rows: Sequence[Row]) -> list[float]:
        """Return the scores of rows by a variant's settings."""
        separator = self._searching(variant).engine.model.conventions.sep_token_id
        return [one.score(variant.scoring, separator) for one in self.stored(variant, rows)]

    def stored(self, variant: Variant, rows: Sequence[Row]) -> list[Stored]:
        """Return the pass that a variant's scores follow from."""
        scorer = self._searching(variant)
        passes = run_pass(scorer, rows, self._folder, variant.group)
        if variant.document_tokens is not None:
            passes = run_truncated(scorer, variant.document_tokens, rows, passes, self._folder)
        return passes

    def _searching(self, variant: Variant) -> QualsScorer:
        """Return the scorer of a search, of which selection and documents are no part."""
        plain = replace(variant, scoring=ScoringConfig(), document_tokens=None)
        key = (plain.decoding, plain.dtype, plain.model)
        if key not in self._scorers:
            self._scorers[key] = plain.scorer(self._model, self._device)
        return self._scorers[key]


def quality(
    passes: Passes,
    compared: dict[str, Variant],
    sets: dict[str, list[Row]],
    resamples: int,
) -> dict[str, Any]:
    """Return each variant's agreement with people, on odd and on even rows of each set."""
    agreements: dict[str, Any] = {}
    for name, variant in compared.items():
        agreements[name] = {}
        for title, rows in sets.items():
            scores = passes.scores(variant, rows)
            agreements[name][title] = {}
            for part, odd in PARTS.items():
                mine = [
                    (score, float(row.pair.label))
                    for row, score in zip(rows, scores, strict=True)
                    if row.number % 2 == odd and row.pair.label is not None
                ]
                own, labels = zip(*mine, strict=True)
                agreements[name][title][part] = agreement(
                    name, own, labels, n_resamples=resamples
                ).to_dict()
    return agreements


def cost(
    compared: dict[str, Variant], model: str, device: str, pairs: Sequence[Pair], rounds: int
) -> dict[str, dict[str, float]]:
    """Return how many times the default's time each variant takes, on the same rows in turn."""
    measured = {name: one for name, one in compared.items() if not one.same_work}
    scorers = {name: variant.scorer(model, device) for name, variant in measured.items()}
    texts = texts_of(pairs)
    for scorer in scorers.values():  # warms up
        scorer.score(*(column[:1] for column in texts))
    runs = {name: partial(scorer.score, *texts) for name, scorer in scorers.items()}
    seconds = in_turn(runs, rounds)
    return {
        name: ratios(seconds[DEFAULT if variant.same_work else name], seconds[DEFAULT])
        for name, variant in compared.items()
    }


def selected(quality: dict[str, Any]) -> list[str]:
    """Return the variants, best first by their mean Pearson correlation on the odd rows."""

    def mean(name: str) -> float:
        values = [one["odd"]["pearson"]["value"] for one in quality[name].values()]
        return sum(-1.0 if value is None else value for value in values) / len(values)

    return sorted(quality, key=mean, reverse=True)
