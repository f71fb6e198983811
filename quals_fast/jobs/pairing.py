"""Rows of several systems, brought together by document: texts, or what `score` wrote."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from quals_fast.errors import InputError
from quals_fast.jobs.parsing import InputRow, group_name
from quals_fast.jobs.scores import BadLine, ScoreRow, place_of, read_scores
from quals_fast.signature import must_match
from quals_fast.validation import check_pair

MAX_SYSTEMS = 50
_FIRST_ROWS = 90  # looked at to tell what a file holds
_MOST_NAMED = 3  # documents that a message names


class _Placed(Protocol):
    @property
    def place(self) -> str:
        """Where the row is, for messages."""
        ...


_Row = TypeVar("_Row", bound=_Placed)


@dataclass(slots=True)
class Pairing(Generic[_Row]):
    """Rows by document and system.

    Attributes:
        systems: their names; `add` appends new ones.
        rows: the rows of each document, by system, in the order in which they came.
    """

    systems: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, list[_Row]]] = field(default_factory=dict)

    def add(self, system: str, document: str, row: _Row) -> None:
        """Add a row.

        Args:
            system: that wrote the summary.
            document: what is equal in rows of the same document.
            row: the row.

        Raises:
            InputError: there are too many systems.
        """
        if system not in self.systems:
            self.systems.append(system)
            if len(self.systems) > MAX_SYSTEMS:
                raise InputError(
                    f"at most {MAX_SYSTEMS} systems can be compared, but {row.place} has one more: "
                    f"{system[:60]!r}; --by must name the column of the system"
                )
        self.rows.setdefault(document, {}).setdefault(system, []).append(row)

    def paired(self) -> dict[str, dict[str, list[_Row]]]:
        """Return the documents that every system has."""
        return {key: rows for key, rows in self.rows.items() if len(rows) == len(self.systems)}

    def unpaired(self) -> list[dict[str, list[_Row]]]:
        """Return the rows of each document that a system lacks."""
        return [rows for rows in self.rows.values() if len(rows) < len(self.systems)]

    def unpaired_line(self) -> str:
        """Count the documents that a system lacks, and name the first."""
        found = self.unpaired()
        named = [
            f"{next(iter(rows.values()))[0].place} "
            f"(not in {', '.join(system for system in self.systems if system not in rows)})"
            for rows in found[:_MOST_NAMED]
        ]
        more = f" and {len(found) - len(named)} more" if len(found) > len(named) else ""
        what = "1 document is" if len(found) == 1 else f"{len(found)} documents are"
        return f"{what} not in the rows of every system: {'; '.join(named)}{more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadScore:
    """A score of a file.

    Attributes:
        file: name of the file.
        line: number of its line, from 1.
        score: NaN if there is none.
    """

    file: str
    line: int
    score: float

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return place_of(self.file, self.line)


def system_names(paths: Sequence[str]) -> dict[str, str]:
    """Return a distinct name for each file: its base name, or its path if base names are equal.

    Args:
        paths: distinct files.
    """
    names = [Path(Path(path).name.removesuffix(".gz")).stem for path in paths]
    return dict(zip(paths, names if len(set(names)) == len(names) else paths, strict=True))


def holds_scores(path: str, document_field: str) -> bool:
    """Return whether a file is one that `quals-fast score` wrote, and not one of texts.

    Args:
        path: a file that can be read twice.
        document_field: key or column of the document in a file of texts.
    """
    try:
        for row in islice(read_scores(path), _FIRST_ROWS):
            if isinstance(row, ScoreRow):
                return document_field not in row.fields
    except InputError:  # reading it as texts will say what is wrong
        pass
    return False


def pair_texts(
    rows: Iterable[InputRow],
    names: Mapping[str, str],
    *,
    by: str | None = None,
    reference_field: str | None = None,
) -> tuple[Pairing[InputRow], list[InputRow]]:
    """Bring rows together whose documents are the same text, apart from white space.

    Args:
        rows: as a `JobInput` yields them.
        names: of the systems, by file, unless `by` is given.
        by: key or column of the system's name.
        reference_field: key or column of a reference summary, which each row must have.

    Returns:
        The rows that can be scored, and those that cannot be read or hold something else than text.

    Raises:
        InputError: a row has no system or no reference, or there are too many systems.
    """
    pairing: Pairing[InputRow] = Pairing([] if by else list(names.values()))
    bad: list[InputRow] = []
    only_file = next(iter(names))
    for row in rows:
        problem = None if row.problem else check_pair(row.document, row.summary)
        if row.problem or (problem and problem.status == "error"):
            bad.append(row)
            continue
        if reference_field is not None and not isinstance(row.fields.get(reference_field), str):
            raise InputError(
                f"{row.place}: expected a reference summary {reference_field!r}, but got "
                f"{_shown(row.fields, reference_field)}; name it with --reference-field"
            )
        system = _system(row.fields, by, row.place) if by else names[row.file or only_file]
        # Files that came by other ways differ in line ends, and in spaces around them.
        pairing.add(system, " ".join(str(row.document).split()), row)
    return pairing, bad


def pair_scores(
    names: Mapping[str, str], *, by: str | None = None
) -> tuple[Pairing[ReadScore], list[BadLine], list[str]]:
    """Bring rows of scores together by id.

    Args:
        names: of the systems, by file, unless `by` is given.
        by: key or column of the system's name.

    Returns:
        The scores, the lines that are no row of scores, and the signatures, which differ in their
        versions at most.

    Raises:
        InputError: a file cannot be read, signatures differ, a row has no system, an id comes twice
            in a system, or there are too many systems.
    """
    pairing: Pairing[ReadScore] = Pairing([] if by else list(names.values()))
    bad: list[BadLine] = []
    signatures: dict[str, str] = {}  # with the place of the first row
    for row in chain.from_iterable(map(read_scores, names)):
        if isinstance(row, BadLine):
            bad.append(row)
            continue
        key = str(row.id)
        if row.signature not in signatures:
            check_signature(row.signature, row.place, signatures)
            signatures[row.signature] = row.place
        system = _system(row.fields, by, row.place) if by else names[row.file]
        before = pairing.rows.get(key, {}).get(system)
        if before is not None:
            raise InputError(
                f"{row.place}: {system} has the id {key[:60]!r} twice, first at {before[0].place}; "
                "scores are paired by id, so score each system by itself, with an id of its own "
                "for each row; quals-fast compare also takes --by, or the files of texts"
            )
        score = row.score if math.isfinite(row.score) else math.nan
        pairing.add(system, key, ReadScore(file=row.file, line=row.line, score=score))
    return pairing, bad, list(signatures)


def check_signature(signature: str, place: str, known: Mapping[str, str]) -> None:
    """Check that scores are comparable with others.

    Args:
        signature: what the scores depend on.
        place: where they are, for messages.
        known: the signatures of the others, with their places.

    Raises:
        InputError: they differ in more than the version.
    """
    for other, other_place in known.items():
        if must_match(signature) != must_match(other):
            own, its = must_match(signature).split("|"), must_match(other).split("|")
            raise InputError(
                "scores with different signatures are not comparable, but "
                f"{other_place} has {_without(its, own)} and {place} has {_without(own, its)}; "
                "score all systems with the same model and settings"
            )


def _system(fields: Mapping[str, Any], by: str, place: str) -> str:
    """Return a row's value in the column of the system's name."""
    value = fields.get(by)
    if isinstance(value, str | int | float) and value != "":
        return group_name(value)
    raise InputError(
        f"{place}: expected the name of a system in {by!r}, but got {_shown(fields, by)}; name the "
        "right key or column with --by"
    )


def _shown(fields: Mapping[str, Any], name: str) -> str:
    """Return what a row has instead of a text in a field."""
    if name in fields:
        return repr(fields[name])[:60]
    return "the keys " + (", ".join(map(repr, fields)) or "of an empty row")


def _without(parts: list[str], others: list[str]) -> str:
    return "|".join(part for part in parts if part not in others) or "nothing more"
