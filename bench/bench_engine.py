"""How fast are the engine's parts? Encoding, a decoding step, a search, rescoring and one pair.

    pytest bench/bench_engine.py --benchmark-enable

All work on one pair of the examples, with the bundled model: in float32, in the precision that the
engine chooses, as an ONNX export where ONNX is installed, and on a GPU if there is one. Every
result is compared with the slow reference before it is timed; the worst difference is stored with
the times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.onnx import exported
from bench.recipes.grow import folder_of
from bench.shared.common import Pair, synchronize
from bench.shared.workloads import load_workload
from quals_fast import DecodingConfig, QualsScorer
from quals_fast.batching import padded
from quals_fast.decoding.host_search import FEW_CANDIDATES, HostModel, host_search
from quals_fast.exported.beams import OnnxBeams
from quals_fast.exported.engine import OnnxEngine
from quals_fast.models.beams import HostBeams
from quals_fast.models.memory import SourceMemory
from quals_fast.models.slots import DistinctSlots
from quals_fast.models.tokenizer import Source
from quals_fast.reference.quals import ReferenceScorer, generate
from quals_fast.results import Hypothesis, SummaryScore

ENGINES: dict[str, dict[str, str]] = {
    "float32": {"dtype": "float32", "backend": "eager", "device": "cpu"},
    "auto": {"dtype": "auto", "backend": "eager", "device": "cpu"},
}
if find_spec("onnxruntime") and find_spec("onnx"):
    ENGINES["onnx"] = {"dtype": "auto", "backend": "onnx", "device": "cpu"}
if torch.cuda.is_available():
    ENGINES["gpu"] = {"dtype": "auto", "backend": "auto", "device": "cuda"}

STEP = 10  # in the middle of a question
ROUNDS = 10  # of what is set up anew for each round
EXACT, ROUNDED = 1e-4, 0.05  # nats: in float32, and with other types in a part of the model
ROUNDED_PAIR = 0.1  # likewise, of one pair: more than of a score, which is the mean of several

engines = pytest.mark.parametrize("engine", ENGINES)


class Expected(NamedTuple):
    """What the reference says of the pair."""

    hypotheses: list[Hypothesis]
    row: SummaryScore

    @property
    def targets(self) -> list[tuple[int, ...]]:
        """The pairs that were kept, as token ids."""
        return [pair.token_ids for pair in self.row.pairs]


class Recorder:
    """A search's language model, which remembers how it was asked to go on."""

    def __init__(self, model: HostModel) -> None:
        self._model = model
        self.steps: list[tuple[np.ndarray, np.ndarray, np.ndarray, int]] = []
        self.topk, self.logprob_of = model.topk, model.logprob_of

    def advance(
        self, token_ids: np.ndarray, beam_idx: np.ndarray, live: np.ndarray, t: int
    ) -> None:
        """Go on, and remember it."""
        self.steps.append((token_ids.copy(), beam_idx.copy(), live.copy(), t))
        self._model.advance(token_ids, beam_idx, live, t)


class Subject:
    """One engine at work on the pair.

    Args:
        settings: one of `ENGINES`.
    """

    model, decoding = "qagen-mini", DecodingConfig()

    def __init__(self, settings: dict[str, str]) -> None:
        folder = folder_of(self.model)
        if settings["backend"] == "onnx":
            folder = exported(folder, "float32")
        placement: dict[str, Any] = dict(settings)
        self.scorer = QualsScorer.from_pretrained(folder, decoding=self.decoding, **placement)
        self.engine: Any = self.scorer.engine
        self.is_gpu = settings["device"] == "cuda"
        runs_as = self.engine.model.runs_as()
        self.dtype = runs_as["dtype"] or "float32"
        self.tolerance = EXACT if self.dtype == "float32" else ROUNDED
        tokenizer = self.engine.model.tokenizer
        self.document, self.summary = tokenizer.encode([pair().document, pair().summary])

    def encode(self, source: Source) -> Any:
        """Encode a text as a document is: keys and values of every decoder layer."""
        model = self.engine.model
        ids, mask = padded([source.input_ids], model.conventions.pad_token_id)
        if isinstance(self.engine, OnnxEngine):
            graph = model.graphs["document_encoder"]
            return graph.run({"input_ids": ids, "attention_mask": mask})
        tensors = (torch.from_numpy(x).to(model.device) for x in (ids, mask))
        return model.document_network.encode(*tensors)

    def beams(self) -> HostModel:
        """Begin a search of the summary: its language model on the host."""
        model, beams = self.engine.model, self.decoding.num_beams
        ids, mask = padded([self.summary.input_ids], model.conventions.pad_token_id)
        if isinstance(self.engine, OnnxEngine):
            memory = model.graphs["encoder"].run({"input_ids": ids, "attention_mask": mask})
            return OnnxBeams(model, memory, mask, beams)
        encoded = model.network.encode(torch.from_numpy(ids), torch.from_numpy(mask))
        slots = DistinctSlots(encoded, beams, self.decoding.max_length + 1)
        return HostBeams(model.network, model.head, slots)

    def topk(self, beams: HostModel) -> tuple[np.ndarray, np.ndarray]:
        """Return as many candidates as a search takes at first."""
        pad = self.engine.model.conventions.pad_token_id
        return beams.topk(FEW_CANDIDATES, (pad,), exact_edge=False)

    def search(self) -> list[Hypothesis]:
        """Search the summary."""
        ((_, hypotheses),) = self.engine.search([self.summary], self.decoding)
        return list(hypotheses)

    def rescore(self, targets: list[tuple[int, ...]]) -> list[tuple[float, ...]]:
        """Return the log-probabilities of targets given the document."""
        (logprobs,) = self.engine.rescore([self.document], [targets])
        return list(logprobs)

    def time(
        self,
        benchmark: BenchmarkFixture,
        group: str,
        error: float,
        run: Callable[..., Any],
        *arguments: Any,
        tolerance: float | None = None,
        setup: Callable[[], Any] | None = None,
    ) -> None:
        """Check the error, then time a part of the engine.

        Args:
            benchmark: times.
            group: name of the part.
            error: of its result; more than the tolerance fails.
            run: the part.
            arguments: for it.
            tolerance: by default that of the engine's precision.
            setup: called before each round; returns the arguments.
        """
        tolerance = self.tolerance if tolerance is None else tolerance
        assert error <= tolerance, f"{group}: the error is {error:.3g}, more than {tolerance:.3g}"
        benchmark.group = group
        benchmark.extra_info |= {"error": error, "dtype": self.dtype}

        def timed(*given: Any) -> None:
            run(*given)
            synchronize()

        if setup is None:
            benchmark(timed, *arguments)
        else:
            benchmark.pedantic(  # type: ignore[no-untyped-call]
                timed, setup=lambda: ((setup(),), {}), rounds=ROUNDS
            )


@cache
def pair() -> Pair:
    """Return the pair that is scored."""
    return load_workload("long", None, 1)[0]


@cache
def subject(engine: str) -> Subject:
    """Load an engine once for all parts."""
    return Subject(ENGINES[engine])


@cache
def reference() -> ReferenceScorer:
    """Load the reference."""
    return ReferenceScorer(folder_of(Subject.model), decoding=Subject.decoding)


@cache
def expected() -> Expected:
    """Let the reference score the pair, which takes seconds."""
    scorer = reference()
    (row,) = scorer.score([pair().document], [pair().summary]).flat()
    return Expected(generate(scorer.model, pair().summary, scorer.decoding), row)


def relative_error(found: Iterable[Any], right: Iterable[Any]) -> float:
    """Return the length of the difference over that of the right answer, of all tensors as one."""
    off = whole = 0.0
    for one, other in zip(found, right, strict=True):
        truth = torch.as_tensor(other).double().cpu()
        off += float((torch.as_tensor(one).double().cpu() - truth).square().sum())
        whole += float(truth.square().sum())
    return (off / whole) ** 0.5


def largest_error(found: Iterable[Iterable[float]], right: Iterable[Iterable[float]]) -> float:
    """Return the largest difference of any number of any row."""
    return max(
        abs(a - b)
        for one, other in zip(found, right, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@engines
def bench_encoding(benchmark: BenchmarkFixture, engine: str) -> None:
    """Time the encoding of the document, with what the decoder's layers need of it."""
    one, model = subject(engine), reference().model
    with one.engine.inference(), torch.inference_mode():
        hidden = model.encode(one.document.input_ids)
        mask = torch.ones(hidden.shape[:2], dtype=torch.bool)
        right = model.checkpoint.network.project(hidden, mask)
        encoded = one.encode(one.document)
        if isinstance(encoded, SourceMemory):
            found = [x for layer in zip(encoded.keys, encoded.values, strict=True) for x in layer]
        else:
            found = [*encoded.values()]
        by_layer = [x for layer in zip(right.keys, right.values, strict=True) for x in layer]
        error = relative_error(found, by_layer)
        one.time(benchmark, "encoding", error, one.encode, one.document)


@engines
def bench_decoding_step(benchmark: BenchmarkFixture, engine: str) -> None:
    """Time one step of the search of one summary: the decoder and the likeliest tokens."""
    one, model = subject(engine), reference().model
    if one.is_gpu:
        pytest.skip("a GPU takes its steps in groups: see `python -m bench.gpu.settings`")
    with one.engine.inference(), torch.inference_mode():
        recorder = Recorder(one.beams())
        host_search(recorder, one.engine.model.conventions, one.decoding, 1)
        *before, last = recorder.steps[: STEP + 1]

        def advanced() -> HostModel:
            beams = one.beams()
            for step in before:
                beams.advance(*step)
                one.topk(beams)
            return beams

        def step(beams: HostModel) -> tuple[np.ndarray, np.ndarray]:
            beams.advance(*last)
            return one.topk(beams)

        logprobs, ids = step(advanced())
        decoder = model.decoder(model.encode(one.summary.input_ids), one.decoding.num_beams)
        for tokens, beam_idx, _, t in [*before, last]:
            every = decoder.next_logprobs(tokens[0].tolist(), beam_idx[0].tolist() if t else None)
        live = last[2][0]
        right = every.gather(1, torch.from_numpy(ids[0])).numpy()
        error = float(np.abs(logprobs[0] - right)[live].max())
        one.time(benchmark, "decoding step", error, step, setup=advanced)


@engines
def bench_search(benchmark: BenchmarkFixture, engine: str) -> None:
    """Time the search of one summary."""
    one = subject(engine)
    right = {hypothesis.token_ids for hypothesis in expected().hypotheses}
    with one.engine.inference():
        found = {hypothesis.token_ids for hypothesis in one.search()}
        # Near ties may go either way, and on a GPU, where half precision searches, others too.
        allowed = 0.5 if one.is_gpu else 0.05
        share = 1 - len(found & right) / len(right)
        one.time(benchmark, "search", share, one.search, tolerance=allowed)


@engines
def bench_rescoring(benchmark: BenchmarkFixture, engine: str) -> None:
    """Time the rescoring of one document's question-answer pairs, its encoding included."""
    one, targets = subject(engine), expected().targets
    right = [pair.document_logprobs for pair in expected().row.pairs]
    with one.engine.inference():
        found = one.rescore(targets)
        if one.tolerance == EXACT:
            tolerance, error = EXACT, largest_error(found, right)
        else:  # a rare token may be far off
            means = ([[sum(row) / len(row)] for row in rows] for rows in (found, right))
            tolerance, error = ROUNDED_PAIR, largest_error(*means)
        one.time(benchmark, "rescoring", error, one.rescore, targets, tolerance=tolerance)


@engines
def bench_pair(benchmark: BenchmarkFixture, engine: str) -> None:
    """Time one pair, from texts to the score."""
    one = subject(engine)
    texts = [pair().document], [pair().summary]
    (row,) = one.scorer.score(*texts).flat()
    error = abs(row.to_dict()["score"] - expected().row.to_dict()["score"])
    one.time(benchmark, "one pair", error, one.scorer.score, *texts)
