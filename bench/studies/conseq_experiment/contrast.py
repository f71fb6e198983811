"""The second step: ConSeq by QUALS and by ROUGE, from the same samples, with several seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from bench.studies.conseq_experiment.texts import Text
from quals_fast import DecodingConfig, QualsScorer
from quals_fast.training import ConSeqConfig, run_conseq
from quals_fast.training.conseq.config import By
from quals_fast.training.conseq.fit import fit
from quals_fast.training.conseq.pipeline import digest_of_folder
from quals_fast.training.conseq.stages import OnProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """What both arms came to.

    Attributes:
        models: folder of each trained summariser, by arm and seed.
        selection: what was chosen, by arm.
        shared: how many documents both arms chose.
    """

    models: dict[By, dict[int, Path]]
    selection: dict[By, dict[str, float]]
    shared: int


def train_by_contrast(
    texts: Sequence[Text],
    summariser: Path,
    folder: Path,
    config: ConSeqConfig,
    seeds: Sequence[int],
    beams: int,
    on_progress: OnProgress,
    base: str = "qagen-mini",
    device: str = "cpu",
) -> Contrast:
    """Run ConSeq by QUALS, then by ROUGE on as many documents, or go on where it was stopped.

    Args:
        texts: documents with references.
        summariser: folder of the model trained by likelihood.
        folder: for all that is made.
        config: of ConSeq by QUALS.
        seeds: of the training; the samples are those of the first one.
        beams: of QUALS when samples are judged.
        on_progress: called with what is done, how far and of how many.
        base: model that judges.
        device: of all that is done.
    """
    decoding = DecodingConfig(num_beams=beams, num_beam_groups=beams)
    scorer = QualsScorer.from_pretrained(base, device=device, decoding=decoding)
    documents, references = [text.document for text in texts], [text.summary for text in texts]
    configs: dict[By, ConSeqConfig] = {"quals": replace(config, seed=seeds[0], by="quals")}
    models: dict[By, dict[int, Path]] = {}
    selection: dict[By, dict[str, float]] = {}
    rows: list[set[int]] = []
    for by in ("quals", "rouge"):
        result = run_conseq(
            documents,
            references,
            model=summariser,
            output=folder,
            scorer=scorer,
            config=configs[by],
            device=device,
            on_progress=on_progress,
        )
        if by == "quals":  # by ROUGE all references are equally good, so the samples decide alone
            share = result.n_chosen / len(texts)
            configs["rouge"] = replace(configs["quals"], by="rouge", negative_fraction=share)
        pairs = [json.loads(line) for line in _lines(folder / f"pairs_{by}.jsonl")]
        models[by] = {seeds[0]: result.model}
        for seed in seeds[1:]:
            models[by][seed] = _train_again(
                pairs, summariser, folder / f"seed{seed}", replace(configs[by], seed=seed),
                on_progress, device,
            )  # fmt: skip
        selection[by] = _describe(pairs, folder / f"scores_{by}.jsonl", result.n_judged)
        rows.append({pair["row"] for pair in pairs})
    return Contrast(models=models, selection=selection, shared=len(set.intersection(*rows)))


def _train_again(
    pairs: list[dict[str, Any]],
    summariser: Path,
    folder: Path,
    config: ConSeqConfig,
    on_progress: OnProgress,
    device: str,
) -> Path:
    """Train on chosen pairs with another seed."""
    folder.mkdir(exist_ok=True)
    fit(
        AutoModelForSeq2SeqLM.from_pretrained(summariser).to(device),
        AutoTokenizer.from_pretrained(summariser),
        [(pair["document"], pair["positive"], pair["negative"]) for pair in pairs],
        folder,
        config,
        digest_of_folder(summariser),
        on_progress,
    )
    return folder / f"model_{config.by}"


def _describe(pairs: list[dict[str, Any]], scores: Path, n_judged: int) -> dict[str, float]:
    """Return how many were chosen, and means of the scores of all and of the chosen."""
    each = [json.loads(line) for line in _lines(scores)[1:]]  # the first one is the header
    columns = {
        "references": [reference for reference, _ in each],
        "samples": [score for _, samples in each for score in samples],
        "positives": [pair["positive_score"] for pair in pairs],
        "negatives": [pair["negative_score"] for pair in pairs],
    }
    means = {
        name: math.fsum(known) / len(known)
        for name, column in columns.items()
        for known in [[score for score in column if score is not None]]
    }
    return {"documents": len(each), "judged": n_judged, "chosen": len(pairs), **means}


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()
