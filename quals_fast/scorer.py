"""The story of the program: generate, filter, rescore, aggregate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from quals_fast.config import DecodingConfig, ScoringConfig
from quals_fast.filtering import KeptPair, keep_pairs
from quals_fast.generation import check_fits, generate
from quals_fast.models.loading import QAGenerator, load_generator, resolve_device, resolve_dtype
from quals_fast.models.tokenizer import Source
from quals_fast.ops import resolve_backend
from quals_fast.rescoring import rescore
from quals_fast.results import (
    Hypothesis,
    QAPair,
    QualsResult,
    SummaryScore,
    TokenLogprobs,
    nested_like,
)
from quals_fast.signature import signature
from quals_fast.validation import (
    check_pair,
    check_same_length,
    check_texts,
    check_token_ids,
    require_texts,
)

DEFAULT_BATCH_TOKENS = 16_384


class _Generated(NamedTuple):
    """A summary between generation and rescoring."""

    source: Source
    pairs: list[KeptPair]
    n_hypotheses: int


class QualsScorer:
    """Score summaries against their documents with QUALS (arXiv 2105.04623).

    Args:
        generator: a loaded model; `from_pretrained` loads one.
        backend: as in `from_pretrained`.
        decoding: settings of the search.
        scoring: settings of the score.
        max_batch_tokens: tokens that the network holds at once; it sets peak memory.

    Raises:
        ValueError: the settings and the model do not fit together.
        BackendUnavailableError: the backend is not to be had.

    Example:
        >>> from quals_fast import QualsScorer
        >>> scorer = QualsScorer.from_pretrained("qagen-mini")
        >>> document = "The bridge over the Tamar was opened by Queen Anne in 1962."
        >>> result = scorer.score([document], ["Queen Anne opened the Tamar bridge in 1962."])
        >>> result[0].status
        'ok'
    """

    def __init__(
        self,
        generator: QAGenerator,
        *,
        backend: str = "auto",
        decoding: DecodingConfig | None = None,
        scoring: ScoringConfig | None = None,
        max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> None:
        self.generator = generator
        self.decoding = decoding or DecodingConfig()
        self.scoring = scoring or ScoringConfig()
        self.max_batch_tokens = max_batch_tokens
        self.backend = resolve_backend(backend)
        if max_batch_tokens < 1:
            raise ValueError(f"`max_batch_tokens` must be at least 1, but got {max_batch_tokens}")
        check_fits(generator, self.decoding)

    @property
    def signature(self) -> str:
        """Everything that the scores depend on, in one line."""
        return signature(
            self.decoding,
            self.scoring,
            model=self.generator.name,
            digest=self.generator.digest,
            dtype=str(self.generator.bart.dtype).removeprefix("torch."),
            backend=self.backend,
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "qagen-mini",
        *,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "auto",
        decoding: DecodingConfig | None = None,
        scoring: ScoringConfig | None = None,
        max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> QualsScorer:
        """Load a model: the bundled one by name, or a local Hugging Face folder.

        Args:
            model: ``"qagen-mini"``, or a folder with a BART checkpoint in safetensors whose config
                names a ``sep_token_id``. Nothing is downloaded.
            device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
            dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; ``"auto"`` is float32.
            backend: ``"auto"`` or ``"eager"``.
            decoding: settings of the search; the published ones by default.
            scoring: settings of the score; the published ones by default.
            max_batch_tokens: tokens that the network holds at once; it sets peak memory.

        Raises:
            CheckpointError: the folder cannot be used; the message says what is missing.
            BackendUnavailableError: the backend or the device is not to be had.
            ValueError: an unknown name, or settings that do not fit the model.
        """
        resolve_backend(backend)  # before the weights are read
        generator = load_generator(model, device=resolve_device(device), dtype=resolve_dtype(dtype))
        return cls(
            generator,
            backend=backend,
            decoding=decoding,
            scoring=scoring,
            max_batch_tokens=max_batch_tokens,
        )

    @torch.inference_mode()
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
            on_progress: called with the number of summaries that questions were just generated
                from; most of the time goes there.

        Returns:
            Scores in the order and shape of `summaries`. A pair that cannot be scored has a status
            that says so and does not touch the others.

        Raises:
            ValueError: the two lists differ in length.
            TypeError: an argument is not a list.
        """
        check_same_length(
            "summaries", check_texts("summaries", summaries), check_texts("documents", documents)
        )
        tasks: list[tuple[Any, Any]] = [
            (document, summary)
            for document, entry in zip(documents, summaries, strict=True)
            for summary in (entry if isinstance(entry, list | tuple) else [entry])
        ]
        checked = [check_pair(document, summary) for document, summary in tasks]
        good = [task for task, problem in zip(tasks, checked, strict=True) if problem is None]

        generated = self._generate_and_filter([summary for _, summary in good], on_progress)
        sources = self._encode_documents([document for document, _ in good])
        logprobs = self._rescore(sources, [_token_ids(one.pairs) for one in generated])
        scored = map(self._aggregate, generated, sources, logprobs)

        flat = [next(scored) if problem is None else problem for problem in checked]
        return QualsResult(nested_like(summaries, flat), self.signature)

    @torch.inference_mode()
    def generate(self, summaries: Sequence[str]) -> list[list[Hypothesis]]:
        """Generate question-answer sequences from each summary, in the rule's order.

        Raises:
            ValueError: a summary is empty or not valid text; the message gives its index.
        """
        sources = self.generator.tokenizer.encode(require_texts("summaries", summaries))
        found = dict(self._search(sources))
        return [found[index] for index in range(len(sources))]

    @torch.inference_mode()
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
        sources = self.generator.tokenizer.encode(require_texts("documents", documents))
        check_same_length("token_ids", token_ids, documents)
        shape = self.generator.bart.shape
        check_token_ids(token_ids, shape.max_position_embeddings, shape.vocab_size)
        return self._rescore(sources, token_ids)

    def _encode_documents(self, documents: list[str]) -> list[Source]:
        """Tokenise each distinct document once."""
        distinct = list(dict.fromkeys(documents))
        by_text = dict(zip(distinct, self.generator.tokenizer.encode(distinct), strict=True))
        return [by_text[document] for document in documents]

    def _search(self, sources: list[Source]) -> Iterator[tuple[int, list[Hypothesis]]]:
        ids = [source.input_ids for source in sources]
        return generate(self.generator, ids, self.decoding, self.max_batch_tokens)

    def _generate_and_filter(
        self, summaries: list[str], on_progress: Callable[[int], None] | None
    ) -> list[_Generated]:
        tokenizer, settings = self.generator.tokenizer, self.generator.settings
        sources = tokenizer.encode(summaries)
        done: dict[int, _Generated] = {}
        for i, hypotheses in self._search(sources):
            text_ids, limit = sources[i].text_ids, self.scoring.max_pairs
            pairs = keep_pairs(hypotheses, summaries[i], text_ids, tokenizer, settings, limit)
            done[i] = _Generated(sources[i], pairs, len(hypotheses))
            if on_progress is not None:
                on_progress(1)
        return [done[i] for i in range(len(summaries))]

    def _rescore(
        self, sources: list[Source], token_ids: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[TokenLogprobs]]:
        ids = [source.input_ids for source in sources]
        return rescore(self.generator, ids, token_ids, self.max_batch_tokens)

    def _aggregate(
        self, generated: _Generated, document: Source, document_logprobs: list[TokenLogprobs]
    ) -> SummaryScore:
        """Take the mean over pairs of the mean difference over tokens."""
        with_penalties = self.scoring.summary_logprob == "search"
        pairs = tuple(
            QAPair(
                question=question,
                answer=answer,
                token_ids=found.token_ids,
                tokens=self.generator.tokenizer.readable_tokens(found.token_ids),
                summary_logprobs=found.search_logprobs if with_penalties else found.logprobs,
                document_logprobs=logprobs,
            )
            for (question, answer, found), logprobs in zip(
                generated.pairs, document_logprobs, strict=True
            )
        )
        return SummaryScore.of_pairs(
            pairs,
            no_pairs_score=self.scoring.no_pairs_score,
            n_hypotheses=generated.n_hypotheses,
            num_beams=self.decoding.num_beams,
            truncated_tokens=generated.source.truncated_tokens + document.truncated_tokens,
        )


def _token_ids(pairs: list[KeptPair]) -> list[tuple[int, ...]]:
    return [pair.hypothesis.token_ids for pair in pairs]
