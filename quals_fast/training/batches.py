"""Which question is shown when, how, and in which batch: all fixed by the seed beforehand.

So a run can go on anywhere, may be prolonged, and is the same for any number of data workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch

from quals_fast.training.corpus import Corpus, Question
from quals_fast.training.encoding import Pair, PairEncoder
from quals_fast.training.settings import TrainingError, TrainingSettings, Views
from quals_fast.training.views import sentence_window, whole_passage, with_distractors

_POOL = 2_048  # examples that are sorted by length together
_TARGET_WEIGHT = 2.5  # of a target's token against a source's
_WORDS_PER_TOKEN = 2 / 3  # fewer than there are, so that what is cut by words fits in tokens


class Examples(torch.utils.data.Dataset[Pair]):
    """The examples of a run by their place in it, each drawn by the seed and its place alone.

    Args:
        corpus: the questions.
        encoder: makes tokens of them.
        settings: of the run.
        view: show all questions so, once and in the order of the corpus; None draws order and
            views.
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
        self._orders: dict[int, list[int]] = {}
        whole = round(settings.epochs * len(corpus.questions))
        self._length = settings.examples or max(1, whole)
        if view is not None:
            self._length = len(corpus.questions)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> Pair:
        rng = random.Random(f"{self._settings.seed} {place}")
        question = self._corpus.questions[place if self._view else self._at(place)]
        return self._show(question, self._view or self._draw_view(place, rng), rng)

    def _at(self, place: int) -> int:
        """Return the question at a place: each pass over them has an order of its own."""
        size = len(self._corpus.questions)
        epoch, rest = divmod(place, size)
        if epoch not in self._orders:
            order = list(range(size))
            random.Random(f"order {self._settings.seed} {epoch}").shuffle(order)
            self._orders = {epoch: order}
        return self._orders[epoch][rest]

    def _draw_view(self, place: int, rng: random.Random) -> str:
        s = self._settings
        is_early = s.early_views is not None and place < s.early_examples
        views = s.early_views if is_early and s.early_views else s.views
        return rng.choices(Views.names(), views.shares)[0]

    def _show(self, question: Question, view: str, rng: random.Random) -> Pair:
        s, corpus = self._settings, self._corpus
        words = s.passage_words or self._longest
        if view in ("window", "answer_given"):
            shown = sentence_window(
                corpus, question, rng, extra=s.window_extra, longest=s.window_words
            )
        elif view == "passage":
            shown = whole_passage(corpus, question, rng, longest=words)
        else:
            shown = with_distractors(
                corpus, question, rng, longest=self._longest, passage_words=words
            )
        if view == "answer_given":
            return self._encoder.answer_given(shown, rng)
        return self._encoder.question_answer(shown, rng)


class Plan(torch.utils.data.Sampler[list[int]]):
    """Places of a run's examples, batch by batch: like lengths together, under a token budget.

    Args:
        examples: in the order of the run.
        batch_tokens: budget of source tokens, padding included, and weighted target tokens.
        seed: of the batches' order.
        multiple_of: number of batches to divide evenly among processes; the rest is left out.

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
    ) -> None:
        self._batches: list[list[int]] = []
        self.source_tokens = self.target_tokens = 0
        for first in range(0, len(examples), _POOL):
            last = min(first + _POOL, len(examples))
            pairs = {place: examples[place] for place in range(first, last)}
            self.source_tokens += sum(len(pair.source) for pair in pairs.values())
            self.target_tokens += sum(len(pair.target) for pair in pairs.values())
            batches = group(pairs, batch_tokens)
            random.Random(f"pool {seed} {first}").shuffle(batches)
            self._batches += batches
        whole = len(self._batches) // multiple_of * multiple_of
        if whole == 0:
            raise TrainingError(
                f"{multiple_of} processes need a batch each, but there are {len(self._batches)}; "
                "use fewer processes, or a smaller `batch_tokens`"
            )
        self._batches = self._batches[:whole]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._batches


def group(pairs: dict[int, Pair], batch_tokens: int) -> list[list[int]]:
    """Group the keys of pairs of like lengths under a budget of tokens; one above it is alone."""
    batches: list[list[int]] = [[]]
    targets = 0.0
    for key in sorted(pairs, key=lambda key: (len(pairs[key].source), len(pairs[key].target))):
        source, target = pairs[key]
        targets += _TARGET_WEIGHT * len(target)
        if batches[-1] and (len(batches[-1]) + 1) * len(source) + targets > batch_tokens:
            batches.append([])
            targets = _TARGET_WEIGHT * len(target)
        batches[-1].append(key)
    return batches
