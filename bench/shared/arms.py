"""The programs that are compared, behind one interface.

- `ReferenceArm`: the published pipeline on Hugging Face's modules (bench/shared/published.py).
- `EngineArm`: `QualsScorer`.
- `CTranslate2Arm`: CTranslate2 in int8 doing the parts that it can: 60-beam generation without
  diversity, and the log-probabilities of given pairs. Its job is smaller than the others'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from bench.recipes.grow import cached
from bench.shared.published import PublishedPipeline
from quals_fast import DecodingConfig, QualsScorer, ScoringConfig
from quals_fast.models.checkpoint import read_checkpoint
from quals_fast.models.loading import model_folder
from quals_fast.models.tokenizer import QATokenizer

Kept: TypeAlias = list[list[tuple[int, ...]]]  # for each summary its pairs' token ids

GENERATE_AT_ONCE, SCORE_AT_ONCE = 8, 32  # CTranslate2's batches, in texts


class Arm(Protocol):
    """A program under comparison.

    Attributes:
        name: as it stands in results.
        kept: token ids of the pairs behind the scores of the last run.
    """

    name: str
    kept: Kept

    def score(self, documents: Sequence[str], summaries: Sequence[str]) -> list[float]:
        """Score each summary against its document."""
        ...


class ReferenceArm:
    """The published pipeline done decently; float32 on a CPU, float16 as published on a GPU.

    Args:
        model: as for `QualsScorer.from_pretrained`.
        decoding: settings of the search.
        scoring: settings of the score.
        device: where to run.
        dtype: type of the weights.
        encode_once: encode each document once for all its pairs, which was not published.

    Attributes:
        dtype: name of the weights' type.
    """

    name = "reference"

    def __init__(
        self,
        model: str | Path = "qagen-mini",
        *,
        decoding: DecodingConfig | None = None,
        scoring: ScoringConfig | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        encode_once: bool = False,
    ) -> None:
        self.dtype = str(dtype).removeprefix("torch.")
        self._pipeline = PublishedPipeline(
            model,
            decoding=decoding,
            scoring=scoring,
            device=device,
            dtype=dtype,
            encode_once=encode_once,
        )
        self.kept: Kept = []

    def score(self, documents: Sequence[str], summaries: Sequence[str]) -> list[float]:
        """Score each summary against its document; NaN without pairs."""
        scores, kept = self._pipeline.score(documents, summaries)
        self.kept = [[hypothesis.token_ids for hypothesis in one] for one in kept]
        return scores


class EngineArm:
    """The engine in one type and with one backend.

    Args:
        model: as for `QualsScorer.from_pretrained`.
        dtype: the same.
        backend: the same.
        device: the same.
        decoding: settings of the search.
        scoring: settings of the score.
        max_batch_tokens: the same.
        threads: the same.
    """

    def __init__(
        self,
        model: str | Path = "qagen-mini",
        dtype: str = "float32",
        backend: str = "auto",
        *,
        device: str = "cpu",
        decoding: DecodingConfig | None = None,
        scoring: ScoringConfig | None = None,
        max_batch_tokens: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.scorer = QualsScorer.from_pretrained(
            model,
            device=device,
            dtype=dtype,
            backend=backend,
            decoding=decoding,
            scoring=scoring,
            max_batch_tokens=max_batch_tokens,
            threads=threads,
        )
        self.name = f"quals_fast_{dtype}"
        self.kept: Kept = []

    def score(self, documents: Sequence[str], summaries: Sequence[str]) -> list[float]:
        """Score each summary against its document; NaN without pairs."""
        result = self.scorer.score(list(documents), list(summaries))
        self.kept = [[pair.token_ids for pair in row.pairs] for row in result.flat()]
        return list(result.scores)

    def runs_as(self, what: str) -> str | None:
        """Return what the signature says of ``"dtype"`` or ``"backend"``, or None."""
        parts = dict(part.partition(":")[::2] for part in self.scorer.signature.split("|"))
        return parts.get(what)


class CTranslate2Arm:
    """CTranslate2, as far as it goes.

    Args:
        model: as for `QualsScorer.from_pretrained`; converted to int8 in the benchmarks' cache.
        compute_type: CTranslate2's name of the type it computes in.
        decoding: beams and lengths of the search; groups and penalty it does not know.

    Attributes:
        kept: pairs to score; set them to what another arm kept.

    Raises:
        ModuleNotFoundError: ctranslate2 is not installed.
    """

    def __init__(
        self,
        model: str | Path = "qagen-mini",
        compute_type: str = "int8",
        *,
        decoding: DecodingConfig | None = None,
    ) -> None:
        try:
            ctranslate2 = import_module("ctranslate2")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'this arm needs CTranslate2: pip install ".[bench]" in the checkout'
            ) from error
        self.name = f"ctranslate2_{compute_type}"
        self.kept: Kept = []
        self._decoding = decoding or DecodingConfig()
        folder = model_folder(model)
        _, conventions = read_checkpoint(folder)
        self._tokenizer = QATokenizer.from_folder(folder, conventions)
        every_id = tuple(range(conventions.vocab_size))
        self._pieces = _distinct(self._tokenizer.readable_tokens(every_id))
        parts = [Path(__file__), folder / "config.json", folder / "model.safetensors"]
        converted = cached(
            "ctranslate2", parts, lambda target: _convert(folder, self._pieces, target)
        )
        self._translator = ctranslate2.Translator(
            str(converted),
            device="cpu",
            compute_type=compute_type,
            inter_threads=1,
            intra_threads=torch.get_num_threads(),
        )

    def score(self, documents: Sequence[str], summaries: Sequence[str]) -> list[float]:
        """Generate from the summaries; return the mean log-probability of the pairs in `kept`.

        It is given the document alone: CTranslate2's own sequences are others than the published
        rule's, so there is nothing to compare it with; NaN without pairs.
        """
        self.generate(summaries)
        means = []
        for one in self.token_logprobs(documents, self.kept):
            per_pair = [math.fsum(logprobs) / len(logprobs) for logprobs in one]
            means.append(math.fsum(per_pair) / len(per_pair) if per_pair else math.nan)
        return means

    def generate(self, summaries: Sequence[str]) -> list[list[list[str]]]:
        """Return the pieces of each summary's sequences, best first, without EOS."""
        beams = self._decoding.num_beams
        results = self._translator.translate_batch(
            self._sources(summaries),
            max_batch_size=GENERATE_AT_ONCE,
            beam_size=beams,
            num_hypotheses=beams,
            length_penalty=self._decoding.length_penalty,
            min_decoding_length=self._decoding.min_length,
            max_decoding_length=self._decoding.max_length,
            max_input_length=0,
        )
        return [result.hypotheses for result in results]

    def token_logprobs(self, documents: Sequence[str], targets: Kept) -> list[list[list[float]]]:
        """Return the log-probabilities of each document's targets, EOS included."""
        sources = self._sources(documents)
        pairs = [
            (source, [self._pieces[i] for i in target[:-1]])  # EOS is added by CTranslate2
            for source, one in zip(sources, targets, strict=True)
            for target in one
        ]
        if not pairs:
            return [[] for _ in targets]
        results = iter(
            self._translator.score_batch(
                [source for source, _ in pairs],
                [target for _, target in pairs],
                max_batch_size=SCORE_AT_ONCE,
                max_input_length=0,
            )
        )
        return [[next(results).log_probs for _ in one] for one in targets]

    def _sources(self, texts: Sequence[str]) -> list[list[str]]:
        encoded = self._tokenizer.encode(list(texts))
        return [[self._pieces[i] for i in source.input_ids] for source in encoded]


def _distinct(pieces: Sequence[str]) -> list[str]:
    """Give every id a piece of its own: CTranslate2 takes pieces, not ids."""
    seen: set[str] = set()
    names = []
    for index, piece in enumerate(pieces):
        names.append(f"<{index}>{piece}" if piece in seen or "\n" in piece else piece)
        seen.add(names[-1])
    return names


def _convert(folder: Path, pieces: list[str], target: Path) -> None:
    """Write a model in CTranslate2's format, weights in int8.

    The converter's loader is used on a network in memory: its way through a folder wants a
    tokenizer of transformers, and configs of transformers 5 lack `normalize_before`.
    """
    loader = import_module("ctranslate2.converters.transformers").BartLoader()
    published = PublishedPipeline(folder)
    network: Any = published.network
    network.config.normalize_before = False
    with torch.inference_mode():
        spec = loader.get_model_spec(network)
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    # Sources come with their special tokens; the loader's defaults of "<s>" would be unknown here.
    conventions = published.conventions
    bos = conventions.bos_token_id
    if bos is None:
        bos = conventions.eos_token_id
    spec.config.bos_token = pieces[bos]
    spec.config.eos_token = pieces[conventions.eos_token_id]
    spec.config.decoder_start_token = pieces[conventions.decoder_start_token_id]
    spec.config.unk_token = pieces[conventions.pad_token_id]  # none is unknown
    spec.validate()
    spec.optimize(quantization="int8")
    target.mkdir()
    spec.save(str(target))
