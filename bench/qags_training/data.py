"""Questions with their passages, and the views of them that the two networks are trained on."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

# Sources with many questions on few sentences, or templated ones, would crowd out the rest.
CAPS = {"qamr": 8_000, "policyqa": 3_000}
LONGEST_PASSAGE = 230  # words: about 300 tokens
LONGEST_ANSWER = 50  # words

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer's place in a passage, and all answers that count as right."""

    text: str
    answer: str
    start: int
    passage: int
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Passages and the questions on them; `related` maps a passage to others of its article."""

    passages: list[str]
    questions: list[Question]
    titles: dict[str, list[int]] = field(default_factory=dict)
    title_of: list[str | None] = field(default_factory=list)

    def related(self, passage: int) -> list[int]:
        """Return the other passages of the same article."""
        title = self.title_of[passage]
        return [] if title is None else [p for p in self.titles[title] if p != passage]


@dataclass(frozen=True, slots=True)
class Example:
    """A question on a text; `start` is -1 where the text does not answer it."""

    question: str
    text: str
    answer: str
    start: int


def read_corpus(path: Path, *, seed: int = 0, capped: bool = True) -> Corpus:
    """Read a file of the shared data; without an answer or its place there is no question."""
    passages: list[str] = []
    title_of: list[str | None] = []
    titles: dict[str, list[int]] = defaultdict(list)
    groups: dict[str, list[Question]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            number = len(passages)
            passages.append(row["context"])
            title_of.append(row["title"])
            if row["title"] is not None:
                titles[row["title"]].append(number)
            for qa in row["qas"]:
                answer = qa["a"].rstrip()
                if 0 < len(answer.split()) <= LONGEST_ANSWER and not qa.get("amb"):
                    answers = tuple(qa.get("alts") or [answer])
                    groups[row["source"].split("-")[0]].append(
                        Question(qa["q"].strip(), answer, qa["s"], number, answers)
                    )
    questions = []
    for source, group in groups.items():
        cap = CAPS.get(source, len(group)) if capped else len(group)
        kept = random.Random(f"{seed} {source}").sample(group, cap) if cap < len(group) else group
        questions += kept
    return Corpus(passages, questions, dict(titles), title_of)


def sentences(text: str) -> list[tuple[int, int]]:
    """Return where each sentence starts and ends."""
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(text))]
    ends = [*starts[1:], len(text)]
    return [(a, b) for a, b in zip(starts, ends, strict=True) if text[a:b].strip()]


def sentence_window(
    corpus: Corpus, question: Question, rng: random.Random, *, extra: int, longest: int
) -> Example:
    """Show only the sentences of the answer and up to `extra` neighbours, `longest` words."""
    text = corpus.passages[question.passage]
    spans = sentences(text)
    end = question.start + len(question.answer)
    touched = [i for i, (a, b) in enumerate(spans) if a < end and b > question.start]
    first, last = touched[0], touched[-1]
    for _ in range(rng.randint(0, extra)):
        sides = [(first - 1, last)] * (first > 0) + [(first, last + 1)] * (last + 1 < len(spans))
        if not sides:
            break
        a, b = rng.choice(sides)
        if len(text[spans[a][0] : spans[b][1]].split()) > longest:
            break
        first, last = a, b
    return _cut(text, question, spans[first][0], spans[last][1], rng)


def whole_passage(corpus: Corpus, question: Question, rng: random.Random) -> Example:
    """Show the passage, or as much as fits around the answer at a random place."""
    text = corpus.passages[question.passage]
    return _cut(text, question, 0, len(text), rng)


def unanswerable(corpus: Corpus, question: Question, rng: random.Random) -> Example | None:
    """Show a text that does not hold the answer, or None if there is none.

    Two times in three it is another passage of the article, otherwise the question's own passage
    without the sentence of the answer.
    """
    if rng.random() < 2 / 3:
        related = corpus.related(question.passage)
        if not related:
            return None
        text = corpus.passages[rng.choice(related)]
        text = " ".join(text.split()[:LONGEST_PASSAGE])
    else:
        text = corpus.passages[question.passage]
        if len(text.split()) > LONGEST_PASSAGE:
            return None
        end = question.start + len(question.answer)
        kept = [text[a:b] for a, b in sentences(text) if b <= question.start or a >= end]
        text = "".join(kept).strip()
    lowered = text.lower()
    if len(text.split()) < 8 or any(answer.lower() in lowered for answer in question.answers):
        return None
    return Example(question.text, text, "", -1)


def _cut(text: str, question: Question, start: int, end: int, rng: random.Random) -> Example:
    words = [match.span() for match in re.finditer(r"\S+", text[start:end])]
    if len(words) > LONGEST_PASSAGE:
        at, stop = question.start - start, question.start + len(question.answer) - start
        inside = [i for i, (a, b) in enumerate(words) if a < stop and b > at]
        earliest = max(0, inside[-1] + 1 - LONGEST_PASSAGE)
        latest = min(inside[0], len(words) - LONGEST_PASSAGE)
        first = rng.randint(min(earliest, latest), latest)
        last = min(first + LONGEST_PASSAGE, len(words)) - 1
        start, end = start + words[first][0], start + words[last][1]
    shown = text[start:end].rstrip()
    return Example(question.text, shown, question.answer, question.start - start)
