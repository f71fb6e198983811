"""What are choices in training worth? Compares models on the data set aside for choosing.

    python -m bench.choices --dev ../shared/data/qa_dev.jsonl.gz \
        --labels ../shared/data/factcons_qags_{cnndm,xsum}.jsonl.gz \
        --pairs ../shared/data/docsum_pairs.jsonl.gz --models base=runs/base longer=runs/longer

Measures for each model: nats per token of people's questions and of their answers, given a text as
short as a summary and a longer one; how often a summary scores above the same one with a changed
name or number; agreement with people on the odd rows, which are for choosing, and its gain over the
first model; and the length of the pairs that the search finds, which determines the cost of
scoring. Writes bench/results/choices.json; passes are stored as for `python -m bench.model`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.shared.common import ROOT, Pair, finish, load_pairs
from bench.shared.options import command_line
from bench.shared.weights import Weights, describe
from bench.studies.model.passes import Row, load_rows
from bench.studies.model.quality import PARTS, WINDOW, rise, targets_of
from bench.studies.model.settings import Passes, Variant
from quals_fast import DecodingConfig, QualsScorer
from quals_fast.evaluation import agreement
from quals_fast.training.qagen.corpus import Corpus, read_corpus
from quals_fast.training.qagen.renaming import shape, whole_words
from quals_fast.training.qagen.views import sentence_window, with_distractors

NAME = "choices"
_WORDS = 340  # most of a long text: about 500 tokens
_SUMMARY_WORDS = 50  # most of a summary that is altered
# Of a pair both summaries are searched; fewer beams tell them apart as well and cost a third.
_FAST = Variant(decoding=DecodingConfig(num_beams=30, num_beam_groups=30))
_NAMES = re.compile(r"(?<=[a-z,] )[A-Z][\w-]+(?: [A-Z][\w-]+)*(?!\w)")
_NUMBERS = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?!\w)")


def altered(pairs: Sequence[Pair], count: int) -> list[tuple[Pair, Pair]]:
    """Return pairs with the same pairs after one name or number of the summary was altered.

    It becomes another of the same shape that stands in the document and not in the summary.

    Args:
        pairs: of which long ones are passed over.
        count: how many, each from another pair.
    """
    altered_pairs: list[tuple[Pair, Pair]] = []
    for pair in random.Random(0).sample(pairs, len(pairs)):
        if len(altered_pairs) == count:
            break
        rng = random.Random(pair.id)
        if len(pair.document.split()) > _WORDS or len(pair.summary.split()) > _SUMMARY_WORDS:
            continue
        in_document = _facts(pair.document)
        changes = [
            (old, new)
            for old in sorted(_facts(pair.summary) & in_document)
            for new in sorted(in_document)
            if shape(old) is not None
            and shape(new) == shape(old)
            and new not in pair.summary
            and old not in new
        ]
        if changes:
            old, new = rng.choice(changes)
            summary = whole_words([old]).sub(new, pair.summary)
            altered_pairs.append((pair, pair._replace(id=f"{pair.id}-altered", summary=summary)))
    return altered_pairs


def _facts(text: str) -> set[str]:
    return {match[0] for kind in (_NAMES, _NUMBERS) for match in kind.finditer(text)}


def nats(scorer: QualsScorer, corpus: Corpus) -> dict[str, dict[str, float]]:
    """Return nats a token of questions and of answers, on short and on long texts."""
    rng, asked = random.Random(0), corpus.questions
    targets = targets_of(scorer, asked)
    texts = {
        "short": [sentence_window(corpus, q, rng, **WINDOW).text for q in asked],
        "long": [
            with_distractors(corpus, q, rng, longest=_WORDS, passage_words=230).text for q in asked
        ],
    }
    means = {}
    for name, shown in texts.items():
        values: dict[str, list[float]] = {"question": [], "answer": []}
        for (target,), (logprobs,) in zip(targets, scorer.rescore(shown, targets), strict=True):
            separator = target.index(scorer.engine.model.conventions.sep_token_id) + 1
            values["question"] += logprobs[:separator]
            values["answer"] += logprobs[separator:]
        means[name] = {part: -math.fsum(own) / len(own) for part, own in values.items()}
    return means


def main() -> None:
    """Measure all models; passes that are stored cost nothing."""
    a = _arguments()
    sets = {path.name.split(".")[0]: load_rows(path, None) for path in a.labels}
    odd = {
        name: [r for r in rows if r.number % 2 == PARTS["odd"] and r.pair.label is not None]
        for name, rows in sets.items()
    }
    labels = {name: [float(row.pair.label or 0) for row in rows] for name, rows in odd.items()}
    corpus = read_corpus([a.dev]).drawn(a.questions)
    changed = altered(load_pairs([a.pairs]), a.altered)
    rows = [Row(0, pair) for two in changed for pair in two]
    models: dict[str, Any] = {}
    weights: Weights = {}
    first: dict[str, list[float]] = {}
    for name, folder in (one.split("=", 1) for one in a.models):
        passes, scorer = Passes(folder, "cpu", a.work), Variant().scorer(folder, "cpu")
        own = {title: passes.scores(Variant(), one) for title, one in odd.items()}
        first = first or own
        scores = passes.scores(_FAST, rows)
        twos = zip(scores[0::2], scores[1::2], strict=True)
        higher = [x > y for x, y in twos if not math.isnan(x + y)]
        weights[name] = describe(folder)
        models[name] = {
            "signature": scorer.signature,
            "nats": nats(scorer, corpus),
            "altered": {"n": len(higher), "higher": sum(higher)},
            "tokens": _mean_length(passes, odd),
            "with_people": {
                title: {
                    "pearson": agreement(name, one, labels[title]).pearson.to_dict(),
                    "rise": rise(first[title], one, labels[title]),
                }
                for title, one in own.items()
            },
        }
        print(f"{name}: {json.dumps(models[name])}", flush=True)
    result = {"questions": len(corpus.questions), "data": a.dev.name, "models": models}
    finish(NAME, result, weights=weights)


def _mean_length(passes: Passes, sets: dict[str, list[Row]]) -> float:
    """Return the mean number of tokens of what is found and is a pair about the summary."""
    stored = [one for rows in sets.values() for one in passes.stored(Variant(), rows)]
    lengths = [len(pair.hypothesis.token_ids) for one in stored for pair in one.pairs]
    return sum(lengths) / len(lengths)


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--dev", type=Path, required=True, help="questions by people")
    parser.add_argument(
        "--labels", type=Path, nargs="+", required=True, help="summaries with human judgements"
    )
    parser.add_argument("--pairs", type=Path, required=True, help="documents with summaries")
    parser.add_argument(
        "--models",
        nargs="+",
        required=True,
        metavar="NAME=FOLDER",
        help="models to compare; the first is the baseline",
    )
    parser.add_argument("--questions", type=int, default=1_000, help="questions of --dev to use")
    parser.add_argument("--altered", type=int, default=150, help="number of pairs to alter")
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".benchmarks" / "model", help="folder of stored passes"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
