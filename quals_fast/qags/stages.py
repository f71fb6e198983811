"""QAGS's stages before answers are compared; each one processes many pairs at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from quals_fast.qags.answering import Ask, QuestionAnswerer
from quals_fast.qags.answers import AnswerExtractor, draw_answers
from quals_fast.qags.filtering import Question, filter_questions
from quals_fast.qags.questions import Generated, Job, QuestionGenerator
from quals_fast.qags.results import QagsPair, QagsScore, Replay, StageWork
from quals_fast.qags.squad import token_f1

_NAN = "returned NaN, as can happen in float16 when numbers overflow; use dtype='float32'"


@dataclass(slots=True)
class Task:
    """A pair on its way through the stages, which fill in what follows `replay`.

    Attributes:
        document: its text.
        summary: its text.
        replay: what to do again, or None.
        answers: the drawn candidates.
        generated: what was generated for each of them; None where the network gave NaN.
        questions: those to ask.
        truncated_tokens: as in `QagsScore`.
        unknown_tokens: likewise.
        problem: why there will be no score, or None.
    """

    document: str
    summary: str
    replay: Replay | None
    answers: list[str] = field(default_factory=list)
    generated: list[Generated | None] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    truncated_tokens: int = 0
    unknown_tokens: int = 0
    problem: str | None = None

    def jobs(self) -> list[Job]:
        """Return what to generate questions for."""
        steps = [None] * len(self.answers) if self.replay is None else self.replay.steps
        pairs = zip(self.answers, steps, strict=True)
        return [Job(self.summary, answer, n_steps) for answer, n_steps in pairs]

    def all_generated(self) -> list[Question]:
        """Return the questions that were generated, for all answers."""
        return [q for one in self.generated if one is not None for q in one.questions]

    def score(self, answers: Sequence[tuple[str | None, str | None]]) -> QagsScore:
        """Compare the answers of summary and document to each question."""
        if any(None in both for both in answers):
            self.problem = f"the question-answering network {_NAN}"
        if self.problem is not None:
            return QagsScore(status="error", message=self.problem)
        pairs = [
            QagsPair(
                question=question.text,
                answer=of_summary,
                document_answer=of_document,
                expected_answer=question.expected_answer,
                logprob=question.logprob,
                score=token_f1(of_summary, of_document),
            )
            for question, (of_summary, of_document) in zip(self.questions, answers, strict=True)
            if of_summary is not None and of_document is not None
        ]
        return QagsScore(
            status="ok" if pairs else "no_questions",
            score=math.fsum(pair.score for pair in pairs) / len(pairs) if pairs else math.nan,
            pairs=tuple(pairs),
            n_generated=len(self.all_generated()),
            truncated_tokens=self.truncated_tokens,
            unknown_tokens=self.unknown_tokens,
            replay=Replay(
                answers=tuple(self.answers),
                steps=tuple(one.steps for one in self.generated if one is not None),
                questions=tuple(question.text for question in self.questions),
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """What takes pairs from stage to stage.

    Attributes:
        extractor: finds answer candidates.
        generator: generates questions.
        answerer: answers them.
        seed: of the draw of candidates.
        answer_filter: as in `QagsScorer`.
        shares_work: whether what is equal is done once for all pairs.
        max_batch_tokens: as the networks take it.
    """

    extractor: AnswerExtractor
    generator: QuestionGenerator
    answerer: QuestionAnswerer
    seed: int
    answer_filter: bool
    shares_work: bool
    max_batch_tokens: int | None

    def draw_answers(self, tasks: Sequence[Task], work: StageWork) -> None:
        """Give each pair its answer candidates."""
        summaries = [task.summary for task in tasks if task.replay is None]
        if self.shares_work:
            summaries = list(dict.fromkeys(summaries))
        candidates = dict(zip(summaries, self.extractor.extract(summaries), strict=True))
        work.sequences += len(summaries)
        for task in tasks:
            if task.replay is None:
                task.answers = draw_answers(candidates[task.summary], task.summary, self.seed)
            else:
                task.answers = list(task.replay.answers)

    def generate_questions(
        self, tasks: Sequence[Task], work: StageWork, on_progress: Callable[[int], None]
    ) -> None:
        """Generate questions for all answers; report pairs when their last job is done."""
        wanted = [task.jobs() for task in tasks]
        jobs = [job for of_task in wanted for job in of_task]
        if self.shares_work:
            jobs = list(dict.fromkeys(jobs))
        unfinished = [set(of_task) for of_task in wanted]
        tasks_of: dict[Job, list[int]] = defaultdict(list)
        for index, distinct in enumerate(unfinished):
            for job in distinct:
                tasks_of[job].append(index)
        on_progress(sum(not distinct for distinct in unfinished))
        results: dict[Job, Generated | None] = {}
        for number, generated in self.generator.generate(
            jobs, work, max_batch_tokens=self.max_batch_tokens
        ):
            job = jobs[number]
            results[job] = generated
            for index in tasks_of.pop(job, []):  # without sharing, a job comes again
                unfinished[index].remove(job)
                if not unfinished[index]:
                    on_progress(1)
        for task, of_task in zip(tasks, wanted, strict=True):
            task.generated = [results[job] for job in of_task]
            if None in task.generated:
                task.problem = f"the question generator {_NAN}"
            task.truncated_tokens = max(
                (one.truncated_tokens for one in task.generated if one is not None), default=0
            )

    def choose_questions(self, tasks: Sequence[Task], work: StageWork) -> None:
        """Filter each pair's questions, and refuse pairs with one that cannot be asked."""
        for task in tasks:
            if task.replay is not None and task.problem is None:
                task.questions = [Question(text, math.nan, "") for text in task.replay.questions]
        chosen = [task for task in tasks if task.replay is None]
        generated = [task.all_generated() for task in chosen]
        if not self.answer_filter:
            for task, questions in zip(chosen, generated, strict=True):
                self._keep(task, filter_questions(questions))
            return
        # What leaves no room for a passage gets no answer, and so not the expected one either.
        generated = [
            [question for question in questions if self.answerer.leaves_room(question.text)]
            for questions in generated
        ]
        asks = [
            Ask(question.text, task.summary)
            for task, questions in zip(chosen, generated, strict=True)
            for question in questions
        ]
        remaining = iter(self.answer(asks, work))
        for task, questions in zip(chosen, generated, strict=True):
            answers = [next(remaining) for _ in questions]
            given = [answer for answer in answers if answer is not None]
            if len(given) < len(answers):
                task.problem = task.problem or f"the question-answering network {_NAN}"
            else:
                self._keep(task, filter_questions(questions, given))

    def _keep(self, task: Task, questions: list[Question]) -> None:
        """Give a pair its questions, or the message that one of them cannot be asked."""
        if task.problem is not None:
            return
        try:
            cut = sum(self.answerer.cut_tokens(question.text) for question in questions)
        except ValueError as error:
            task.problem = str(error)
            return
        task.questions = questions
        task.truncated_tokens += cut

    def answer(self, asks: list[Ask], work: StageWork) -> list[str | None]:
        """Return the answer to each question, None where the network gives NaN."""
        distinct = list(dict.fromkeys(asks)) if self.shares_work else asks
        answers = self.answerer.answer(distinct, work, max_batch_tokens=self.max_batch_tokens)
        answer_to = dict(zip(distinct, answers, strict=True))
        return [answer_to[ask] for ask in asks]
