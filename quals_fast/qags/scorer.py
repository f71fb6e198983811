"""QAGS: ask questions about a summary, and compare the answers of summary and document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from quals_fast import __version__
from quals_fast.models.loading import resolve_device
from quals_fast.processes import limit_threads, survive_fork
from quals_fast.qags.answering import Ask, QuestionAnswerer
from quals_fast.qags.answers import ANSWERS_PER_SUMMARY, AnswerExtractor, SpacyAnswers
from quals_fast.qags.filtering import QUESTIONS_PER_SUMMARY
from quals_fast.qags.networks import NetworkFiles, read_both_networks
from quals_fast.qags.questions import SETTINGS, QuestionGenerator, SettingName
from quals_fast.qags.results import (
    STAGES,
    QagsResult,
    QagsScore,
    QagsStatus,
    Replay,
    Stage,
    StageWork,
)
from quals_fast.qags.stages import Stages, Task
from quals_fast.signature import escaped
from quals_fast.validation import check_pair, check_same_length, check_texts

Arm = Literal["as_shipped", "batched"]

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# On a CPU five windows at once stay in the caches: in float32, BERT takes a seventh less time for a
# window than at 8,192 tokens.
_BATCH_TOKENS = {"cpu": 2_048, "cuda": 131_072}


class QagsScorer:
    """Score summaries against their documents with QAGS (docs/semantics.md 2; arXiv 2004.04228).

    Args:
        generation: files of the question generator.
        answering: files of the question-answering network.
        extractor: finds answer candidates; by default spaCy.
        arm: ``"batched"`` is optimised for speed; ``"as_shipped"`` does as the published program:
            questions for one answer at a time, nothing shared, windows padded to full length. In
            float32 both give the same scores.
        setting: ``"shipped"`` (beam 5, and so 5 questions per answer) or ``"paper"`` (beam 10, 10
            questions per answer).
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: float16 in the batched
            arm on a GPU, else float32.
        seed: random seed for drawing answer candidates.
        answer_filter: keep only questions to which the summary gives the expected answer.
        max_batch_tokens: number of tokens to process at once in the batched arm; sets peak memory.
            None means 2,048 on a CPU and 131,072 on a GPU.

    Raises:
        CheckpointError: a model cannot be used.
        ModuleNotFoundError: transformers, spaCy or a spaCy model is not installed.
        BackendUnavailableError: the device does not exist.
        ValueError: a name is unknown.
    """

    def __init__(
        self,
        generation: NetworkFiles,
        answering: NetworkFiles,
        *,
        extractor: AnswerExtractor | None = None,
        arm: Arm = "batched",
        setting: SettingName = "shipped",
        device: str = "auto",
        dtype: str = "auto",
        seed: int = 0,
        answer_filter: bool = False,
        max_batch_tokens: int | None = None,
    ) -> None:
        _check_choice("arm", arm, get_args(Arm))
        _check_choice("setting", setting, tuple(SETTINGS))
        _check_choice("dtype", dtype, ("auto", *_DTYPES))
        if arm == "as_shipped" and (dtype not in ("auto", "float32") or max_batch_tokens):
            raise ValueError(
                "arm 'as_shipped' computes in float32 with the published batch size, but got "
                f"dtype={dtype!r}, max_batch_tokens={max_batch_tokens}; leave them out"
            )
        if max_batch_tokens is not None and max_batch_tokens < 1:
            raise ValueError(f"`max_batch_tokens` must be at least 1, but got {max_batch_tokens}")
        place = resolve_device(device)
        self.dtype = _resolve_dtype(dtype, arm, place)
        self.max_batch_tokens = (
            None if arm == "as_shipped" else max_batch_tokens or _BATCH_TOKENS[place.type]
        )
        self.extractor: AnswerExtractor = SpacyAnswers() if extractor is None else extractor
        limit_threads(None)
        number = _DTYPES[self.dtype]
        self.question_generator = QuestionGenerator(
            generation, SETTINGS[setting], device=place, dtype=number
        )
        self.question_answerer = QuestionAnswerer(answering, device=place, dtype=number)
        self._stages = Stages(
            extractor=self.extractor,
            generator=self.question_generator,
            answerer=self.question_answerer,
            seed=seed,
            answer_filter=answer_filter,
            shares_work=arm == "batched",
            max_batch_tokens=self.max_batch_tokens,
        )
        models = {"qg": generation, "qa": answering}
        parts = {
            "answers": str(ANSWERS_PER_SUMMARY),
            "questions": str(QUESTIONS_PER_SUMMARY),
            "setting": setting,
            "arm": arm,
            "filter": "answer" if answer_filter else "none",
            "seed": str(seed),
            "candidates": self.extractor.name,
            **{key: f"{escaped(files.name)}@{files.digest()}" for key, files in models.items()},
            "dtype": self.dtype,
            "version": __version__,
        }
        self._signature = "|".join(["qags", *(f"{key}:{value}" for key, value in parts.items())])

    @classmethod
    def from_pretrained(
        cls,
        models: str | Path | None = None,
        *,
        extractor: AnswerExtractor | None = None,
        arm: Arm = "batched",
        setting: SettingName = "shipped",
        device: str = "auto",
        dtype: str = "auto",
        seed: int = 0,
        answer_filter: bool = False,
        max_batch_tokens: int | None = None,
    ) -> QagsScorer:
        """Load both networks.

        Args:
            models: a folder that contains the folders ``question_generation`` (BART family) and
                ``question_answering`` (BERT family, trained on SQuAD 2.0). By default, the small
                ones under ``bench/qags_models`` in the checkout, which is this package's or the
                working directory. Nothing is downloaded.
            extractor: as for the class, like all the following.
            arm: see the class.
            setting: see the class.
            device: see the class.
            dtype: see the class.
            seed: see the class.
            answer_filter: see the class.
            max_batch_tokens: see the class.

        Raises:
            CheckpointError: a folder cannot be used; the message says what is missing.
            ModuleNotFoundError: as for the class.
            BackendUnavailableError: as for the class.
            ValueError: as for the class.
        """
        generation, answering = read_both_networks(models)
        return cls(
            generation,
            answering,
            extractor=extractor,
            arm=arm,
            setting=setting,
            device=device,
            dtype=dtype,
            seed=seed,
            answer_filter=answer_filter,
            max_batch_tokens=max_batch_tokens,
        )

    @property
    def signature(self) -> str:
        """Everything that the scores depend on, in one line."""
        return self._signature

    def score(
        self,
        documents: Sequence[str],
        summaries: Sequence[str],
        *,
        replay: Sequence[Replay] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> QagsResult:
        """Score each summary against its document, under inference mode.

        Args:
            documents: texts.
            summaries: one text per document.
            replay: `QagsScore.replay` of each row of another run. Its candidates are used, the
                same number of tokens is generated, and then its questions are asked, so that
                networks with random weights do the work of a real run. The scores are meaningless.
            on_progress: called with the number of summaries whose questions were just generated,
                or that have none.

        Returns:
            Scores in order. If a pair cannot be scored, its `status` says why; the others are not
            affected.

        Raises:
            ValueError: the lists differ in length, or the given candidates lack a summary.
            TypeError: an argument is not a list.
        """
        texts = check_texts("documents", documents)
        entries = check_texts("summaries", summaries)
        check_same_length("summaries", entries, texts)
        if replay is not None:
            check_same_length("replay", replay, texts)
        work: dict[Stage, StageWork] = {stage: StageWork() for stage in STAGES}
        bad_rows: dict[int, QagsScore] = {}
        tasks: list[Task] = []
        for index, (document, summary) in enumerate(zip(texts, entries, strict=True)):
            bad = check_pair(document, summary)
            if bad is not None:
                status = cast(QagsStatus, bad.status)
                bad_rows[index] = QagsScore(status=status, message=bad.message)
                continue
            unknown = self.question_answerer.count_unknown([str(document), str(summary)])
            recorded = None if replay is None else replay[index]
            tasks.append(Task(str(document), str(summary), recorded, unknown_tokens=unknown))
        scored = iter(self._score(tasks, work, on_progress or (lambda n: None)))
        rows = tuple(
            bad_rows[index] if index in bad_rows else next(scored) for index in range(len(texts))
        )
        return QagsResult(rows, self.signature, work)

    def _score(
        self,
        tasks: list[Task],
        work: dict[Stage, StageWork],
        on_progress: Callable[[int], None],
    ) -> list[QagsScore]:
        """Take valid pairs through the four stages."""
        stages = self._stages
        survive_fork(self.question_generator.bart.device.type)
        with work["answer_extraction"].timed():
            stages.draw_answers(tasks, work["answer_extraction"])
        with work["question_generation"].timed():
            stages.generate_questions(tasks, work["question_generation"], on_progress)
        with work["summary_answering"].timed():
            stages.choose_questions(tasks, work["summary_answering"])
            of_summaries = stages.answer(
                [Ask(q.text, task.summary) for task in tasks for q in task.questions],
                work["summary_answering"],
            )
        with work["document_answering"].timed():
            of_documents = stages.answer(
                [Ask(q.text, task.document) for task in tasks for q in task.questions],
                work["document_answering"],
            )
        answers = iter(zip(of_summaries, of_documents, strict=True))
        return [task.score([next(answers) for _ in task.questions]) for task in tasks]


def _resolve_dtype(dtype: str, arm: Arm, device: torch.device) -> str:
    if dtype != "auto":
        return dtype
    return "float16" if arm == "batched" and device.type == "cuda" else "float32"


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, but got {value!r}")
