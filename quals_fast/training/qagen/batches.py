"""Which question is shown when, how, and in which batch: all determined in advance by the seed.

So a run can be resumed anywhere, can be extended, and is the same for any number of data workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from quals_fast.training.qagen.corpus import Corpus, Question
from quals_fast.training.qagen.encoding import Pair, PairEncoder
from quals_fast.training.qagen.renaming import Renamer
from quals_fast.training.qagen.settings import TrainingError, TrainingSettings, Views
from quals_fast.training.qagen.views import (
    Example,
    also_answered,
    sentence_window,
    whole_passage,
    with_distractors,
)

_POOL_EXAMPLES = 2_048  # examples that are sorted by length together
_TARGET_WEIGHT = 2.5  # of a target token, relative to a source token
_CARRIED_SHARE = 0.3  # of a pass's questions: they lead the next pass
_LENGTH_STEP = 16  # tokens: sources that differ by less are ordered by their targets
_WORDS_PER_TOKEN = 2 / 3  # a low estimate, so that what is cut by words fits in tokens


class _Turn(NamedTuple):
    """What is shown at a place of the run: a question, those that share its text, and the view."""

    question: int
    others: tuple[int, ...]
    view: str


class Examples(torch.utils.data.Dataset[Pair]):
    """The examples of a run by their place in it, drawn with the seed.

    Args:
        corpus: the questions.
        encoder: turns them into tokens.
        settings: settings of the run.
        view: show all questions in this view, once and in the order of the corpus; None draws
            order and views.
    """

    def __init__(
        self,
        corpus: Corpus,
        encoder: PairEncoder,
        settings: TrainingSettings,
        view: str | None = None,
    ) -> None:
        self._corpus, self._encoder, self._settings = corpus, encoder, settings
        self._view = view
        self._longest = int(encoder.room * _WORDS_PER_TOKEN)
        self._renamer = Renamer(corpus) if settings.renamed and view is None else None
        if view is not None:
            self._turns = [_Turn(number, (), view) for number in range(len(corpus.questions))]
        else:
            whole = round(settings.epochs * len(corpus.questions))
            self._turns = self._draw(settings.examples or max(1, whole))

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def questions(self) -> int:
        """Number of questions shown, with repetitions."""
        return sum(1 + len(turn.others) for turn in self._turns)

    def __getitem__(self, place: int) -> Pair:
        turn = self._turns[place]
        rng = self._rng(place)
        example = self._show(self._corpus.questions[turn.question], turn.view, rng)
        places = dict(also_answered(self._corpus, example)) if turn.others else {}
        asked = [(self._corpus.questions[number], places[number]) for number in turn.others]
        others = [(question.text, question.answer, start) for question, start in asked]
        if self._renamer is not None and rng.random() < self._settings.renamed:
            example, others = self._renamer.rename(example, others, rng)
        if turn.view == "answer_given":
            return self._encoder.answer_given(example, rng)
        return self._encoder.question_answer(example, rng, others)

    def _rng(self, place: int) -> random.Random:
        return random.Random(f"{self._settings.seed} {place}")

    def _draw(self, count: int) -> list[_Turn]:
        """Draw turns that show `count` questions: pass by pass, each pass in its own order."""
        s, corpus = self._settings, self._corpus
        turns: list[_Turn] = []
        left: set[int] = set()
        # Towards the end of a pass, few questions share a text, so these lead the next pass.
        least = _CARRIED_SHARE * len(corpus.questions) if s.together > 1 else 0
        shown, epoch = 0, 0
        while shown < count:
            order = list(range(len(corpus.questions)))
            random.Random(f"order {s.seed} {epoch}").shuffle(order)
            order.sort(key=lambda number: number not in left)
            left = set(order)
            for number in order:
                if number not in left:
                    continue
                if shown >= count or len(left) <= least:
                    break
                left.remove(number)
                view = self._draw_view(shown, len(turns))
                others: list[int] = []
                if s.together > 1 and view != "answer_given":
                    rng = self._rng(len(turns))
                    example = self._show(corpus.questions[number], view, rng)
                    others = [n for n, _ in also_answered(corpus, example) if n in left]
                    rng.shuffle(others)
                    others = others[: min(s.together - 1, count - shown - 1)]
                    left.difference_update(others)
                turns.append(_Turn(number, tuple(others), view))
                shown += 1 + len(others)
            epoch += 1
        return turns

    def _draw_view(self, shown: int, place: int) -> str:
        s = self._settings
        is_early = s.early_views is not None and shown < s.early_examples
        views = s.early_views if is_early and s.early_views else s.views
        return random.Random(f"view {s.seed} {place}").choices(Views.names(), views.shares)[0]

    def _show(self, question: Question, view: str, rng: random.Random) -> Example:
        s, corpus = self._settings, self._corpus
        words = s.passage_words or self._longest
        if view in ("window", "answer_given"):
            return sentence_window(
                corpus, question, rng, extra=s.window_extra, longest=s.window_words
            )
        if view == "passage":
            return whole_passage(corpus, question, rng, longest=words)
        return with_distractors(corpus, question, rng, longest=self._longest, passage_words=words)


class Plan(torch.utils.data.Sampler[list[int]]):
    """Places of a run's examples, batch by batch: similar lengths together, in a token budget.

    Args:
        examples: in the order of the run.
        batch_tokens: budget of source tokens, padding included, and weighted target tokens.
        seed: random seed of the batches' order.
        multiple_of: use a multiple of this many batches, to divide evenly among processes.
        workers: processes that encode the examples; 0 for none.

    Attributes:
        source_tokens: of all examples, without padding.
        target_tokens: the same.

    Raises:
        TrainingError: there are fewer batches than processes.
    """

    def __init__(
        self,
        examples: Sequence[Pair] | Examples,
        batch_tokens: int,
        seed: int,
        multiple_of: int = 1,
        workers: int = 0,
    ) -> None:
        self._batches: list[list[int]] = []
        self.source_tokens = self.target_tokens = 0
        pools: Iterable[list[Pair]] = torch.utils.data.DataLoader(
            examples,  # type: ignore[arg-type]
            batch_size=_POOL_EXAMPLES,
            collate_fn=list,
            num_workers=workers,
        )
        for number, pool in enumerate(pools):
            first = number * _POOL_EXAMPLES
            pairs = dict(enumerate(pool, first))
            self.source_tokens += sum(len(pair.source) for pair in pairs.values())
            self.target_tokens += sum(len(pair.target) for pair in pairs.values())
            batches = group(pairs, batch_tokens)
            random.Random(f"pool {seed} {first}").shuffle(batches)
            self._batches += batches
        whole = len(self._batches) // multiple_of * multiple_of
        if whole == 0:
            raise TrainingError(
                f"{multiple_of} processes need a batch each, but there are only "
                f"{len(self._batches)}; use fewer processes or a smaller `batch_tokens`"
            )
        self._batches = self._batches[:whole]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._batches


def group(pairs: dict[int, Pair], batch_tokens: int) -> list[list[int]]:
    """Group keys of pairs of similar lengths in a token budget; a pair above it is alone."""
    batches: list[list[int]] = [[]]
    targets, longest = 0.0, 0
    # Rows of a batch are padded on both sides: sources to a few lengths, then by targets.
    lengths = {key: (len(pair) // _LENGTH_STEP, len(pair.target)) for key, pair in pairs.items()}
    for key in sorted(pairs, key=lengths.__getitem__):
        source, target = pairs[key]
        targets += _TARGET_WEIGHT * len(target)
        longest = max(longest, len(source))
        if batches[-1] and (len(batches[-1]) + 1) * longest + targets > batch_tokens:
            batches.append([])
            targets, longest = _TARGET_WEIGHT * len(target), len(source)
        batches[-1].append(key)
    return batches
