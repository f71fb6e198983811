"""QUALS from end to end: generate, filter, rescore, aggregate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quals_fast.backends import load
from quals_fast.calibration import Calibration
from quals_fast.config import DecodingConfig, ScoringConfig, settings_of
from quals_fast.engine.answers import answer_spans, needs_places
from quals_fast.engine.protocol import Engine, Scored, TextPair
from quals_fast.models.checkpoint import check_fits
from quals_fast.models.hub import is_hub_name
from quals_fast.models.tokenizer import Source
from quals_fast.results import (
    CacheStats,
    Hypothesis,
    QAPair,
    QualsResult,
    SummaryScore,
    TokenLogprobs,
    nested_like,
)
from quals_fast.signature import signature
from quals_fast.validation import (
    as_list,
    check_pair,
    check_same_length,
    check_texts,
    check_token_ids,
    check_tokens,
    require_texts,
)


class QualsScorer:
    """Score summaries against their documents with QUALS (arXiv 2105.04623).

    Create a scorer with `from_pretrained`, which loads a model.

    You can score inside a training step: scoring neither depends on nor changes the state of
    random number generators, autograd and autocast. Several threads may share a scorer; they
    compute one at a time. A scorer from `from_pretrained` can be pickled: it stores the arguments
    that it was loaded with, and unpickling loads the model again. A deep copy is the scorer itself.

    Args:
        engine: A loaded model with the code that runs it. `from_pretrained` creates one.
        decoding: Settings of the search. By default, the published settings.
        scoring: Settings of the score. By default, the published settings.
        calibration: Gives each score a probability. By default, there are none.

    Raises:
        ValueError: If the settings do not fit the model, or the calibration is for another model
            or other settings.
        TypeError: If `engine` is the name of a model. Use `from_pretrained` instead.

    Examples:
        >>> from quals_fast import QualsScorer
        >>> scorer = QualsScorer.from_pretrained("qagen-mini")
        >>> document = "The bridge over the Tamar was opened by Queen Anne in 1962."
        >>> result = scorer.score([document], ["Queen Anne opened the Tamar bridge in 1962."])
        >>> result[0].status
        'ok'
    """

    def __init__(
        self,
        engine: Engine,
        *,
        decoding: DecodingConfig | None = None,
        scoring: ScoringConfig | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        if isinstance(engine, str | Path):
            raise TypeError(
                f"`engine` must be a loaded engine, but got the name {str(engine)!r}; use "
                "QualsScorer.from_pretrained to load a model by name"
            )
        self.engine = engine
        self.decoding = decoding or DecodingConfig()
        self.scoring = scoring or ScoringConfig()
        check_fits(engine.model.shape, engine.model.conventions, self.decoding)
        self.calibration = calibration
        if calibration is not None:
            calibration.check(self.signature)
        self._origin: dict[str, Any] | None = None

    @property
    def cache_stats(self) -> CacheStats | None:
        """Statistics of the cache of encoded documents, or None without a cache."""
        return self.engine.cache_stats

    def __deepcopy__(self, memo: dict[int, Any]) -> QualsScorer:
        return self  # nothing in it changes but its cache, and a model is large

    def __reduce__(self) -> tuple[Any, ...]:
        if self._origin is None:
            raise TypeError(
                "only a scorer from QualsScorer.from_pretrained can be pickled, since unpickling "
                "loads the model again; create this scorer with from_pretrained"
            )
        return _load_again, (self._origin, self.signature)

    @property
    def signature(self) -> str:
        """Everything that the scores depend on, in one line."""
        model = self.engine.model
        return signature(
            self.decoding,
            self.scoring,
            model=model.name,
            digest=model.digest,
            **model.runs_as(),
            calibration=None if self.calibration is None else self.calibration.digest,
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "qagen-mini",
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "auto",
        preset: str = "published",
        decoding: DecodingConfig | None = None,
        scoring: ScoringConfig | None = None,
        calibration: str | Path | Calibration | None = None,
        max_batch_tokens: int | None = None,
        cache_bytes: int = 0,
        graph_bytes: int | None = None,
        threads: int | None = None,
    ) -> QualsScorer:
        """Load a model: a bundled one, a local folder in Hugging Face format, or one on the hub.

        Args:
            model: ``"qagen-mini"``, a folder, or OWNER/NAME on the Hugging Face hub. A folder holds
                a BART or T5 checkpoint that names its separator, or a model written by ``quals-fast
                export``. From the hub, such a checkpoint is downloaded once, into the hub's cache
                (docs/models.md).
            revision: Branch, tag or commit of a model on the hub. By default, its main branch.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ..., or ``"auto"``: a GPU if there is one.
            dtype: Precision: ``"float32"``, ``"mixed"`` (CPU only), or ``"bfloat16"`` or
                ``"float16"`` (GPU only). ``"mixed"`` searches in float32, but preselects tokens
                and reads and rescores documents in 8-bit integers. ``"auto"`` is float16 on a GPU,
                as published; on a CPU, it is the fastest precision that keeps the rank correlation
                with float32 at 0.99 or more; ``"mixed"`` is refused for models that the integers
                do not fit. For a T5 model, which overflows float16, ``"auto"``
                is bfloat16 on a GPU that has it, and otherwise float32; float16 is refused. The
                signature says what was chosen. An exported model has the precision that it was
                exported with.
            backend: ``"eager"`` (plain PyTorch), ``"triton"`` (GPU kernels), ``"onnx"`` (a folder
                written by ``quals-fast export``), or ``"auto"``: ONNX for such a folder, otherwise
                Triton on a GPU and eager on a CPU.
            preset: ``"published"``, or ``"fast"`` with 30 beams instead of 60. bench/MODEL.md
                compares the two.
            decoding: Settings of the search. By default, those of the preset.
            scoring: Settings of the score. By default, those of the preset.
            calibration: Adds a probability to each score: a file that ``quals-fast calibrate``
                wrote for this model and these settings, or ``"bundled"`` for that of the bundled
                model, which also fits its exports. By default, there are no probabilities.
            max_batch_tokens: Number of tokens to process at once. Lower it to save memory. By
                default, 32,768 on a CPU and 327,680 on a GPU.
            cache_bytes: Memory, in bytes, for encoded documents that later calls need again, as
                in the epochs of a training run. 0 keeps none. When the cache is full, the least
                recently used document is dropped, so a set of documents that you go through
                repeatedly must fit as a whole. Must be 0 with the ONNX backend.
            graph_bytes: GPU memory, in bytes, that CUDA graphs may hold between calls. By default,
                a quarter of the GPU's memory; 0 disables CUDA graphs. Give less if the GPU is
                shared with a model in training.
            threads: Number of CPU threads. By default, one per core that this process may use,
                according to its CPU affinity, its container's CPU quota and, for PyTorch,
                ``OMP_NUM_THREADS``. PyTorch's threads are set for the whole process, ONNX
                Runtime's for this scorer only. A process that was forked after loading scores
                with one PyTorch thread.

        Returns:
            A scorer.

        Raises:
            CheckpointError: If the model cannot be found, downloaded or used. The message says
                why.
            BackendUnavailableError: If the backend, device or precision is not available.
            ValueError: If a name is unknown, a number is out of range, or the settings or the
                calibration do not fit the model.
            ModuleNotFoundError: If PyTorch, ONNX Runtime or huggingface_hub is needed but not
                installed.
        """
        chosen = settings_of(preset)
        settings: dict[str, Any] = {
            "decoding": decoding or chosen.decoding,
            "scoring": scoring or chosen.scoring,
            "calibration": None if calibration is None else Calibration.load(calibration),
        }
        placement: dict[str, Any] = {
            "revision": revision,
            "device": device,
            "dtype": dtype,
            "backend": backend,
            "threads": threads,
            "max_batch_tokens": max_batch_tokens,
            "cache_bytes": cache_bytes,
            "graph_bytes": graph_bytes,
        }
        scorer = cls(load(model, **placement), **settings)
        name = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
        if is_hub_name(model):  # a pickle is loaded from the same commit
            placement["revision"] = scorer.engine.model.name.rpartition("@")[2]
        scorer._origin = {"model": name, **placement, **settings}
        return scorer

    def score(
        self,
        documents: Sequence[str],
        summaries: Sequence[str] | Sequence[Sequence[str]],
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> QualsResult:
        """Score each summary against its document.

        Args:
            documents: One text per row.
            summaries: One summary per document, or one list of summaries per document.
            on_progress: Called from time to time with the number of summaries processed since the
                last call: searched (CPU) or scored (GPU).

        Returns:
            Scores in the order and nesting of `summaries`. If a summary cannot be scored, its
            `status` says why; the others are not affected.

        Raises:
            ValueError: If the two lists differ in length.
            TypeError: If an argument is not a list or another one-dimensional container (array,
                series, column).
        """
        given = check_texts("documents", documents)
        entries = check_texts("summaries", summaries)
        check_same_length("summaries", entries, given)
        nested = [one if (own := as_list(one)) is None else own for one in entries]
        tasks: list[tuple[Any, Any]] = [
            (document, summary)
            for document, entry in zip(given, nested, strict=True)
            for summary in (entry if isinstance(entry, list | tuple) else [entry])
        ]
        checked = [check_pair(document, summary) for document, summary in tasks]
        readable = [task for task, problem in zip(tasks, checked, strict=True) if problem is None]
        scored = iter(self._score(readable, on_progress or (lambda n: None)))
        rows = [next(scored) if problem is None else problem for problem in checked]
        return QualsResult(nested_like(nested, rows), self.signature)

    def generate(self, summaries: Sequence[str]) -> list[list[Hypothesis]]:
        """Generate question-answer sequences from each summary.

        This is the first step of scoring, before sequences are filtered.

        Args:
            summaries: Texts.

        Returns:
            For each summary, its hypotheses in the order of the search rule.

        Raises:
            ValueError: If a summary is empty or not valid text. The message gives its index.
            TypeError: If `summaries` is not a list.
        """
        sources = self.engine.model.tokenizer.encode(require_texts("summaries", summaries))
        with self.engine.inference():
            by_index = dict(self.engine.search(sources, self.decoding))
        return [by_index[index] for index in range(len(sources))]

    def rescore(
        self, documents: Sequence[str], token_ids: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[TokenLogprobs]]:
        """Compute log-probabilities of given token sequences, given their documents.

        Args:
            documents: Texts.
            token_ids: For each document, a list of targets. A target is a list of token ids,
                ``question SEP answer EOS``.

        Returns:
            For each document and target, the log-probability of every token, in nats.

        Raises:
            ValueError: If the lists differ in length, a text or target is empty, or a target is
                too long or has an id out of range.
            TypeError: If an argument is not nested lists of the right type.
        """
        model = self.engine.model
        texts, shape = require_texts("documents", documents), model.shape
        targets = check_token_ids(token_ids, shape.max_position_embeddings, shape.vocab_size)
        check_same_length("token_ids", targets, texts)
        with self.engine.inference():
            return self.engine.rescore(model.tokenizer.encode(texts), targets)

    def _score(
        self, texts: list[tuple[str, str]], on_progress: Callable[[int], None]
    ) -> list[SummaryScore]:
        """Score each pair whose tokens suffice for a score."""
        pairs = self._encode(texts)
        checked = [check_tokens(*pair) for pair in pairs]
        good = [pair for pair, problem in zip(pairs, checked, strict=True) if problem is None]
        if len(good) < len(pairs):
            on_progress(len(pairs) - len(good))
        with self.engine.inference():
            scored = self.engine.score(good, self.decoding, self.scoring.max_pairs, on_progress)
        rows = iter([self._aggregate(*both) for both in zip(good, scored, strict=True)])
        return [next(rows) if problem is None else problem for problem in checked]

    def _encode(self, texts: list[tuple[str, str]]) -> list[TextPair]:
        """Tokenise each distinct text once."""
        tokenizer = self.engine.model.tokenizer

        def encode(distinct: list[str], with_places: bool) -> dict[str, Source]:
            encoded = tokenizer.encode(distinct, with_places=with_places)
            return dict(zip(distinct, encoded, strict=True))

        documents = encode(list(dict.fromkeys(document for document, _ in texts)), False)
        summaries = encode(
            list(dict.fromkeys(summary for _, summary in texts)), needs_places(tokenizer)
        )
        return [TextPair(documents[document], summaries[summary]) for document, summary in texts]

    def _aggregate(self, pair: TextPair, scored: Scored) -> SummaryScore:
        """Average each pair's token differences, then the pairs."""
        answer_only = self.scoring.tokens == "answer"
        with_penalties = self.scoring.summary_logprob == "search"
        model = self.engine.model
        readable_tokens, sep = model.tokenizer.readable_tokens, model.conventions.sep_token_id
        places = answer_spans(scored.kept, pair.summary, model.tokenizer, model.conventions)
        pairs = tuple(
            QAPair(
                question=question,
                answer=answer,
                token_ids=chosen.token_ids,
                tokens=readable_tokens(chosen.token_ids),
                summary_logprobs=chosen.search_logprobs if with_penalties else chosen.logprobs,
                document_logprobs=logprobs,
                first_counted=chosen.token_ids.index(sep) + 1 if answer_only else 0,
                answer_spans=spans,
            )
            for (question, answer, chosen), logprobs, spans in zip(
                scored.kept, scored.document_logprobs, places, strict=True
            )
        )
        score = SummaryScore.of_pairs(
            pairs,
            no_pairs_score=self.scoring.no_pairs_score,
            n_hypotheses=scored.n_hypotheses,
            num_beams=self.decoding.num_beams,
            truncated_tokens=pair.summary.truncated_tokens + pair.document.truncated_tokens,
            unknown_tokens=pair.summary.unknown_tokens + pair.document.unknown_tokens,
            summary=pair.summary.text,
        )
        if self.calibration is None:
            return score
        return replace(score, probability=self.calibration.probability(score))


def _load_again(origin: dict[str, Any], signature: str) -> QualsScorer:
    """Unpickle a scorer: load it again with the same arguments."""
    scorer = QualsScorer.from_pretrained(**origin)
    if scorer.signature != signature:
        raise RuntimeError(
            f"the scorer was pickled as {signature}, but loads here as {scorer.signature}; scores "
            "of the two are not comparable: create a new one with QualsScorer.from_pretrained"
        )
    return scorer
