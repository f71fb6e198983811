"""The third step: summaries of held-out documents, and what they are worth."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from bench.shared.common import is_gpu
from bench.studies.conseq_experiment.texts import Text
from quals_fast import QualsScorer
from quals_fast.classifier import ClassifierScorer
from quals_fast.classifier.checkpoint import ClassifierMetric
from quals_fast.comparison import copied_ngrams, text_measures
from quals_fast.qags import QagsScorer
from quals_fast.training.adapters.rows import score_each
from quals_fast.training.adapters.summaries import generate_summaries
from quals_fast.training.conseq.stages import OnProgress, digest, run_stage

GENERATE = {"num_beams": 4, "min_new_tokens": 10, "max_new_tokens": 60, "no_repeat_ngram_size": 3}
_CHUNK = 30

Column = list[float | None]  # of one measure, a held-out document each; None where there is none


class Measures:
    """Measures summaries; each is written as it is made, so that a second run goes on.

    QUALS may have been measured on another machine: columns that are whole are taken as they are.

    Args:
        texts: held-out documents with their references.
        folder: for the files.
        on_progress: called with what is done, how far and of how many.
        base: model that QUALS is measured with.
        device: of summarisers and QUALS; QAGS and the classifier run on the CPU, where spaCy is.
        classifier: folder of a classifier to measure with too.
        positive: its label for consistent text.
        classifier_metric: whose conventions it follows.

    Attributes:
        references: the texts' summaries.
    """

    def __init__(
        self,
        texts: Sequence[Text],
        folder: Path,
        on_progress: OnProgress,
        base: str = "qagen-mini",
        device: str = "cpu",
        classifier: Path | None = None,
        positive: str | None = None,
        classifier_metric: ClassifierMetric = "classifier",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._documents = [text.document for text in texts]
        # The summarisers write lower case, and spaCy's candidates go by it: so no arm gains by it.
        self.references = [text.summary.lower() for text in texts]
        self._folder, self._on_progress = folder, on_progress
        self._base, self._device = base, device
        self._classifier = (
            None
            if classifier is None
            else ClassifierScorer.from_pretrained(
                classifier, positive=positive, metric=classifier_metric, device="cpu"
            )
        )
        self._quals_signatures: dict[str, None] = {}

    @cached_property
    def _quals(self) -> QualsScorer:
        return QualsScorer.from_pretrained(self._base, device=self._device, cache_bytes=2**28)

    @cached_property
    def _qags(self) -> QagsScorer:
        has_bfloat16 = torch.cpu.get_capabilities()["avx512_bf16"]
        return QagsScorer.from_pretrained(
            device="cpu", dtype="bfloat16" if has_bfloat16 else "float32"
        )

    @property
    def signatures(self) -> list[str]:
        """What the scores that were asked for depend on: of QUALS, QAGS and the classifier."""
        of_classifier = [self._classifier.signature] if self._classifier else []
        return [*self._quals_signatures, self._qags.signature, *of_classifier]

    def summarise(self, name: str, model: Path, record: Path) -> list[str]:
        """Summarise all documents.

        Args:
            name: of the model.
            model: its folder; not needed where the summaries are there already.
            record: file that says what the model was made from.
        """
        return self._stage(
            f"summaries-{name}",
            {"made_from": digest(record.read_text("utf-8")), **GENERATE},
            lambda rows: write_summaries(
                model, self._documents[rows.start : rows.stop], self._device
            ),
        )

    def quals(self, summaries: list[str]) -> Column:
        """Return the QUALS of a summary of each document."""
        name = f"quals-{digest(summaries)}"
        signature = self._known_signature(name) or self._quals.signature
        self._quals_signatures[signature] = None
        return self._stage(
            name,
            {"signature": signature},
            lambda rows: [
                _finite(row.score)
                for row in score_each(self._quals, *self._part(rows, summaries), "raise")
            ],
        )

    def of(self, summaries: list[str]) -> dict[str, Column]:
        """Return all measures of a summary of each document, by their titles."""
        columns = {
            "QUALS": self.quals(summaries),
            "QAGS": self._scores("qags", self._qags, summaries),
        }
        if self._classifier is not None:
            columns["classifier"] = self._scores("classifier", self._classifier, summaries)
        of_texts = text_measures(self._documents, summaries, self.references)
        columns |= {name.removesuffix(" F1"): [*of] for name, of in of_texts.items()}
        pairs = zip(self._documents, summaries, strict=True)
        columns["copied bigrams"] = [copied_ngrams(*pair, 2) for pair in pairs]
        return columns

    def _scores(
        self, name: str, scorer: QagsScorer | ClassifierScorer, summaries: list[str]
    ) -> Column:
        return self._stage(
            f"{name}-{digest(summaries)}",
            {"signature": scorer.signature},
            lambda rows: [
                _finite(row.score) for row in scorer.score(*self._part(rows, summaries)).rows
            ],
        )

    def _known_signature(self, name: str) -> str | None:
        """Return what a column was measured with if all of it is there."""
        path = self._folder / f"{name}.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        if len(lines) != 1 + len(self._documents):
            return None
        return str(json.loads(lines[0])["signature"])

    def _part(self, rows: range, summaries: list[str]) -> tuple[list[str], list[str]]:
        part = slice(rows.start, rows.stop)
        return self._documents[part], summaries[part]

    def _stage(
        self, name: str, header: dict[str, Any], work: Callable[[range], list[Any]]
    ) -> list[Any]:
        return run_stage(
            self._folder / f"{name}.jsonl",
            {"documents": digest(self._documents), **header},
            len(self._documents),
            work,
            chunk=_CHUNK,
            on_progress=self._on_progress,
        )


def write_summaries(model: Path, documents: list[str], device: str) -> list[str]:
    """Summarise documents by beam search."""
    network = AutoModelForSeq2SeqLM.from_pretrained(model).to(device)
    tokenizer = AutoTokenizer.from_pretrained(model)
    size = _CHUNK if is_gpu(device) else 10
    generated = generate_summaries(network, tokenizer, documents, batch_size=size, **GENERATE)
    return [summary for (summary,) in generated]


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
