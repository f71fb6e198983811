"""QAGS: ask questions about a summary, and compare the answers of summary and document."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from quals_fast import __version__
from quals_fast.models.checkpoint import CheckpointError
from quals_fast.models.loading import resolve_device
from quals_fast.processes import limit_threads, survive_fork
from quals_fast.qags.answering import Ask, QuestionAnswerer
from quals_fast.qags.answers import (
    ANSWERS_PER_SUMMARY,
    AnswerExtractor,
    SpacyAnswers,
    draw_answers,
)
from quals_fast.qags.filtering import (
    QUESTIONS_PER_SUMMARY,
    Question,
    filter_questions,
)
from quals_fast.qags.networks import NetworkFiles
from quals_fast.qags.questions import (
    SETTINGS,
    Generated,
    Job,
    QuestionGenerator,
    SettingName,
)
from quals_fast.qags.results import (
    STAGES,
    QagsPair,
    QagsResult,
    QagsScore,
    QagsStatus,
    Replay,
    Stage,
    StageWork,
)
from quals_fast.qags.squad import token_f1
from quals_fast.signature import escaped
from quals_fast.validation import check_pair, check_same_length, check_texts

Arm = Literal["as_shipped", "batched"]

GENERATION = "question_generation"
ANSWERING = "question_answering"
# The wheel does not hold them: it would be twice as large for a baseline.
_IN_CHECKOUT = Path("bench", "qags_models")
BUNDLED_MODELS = Path(__file__).parents[2] / _IN_CHECKOUT

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# On a CPU five windows at once stay in the caches: in float32, BERT takes a seventh less time for a
# window than at 8,192 tokens.
_BATCH_TOKENS = {"cpu": 2_048, "cuda": 131_072}
_NAN = "gives NaN, as float16 may where numbers overflow; use dtype='float32'"


@dataclass(slots=True)
class _Task:
    """A pair on its way through the stages."""

    document: str
    summary: str
    answers: list[str] = field(default_factory=list)
    generated: list[Generated | None] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    truncated_tokens: int = 0
    unknown_tokens: int = 0
    problem: str | None = None


class QagsScorer:
    """Score summaries against their documents with QAGS (docs/semantics.md 2; arXiv 2004.04228).

    Args:
        generation: files of the question generator.
        answering: files of the question-answering network.
        extractor: finds answer candidates; by default spaCy.
        arm: ``"batched"`` does what an expert would for speed; ``"as_shipped"`` does as the
            published program: questions for one answer at a time, nothing shared, whole windows.
            In float32 both give the same scores.
        setting: ``"shipped"`` (beam 5, and so 5 questions an answer) or ``"paper"`` (beam 10, 10
            questions an answer).
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: float16 in the batched
            arm on a GPU, else float32.
        seed: of the draw of candidates.
        answer_filter: ask only questions to which the summary gives the expected answer.
        max_batch_tokens: tokens that a network holds at once in the batched arm; it sets peak
            memory. None takes 2,048 on a CPU and 131,072 on a GPU.

    Raises:
        CheckpointError: a model cannot be used.
        ModuleNotFoundError: transformers, or spaCy or its model, is not installed.
        BackendUnavailableError: there is no such device.
        ValueError: an unknown name.
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
                "arm 'as_shipped' computes in float32 with the published batches, but got "
                f"dtype={dtype!r}, max_batch_tokens={max_batch_tokens}; leave them out"
            )
        if max_batch_tokens is not None and max_batch_tokens < 1:
            raise ValueError(f"`max_batch_tokens` must be at least 1, but got {max_batch_tokens}")
        place = resolve_device(device)
        self.arm, self.setting, self.seed, self.answer_filter = arm, setting, seed, answer_filter
        self.dtype = _resolve_dtype(dtype, arm, place)
        self.max_batch_tokens = (
            None if arm == "as_shipped" else max_batch_tokens or _BATCH_TOKENS[place.type]
        )
        self.extractor: AnswerExtractor = SpacyAnswers() if extractor is None else extractor
        limit_threads(None)
        number = _DTYPES[self.dtype]
        self.generator = QuestionGenerator(
            generation, SETTINGS[setting], device=place, dtype=number
        )
        self.answerer = QuestionAnswerer(answering, device=place, dtype=number)
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
            models: a folder with the folders ``question_generation`` (BART family) and
                ``question_answering`` (BERT family, trained on SQuAD 2.0) in it; by default the
                small ones under ``bench/qags_models`` of the checkout, also if that is only the
                working folder of an installed package. Nothing is downloaded.
            extractor: as in the constructor, like the rest.
            arm: see there.
            setting: see there.
            device: see there.
            dtype: see there.
            seed: see there.
            answer_filter: see there.
            max_batch_tokens: see there.

        Raises:
            CheckpointError: a folder cannot be used; the message says what is missing.
            ModuleNotFoundError: as the constructor.
            BackendUnavailableError: as the constructor.
            ValueError: as the constructor.
        """
        folder = _models_folder(models)
        return cls(
            NetworkFiles.read(folder / GENERATION),
            NetworkFiles.read(folder / ANSWERING),
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
            summaries: one text a document.
            replay: `QagsScore.replay` of each row of another run. Its candidates are taken, as
                many tokens are generated, and then its questions are asked, so that networks with
                random weights do the work of a real run. The scores mean nothing.
            on_progress: called with the number of summaries whose questions were just generated,
                or that have none.

        Returns:
            Scores in order. A pair that cannot be scored has a status that says so and does not
            touch the others.

        Raises:
            ValueError: the lists differ in length, or given candidates lack a summary.
            TypeError: an argument is not a list.
        """
        texts = check_texts("documents", documents)
        entries = check_texts("summaries", summaries)
        check_same_length("summaries", entries, texts)
        if replay is not None:
            check_same_length("replay", replay, texts)
        work: dict[Stage, StageWork] = {stage: StageWork() for stage in STAGES}
        rows: list[QagsScore | None] = []
        tasks: dict[int, _Task] = {}
        for index, (document, summary) in enumerate(zip(texts, entries, strict=True)):
            bad = check_pair(document, summary)
            if bad is None:
                unknown = self.answerer.count_unknown([str(document), str(summary)])
                tasks[index] = _Task(str(document), str(summary), unknown_tokens=unknown)
                rows.append(None)
            else:
                status = cast(QagsStatus, bad.status)
                rows.append(QagsScore(status=status, message=bad.message))
        recorded = None if replay is None else [replay[index] for index in tasks]
        for index, row in zip(
            tasks, self._score(list(tasks.values()), recorded, work, on_progress), strict=True
        ):
            rows[index] = row
        return QagsResult(tuple(row for row in rows if row is not None), self.signature, work)

    def _score(
        self,
        tasks: list[_Task],
        replay: list[Replay] | None,
        work: dict[Stage, StageWork],
        on_progress: Callable[[int], None] | None,
    ) -> list[QagsScore]:
        """Take valid pairs through the four stages."""
        survive_fork(self.generator.bart.device.type)
        with work["answer_extraction"].timed():
            self._draw_answers(tasks, replay, work["answer_extraction"])
        with work["question_generation"].timed():
            self._generate(tasks, replay, work["question_generation"], on_progress)
        with work["summary_answering"].timed():
            if replay is None:
                self._choose_questions(tasks, work["summary_answering"])
            of_summaries = self._answer(
                [Ask(q.text, task.summary) for task in tasks for q in task.questions],
                work["summary_answering"],
            )
        with work["document_answering"].timed():
            of_documents = self._answer(
                [Ask(q.text, task.document) for task in tasks for q in task.questions],
                work["document_answering"],
            )
        answers = iter(zip(of_summaries, of_documents, strict=True))
        return [_row(task, [next(answers) for _ in task.questions]) for task in tasks]

    def _draw_answers(
        self, tasks: list[_Task], replay: list[Replay] | None, work: StageWork
    ) -> None:
        if replay is not None:
            for task, recorded in zip(tasks, replay, strict=True):
                task.answers = list(recorded.answers)
            return
        summaries = [task.summary for task in tasks]
        distinct = summaries if self.arm == "as_shipped" else list(dict.fromkeys(summaries))
        found = dict(zip(distinct, self.extractor.extract(distinct), strict=True))
        work.sequences += len(distinct)
        for task in tasks:
            task.answers = draw_answers(found[task.summary], task.summary, self.seed)

    def _generate(
        self,
        tasks: list[_Task],
        replay: list[Replay] | None,
        work: StageWork,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        """Generate questions; count the rows that each job is the last of."""
        progress = on_progress or (lambda n: None)
        wanted: list[list[Job]] = []
        for index, task in enumerate(tasks):
            steps: Sequence[int | None] = [None] * len(task.answers)
            if replay is not None:
                steps = replay[index].steps
            pairs = zip(task.answers, steps, strict=True)
            wanted.append([Job(task.summary, answer, n) for answer, n in pairs])
        jobs = [job for one in wanted for job in one]
        if self.arm == "batched":
            jobs = list(dict.fromkeys(jobs))
        waiting: dict[Job, Counter[int]] = {job: Counter() for job in jobs}
        for index, one in enumerate(wanted):
            for job in one:
                waiting[job][index] += 1
        left = [len(one) for one in wanted]
        progress(left.count(0))
        results: dict[Job, Generated | None] = {}
        for number, generated in self.generator.generate(
            jobs, work, max_batch_tokens=self.max_batch_tokens
        ):
            job = jobs[number]
            results[job] = generated
            for index, times in waiting.pop(job, Counter()).items():
                left[index] -= times
                if left[index] == 0:
                    progress(1)
        for index, (task, one) in enumerate(zip(tasks, wanted, strict=True)):
            task.generated = [results[job] for job in one]
            if replay is not None:
                task.questions = [Question(text, math.nan, "") for text in replay[index].questions]
            if None in task.generated:
                task.problem = f"the question generator {_NAN}"
                task.questions = []
            cut = (found.truncated_tokens for found in task.generated if found is not None)
            task.truncated_tokens = max(cut, default=0)

    def _choose_questions(self, tasks: list[_Task], work: StageWork) -> None:
        """Filter each row's questions, and refuse rows with one that cannot be asked."""
        generated = [
            [question for one in task.generated if one is not None for question in one.questions]
            for task in tasks
        ]
        answers: list[str | None] = []
        if self.answer_filter:
            # What leaves no room for a passage gets no answer, and so not the expected one either.
            generated = [
                [question for question in questions if self.answerer.leaves_room(question.text)]
                for questions in generated
            ]
            asks = [
                Ask(question.text, task.summary)
                for task, questions in zip(tasks, generated, strict=True)
                for question in questions
            ]
            answers = self._answer(asks, work)
        remaining = iter(answers)
        for task, questions in zip(tasks, generated, strict=True):
            found = None
            if self.answer_filter:
                read = [next(remaining) for _ in questions]
                found = [answer for answer in read if answer is not None]
                if len(found) < len(read):
                    task.problem = task.problem or f"the question-answering network {_NAN}"
            if task.problem is None:
                self._keep_questions(task, filter_questions(questions, found))

    def _keep_questions(self, task: _Task, questions: list[Question]) -> None:
        """Give a row its questions, or the message that one of them cannot be asked."""
        try:
            cut = sum(self.answerer.cut_tokens(question.text) for question in questions)
        except ValueError as error:
            task.problem = str(error)
            return
        task.questions = questions
        task.truncated_tokens += cut

    def _answer(self, asks: list[Ask], work: StageWork) -> list[str | None]:
        distinct = asks if self.arm == "as_shipped" else list(dict.fromkeys(asks))
        answers = self.answerer.answer(distinct, work, max_batch_tokens=self.max_batch_tokens)
        by_ask = dict(zip(distinct, answers, strict=True))
        return [by_ask[ask] for ask in asks]


def _row(task: _Task, answers: list[tuple[str | None, str | None]]) -> QagsScore:
    """Return a pair's score from both texts' answers to its questions."""
    pairs = []
    problem = task.problem
    for question, (of_summary, of_document) in zip(task.questions, answers, strict=True):
        if of_summary is None or of_document is None:
            problem = f"the question-answering network {_NAN}"
            break
        pairs.append(
            QagsPair(
                question=question.text,
                answer=of_summary,
                document_answer=of_document,
                expected_answer=question.expected_answer,
                logprob=question.logprob,
                score=token_f1(of_summary, of_document),
            )
        )
    if problem is not None:
        return QagsScore(status="error", message=problem)
    generated = [one for one in task.generated if one is not None]
    return QagsScore(
        status="ok" if pairs else "no_questions",
        score=math.fsum(pair.score for pair in pairs) / len(pairs) if pairs else math.nan,
        pairs=tuple(pairs),
        n_generated=sum(len(one.questions) for one in generated),
        truncated_tokens=task.truncated_tokens,
        unknown_tokens=task.unknown_tokens,
        replay=Replay(
            answers=tuple(task.answers),
            steps=tuple(one.steps for one in generated),
            questions=tuple(question.text for question in task.questions),
        ),
    )


def _models_folder(models: str | Path | None) -> Path:
    """Return the folder given; by default that of the checkout: this file's, or the working one."""
    given = [BUNDLED_MODELS, _IN_CHECKOUT.absolute()] if models is None else [Path(models)]
    folder = next((one for one in given if models is not None or one.is_dir()), None)
    if folder is None:
        raise CheckpointError(
            f"QAGS's models are not part of the installed package, and there is no {_IN_CHECKOUT} "
            f"in {Path.cwd()}; run this in the checkout, or give a folder with {GENERATION} and "
            f"{ANSWERING} in it (--qags-models)"
        )
    for name in (GENERATION, ANSWERING):
        if not (folder / name).is_dir():
            raise CheckpointError(
                f"{folder} must hold the folders {GENERATION} and {ANSWERING}, but {name} is "
                "missing; put a model there as transformers' save_pretrained() writes it"
            )
    return folder


def _resolve_dtype(dtype: str, arm: Arm, device: torch.device) -> str:
    if dtype != "auto":
        return dtype
    return "float16" if arm == "batched" and device.type == "cuda" else "float32"


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, but got {value!r}")
