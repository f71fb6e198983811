"""The views of a question's passage that a generator is trained on."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from quals_fast.training.qagen.corpus import Corpus, Question

MAX_PASSAGE_WORDS = 230  # about 300 tokens

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")


class Piece(NamedTuple):
    """A part of a passage in a text: its place in the passage and in the text."""

    passage: int
    start: int
    place: int
    length: int


@dataclass(frozen=True, slots=True)
class Example:
    """A question about a text; `start` is -1 if the answer does not occur in it.

    `pieces` are the parts of passages that make up the text.
    """

    question: str
    text: str
    answer: str
    start: int
    pieces: tuple[Piece, ...] = ()


def sentences(text: str) -> list[tuple[int, int]]:
    """Return where each sentence starts and ends."""
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(text))]
    ends = [*starts[1:], len(text)]
    return [(a, b) for a, b in zip(starts, ends, strict=True) if text[a:b].strip()]


def sentence_window(
    corpus: Corpus, question: Question, rng: random.Random, *, extra: int, longest: int
) -> Example:
    """Show only the sentences of the answer and up to `extra` neighbours, `longest` words.

    A passage without the answer is shown whole.
    """
    if question.start < 0:
        return whole_passage(corpus, question, rng)
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
    return _cut(text, question, spans[first][0], spans[last][1], rng, MAX_PASSAGE_WORDS)


def whole_passage(
    corpus: Corpus, question: Question, rng: random.Random, *, longest: int = MAX_PASSAGE_WORDS
) -> Example:
    """Show the passage, or `longest` words of it around the answer at a random place."""
    text = corpus.passages[question.passage]
    return _cut(text, question, 0, len(text), rng, longest)


def with_distractors(
    corpus: Corpus, question: Question, rng: random.Random, *, longest: int, passage_words: int
) -> Example:
    """Show the passage at a random place among others, `longest / 4` to `longest` words in all.

    The others are from its article or, if there are none, near it in the file.

    Args:
        corpus: of the question.
        question: what is asked.
        rng: draws which others, how many words and the place.
        longest: words of all together.
        passage_words: to which the passage itself is cut.
    """
    own = whole_passage(corpus, question, rng, longest=min(passage_words, longest))
    words, room = len(own.text.split()), rng.randint(longest // 4, longest)
    related = corpus.related(question.passage) or corpus.near(question.passage)
    rng.shuffle(related)
    shown = [(own.text, own.pieces)]
    while words < room and related:
        number = related.pop()
        ends = [m.end() for m in re.finditer(r"\S+", corpus.passages[number])][: longest - words]
        words += len(ends)
        other = corpus.passages[number][: ends[-1] if ends else 0]
        shown.append((other, (Piece(number, 0, 0, len(other)),)))
    rng.shuffle(shown)
    text, pieces, start = "", [], own.start
    for part, its_pieces in shown:
        if its_pieces is own.pieces and own.start >= 0:
            start = len(text) + own.start
        pieces += [piece._replace(place=len(text) + piece.place) for piece in its_pieces]
        text += f"{part} "
    return replace(own, text=text.rstrip(), start=start, pieces=tuple(pieces))


def also_answered(corpus: Corpus, example: Example) -> list[tuple[int, int]]:
    """Return all questions whose answers occur in an example's text, and their places in it.

    Args:
        corpus: of the example.
        example: made by one of the views.

    Returns:
        Numbers in ``corpus.questions`` with the answers' starts in the text.
    """
    return [
        (number, piece.place + question.start - piece.start)
        for piece in example.pieces
        for number in corpus.on_passage(piece.passage)
        if (question := corpus.questions[number]).start >= piece.start
        and question.start + len(question.answer) <= piece.start + piece.length
    ]


def _cut(
    text: str, question: Question, start: int, end: int, rng: random.Random, longest: int
) -> Example:
    words = [match.span() for match in re.finditer(r"\S+", text[start:end])]
    at, stop = question.start - start, question.start + len(question.answer) - start
    inside = [i for i, (a, b) in enumerate(words) if a < stop and b > at] or [0]
    if len(words) > longest:
        earliest = max(0, inside[-1] + 1 - longest)
        latest = min(inside[0], len(words) - longest)
        first = rng.randint(min(earliest, latest), latest)
        last = min(first + longest, len(words)) - 1
        start, end = start + words[first][0], start + words[last][1]
    shown = text[start:end].rstrip()
    place = question.start - start if question.start >= 0 else -1
    piece = Piece(question.passage, start, 0, len(shown))
    return Example(question.text, shown, question.answer, place, (piece,))
