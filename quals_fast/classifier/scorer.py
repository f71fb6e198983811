"""Score summaries with a classifier: the mean probability of a label over their sentences."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast, get_args

import torch
from tokenizers import Encoding

from quals_fast import __version__
from quals_fast.batching import pad, run_batches
from quals_fast.classifier.checkpoint import (
    Classifier,
    ClassifierMetric,
    index_of_label,
    load_classifier,
)
from quals_fast.classifier.results import (
    ClassifierResult,
    ClassifierScore,
    ClassifierStatus,
    SentenceScore,
)
from quals_fast.classifier.sentences import SentenceSplitter
from quals_fast.models.checkpoint import CheckpointError
from quals_fast.models.loading import resolve_device
from quals_fast.processes import limit_threads, survive_fork
from quals_fast.results import SummaryScore
from quals_fast.signature import escaped
from quals_fast.validation import check_pair, check_same_length, check_texts, check_tokens

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BATCH_TOKENS = {"cpu": 2_048, "cuda": 131_072}  # as for QAGS, whose BERT is alike
_NAN = (
    "the classifier returned NaN, as can happen in float16 when numbers overflow; use "
    "dtype='float32'"
)


class _Pair(NamedTuple):
    """A document and a sentence, both by their text."""

    document: str
    sentence: str


class _Input(NamedTuple):
    """A pair as the network reads it, and how many tokens were cut off either text."""

    ids: list[int]
    segments: list[int]
    cut_document: int
    cut_sentence: int


class _Judged(NamedTuple):
    """The likeliest label of a pair, and the probability of the positive one."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class _Tokens:
    """How many tokens a text has, as `validation.TokenCounts`."""

    n_tokens: int
    unknown_tokens: int
    truncated_tokens: int = 0


class ClassifierScorer:
    """Score summaries with a sequence classifier, such as FactCC (arXiv 1910.12840).

    Each sentence of a summary is classified together with the document; the score is the mean
    probability of the label for consistent text. If a document and a sentence have too many tokens
    together, the longer of them is cut, as in FactCC's published code (salesforce/factCC at
    23ec0ac, modeling/utils.py): the document, unless the sentence takes more than half of the
    input.

    Args:
        classifier: as `load_classifier` returns it.
        positive: name of the label for consistent text. For FactCC it is CORRECT.
        metric: ``"classifier"``, or ``"factcc"`` for what follows FactCC's published code.
        max_batch_tokens: number of tokens to process at once; sets peak memory. None means 2,048 on
            a CPU and 131,072 on a GPU.

    Raises:
        CheckpointError: the classifier has no room for two texts.
        ModuleNotFoundError: spaCy is not installed.
        ValueError: the classifier has no such label, or an argument is out of range.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        positive: str | None = None,
        metric: ClassifierMetric = "classifier",
        max_batch_tokens: int | None = None,
    ) -> None:
        if max_batch_tokens is not None and max_batch_tokens < 1:
            raise ValueError(f"`max_batch_tokens` must be at least 1, but got {max_batch_tokens}")
        self.classifier = classifier
        self._positive = index_of_label(classifier, positive, metric)
        self._device: torch.device = classifier.network.device
        self.max_batch_tokens = max_batch_tokens or _BATCH_TOKENS[self._device.type]
        self._splitter = SentenceSplitter()
        n_special = classifier.pair_tokenizer.num_special_tokens_to_add(is_pair=True)
        self._room = classifier.max_tokens - n_special  # for two texts
        if self._room < 2:
            raise CheckpointError(
                f"{classifier.name} must have room for two texts, but reads only "
                f"{classifier.max_tokens} tokens; check `model_max_length` in tokenizer_config.json"
            )
        parts = {
            "positive": escaped(classifier.labels[self._positive]),
            "sentences": self._splitter.name,
            "positions": str(classifier.max_tokens),
            "model": f"{escaped(classifier.name)}@{classifier.digest}",
            "dtype": str(classifier.network.dtype).removeprefix("torch."),
            "version": __version__,
        }
        self._signature = "|".join([metric, *(f"{key}:{value}" for key, value in parts.items())])

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        positive: str | None = None,
        metric: ClassifierMetric = "classifier",
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_batch_tokens: int | None = None,
    ) -> ClassifierScorer:
        """Load a classifier.

        Args:
            model: a folder that transformers' ``save_pretrained`` wrote, or OWNER/NAME on the
                Hugging Face hub. With ``metric="factcc"``, also FactCC's checkpoint with
                ``vocab.txt`` of bert-base-uncased.
            positive: see the class.
            metric: see the class.
            revision: branch, tag or commit of a model on the hub.
            device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
            dtype: ``"float32"`` (which ``"auto"`` stands for), ``"bfloat16"`` or ``"float16"``.
            max_batch_tokens: see the class.

        Raises:
            CheckpointError: the classifier cannot be used; the message says why.
            ModuleNotFoundError: transformers or spaCy is not installed.
            BackendUnavailableError: the device does not exist.
            ValueError: as for the class.
        """
        if metric not in get_args(ClassifierMetric):
            raise ValueError(
                f"`metric` must be one of {', '.join(get_args(ClassifierMetric))}, but got "
                f"{metric!r}"
            )
        if dtype not in ("auto", *_DTYPES):
            raise ValueError(
                f"`dtype` must be one of auto, {', '.join(_DTYPES)} for a classifier, but got "
                f"{dtype!r}"
            )
        limit_threads(None)
        classifier = load_classifier(
            model,
            metric,
            revision=revision,
            device=resolve_device(device),
            dtype=_DTYPES["float32" if dtype == "auto" else dtype],
        )
        return cls(classifier, positive=positive, metric=metric, max_batch_tokens=max_batch_tokens)

    @property
    def signature(self) -> str:
        """Everything that the scores depend on, in one line."""
        return self._signature

    def score(
        self,
        documents: Sequence[str],
        summaries: Sequence[str],
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> ClassifierResult:
        """Score each summary against its document, under inference mode.

        Args:
            documents: texts.
            summaries: one text per document.
            on_progress: called with the number of summaries whose score was just computed, or that
                have none.

        Returns:
            Scores in order. If a pair cannot be scored, its `status` says why; the others are not
            affected.

        Raises:
            ValueError: the lists differ in length.
            TypeError: an argument is not a list.
        """
        texts = check_texts("documents", documents)
        entries = check_texts("summaries", summaries)
        check_same_length("summaries", entries, texts)
        rows: dict[int, ClassifierScore] = {}
        pairs_of: dict[int, list[_Pair]] = {}
        for index, (document, summary) in enumerate(zip(texts, entries, strict=True)):
            bad = check_pair(document, summary)
            if bad is not None:
                rows[index] = _without_score(bad)
                continue
            sentences = self._splitter.split(str(summary))
            pairs_of[index] = [_Pair(str(document), sentence) for sentence in sentences]
        encodings = self._encode(pairs_of.values())
        unknown: dict[int, int] = {}
        for index, pairs in list(pairs_of.items()):
            of_document = self._count(encodings[pairs[0].document])
            of_summary = self._count(*(encodings[pair.sentence] for pair in pairs))
            bad = check_tokens(of_document, of_summary)
            if bad is not None:
                rows[index] = _without_score(bad)
                del pairs_of[index]
            unknown[index] = of_document.unknown_tokens + of_summary.unknown_tokens
        report = on_progress or (lambda n: None)
        report(len(rows))
        distinct = dict.fromkeys(pair for pairs in pairs_of.values() for pair in pairs)
        inputs = {pair: self._join(*(encodings[text] for text in pair)) for pair in distinct}
        judged = self._judge(inputs, pairs_of.values(), report)
        for index, pairs in pairs_of.items():
            rows[index] = _score(pairs, inputs, judged, unknown[index])
        return ClassifierResult(tuple(rows[index] for index in range(len(texts))), self.signature)

    def _encode(self, groups: Iterable[list[_Pair]]) -> dict[str, Encoding]:
        """Return the tokens of each distinct text, without special tokens."""
        distinct = list(dict.fromkeys(text for pairs in groups for pair in pairs for text in pair))
        encodings = self.classifier.text_tokenizer.encode_batch(distinct, add_special_tokens=False)
        return dict(zip(distinct, encodings, strict=True))

    def _count(self, *encodings: Encoding) -> _Tokens:
        unknown = self.classifier.unknown_token_id
        return _Tokens(
            n_tokens=sum(len(one.ids) for one in encodings),
            unknown_tokens=sum(token == unknown for one in encodings for token in one.ids),
        )

    def _join(self, document: Encoding, sentence: Encoding) -> _Input:
        """Join two texts with special tokens, cutting the longer one if they are too long."""
        n_document, n_sentence = len(document.ids), len(sentence.ids)
        # What is left when one token after the other is taken off the longer text, and off the
        # sentence if they are equally long.
        kept_sentence = min(n_sentence, max(self._room // 2, self._room - n_document))
        kept_document = min(n_document, self._room - kept_sentence)
        # Copies, since a document is cut differently for each sentence.
        first, second = (Encoding.merge([one], False) for one in (document, sentence))
        first.truncate(kept_document)
        second.truncate(kept_sentence)
        joined = self.classifier.pair_tokenizer.post_process(first, second)
        return _Input(
            joined.ids, joined.type_ids, n_document - kept_document, n_sentence - kept_sentence
        )

    def _judge(
        self,
        inputs: dict[_Pair, _Input],
        groups: Iterable[list[_Pair]],
        report: Callable[[int], None],
    ) -> dict[_Pair, _Judged | None]:
        """Classify all pairs in batches of similar lengths; report rows when they are complete."""
        survive_fork(self._device.type)
        pairs, given = list(inputs), list(inputs.values())
        waiting = [set(group) for group in groups]
        rows_of: dict[_Pair, list[set[_Pair]]] = defaultdict(list)
        for row in waiting:
            for pair in row:
                rows_of[pair].append(row)
        judged: dict[_Pair, _Judged | None] = {}
        for index, result in run_batches(
            [len(one.ids) for one in given],
            self.max_batch_tokens,
            lambda batch: self._run([given[i] for i in batch]),
        ):
            pair = pairs[index]
            judged[pair] = result
            for row in rows_of[pair]:
                row.remove(pair)
                if not row:
                    report(1)
        return judged

    @torch.inference_mode()
    def _run(self, batch: Sequence[_Input]) -> list[_Judged | None]:
        """Classify a batch; None where the network gives NaN."""
        classifier = self.classifier
        ids, is_token = pad([one.ids for one in batch], classifier.pad_token_id, self._device)
        given = {"input_ids": ids, "attention_mask": is_token.long()}
        if classifier.has_segments:
            given["token_type_ids"], _ = pad([one.segments for one in batch], 0, self._device)
        shares = classifier.network(**given).logits.float().softmax(-1)
        likeliest = shares.argmax(-1).tolist()
        return [
            None if math.isnan(score) else _Judged(label=classifier.labels[index], score=score)
            for index, score in zip(likeliest, shares[:, self._positive].tolist(), strict=True)
        ]


def _score(
    pairs: Sequence[_Pair],
    inputs: Mapping[_Pair, _Input],
    judged: Mapping[_Pair, _Judged | None],
    unknown_tokens: int,
) -> ClassifierScore:
    """Return the score of a summary from what was said of its sentences."""
    scored = []
    for pair in pairs:
        result = judged[pair]
        if result is None:
            return ClassifierScore(status="error", message=_NAN)
        scored.append(
            SentenceScore(
                sentence=pair.sentence,
                label=result.label,
                score=result.score,
                truncated_tokens=inputs[pair].cut_sentence,
            )
        )
    return ClassifierScore(
        status="ok",
        score=math.fsum(one.score for one in scored) / len(scored),
        pairs=tuple(scored),
        truncated_tokens=max(inputs[pair].cut_document for pair in pairs)
        + sum(one.truncated_tokens for one in scored),
        unknown_tokens=unknown_tokens,
    )


def _without_score(bad: SummaryScore) -> ClassifierScore:
    """Return what the checks of all metrics say as a row of this one."""
    return ClassifierScore(
        status=cast(ClassifierStatus, bad.status),
        truncated_tokens=bad.truncated_tokens,
        unknown_tokens=bad.unknown_tokens,
        message=bad.message,
    )
