"""Export all of QUALS as one ONNX file: token ids in, scores and kept pairs out.

A program in any language can then score with ONNX Runtime alone. Settings are part of the graph and
are listed in its `metadata_props`, with the model's hash and this package's version.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quals_fast import __version__
from quals_fast.batching import padded
from quals_fast.config import DecodingConfig, ScoringConfig
from quals_fast.engine.cpu import CpuEngine
from quals_fast.engine.protocol import Scored, TextPair
from quals_fast.export.exporter import (
    ExportParityError,
    built_in_texts,
    quiet,
    require_onnx,
)
from quals_fast.export.graphs import OPSET
from quals_fast.export.single_graph import STATUSES, SingleGraph
from quals_fast.exported.session import Graph, resolve_provider
from quals_fast.models.checkpoint import CheckpointError, check_fits
from quals_fast.models.loading import TorchModel, load_model
from quals_fast.signature import signature
from quals_fast.validation import check_tokens

_DYNAMIC = torch.export.Dim.DYNAMIC
_MAX_FILE_BYTES = 2**31 - 2**20  # protobuf takes less than 2 GiB
_MIN_IDENTICAL_PAIRS = 0.9  # a near tie may change the search of one text
_TOLERANCE = 1e-3  # nats, of a token's log-probability and of a score
_INPUTS = {
    "document_ids": "(B, S) int64: tokens of the documents, uncut and without special tokens. "
    "Values after a document's length are ignored.",
    "document_lengths": "(B,) int64: number of tokens of each document, from 0 to S; 0 if it is "
    "empty or has only white space or other invisible characters.",
    "summary_ids": "(B, S') int64: tokens of the summaries, in the same form.",
    "summary_lengths": "(B,) int64: number of tokens of each summary, from 0 to S'.",
}
_OUTPUTS = {
    "score": "(B,) float32: QUALS, in nats per token; NaN if there is no score.",
    "status": "(B,) int64: " + ", ".join(f"{i} {name}" for i, name in enumerate(STATUSES)) + ".",
    "n_pairs": "(B,) int64: number of question-answer pairs that were kept.",
    "truncated_tokens": "(B,) int64: number of tokens that were cut off both texts.",
    "unknown_tokens": "(B,) int64: number of tokens of both texts that the vocabulary lacks.",
    "pair_ids": "(B, Q, T) int64: question SEP answer EOS of each pair, in order of selection.",
    "pair_lengths": "(B, Q) int64: number of tokens of each pair; 0 if there is no pair.",
    "summary_logprobs": "(B, Q, T) float32: log-probability of each token given the summary, in "
    "nats; 0 after the end.",
    "document_logprobs": "(B, Q, T) float32: the same, given the document.",
}


def export_single_file(
    model: str | Path,
    path: str | Path,
    *,
    revision: str | None = None,
    decoding: DecodingConfig | None = None,
    scoring: ScoringConfig | None = None,
    texts: Sequence[tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """Write a model's whole QUALS score as one ONNX graph in float32, and check it.

    Args:
        model: As for `QualsScorer.from_pretrained`; must have a WordPiece tokenizer, whose answers
            are matched by ids.
        revision: Revision of a model on the hub.
        path: The file to write; must not exist.
        decoding: Settings of the search, which become part of the graph.
        scoring: Settings of the score, which become part of the graph.
        texts: Documents and summaries to check with; by default, two built-in ones.

    Returns:
        The result of the check: number of texts and pairs, share of identical pairs, and the
        largest difference of a log-probability or score, in nats.

    Raises:
        ExportParityError: If the graph does not score like the model. The file is left as
            ``path.failed``.
        CheckpointError: If the model cannot be loaded, or cannot be exported as one graph.
        ValueError: If the file exists, or the settings do not fit the model.
        ModuleNotFoundError: If onnx, onnxscript or ONNX Runtime is not installed.
    """
    require_onnx()
    import onnx_ir as ir

    target, decoding, scoring = Path(path), decoding or DecodingConfig(), scoring or ScoringConfig()
    if target.exists():
        raise ValueError(f"`path` must not exist, but {target} does; choose another name")
    loaded = load_model(model, revision=revision, device=torch.device("cpu"))
    check_fits(loaded.shape, loaded.conventions, decoding)
    _check_kind(loaded)
    graph = _trace(SingleGraph(loaded, decoding, scoring))
    graph.metadata_props.update(_metadata(loaded, decoding, scoring))
    target.parent.mkdir(parents=True, exist_ok=True)
    failed = target.with_name(target.name + ".failed")
    ir.save(graph, failed)
    parity = _check(loaded, failed, decoding, scoring, texts or built_in_texts())
    failed.rename(target)
    return parity


def feeds(
    documents: Sequence[Sequence[int]], summaries: Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    """Return the graph's inputs for pairs of texts, as token ids without special tokens."""
    inputs = {}
    for name, texts in (("document", documents), ("summary", summaries)):
        inputs[f"{name}_ids"] = padded(texts, 0)[0]
        inputs[f"{name}_lengths"] = np.array([len(ids) for ids in texts])
    return inputs


def _check_kind(loaded: TorchModel) -> None:
    """Raise unless the model fits in one graph and the graph can read what it generates."""
    from tokenizers import decoders

    if loaded.shape.family == "t5":
        raise CheckpointError(
            f"a single-file graph needs a WordPiece tokenizer, but {loaded.name} is a T5, which "
            "has another; export it without --single-file"
        )
    tokenizer = loaded.tokenizer
    if tokenizer.answer_match != "ids" or not isinstance(
        tokenizer._tokenizer.decoder, decoders.WordPiece
    ):
        raise CheckpointError(
            f"a single-file graph needs a WordPiece tokenizer, whose answers are matched by ids, "
            f"but {loaded.name} matches answers by text; export it without --single-file"
        )
    size = sum(p.numel() for p in loaded.network.parameters()) * 4
    if size > _MAX_FILE_BYTES:
        raise CheckpointError(
            f"a single ONNX file can have up to 2 GB, but {loaded.name} has {size / 1e9:.1f} GB of "
            "float32 weights; export it without --single-file"
        )


def _trace(module: SingleGraph) -> Any:
    """Return the graph, with its inputs and outputs described."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript import optimizer

    from quals_fast.export.translations import TRANSLATIONS

    def example(length: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(2, length, dtype=torch.int64), torch.tensor([length, length])

    with quiet():
        program = torch.onnx.export(
            module.eval(),
            (*example(7), *example(5)),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: _DYNAMIC, 1: _DYNAMIC}, {0: _DYNAMIC}) * 2,
            input_names=list(_INPUTS),
            output_names=list(_OUTPUTS),
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        graph = program.model
        optimizer.optimize_ir(graph, num_iterations=1)  # torch's own two take twice the time
    ClearMetadataAndDocStringPass()(graph)  # the exporter notes a stack trace for each node
    for value, text in zip(graph.graph.inputs, _INPUTS.values(), strict=True):
        value.doc_string = text
    for value, text in zip(graph.graph.outputs, _OUTPUTS.values(), strict=True):
        value.doc_string = text
    return graph


def _metadata(
    loaded: TorchModel, decoding: DecodingConfig, scoring: ScoringConfig
) -> Mapping[str, str]:
    line = signature(
        decoding,
        scoring,
        model=loaded.name,
        digest=loaded.digest,
        dtype="float32",
        backend="onnx-single-file",
    )
    return {
        "quals_fast": __version__,
        "model": loaded.name,
        "digest": loaded.digest,
        "signature": line,
        "decoding": json.dumps(asdict(decoding)),
        "scoring": json.dumps(asdict(scoring)),
        "tokens": json.dumps(asdict(loaded.conventions)),
        "statuses": json.dumps(STATUSES),
    }


def _check(
    loaded: TorchModel,
    path: Path,
    decoding: DecodingConfig,
    scoring: ScoringConfig,
    texts: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Compare the graph with the model on real texts.

    Raises:
        ExportParityError: they differ by more than rounding explains.
    """
    encode = loaded.tokenizer.encode
    documents, summaries = (encode(list(column)) for column in zip(*texts, strict=True))
    pairs = list(map(TextPair, documents, summaries))
    outputs = Graph(path, resolve_provider("cpu")).run(
        feeds(*([source.text_ids for source in column] for column in (documents, summaries)))
    )
    engine = CpuEngine(loaded)
    with engine.inference():
        expected = engine.score(pairs, decoding, scoring.max_pairs, lambda n: None)
    same: list[bool] = []
    deltas = [0.0]
    sep = loaded.conventions.sep_token_id
    for b, row in enumerate(expected):
        status = STATUSES[outputs["status"][b]]
        problem = check_tokens(*pairs[b])
        if problem is not None:
            deltas.append(0.0 if status == problem.status else math.nan)
            continue
        mine, theirs = _pairs(outputs, b), _expected_pairs(row, scoring)
        are_same = [x[0] == y[0] for x, y in zip_longest(mine, theirs, fillvalue=(None,))]
        same += are_same
        deltas += [
            float(np.abs(np.subtract(x[1:], y[1:])).max())
            for x, y in zip(mine, theirs, strict=False)
            if x[0] == y[0]
        ]
        if status not in ("ok", "no_pairs"):
            deltas.append(math.nan)
        elif theirs and all(are_same):
            score = np.mean(
                [
                    np.mean(document[first:]) - np.mean(summary[first:])
                    for ids, summary, document in theirs
                    for first in [ids.index(sep) + 1 if scoring.tokens == "answer" else 0]
                ]
            )
            deltas.append(float(abs(score - outputs["score"][b])))
    result = {
        "texts": len(texts),
        "pairs": len(same),
        "identical_pairs": sum(same) / max(1, len(same)),
        "max_abs_delta": float(np.max(deltas)),
    }
    if same and result["identical_pairs"] < _MIN_IDENTICAL_PAIRS:
        raise ExportParityError(
            f"the graph {path} keeps other pairs than the model: only "
            f"{100 * result['identical_pairs']:.0f} % are identical; please report this"
        )
    if not result["max_abs_delta"] <= _TOLERANCE:  # NaN is not within a tolerance either
        raise ExportParityError(
            f"the graph {path} differs from the model by up to {result['max_abs_delta']:.2g} nats "
            f"in a log-probability or score, but {_TOLERANCE:g} is allowed; please report this"
        )
    return result


_Pair = tuple[tuple[int, ...], Any, Any]  # ids, given summary, document


def _pairs(outputs: Mapping[str, np.ndarray], b: int) -> list[_Pair]:
    """Return the pairs of one text that a graph has kept."""
    names = "pair_ids", "summary_logprobs", "document_logprobs"
    lengths = outputs["pair_lengths"][b, : outputs["n_pairs"][b]]
    rows = ((outputs[name][b, i, :n] for name in names) for i, n in enumerate(lengths))
    return [(tuple(ids.tolist()), summary, document) for ids, summary, document in rows]


def _expected_pairs(row: Scored, scoring: ScoringConfig) -> list[_Pair]:
    """Return the pairs of one text that the model has kept."""
    chosen = [pair.hypothesis for pair in row.kept]
    with_penalties = scoring.summary_logprob == "search"
    return [
        (h.token_ids, h.search_logprobs if with_penalties else h.logprobs, given_document)
        for h, given_document in zip(chosen, row.document_logprobs, strict=True)
    ]
