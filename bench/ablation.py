"""What does each CPU optimisation bring? Each one is switched off in turn; the others stay on.

    python -m bench.ablation --data ../shared/data/docsum_pairs.jsonl.gz

Measures the bundled model on the `long` workload; ratios are computed within a round. The result
also has what was predicted before it was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch

from bench.shared.common import finish, spread, texts_of
from bench.shared.engines import torch_model
from bench.shared.options import command_line
from bench.shared.timing import seconds_of
from bench.shared.weights import MODEL, weights_of
from bench.shared.workloads import load_workload
from quals_fast import QualsScorer
from quals_fast.decoding import histories, host_search
from quals_fast.engine import cpu, generation
from quals_fast.engine.cpu import CpuEngine
from quals_fast.models import linear, slots
from quals_fast.models.lm_head import CpuLMHead
from quals_fast.models.slots import DistinctSlots
from quals_fast.ops import EAGER

#: name -> (what it is, times as fast as predicted)
PREDICTED = {
    "distinct rows": ("equal histories computed once, finished sentences dropped", 1.2),
    "few candidates": ("16 candidates a row where that is certain, not 120", 1.1),
    "screened LM head": ("8-bit integers screen, float32 computes the likeliest", 1.6),
    "8-bit documents": ("documents read and rescored in 8-bit integers", 1.15),
    "oneDNN products": ("linear layers by oneDNN, not by MKL as torch has it", 1.3),
    "rows of few sizes": ("filled up once a step, not by a copy in each layer", 1.05),
    "short histories": ("under 24 tokens attended to by products and sums", 1.03),
    "small slices": ("rescoring in slices that stay in the cache", 1.05),
}


class AllSlots(DistinctSlots):
    """A row for each slot, alike or not, finished or not."""

    def arrange(
        self, token_ids: np.ndarray, beam_idx: np.ndarray, live: np.ndarray, t: int
    ) -> torch.Tensor:
        """Keep equal histories apart."""
        with mock.patch.object(histories, "distinct_histories", _each_of_its_own):
            return super().arrange(token_ids, beam_idx, np.ones_like(live), t)


def _each_of_its_own(parents: np.ndarray, token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return parents << 32 | token_ids, np.arange(len(parents))


@contextmanager
def without(name: str, scorer: QualsScorer) -> Iterator[QualsScorer]:
    """Give a scorer that lacks one optimisation."""
    model = torch_model(scorer)
    if name == "screened LM head":
        weight = model.network.lm_head_weight.detach()
        head = CpuLMHead(weight, model.network.final_logits_bias, EAGER)
        yield QualsScorer(CpuEngine(replace(model, head=head)))
    elif name == "oneDNN products":
        rows_as_they_are = mock.patch.object(slots, "padded_rows", int)
        with mock.patch.object(linear, "onednn_pays", lambda: False), rows_as_they_are:
            yield _scorer()
    elif name == "8-bit documents":
        yield QualsScorer(CpuEngine(replace(model, document_network=model.network)))
    else:
        patch: Any = {
            "distinct rows": (generation, "DistinctSlots", AllSlots),
            "few candidates": (host_search, "FEW_CANDIDATES", 10**6),
            "rows of few sizes": (slots, "padded_rows", int),
            "short histories": (slots, "_MIN_FUSED_POSITIONS", 0),
            "small slices": (cpu, "MAX_RESCORED_TOKENS", 10**9),
        }[name]
        with mock.patch.object(*patch):
            yield scorer


def _scorer() -> QualsScorer:
    return QualsScorer.from_pretrained(device="cpu", dtype="mixed")


def main() -> None:
    """Measure and write bench/results/ablation.json."""
    arguments = command_line(__doc__, data=None, rows=12, rounds=3).parse_args()
    pairs = load_workload("long", arguments.data, arguments.rows)
    texts = texts_of(pairs)
    scorer = _scorer()
    scorer.score(*texts)  # warm-up
    gains: dict[str, list[float]] = {name: [] for name in PREDICTED}
    for _ in range(arguments.rounds):
        for name, own in gains.items():
            base = seconds_of(scorer.score, *texts)
            with without(name, scorer) as other:
                own.append(seconds_of(other.score, *texts) / base)
    rows = {
        name: {"what": what, "predicted": predicted, "measured": spread(gains[name])}
        for name, (what, predicted) in PREDICTED.items()
    }
    result = {"model": MODEL, "workload": "long", "rows": len(pairs), **rows}
    finish("ablation", result, weights=weights_of(MODEL))


if __name__ == "__main__":
    main()
