"""Claims about documents: correct ones, and what FactCC's rules make of them.

Source: salesforce/factCC at 23ec0ac, data_generation/augmentation_ops.py, for what the rules do.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from bench.shared.common import load_pairs
from quals_fast.qags.answers import SPACY_MODELS

PAIRS_FILE = "docsum_pairs.jsonl.gz"
JUDGED = ("qags_cnndm", "qags_xsum", "frank_valid_cnndm", "frank_valid_xsum")
SOURCES = ("bbc-news-summary", "defacto-xsum", "entfa-xsum", "xsum-extracts")
WITH_SUMMARIES = ("cnndm-validation", "cnndm-train100-tokenised")  # XSum's add facts

NAMES = ("PERSON", "ORG", "NORP", "FAC", "GPE", "LOC", "PRODUCT", "WORK_OF_ART", "EVENT")
NUMBERS = ("PERCENT", "MONEY", "QUANTITY", "CARDINAL")
DATES = ("DATE", "TIME")
PRONOUNS = (
    ("i", "you", "he", "she", "we", "they"),
    ("me", "him", "us", "them"),
    ("my", "your", "his", "her", "its", "our", "their"),
    ("myself", "yourself", "himself", "herself", "itself", "ourselves", "themselves"),
)
CONTRACTED = {
    "are": "aren't", "is": "isn't", "was": "wasn't", "were": "weren't", "have": "haven't",
    "has": "hasn't", "had": "hadn't", "do": "don't", "does": "doesn't", "did": "didn't",
    "can": "can't", "could": "couldn't", "should": "shouldn't", "will": "won't",
    "would": "wouldn't",
}  # fmt: skip
NEGATED = {*CONTRACTED, "may", "might", "must", "shall"}
AFFIRMED = {"ca": "can", "wo": "will", "sha": "shall"}  # of the halves of can't, won't, shan't


class Claim(NamedTuple):
    """A correct claim, and what the rules make of it.

    Attributes:
        sentences: of the document, as far as it is read.
        place: of the sentence that says most of the claim.
        text: of the claim.
        wrong: by rule the incorrect claim.
    """

    sentences: list[str]
    place: int
    text: str
    wrong: dict[str, str]


def swap(labels: Sequence[str], claim: Any, document: Any, rng: random.Random) -> str | None:
    """Put another entity of the document, of the same kind, in the place of one of the claim."""
    choices = [
        (entity, other.text)
        for entity in claim.ents
        if entity.label_ in labels
        for other in document.ents
        if other.label_ == entity.label_ and not _overlap(entity.text, other.text)
    ]
    if not choices:
        return None
    entity, other = rng.choice(choices)
    return _replaced(claim, entity.start_char, entity.end_char, other)


def swap_pronoun(claim: Any, _: Any, rng: random.Random) -> str | None:
    """Put another pronoun of the same case in the place of one."""
    choices = [
        (token, other)
        for token in claim
        for case in PRONOUNS
        if token.lower_ in case
        for other in case
        if other != token.lower_
    ]
    if not choices:
        return None
    token, other = rng.choice(choices)
    text = other if token.is_lower else other.capitalize()
    return _replaced(claim, token.idx, token.idx + len(token), text)


def negate(claim: Any, _: Any, rng: random.Random) -> str | None:
    """Negate an auxiliary verb, or take its negation away."""
    choices = [
        (token, after)
        for token, after in pairwise(claim)
        if token.lower_ in {*NEGATED, *AFFIRMED} and after.lower_ not in ("no", "never")
    ]
    if not choices:
        return None
    token, after = rng.choice(choices)
    word, start, end = token.lower_, token.idx, token.idx + len(token)
    if after.lower_ in ("not", "n't", "n’t"):  # noqa: RUF001, as documents have it
        return _replaced(claim, start, after.idx + len(after), AFFIRMED.get(word, token.text))
    if word in AFFIRMED:
        return None
    contracted = word in CONTRACTED and rng.random() < 0.5
    return _replaced(claim, start, end, CONTRACTED[word] if contracted else f"{token.text} not")


RULES: dict[str, Callable[[Any, Any, random.Random], str | None]] = {
    "name": lambda *given: swap(NAMES, *given),
    "number": lambda *given: swap(NUMBERS, *given),
    "date": lambda *given: swap(DATES, *given),
    "pronoun": swap_pronoun,
    "negation": negate,
}


def corrupt(claim: Any, document: Any, rng: random.Random) -> dict[str, str]:
    """Return by rule the claim made incorrect, by each rule that changes it.

    Args:
        claim: spaCy's ``Doc`` or ``Span``.
        document: spaCy's ``Doc``.
        rng: decides what is changed.
    """
    made = {name: rule(claim, document, rng) for name, rule in RULES.items()}
    said = document.text.casefold()
    return {
        name: text
        for name, text in made.items()
        if text and text.casefold() != claim.text.casefold() and text.casefold() not in said
    }


def claims_of(document: Any, summary: Any | None, rng: random.Random) -> Iterator[Claim]:
    """Yield five sentences of a document, and all of its summary, that a rule can change."""
    sentences = [sentence for sentence in document.sents if sentence.text.strip()]
    texts = [sentence.text.strip() for sentence in sentences]
    extracted = [one for one in sentences if 8 <= len(one) <= 60]
    rng.shuffle(extracted)
    for claim in [*extracted[:5], *([] if summary is None else summary.sents)]:
        wrong = corrupt(claim, document, rng)
        if wrong and len(claim) >= 5:
            words = _words(claim.text)
            place = max(range(len(texts)), key=lambda i: len(words & _words(texts[i])))
            yield Claim(texts, place, claim.text.strip(), wrong)


def load_spacy() -> Any:
    """Return spaCy's small English model, which finds sentences and names."""
    import spacy

    model = next(filter(spacy.util.is_package, reversed(SPACY_MODELS)))
    return spacy.load(model, exclude=["tagger", "attribute_ruler", "lemmatizer"])


def read_claims(data: Path, documents: int, nlp: Any, rng: random.Random) -> list[list[Claim]]:
    """Return the claims of documents, drawn at random, that are in none of the judged sets."""
    seen = {_key(row.document) for name in JUDGED for row in load_pairs([judged_file(data, name)])}
    chosen = []
    with gzip.open(data / PAIRS_FILE, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row["source"] in (*SOURCES, *WITH_SUMMARIES) and _key(row["document"]) not in seen:
                seen.add(_key(row["document"]))
                chosen.append(row)
    rng.shuffle(chosen)
    found = []
    for row in chosen[:documents]:
        document = nlp(" ".join(row["document"][:2500].split()))
        has_summary = row["source"] in WITH_SUMMARIES
        summary = nlp(" ".join(row["summary"].split())) if has_summary else None
        if claims := list(claims_of(document, summary, rng)):
            found.append(claims)
    return found


def stored_claims(path: Path, data: Path, documents: int, nlp: Any) -> list[list[Claim]]:
    """Return the claims that an earlier call wrote to a file, or find and write them."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = read_claims(data, documents, nlp, random.Random(1))
        scratch = path.with_suffix(".part")
        scratch.write_text(json.dumps(found), "utf-8")
        scratch.replace(path)
    return [[Claim(*claim) for claim in one] for one in json.loads(path.read_text("utf-8"))]


def window(claim: Claim, words: float, rng: random.Random) -> str:
    """Return neighbouring sentences around the claim's, up to about so many words."""
    first = last = claim.place
    count = len(claim.sentences[first].split())
    while count < words and (first > 0 or last + 1 < len(claim.sentences)):
        if last + 1 == len(claim.sentences) or (first > 0 and rng.random() < 0.5):
            first -= 1
            count += len(claim.sentences[first].split())
        else:
            last += 1
            count += len(claim.sentences[last].split())
    return " ".join(claim.sentences[first : last + 1])


def with_noise(correct: str, incorrect: str, rng: random.Random) -> tuple[str, str]:
    """Leave out or double some of the words that both claims begin and end with."""
    a, b = correct.split(), incorrect.split()
    before, after = _shared(a, b)

    def noisy(words: list[str]) -> list[str]:
        counts = rng.choices((1, 0, 2), (0.95, 0.04, 0.01), k=len(words))
        return [word for word, count in zip(words, counts, strict=True) for _ in range(count)]

    start, end = noisy(a[:before]), noisy(a[len(a) - after :])
    return (
        " ".join([*start, *a[before : len(a) - after], *end]),
        " ".join([*start, *b[before : len(b) - after], *end]),
    )


def changed(correct: str, incorrect: str) -> tuple[int, int]:
    """Return where the incorrect claim's changed words start and end, in characters.

    Where words were only left out, it is the word before them. Words are one space apart.
    """
    words = incorrect.split()
    before, after = _shared(correct.split(), words)
    last = max(1, len(words) - after)
    first = min(before, last - 1)
    return len(" ".join([*words[:first], ""])), len(" ".join(words[:last]))


def judged_file(data: Path, name: str) -> Path:
    """Return the file of a judged set."""
    return data / f"factcons_{name}.jsonl.gz"


def _replaced(claim: Any, start: int, end: int, text: str) -> str:
    """Return the claim with another text between two places of its document."""
    first = claim[0].idx
    whole: str = claim.text
    return f"{whole[: start - first]}{text}{whole[end - first :]}".strip()


def _shared(a: list[str], b: list[str]) -> tuple[int, int]:
    """Return how many words two claims begin with, and how many others they end with."""
    most = min(len(a), len(b))
    before = next((i for i in range(most) if a[i] != b[i]), most)
    most -= before
    return before, next((i for i in range(most) if a[-1 - i] != b[-1 - i]), most)


def _overlap(a: str, b: str) -> bool:
    return a.casefold() in b.casefold() or b.casefold() in a.casefold()


def _words(text: str) -> set[str]:
    return set(text.casefold().split())


def _key(document: str) -> str:
    return "".join(filter(str.isalnum, document.casefold()))[:100]
