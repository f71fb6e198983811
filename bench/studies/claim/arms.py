"""The arms of the claim's test: QAGS in two forms, QUALS as published, and the engine.

An arm's name says how it is made: `_half` is half precision, and `_onednn` takes its matrix
products from oneDNN, as the engine does on a CPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.recipes.grow import folder_of
from bench.shared.arms import EngineArm, Kept, ReferenceArm
from bench.shared.common import QAGS_MODELS, Pair, is_gpu
from bench.shared.flops import count_flops, flops_at_width
from bench.shared.options import TINY
from bench.shared.turns import Worker
from bench.shared.weights import RANDOM, Weights, qags_weights, weights_of
from quals_fast.engine.filtering import keep_pairs
from quals_fast.engine.gpu import GpuEngine
from quals_fast.models.linear import OneDnnLinear, onednn_pays, use_onednn
from quals_fast.qags import GivenAnswers, NetworkFiles, QagsScorer, Replay
from quals_fast.qags.networks import ANSWERING, GENERATION
from quals_fast.qags.results import STAGES as QAGS_STAGES
from quals_fast.qags.scorer import Arm

STAGES = (*QAGS_STAGES, "generation", "filter", "rescoring", "all_in_one")

ONEDNN, HALF = "_onednn", "_half"
DESCRIPTIONS = {
    "qags_as_shipped": "the published QAGS: questions for one answer at a time, whole windows of "
    "384 tokens, nothing shared, float32",
    "qags_as_shipped_onednn": "the same, with oneDNN's matrix products",
    "qags_batched": "the same scores as an expert would compute them: batches sorted by length, "
    "nothing done twice, float32",
    "qags_batched_half": "the same in half precision: float16 on a GPU, bfloat16 on a CPU that has "
    "instructions for it",
    "quals_published": "QUALS as published: batches of 5 and 30, a document encoded once for each "
    "of its pairs, float32 (float16 on a GPU)",
    "quals_published_half": "the same in bfloat16, since the article's program ran in float16",
    "quals_published_onednn": "QUALS as published in float32, with oneDNN's matrix products",
    "quals_once": "QUALS as published, but a document encoded once for all its pairs",
    "quals_once_onednn": "the same, but a document encoded once for all its pairs",
    "quals_fast_float32": "the engine in float32, with the same scores as QUALS as published",
    "quals_fast": "the engine as it comes (`dtype=auto`, `backend=auto`)",
    "quals_fast_eager": "the engine without its kernels and graphs (`backend=eager`), on a GPU",
}
# What the claim is about; `--without` can leave out the others.
NEEDED = ("qags_as_shipped", "quals_published", "quals_fast")

# Width, layers, heads and feed-forward units of BERT, and of BART's two halves each.
BERT = {
    "bart-base": (768, 12, 12, 3072),
    "bart-large": (1024, 24, 16, 4096),
    TINY: (32, 1, 1, 64),
}
BART = {"bart-base": (768, 6, 12, 3072), "bart-large": (1024, 12, 16, 4096), TINY: (32, 1, 1, 64)}
BART_VOCABULARY = 50_265
TRAINED = "qagen-mini"  # the size of the bundled networks; others have random weights in QAGS
NARROW = (24, 48)  # widths of one head at which the FLOPs of a replay are counted

Texts = tuple[str, str]  # document and summary


class QagsArm:
    """QAGS.

    Args:
        arm: ``"as_shipped"`` or ``"batched"``.
        size: ``"qagen-mini"`` takes the bundled networks; another size takes random ones, which
            do the work that they are told to replay.
        dtype: type of the weights.
        device: where to run.
        replays: what the bundled networks did, by document and summary.
        candidates: file of answer candidates that were prepared; else spaCy finds them.
        onednn: take the matrix products from oneDNN.
        width: of random networks, in place of that of their size.

    Attributes:
        stages: seconds of each stage of the last run.
        added_seconds: that spaCy took beforehand for the candidates of the last run.
        replayed: what was done with each document and summary.
        kept: nothing; an arm of QUALS tells its pairs here.
    """

    def __init__(
        self,
        arm: Arm,
        size: str = TRAINED,
        dtype: str = "float32",
        *,
        device: str = "cpu",
        replays: Mapping[Texts, Replay] | None = None,
        candidates: Path | None = None,
        onednn: bool = False,
        width: int | None = None,
    ) -> None:
        self.name = f"qags_{arm}"
        if size != TRAINED and replays is None:
            raise ValueError(f"QAGS of size {size!r} has random weights and needs `replays`")
        self._replays = replays if size != TRAINED else None
        # A replay brings its own candidates.
        given = GivenAnswers({}) if self._replays is not None else None
        if candidates is not None:
            given = GivenAnswers.from_file(candidates)
        self._spacy_seconds = 0.0 if given is None else given.seconds  # of a summary
        self._scorer = QagsScorer(
            *networks(size, width), extractor=given, arm=arm, device=device, dtype=dtype
        )
        if onednn:
            take_products_from_onednn(self._scorer.question_generator.bart)
            take_products_from_onednn(self._scorer.question_answerer.bert)
        self.dtype = self._scorer.dtype
        self.stages: dict[str, float] = {}
        self.added_seconds = 0.0
        self.replayed: dict[Texts, Replay] = {}
        self.kept: Kept = []

    def score(self, documents: Sequence[str], summaries: Sequence[str]) -> list[float]:
        """Score each summary against its document; NaN without questions."""
        texts = list(zip(documents, summaries, strict=True))
        replay = None if self._replays is None else [self._replays[one] for one in texts]
        result = self._scorer.score(list(documents), list(summaries), replay=replay)
        for row in result:
            if row.status == "error":  # it did less than its work
                raise RuntimeError(f"{self.name} failed on a row: {row.message}")
        self.stages = {stage: work.seconds for stage, work in result.work.items()}
        self.added_seconds = self._spacy_seconds * len(texts)
        self.stages["answer_extraction"] += self.added_seconds
        self.replayed |= {one: row.replay for one, row in zip(texts, result, strict=True)}
        self.kept = [[] for _ in texts]
        return result.scores

    def get_replayed(self) -> dict[Texts, Replay]:
        """Return `replayed`, for whoever asks from another process."""
        return self.replayed

    def ask_one(self, pair: Pair) -> None:
        """Warm up by replaying one question of a pair; all of them would take a minute."""
        whole = (self._replays or {})[pair.document, pair.summary]
        first = Replay(
            answers=whole.answers[:1], steps=whole.steps[:1], questions=whole.questions[:1]
        )
        self._scorer.score([pair.document], [pair.summary], replay=[first])


class StagedEngineArm(EngineArm):
    """The engine, which tells its stages where they follow one another.

    They are timed by calls of their own behind the run that counts: the engine itself keeps no
    clock. On a GPU search, filter and rescoring are one program, and there is one bar for them.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.dtype = self.runs_as("dtype")

    def time_stages(self, documents: Sequence[str], summaries: Sequence[str]) -> dict[str, float]:
        """Return seconds of each stage of the last run, done again one by one."""
        scorer = self.scorer
        if isinstance(scorer.engine, GpuEngine):
            start = time.perf_counter()
            scorer.score(list(documents), list(summaries))
            return {"all_in_one": time.perf_counter() - start}
        started = time.perf_counter()
        searched = scorer.generate(summaries)
        generated = time.perf_counter()
        model = scorer.engine.model
        sources = model.tokenizer.encode(list(summaries))
        for hypotheses, source in zip(searched, sources, strict=True):
            keep_pairs(
                hypotheses,
                source,
                model.tokenizer,
                model.conventions,
                scorer.scoring.max_pairs,
            )
        filtered = time.perf_counter()
        scorer.rescore(documents, self.kept)
        return {
            "generation": generated - started,
            "filter": filtered - generated,
            "rescoring": time.perf_counter() - filtered,
        }


class PublishedArm(ReferenceArm):
    """QUALS as published, with the seconds of its stages.

    Args:
        model: as for `QualsScorer.from_pretrained`.
        device: where to run.
        half: compute in half precision: float16 on a GPU, bfloat16 on a CPU.
        encode_once: encode each document once for all its pairs.
        onednn: take the matrix products from oneDNN.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "cpu",
        half: bool = False,
        encode_once: bool = False,
        onednn: bool = False,
    ) -> None:
        of_half = torch.float16 if is_gpu(device) else torch.bfloat16
        dtype = of_half if half else torch.float32
        super().__init__(model, device=device, dtype=dtype, encode_once=encode_once)
        if onednn:
            take_products_from_onednn(self._pipeline.network)

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of each stage of the last run."""
        return self._pipeline.stages


def take_products_from_onednn(network: nn.Module) -> None:
    """Let oneDNN compute the float32 products of a network of Hugging Face's."""
    use_onednn(network)
    for module in network.modules():
        if isinstance(module, OneDnnLinear):
            module.weight = None  # type: ignore[assignment]  # a T5 asks what type it has


def arm_names(device: str, without: Sequence[str] = ()) -> list[str]:
    """Return the arms that run on a device, in the order of `DESCRIPTIONS`."""
    on_gpu = is_gpu(device)
    has_onednn = not on_gpu and onednn_pays()
    left_out = {
        ONEDNN: not has_onednn,
        HALF: not on_gpu and not torch.cpu._is_avx512_bf16_supported(),
        "quals_published_half": on_gpu,  # QUALS as published runs in half precision there
        "quals_once": has_onednn,  # its step is measured with oneDNN's products
        "quals_fast_eager": not on_gpu,
    }
    ends = tuple(end for end, is_left_out in left_out.items() if is_left_out)
    return [name for name in DESCRIPTIONS if not name.endswith(ends) and name not in without]


def start_arm(
    name: str, size: str, arguments: argparse.Namespace, replays: Mapping[Texts, Replay]
) -> Worker:
    """Start the process of an arm.

    Args:
        name: one of `DESCRIPTIONS`.
        size: of the models.
        arguments: of the command.
        replays: what QAGS's random weights replay.
    """
    device, onednn = arguments.device, name.endswith(ONEDNN)
    if name.startswith("qags"):
        of_half = "float16" if is_gpu(device) else "bfloat16"
        return Worker(
            QagsArm,
            "as_shipped" if name.startswith("qags_as_shipped") else "batched",
            size,
            of_half if name.endswith(HALF) else "float32",
            device=device,
            replays=replays,
            candidates=arguments.candidates,
            onednn=onednn,
        )
    if name.startswith("quals_fast"):
        dtype = "float32" if name.endswith("float32") else "auto"
        backend = "eager" if name.endswith("eager") else "auto"
        return Worker(StagedEngineArm, folder_of(size), dtype, backend, device=device)
    return Worker(
        PublishedArm,
        folder_of(size),
        device=device,
        half=is_gpu(device) or name.endswith(HALF),
        encode_once=name.startswith("quals_once"),
        onednn=onednn,
    )


def networks(size: str, width: int | None = None) -> tuple[NetworkFiles, NetworkFiles]:
    """Return QAGS's question generator and its question-answering network.

    Args:
        size: ``"qagen-mini"``: the bundled ones; ``"bart-base"`` and ``"bart-large"``: random ones
            of the sizes of BART and BERT; ``"tiny"``: random ones for dry runs.
        width: of random ones, in place of that of their size.
    """
    generation = NetworkFiles.read(QAGS_MODELS / GENERATION)
    answering = NetworkFiles.read(QAGS_MODELS / ANSWERING)
    if size == TRAINED:
        return generation, answering
    d, layers, heads, ffn = _narrow(BART[size], width)
    bart = dict(generation.config) | {"d_model": d, "vocab_size": BART_VOCABULARY}
    bart |= {"max_position_embeddings": 1024}
    for part in ("encoder", "decoder"):
        bart |= {f"{part}_layers": layers, f"{part}_attention_heads": heads}
        bart |= {f"{part}_ffn_dim": ffn}
    d, layers, heads, ffn = _narrow(BERT[size], width)
    bert = dict(answering.config) | {"hidden_size": d, "num_hidden_layers": layers}
    bert |= {"num_attention_heads": heads, "intermediate_size": ffn}
    return (
        replace(generation, name=f"random {size}", config=bart, weights=None),
        replace(answering, name=f"random {size}", config=bert, weights=None),
    )


def weights_of_arms(sizes: Iterable[str]) -> Weights:
    """Describe the weights behind the arms of some sizes, bundled QAGS's of every one."""
    of_quals = weights_of(*sizes)
    random = {f"QAGS {size}": {"recipe": RANDOM} for size in of_quals if size != TRAINED}
    return of_quals | qags_weights() | random


def replayed_flops(
    arm: Arm, size: str, replays: Mapping[Texts, Replay], pairs: Sequence[Pair]
) -> float:
    """Return the FLOPs of QAGS with random weights, without the minutes that it takes.

    What a replay does does not depend on the weights, so two narrow networks give them exactly.
    """
    counted = {
        width: count_flops(QagsArm(arm, size, replays=replays, width=width), pairs)
        for width in NARROW
    }
    return flops_at_width(counted, BERT[size][0])  # as wide as BART


def _narrow(shape: tuple[int, int, int, int], width: int | None) -> tuple[int, int, int, int]:
    d, layers, _, ffn = shape
    return shape if width is None else (width, layers, 1, ffn * width // d)


def describe_networks(size: str) -> str:
    """Say how large QAGS's networks of a size are."""
    generation, answering = (files.config for files in networks(size))
    return (
        f"QAGS generates questions with a BART of {generation['encoder_layers']} + "
        f"{generation['decoder_layers']} layers of width {generation['d_model']}, and answers them "
        f"with a BERT of {answering['num_hidden_layers']} layers of width "
        f"{answering['hidden_size']}"
    )
