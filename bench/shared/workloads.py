"""Describe the frozen inputs of the benchmarks: `short` as in XSum, `long` as in CNN/DM.

    python -m bench.workloads --data ../shared/data/docsum_pairs.jsonl.gz

With a file of documents and summaries, rows of the right lengths are taken in the order of their
hashes, so that the first 5 are among the first 20, wherever they are in the file. Without a file,
rows are made from the project's 20 example documents: a document is cut between sentences, or
joined with the next ones, until it has the workload's length; a `short` summary is an example's
summary cut at a clause; a `long` one is an example's summary followed by such a cut of the next. If
more rows are needed than there are, they are repeated with rotated sentences, so that a text occurs
again only after as many repeats as it has sentences.
"""

from __future__ import annotations

import hashlib
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from bench.shared.common import EXAMPLES, Pair, load_pairs
from bench.shared.options import command_line
from quals_fast.models.loading import model_folder

CUT_WORDS = 20  # of an example's summary whose clauses all end elsewhere

_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_CLAUSES = re.compile(r"(?<=[,;.])\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Which rows belong to it; limits included.

    Attributes:
        document_tokens: of the bundled tokenizer, without special tokens.
        summary_words: between white space.
        like: the data set that it stands for.
    """

    document_tokens: tuple[int, int]
    summary_words: tuple[int, int]
    like: str


WORKLOADS = {
    "short": Workload(document_tokens=(300, 450), summary_words=(15, 25), like="XSum"),
    "long": Workload(document_tokens=(600, 800), summary_words=(40, 60), like="CNN/DM"),
}


def load_workload(name: str, data: Path | None, rows: int) -> list[Pair]:
    """Return a workload's pairs; how many rows qualify is said on standard error.

    Args:
        name: one of `WORKLOADS`.
        data: JSON lines with document and summary; None makes them of the examples.
        rows: how many.

    Raises:
        ValueError: there is no such workload, or no row of the file qualifies.
    """
    if name not in WORKLOADS:
        raise ValueError(f"`name` must be one of {', '.join(WORKLOADS)}, but got {name!r}")
    workload = WORKLOADS[name]
    fitting = _of_examples(workload) if data is None else _of_file(workload, load_pairs([data]))
    source = "made from the examples" if data is None else f"found in {data.name}"
    print(f"workload {name}: {len(fitting)} rows {source}", file=sys.stderr)
    if not fitting:
        raise ValueError(
            f"{data} has no row for workload {name!r}: documents must have "
            f"{_span(workload.document_tokens)} tokens and summaries "
            f"{_span(workload.summary_words)} words"
        )
    repeats = range(-(-rows // len(fitting)))
    return [_rotate(pair, turn) for turn in repeats for pair in fitting][:rows]


def token_count(texts: list[str]) -> list[int]:
    """Count each text's tokens of the bundled tokenizer, without special ones."""
    tokenizer = Tokenizer.from_file(str(model_folder("qagen-mini") / "tokenizer.json"))
    tokenizer.no_truncation()
    return [len(one.ids) for one in tokenizer.encode_batch(texts, add_special_tokens=False)]


def sentences_of(text: str) -> list[str]:
    """Split a text behind full stops, question and exclamation marks."""
    return _SENTENCES.split(text)


def describe(pairs: list[Pair]) -> dict[str, list[float]]:
    """Return least, median and most of the documents' tokens and the summaries' words."""
    sizes = {
        "document_tokens": token_count([pair.document for pair in pairs]),
        "summary_words": [len(pair.summary.split()) for pair in pairs],
    }
    return {what: [min(n), statistics.median(n), max(n)] for what, n in sizes.items()}


def _of_file(workload: Workload, pairs: list[Pair]) -> list[Pair]:
    fitting = [p for p in pairs if _within(len(p.summary.split()), workload.summary_words)]
    counts = token_count([pair.document for pair in fitting])
    chosen = [
        pair
        for pair, count in zip(fitting, counts, strict=True)
        if _within(count, workload.document_tokens)
    ]
    return sorted(chosen, key=_hash)


def _of_examples(workload: Workload) -> list[Pair]:
    examples = load_pairs([EXAMPLES])
    documents = list(dict.fromkeys(pair.document for pair in examples))
    made = []
    for index, pair in enumerate(examples):
        place = documents.index(pair.document)
        after = examples[(index + 2) % len(examples)]  # the next document, the same kind of summary
        cut, next_cut = _cut(pair.summary), _cut(after.summary)
        joined = (cut, f"{pair.summary} {next_cut}", f"{cut} {next_cut}")
        summary = next(s for s in joined if _within(len(s.split()), workload.summary_words))
        document = _joined(documents[place:] + documents[:place], workload.document_tokens)
        made.append(Pair(pair.id, document, summary, None))
    return made[::2] + made[1::2]  # rows next to each other have different documents


def _joined(documents: list[str], limits: tuple[int, int]) -> str:
    """Join sentences until the text is about as long as the middle of the limits."""
    sentences = [s for document in documents for s in sentences_of(document)]
    total, count = 0, 0
    for tokens in token_count(sentences):
        if total + tokens > sum(limits) / 2 and total >= limits[0]:
            break
        total, count = total + tokens, count + 1
    return " ".join(sentences[:count])


def _cut(summary: str) -> str:
    """Cut a summary of one sentence after a clause, or after so many words."""
    clauses = _CLAUSES.split(summary)
    limits = WORKLOADS["short"].summary_words
    for count in range(len(clauses), 0, -1):
        text = " ".join(clauses[:count])
        if _within(len(text.split()), limits):
            return text.rstrip(",;.") + "."
    return " ".join(summary.split()[:CUT_WORDS]).rstrip(",;.") + "."


def _rotate(pair: Pair, turn: int) -> Pair:
    """Return the pair with its sentences in another order; turn 0 changes nothing."""
    if not turn:
        return pair

    def rotate(text: str) -> str:
        sentences = sentences_of(text)
        first = turn % len(sentences)
        return " ".join(sentences[first:] + sentences[:first])

    return Pair(f"{pair.id}-{turn}", rotate(pair.document), rotate(pair.summary), pair.label)


def _within(number: int, limits: tuple[int, int]) -> bool:
    return limits[0] <= number <= limits[1]


def _span(limits: tuple[int, int]) -> str:
    return f"{limits[0]} to {limits[1]}"


def _hash(pair: Pair) -> str:
    return hashlib.sha256(f"{pair.document}\n{pair.summary}".encode()).hexdigest()


def main() -> None:
    """Say what the workloads hold."""
    arguments = command_line(__doc__, data=None, rows=40).parse_args()
    for name in WORKLOADS:
        print(name, describe(load_workload(name, arguments.data, arguments.rows)))


if __name__ == "__main__":
    main()
