"""ConSeq from end to end: sample, score, choose, train; each stage resumes where it stopped."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from quals_fast.models.loading import resolve_device
from quals_fast.scorer import QualsScorer
from quals_fast.training.adapters.rows import score_each
from quals_fast.training.adapters.summaries import generate_summaries
from quals_fast.training.conseq.config import ConSeqConfig
from quals_fast.training.conseq.fit import fit
from quals_fast.training.conseq.selection import Chosen, Judged, choose, judge_by_rouge
from quals_fast.training.conseq.stages import OnProgress, digest, run_stage, write_whole
from quals_fast.validation import check_same_length, require_texts

_Scores: TypeAlias = tuple[float | None, list[float | None]]  # of reference and samples

_CHUNK_DOCUMENTS = 32  # between two writes
_OF_SAMPLES = (
    "num_samples", "top_k", "min_length", "max_length", "max_source_tokens", "batch_size", "seed",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ConSeqResult:
    """The outcome of a ConSeq run.

    Attributes:
        model: Folder of the trained summariser.
        n_documents: Number of documents that were sampled.
        n_judged: Number of documents whose reference and at least one sample have a score.
        n_chosen: Number of documents that were learnt from.
        loss: Mean loss over the training steps; NaN if an earlier run had finished the training.
    """

    model: Path
    n_documents: int
    n_judged: int
    n_chosen: int
    loss: float


def run_conseq(
    documents: Sequence[str],
    references: Sequence[str],
    *,
    model: str | Path,
    output: str | Path,
    scorer: QualsScorer | None,
    config: ConSeqConfig | None = None,
    device: str = "auto",
    on_progress: OnProgress = lambda stage, done, total: None,
) -> ConSeqResult:
    """Train a summariser with ConSeq.

    ConSeq samples summaries from the summariser, scores samples and references, keeps the
    documents with a good reference and a bad sample, and trains the summariser to make these
    references more likely and these samples less likely. The summariser should already be
    fine-tuned on the references.

    A second call with the same arguments resumes an interrupted run. The output folder gets
    ``samples.jsonl`` and, for ``by="quals"``, ``scores_quals.jsonl``, ``pairs_quals.jsonl``,
    ``checkpoints_quals`` and ``model_quals``; with ``by="rouge"``, the names end in ``_rouge``, and
    both share the samples. Runs in one process only.

    Args:
        documents: Texts.
        references: One summary per document.
        model: Folder of a sequence-to-sequence model with its tokenizer.
        output: Folder for all results.
        scorer: Scorer of the summaries; may be None with ``by="rouge"``.
        config: Settings. By default, the published settings.
        device: Device of the summariser: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        on_progress: Called with the name of the stage, the number of items done, and their total.

    Returns:
        The folder of the trained model, the number of documents used, and the mean loss.

    Raises:
        ValueError: If a text is empty or not valid, the lists differ in length, `model` is no
            folder, `output` belongs to another run, the scorer is missing, or no document is left
            to learn from.
        OSError: If the folder of the model lacks a file.
    """
    config = config or ConSeqConfig()
    documents, references = (
        require_texts("documents", documents),
        require_texts("references", references),
    )
    check_same_length("references", references, documents)
    if config.by == "quals" and scorer is None:
        raise ValueError("`scorer` must be given for by='quals', but got None")
    if not Path(model).is_dir():
        raise ValueError(
            f"the summariser must be a local folder, but got {str(model)!r}; nothing is "
            "downloaded: download the model first and give its folder"
        )
    folder, place = Path(output), resolve_device(device)
    if place.index:
        raise ValueError(
            f"`device` must be 'auto', 'cpu' or 'cuda', since the Trainer uses the first visible "
            f"GPU, but got {device!r}; choose a GPU with CUDA_VISIBLE_DEVICES"
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    summariser = AutoModelForSeq2SeqLM.from_pretrained(
        model, local_files_only=True, use_safetensors=True, dtype=torch.float32
    ).to(place)

    header = {
        "model": digest_of_folder(Path(model)),
        "data": digest([documents, references]),
        **{name: getattr(config, name) for name in _OF_SAMPLES},
    }

    def draw(rows: range) -> list[list[str]]:
        return _sample(summariser, tokenizer, documents[rows.start : rows.stop], rows.start, config)

    samples: list[list[str]] = run_stage(
        folder / "samples.jsonl",
        header,
        len(documents),
        draw,
        chunk=_CHUNK_DOCUMENTS,
        on_progress=on_progress,
    )
    judge = scorer if config.by == "quals" else None

    def score(rows: range) -> list[_Scores]:
        part = slice(rows.start, rows.stop)
        return _judge(judge, documents[part], references[part], samples[part])

    scores: list[_Scores] = run_stage(
        folder / f"scores_{config.by}.jsonl",
        {
            "samples": digest([header, samples]),
            "judge": config.by if judge is None else judge.signature,
        },
        len(documents),
        score,
        chunk=_CHUNK_DOCUMENTS,
        on_progress=on_progress,
    )
    judged = [Judged(reference=_number(r), samples=(*map(_number, s),)) for r, s in scores]
    chosen = choose(
        judged,
        positive_fraction=config.positive_fraction,
        negative_fraction=config.negative_fraction,
    )
    n_judged = sum(one.is_usable for one in judged)
    if not chosen:
        raise ValueError(
            f"no document is left to learn from: of {len(documents)}, {n_judged} have scores of "
            "reference and samples, and none is in both fractions; use more documents or larger "
            "fractions"
        )
    pairs = [(documents[c.row], references[c.row], samples[c.row][c.negative]) for c in chosen]
    _write_pairs(folder / f"pairs_{config.by}.jsonl", pairs, chosen, judged)
    loss = fit(summariser, tokenizer, pairs, folder, config, header["model"], on_progress)
    return ConSeqResult(
        model=folder / f"model_{config.by}",
        n_documents=len(documents),
        n_judged=n_judged,
        n_chosen=len(chosen),
        loss=loss,
    )


def _sample(
    model: Any, tokenizer: Any, documents: list[str], first: int, config: ConSeqConfig
) -> list[list[str]]:
    """Draw the samples of a chunk; each chunk has its own seed and can be drawn again alone."""
    return generate_summaries(
        model,
        tokenizer,
        documents,
        batch_size=config.batch_size,
        max_source_tokens=config.max_source_tokens,
        seed=config.seed * 1_000_003 + first,
        do_sample=True,
        num_beams=1,
        top_k=config.top_k,
        top_p=1.0,
        temperature=1.0,
        num_return_sequences=config.num_samples,
        min_new_tokens=config.min_length,
        max_new_tokens=config.max_length,
    )


def _judge(
    scorer: QualsScorer | None,
    documents: list[str],
    references: list[str],
    samples: list[list[str]],
) -> list[_Scores]:
    """Score references and samples, by ROUGE without a scorer; None where there is no score."""
    if scorer is None:
        judged = judge_by_rouge(references, samples)
        return [(one.reference, [*one.samples]) for one in judged]
    each = [[reference, *own] for reference, own in zip(references, samples, strict=True)]
    flat = [summary for summaries in each for summary in summaries]
    repeated = [document for document, own in zip(documents, each, strict=True) for _ in own]
    rows = iter(score_each(scorer, repeated, flat))
    by_document = [[None if math.isnan(s := next(rows).score) else s for _ in own] for own in each]
    return [(scores[0], scores[1:]) for scores in by_document]


def _write_pairs(
    path: Path,
    pairs: list[tuple[str, str, str]],
    chosen: list[Chosen],
    judged: list[Judged],
) -> None:
    lines = [
        json.dumps(
            {
                "row": one.row,
                "document": document,
                "positive": positive,
                "negative": negative,
                "positive_score": judged[one.row].reference,
                "negative_score": judged[one.row].samples[one.negative],
            }
        )
        for (document, positive, negative), one in zip(pairs, chosen, strict=True)
    ]
    write_whole(path, "\n".join(lines) + "\n")


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def digest_of_folder(folder: Path) -> str:
    """Return a short hash of a folder's weights, config and tokenizer."""
    hashed = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        with path.open("rb") as file:
            hashed.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return hashed.hexdigest()[:12]
