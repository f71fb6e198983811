"""The pairs of summaries that a study can draw from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from quals_fast.jobs.pairing import Pairing
from quals_fast.jobs.parsing import InputRow
from quals_fast.pages.display import count
from quals_fast.validation import is_invisible


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A system's summary of a document.

    Attributes:
        id: id of its row.
        text: the summary.
    """

    id: Any
    text: str

    @classmethod
    def of(cls, row: InputRow) -> Summary:
        """Take the summary of a row."""
        return cls(id=row.id, text=row.summary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A document with a summary by each of the two systems."""

    document: str
    summaries: tuple[Summary, Summary]

    @property
    def is_identical(self) -> bool:
        """Whether the summaries differ in white space at most."""
        first, second = (one.text.split() for one in self.summaries)
        return first == second

    @classmethod
    def of_dict(cls, content: dict[str, Any]) -> Pair:
        """Return the pair that `to_dict` wrote."""
        first, second = (Summary(**one) for one in content["summaries"])
        return cls(document=str(content["document"]), summaries=(first, second))

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return asdict(self)


@dataclass(slots=True)
class Candidates:
    """The pairs that a study can draw from, and what is left out.

    Attributes:
        pairs: of each document, the first summary by each system.
        n_identical: number of pairs left out because their summaries do not differ.
        n_empty: number of pairs left out because the document is empty.
        n_more: number of further summaries of these documents.
    """

    pairs: list[Pair] = field(default_factory=list)
    n_identical: int = 0
    n_empty: int = 0
    n_more: int = 0

    @classmethod
    def of(cls, pairing: Pairing[InputRow]) -> Candidates:
        """Take the pairs of two systems."""
        found = cls()
        for rows in pairing.paired().values():
            first, second = (rows[system] for system in pairing.systems)
            summaries = (Summary.of(first[0]), Summary.of(second[0]))
            pair = Pair(document=first[0].document, summaries=summaries)
            found.n_more += len(first) + len(second) - 2
            if is_invisible(pair.document):
                found.n_empty += 1
            elif pair.is_identical:
                found.n_identical += 1
            else:
                found.pairs.append(pair)
        return found

    def left_out(self) -> Iterator[str]:
        """Say what is left out."""
        if self.n_identical:
            yield f"{count(self.n_identical, 'pair')} with identical summaries left out"
        if self.n_empty:
            yield f"{count(self.n_empty, 'empty document')} left out"
        if self.n_more:
            yield (
                f"{count(self.n_more, 'more summary', 'more summaries')} left out: of several by a "
                "system, the first counts"
            )
