"""The third step: summaries of held-out documents, and what they are worth."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from bench.conseq_experiment.texts import Text
from quals_fast import QualsScorer
from quals_fast.evaluation import rouge_floor
from quals_fast.reference.qags import QagsScorer
from quals_fast.training.conseq.pipeline import digest_of_folder
from quals_fast.training.rows import score_each
from quals_fast.training.stages import OnProgress, digest, run_stage
from quals_fast.training.summaries import generate_summaries

GENERATE = {"num_beams": 4, "min_new_tokens": 10, "max_new_tokens": 60, "no_repeat_ngram_size": 3}
_CHUNK = 30

Column = list[float | None]  # of one measure, a held-out document each; None where there is none


class Measures:
    """Measures summaries; each is written as it is made, so that a second run goes on.

    Args:
        texts: held-out documents with their references.
        folder: for the files.
        on_progress: called with what is done, how far and of how many.

    Attributes:
        references: the texts' summaries.
    """

    def __init__(self, texts: Sequence[Text], folder: Path, on_progress: OnProgress) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._documents = [text.document for text in texts]
        # The summarisers write lower case, and spaCy's candidates go by it: so no arm gains by it.
        self.references = [text.summary.lower() for text in texts]
        self._folder, self._on_progress = folder, on_progress
        self._quals = QualsScorer.from_pretrained("qagen-mini", device="cpu", cache_bytes=2**28)
        has_bfloat16 = torch.cpu.get_capabilities()["avx512_bf16"]
        self._qags = QagsScorer.from_pretrained(
            device="cpu", dtype="bfloat16" if has_bfloat16 else "float32"
        )

    @property
    def signatures(self) -> list[str]:
        """What the scores of QUALS and QAGS depend on."""
        return [self._quals.signature, self._qags.signature]

    def summarise(self, model: Path) -> list[str]:
        """Summarise all documents."""
        name = "-".join(model.parts[-2:])
        return self._stage(
            f"summaries-{name}",
            {"model": digest_of_folder(model), **GENERATE},
            lambda rows: write_summaries(model, self._documents[rows.start : rows.stop]),
        )

    def of(self, summaries: list[str]) -> dict[str, Column]:
        """Return all measures of a summary of each document, by their titles."""
        of_what = digest(summaries)
        quals: Column = self._stage(
            f"quals-{of_what}",
            {"signature": self._quals.signature},
            lambda rows: [
                _finite(row.score)
                for row in score_each(self._quals, *self._part(rows, summaries), "raise")
            ],
        )
        qags: Column = self._stage(
            f"qags-{of_what}",
            {"signature": self._qags.signature},
            lambda rows: [
                _finite(row.score) for row in self._qags.score(*self._part(rows, summaries)).rows
            ],
        )
        rouge = rouge_floor(self.references, summaries)
        pairs = list(zip(self._documents, summaries, strict=True))
        return {
            "QUALS": quals,
            "QAGS": qags,
            **{f"ROUGE-{kind}": [*rouge[f"ROUGE-{kind} F1"]] for kind in "12L"},
            "words": [float(len(summary.split())) for summary in summaries],
            "copied bigrams": [copied(*pair, 2) for pair in pairs],
            "copied trigrams": [copied(*pair, 3) for pair in pairs],
        }

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


def write_summaries(model: Path, documents: list[str]) -> list[str]:
    """Summarise documents by beam search."""
    network = AutoModelForSeq2SeqLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = generate_summaries(network, tokenizer, documents, batch_size=10, **GENERATE)
    return [summary for (summary,) in found]


def copied(document: str, summary: str, n: int) -> float | None:
    """Return the share of the summary's n-grams of words that stand in the document."""
    there, here = (_ngrams(text, n) for text in (document, summary))
    return sum(one in there for one in here) / len(here) if here else None


def _ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
