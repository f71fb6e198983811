"""The story of the program: generate, filter, rescore, aggregate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quals_fast.backends import load
from quals_fast.config import DecodingConfig, ScoringConfig, settings_of
from quals_fast.engine.protocol import Engine, Scored, TextPair
from quals_fast.models.checkpoint import check_fits
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

    Args:
        engine: a loaded model and the way to compute it; `from_pretrained` makes one.
        decoding: settings of the search.
        scoring: settings of the score.

    Raises:
        ValueError: the settings and the model do not fit together.
        TypeError: a model's name in place of an engine.

    Scoring leaves random numbers, autograd and autocast as they are, and takes nothing from them:
    it may be done inside a training step. Of several threads that use one scorer, one at a time
    computes; the others wait. One of `from_pretrained` can be pickled, by the arguments that it was
    loaded with; its deep copy is itself.

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
    ) -> None:
        if isinstance(engine, str | Path):
            raise TypeError(
                f"`engine` must be a loaded one, but got the name {str(engine)!r}; use "
                "QualsScorer.from_pretrained to load a model"
            )
        self.engine = engine
        self.decoding = decoding or DecodingConfig()
        self.scoring = scoring or ScoringConfig()
        check_fits(engine.model.shape, engine.model.conventions, self.decoding)
        self._origin: dict[str, Any] | None = None

    @property
    def cache_stats(self) -> CacheStats | None:
        """Hits and misses of the cache of encoded documents, and its size; None without one."""
        return self.engine.cache_stats

    def __deepcopy__(self, memo: dict[int, Any]) -> QualsScorer:
        return self  # nothing in it changes but its cache, and a model is large

    def __reduce__(self) -> tuple[Any, ...]:
        if self._origin is None:
            raise TypeError(
                "only a scorer of QualsScorer.from_pretrained can be pickled, since it is loaded "
                "again on the other side; make this one with it"
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
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "qagen-mini",
        *,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "auto",
        preset: str = "published",
        decoding: DecodingConfig | None = None,
        scoring: ScoringConfig | None = None,
        max_batch_tokens: int | None = None,
        cache_bytes: int = 0,
        graph_bytes: int | None = None,
        threads: int | None = None,
    ) -> QualsScorer:
        """Load a model: the bundled one by name, or a local Hugging Face folder.

        Args:
            model: ``"qagen-mini"``, or a folder with a BART checkpoint in safetensors whose config
                names a ``sep_token_id``. Nothing is downloaded.
            device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
            dtype: ``"float32"``, ``"mixed"`` (CPU only: float32 search, LM head screened with
                8-bit integers, documents in bfloat16), or, on a GPU only, ``"bfloat16"`` or
                ``"float16"``. ``"auto"`` takes on a CPU the fastest that keeps the rank
                correlation with float32 at 0.99 or more, on a GPU float16, as published.
            backend: ``"eager"``, ``"triton"``, ``"onnx"`` for a folder that `quals-fast export` has
                written, or ``"auto"``: ONNX for such a folder, else Triton on a GPU and eager
                elsewhere.
            preset: ``"published"``, or ``"fast"`` with 30 beams, not 60; what both are worth is in
                bench/MODEL.md.
            decoding: settings of the search; those of the preset by default.
            scoring: settings of the score; those of the preset by default.
            max_batch_tokens: tokens that the network holds at once; it sets peak memory. By default
                32,768 on a CPU and 327,680 on a GPU.
            cache_bytes: room for encoded documents that later calls will ask for again, as epochs
                of a training do; 0 keeps none. The least recently used go first, so what is gone
                through again and again must fit as a whole. Not for the ONNX backend.
            graph_bytes: GPU memory that CUDA graphs may hold between calls; by default a quarter of
                the GPU's, 0 for no graphs. Give less where the card is shared with a model in
                training.
            threads: CPU threads; by default one for each core that this process may use, by its
                affinity and its container's CPU quota, for PyTorch also by OMP_NUM_THREADS.
                PyTorch's are the whole process's, ONNX Runtime's this scorer's. A process that is
                forked after loading scores with one PyTorch thread.

        Raises:
            CheckpointError: the folder cannot be used; the message says what is missing.
            BackendUnavailableError: the backend or the device is not to be had.
            ValueError: an unknown name, or settings that do not fit the model.
            ModuleNotFoundError: PyTorch, or ONNX Runtime, is not installed and needed.
        """
        chosen = settings_of(preset)
        settings: dict[str, Any] = {
            "decoding": decoding or chosen.decoding,
            "scoring": scoring or chosen.scoring,
        }
        placement: dict[str, Any] = {
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
        scorer._origin = {"model": name, **placement, **settings}
        return scorer

    def score(
        self,
        documents: Sequence[str],
        summaries: Sequence[str] | Sequence[Sequence[str]],
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> QualsResult:
        """Score each summary against its document, under inference mode.

        Args:
            documents: texts.
            summaries: one text a document, or one list of texts a document.
            on_progress: called with the number of summaries that were just searched (CPU) or scored
                (GPU).

        Returns:
            Scores in the order and shape of `summaries`. A pair that cannot be scored has a status
            that says so and does not touch the others.

        Raises:
            ValueError: the two lists differ in length.
            TypeError: an argument is not a list or vector (array, series, column).
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
        """Generate question-answer sequences from each summary, in the rule's order.

        Raises:
            ValueError: a summary is empty or not valid text; the message gives its index.
        """
        sources = self.engine.model.tokenizer.encode(require_texts("summaries", summaries))
        with self.engine.inference():
            by_index = dict(self.engine.search(sources, self.decoding))
        return [by_index[index] for index in range(len(sources))]

    def rescore(
        self, documents: Sequence[str], token_ids: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[TokenLogprobs]]:
        """Return the log-probabilities, nats, of given targets of each document.

        Args:
            documents: texts.
            token_ids: for each document a list of targets, ``question SEP answer EOS`` each.

        Raises:
            ValueError: lengths differ, a text or target is empty, a target is too long or has an
                id out of range.
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
        """Score document and summary of each pair, if their tokens say enough for that."""
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
        distinct = list(dict.fromkeys(text for pair in texts for text in pair))
        encoded = self.engine.model.tokenizer.encode(distinct)
        by_text: dict[str, Source] = dict(zip(distinct, encoded, strict=True))
        return [TextPair(by_text[document], by_text[summary]) for document, summary in texts]

    def _aggregate(self, pair: TextPair, scored: Scored) -> SummaryScore:
        """Take the mean over pairs of the mean difference over tokens."""
        with_penalties = self.scoring.summary_logprob == "search"
        readable_tokens = self.engine.model.tokenizer.readable_tokens
        pairs = tuple(
            QAPair(
                question=question,
                answer=answer,
                token_ids=chosen.token_ids,
                tokens=readable_tokens(chosen.token_ids),
                summary_logprobs=chosen.search_logprobs if with_penalties else chosen.logprobs,
                document_logprobs=logprobs,
            )
            for (question, answer, chosen), logprobs in zip(
                scored.kept, scored.document_logprobs, strict=True
            )
        )
        return SummaryScore.of_pairs(
            pairs,
            no_pairs_score=self.scoring.no_pairs_score,
            n_hypotheses=scored.n_hypotheses,
            num_beams=self.decoding.num_beams,
            truncated_tokens=pair.summary.truncated_tokens + pair.document.truncated_tokens,
            unknown_tokens=pair.summary.unknown_tokens + pair.document.unknown_tokens,
        )


def _load_again(origin: dict[str, Any], signature: str) -> QualsScorer:
    """Unpickle a scorer: load it as it was loaded before."""
    scorer = QualsScorer.from_pretrained(**origin)
    if scorer.signature != signature:
        raise RuntimeError(
            f"the scorer was pickled as {signature}, but loads here as {scorer.signature}; their "
            "scores are not comparable, so make a new one with QualsScorer.from_pretrained"
        )
    return scorer
