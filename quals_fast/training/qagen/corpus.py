"""Questions with their passages, read from SQuAD-format JSON or from JSON lines."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from quals_fast.training.qagen.settings import TrainingError

MAX_ANSWER_WORDS = 50
_NEARBY_PASSAGES = 12  # before and after one
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer's place in a passage, and all answers that count as right.

    `start` is -1 if the answer does not occur in the passage.
    """

    text: str
    answer: str
    start: int
    passage: int
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Passages and the questions on them.

    Attributes:
        passages: texts.
        questions: on them.
        titles: numbers of an article's passages, by its title.
        title_of: each passage's title, if it has one.
        counts: number of skipped entries and questions, by reason.
    """

    passages: list[str]
    questions: list[Question]
    titles: dict[str, list[int]] = field(default_factory=dict)
    title_of: list[str | None] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def on_passage(self, passage: int) -> list[int]:
        """Return the numbers of the questions on a passage."""
        return self._by_passage.get(passage, [])

    @cached_property
    def _by_passage(self) -> dict[int, list[int]]:
        on_passage: defaultdict[int, list[int]] = defaultdict(list)
        for number, question in enumerate(self.questions):
            on_passage[question.passage].append(number)
        return dict(on_passage)

    def related(self, passage: int) -> list[int]:
        """Return the other passages of the same article."""
        title = self.title_of[passage]
        return [] if title is None else [p for p in self.titles[title] if p != passage]

    def near(self, passage: int) -> list[int]:
        """Return the passages next to it in the file, of whatever source."""
        first, last = passage - _NEARBY_PASSAGES, passage + _NEARBY_PASSAGES
        around = range(max(0, first), min(len(self.passages), last + 1))
        return [other for other in around if other != passage]

    def drawn(self, count: int | None) -> Corpus:
        """Return a corpus of that many of its questions, always the same; None takes all."""
        if count is None or count >= len(self.questions):
            return self
        return replace(self, questions=random.Random(0).sample(self.questions, count))

    def summary(self) -> str:
        """Say in one line what was read and what was skipped."""
        counted = ", ".join(f"{n:,} {what}" for what, n in self.counts.items() if n)
        return f"{len(self.questions):,} questions on {len(self.passages):,} contexts" + (
            f"; {counted}" if counted else ""
        )


class _Asked(NamedTuple):
    """A question as in a file; without an answer it is unanswerable."""

    text: str
    answers: list[str]
    start: int | None
    is_ambiguous: bool = False


class _Context(NamedTuple):
    """A context as in a file; `where` names it in messages."""

    where: str
    source: str
    title: str | None
    text: str
    questions: list[Any]


def read_corpus(
    paths: Sequence[Path],
    *,
    seed: int = 0,
    caps: Mapping[str, int] | None = None,
    keep_absent: bool = False,
    skip_invalid: bool = False,
) -> Corpus:
    """Read questions; those that cannot be trained on are skipped and counted.

    These are: unanswerable questions (SQuAD 2), answers of more than 50 words, answers that occur
    several times in their context without a given place, and answers that do not occur there.

    Args:
        paths: ``.json`` in SQuAD's format (1.1 or 2.0) or ``.jsonl``, one context a line as
            ``{"context", "title"?, "source"?, "qas": [{"q", "a", "s"}]}`` or in MRQA's format;
            ``.gz`` is decompressed.
        seed: random seed of the draw if a source has more questions than its cap.
        caps: maximum number of questions by source (its name up to the first hyphen).
        keep_absent: keep questions whose answer does not occur in the context.
        skip_invalid: skip and count entries that lack a field.

    Raises:
        TrainingError: a file cannot be read, an entry lacks a field, or no question is left.
    """
    passages: list[str] = []
    title_of: list[str | None] = []
    titles: defaultdict[str, list[int]] = defaultdict(list)
    groups: defaultdict[str, list[Question]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for context, asked in _valid(paths, counts, skip_invalid):
        number = len(passages)
        passages.append(context.text)
        title_of.append(context.title)
        if context.title is not None:
            titles[context.title].append(number)
        for one in asked:
            question = _usable(one, context.text, number, counts, keep_absent)
            if question is not None:
                groups[context.source].append(question)
    questions = []
    for source, group in groups.items():
        cap = (caps or {}).get(source, len(group))
        if cap < len(group):
            counts[f"skipped over the cap of {source}"] += len(group) - cap
            group = random.Random(f"{seed} {source}").sample(group, cap)
        questions += group
    corpus = Corpus(passages, questions, dict(titles), title_of, counts)
    if not questions:
        names = ", ".join(str(path) for path in paths)
        raise TrainingError(f"no question of {names} can be used: {corpus.summary()}")
    return corpus


def _usable(
    asked: _Asked, context: str, passage: int, counts: Counter[str], keep_absent: bool
) -> Question | None:
    raw = asked.answers[0] if asked.answers else ""
    answer = raw.strip()
    start = None if asked.start is None else asked.start + len(raw) - len(raw.lstrip())
    place = _place(context, answer, start)
    if not answer:
        reason = "skipped without an answer"
    elif len(answer.split()) > MAX_ANSWER_WORDS:
        reason = f"skipped with answers of over {MAX_ANSWER_WORDS} words"
    elif asked.is_ambiguous:
        reason = "skipped with answers of unknown place"
    elif place < 0 and not keep_absent:
        reason = "skipped with answers that are not in the context"
    else:
        if place < 0:
            counts["kept with answers that are not in the context"] += 1
        return Question(asked.text.strip(), answer, place, passage, tuple(asked.answers))
    counts[reason] += 1
    return None


def _place(context: str, answer: str, start: int | None) -> int:
    """Return the answer's place nearest to the given one; -1 if it does not occur."""
    if start is None:
        return context.find(answer)
    near = max(start, 0)
    before = context.rfind(answer, 0, near + len(answer))
    found = [place for place in (before, context.find(answer, near)) if place >= 0]
    return min(found, key=lambda place: abs(place - near), default=-1)


def _valid(
    paths: Sequence[Path], counts: Counter[str], skip_invalid: bool
) -> Iterator[tuple[_Context, list[_Asked]]]:
    """Yield contexts with their questions; an entry that lacks a field raises, or is counted."""

    def checked(make: Any, *arguments: Any) -> Any:
        try:
            return make(*arguments)
        except _InvalidError as error:
            if not skip_invalid:
                raise TrainingError(
                    f"{error}; fix it, or skip invalid entries with --skip-invalid"
                ) from None
            counts["invalid entries skipped"] += 1
            return None

    for path in paths:
        for where, make, content in _entries(path):
            context = checked(make, content, where)
            if context is None:
                continue
            asked = [
                checked(_asked, one, f"{context.where}, question {number}")
                for number, one in enumerate(context.questions, 1)
            ]
            yield context, [one for one in asked if one is not None]


class _InvalidError(Exception):
    """A context or a question that lacks a field."""


def _entries(path: Path) -> Iterator[tuple[str, Any, Any]]:
    """Yield each context of a file: its place, the function that reads it, and its content."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".jsonl"):
        for number, line in enumerate(_read(path).split("\n"), 1):
            where = f"{path}, line {number}"
            if line.strip():
                content = _parse(line, where)
                if not (isinstance(content, dict) and "header" in content):  # MRQA's first line
                    yield where, _line_context, content
    elif name.endswith(".json"):
        content = _parse(_read(path), str(path))
        articles = content.get("data") if isinstance(content, dict) else None
        if not isinstance(articles, list):
            raise TrainingError(
                f"{path} must be in SQuAD's format, an object with a list `data`; if it is JSON "
                "lines, rename it to .jsonl"
            )
        for number, article in enumerate(articles):
            where = f"{path}, data[{number}]"
            of_article = article if isinstance(article, dict) else {}
            for place, paragraph in enumerate(of_article.get("paragraphs") or [None]):
                title = of_article.get("title")
                yield f"{where}.paragraphs[{place}]", _squad_context, (title, paragraph, name)
    else:
        raise TrainingError(
            f"{path} must end in .json (SQuAD's format) or .jsonl, with or without .gz"
        )


def _read(path: Path) -> str:
    try:
        if path.name.lower().endswith(".gz"):
            return gzip.decompress(path.read_bytes()).decode()
        return path.read_text("utf-8")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TrainingError(f"{path} is not a complete gzip file: {error}; get it again") from error
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path} is not UTF-8: {error}; convert it first") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise TrainingError(f"{where} is not valid JSON: {error}") from error


def _squad_context(content: tuple[Any, Any, str], where: str) -> _Context:
    title, paragraph, name = content
    text = _get(paragraph, "context", str, where)
    title = title if isinstance(title, str) else None
    return _Context(where, name.split(".")[0], title, text, _get(paragraph, "qas", list, where))


def _line_context(row: Any, where: str) -> _Context:
    text = _get(row, "context", str, where)
    title, source = row.get("title"), row.get("source")
    source = source.split("-")[0] if isinstance(source, str) else ""
    title = title if isinstance(title, str) else None
    return _Context(where, source, title, text, _get(row, "qas", list, where))


def _asked(qa: Any, where: str) -> _Asked:
    """Read a question of SQuAD, of the JSON lines, or of MRQA."""
    if isinstance(qa, dict) and "q" in qa:
        answer = _get(qa, "a", str, where)
        start = _get(qa, "s", int, where) if answer and not qa.get("amb") else None
        others = [text for text in qa.get("alts") or [] if text != answer]
        return _Asked(_get(qa, "q", str, where), [answer, *others], start, bool(qa.get("amb")))
    text = _get(qa, "question", str, where)
    if "detected_answers" in qa:
        answers = _get(qa, "detected_answers", list, where)
        texts = [_get(answer, "text", str, where) for answer in answers]
        spans = _get(answers[0], "char_spans", list, where) if answers else []
        is_placed = bool(spans) and isinstance(spans[0], list) and bool(spans[0])
        return _Asked(text, texts, spans[0][0] if is_placed else None)
    answers = [] if qa.get("is_impossible") else _get(qa, "answers", list, where)
    texts = [_get(answer, "text", str, where) for answer in answers]
    return _Asked(text, texts, _get(answers[0], "answer_start", int, where) if answers else None)


def _get(content: Any, name: str, kind: type[_T], where: str) -> _T:
    if not isinstance(content, dict) or name not in content:
        has = ", ".join(map(repr, content)) if isinstance(content, dict) else type(content).__name__
        raise _InvalidError(f"{where} must have a field {name!r}, but has {has or 'none'}")
    value = content[name]
    if not isinstance(value, kind):
        expected = {str: "text", list: "a list", int: "a whole number"}[kind]
        raise _InvalidError(f"{where}: {name!r} must be {expected}, but is {type(value).__name__}")
    return value
