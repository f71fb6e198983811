"""Collect the figures of a report from rows, in memory that hardly grows with their number."""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from quals_fast.errors import InputError
from quals_fast.jobs.parsing import InputRow, group_name
from quals_fast.jobs.scores import BadLine, ScoreRow
from quals_fast.pages.display import count
from quals_fast.pages.marking import MarkedPart, parts_of
from quals_fast.results import merged_spans

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_GROUPS = 200
MAX_SIGNATURES = 20
MAX_EXAMPLES = 20  # of rows without a score, and of lines that cannot be read
NO_VALUE = "(no value)"
_NO_COLUMNS = ("pairs", "document", "summary")  # never worth grouping by


class TokenCount:
    """Rows that have tokens of a kind, such as tokens that were cut off.

    Attributes:
        rows: number of such rows.
        tokens: number of such tokens, in all rows.
        most: largest number of such tokens in one row.
        scored: number of such rows with a score.
        sum: sum of their scores.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.tokens = 0
        self.most = 0
        self.scored = 0
        self.sum = 0.0

    def add(self, tokens: int, score: float) -> None:
        """Count a row."""
        if tokens:
            self.rows += 1
            self.tokens += tokens
            self.most = max(self.most, tokens)
            if math.isfinite(score):
                self.scored += 1
                self.sum += score

    def merge(self, other: TokenCount) -> None:
        """Add the rows of another."""
        self.rows += other.rows
        self.tokens += other.tokens
        self.most = max(self.most, other.most)
        self.scored += other.scored
        self.sum += other.sum


class Group:
    """Scores and counts of rows: eight bytes a row."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.scored_statuses: Counter[str] = Counter()
        self.truncated = TokenCount()
        self.unknown = TokenCount()
        self._n_probabilities = 0
        self._sum_of_probabilities = 0.0
        self._scores = array("d")

    def add(self, row: ScoreRow) -> None:
        """Count a row."""
        self.statuses[row.status] += 1
        self.truncated.add(row.truncated_tokens, row.score)
        self.unknown.add(row.unknown_tokens, row.score)
        if row.probability is not None:
            self._n_probabilities += 1
            self._sum_of_probabilities += row.probability
        if math.isfinite(row.score):
            self.scored_statuses[row.status] += 1
            self._scores.append(row.score)

    def merge(self, other: Group) -> None:
        """Add the rows of another."""
        self.statuses += other.statuses
        self.scored_statuses += other.scored_statuses
        self.truncated.merge(other.truncated)
        self.unknown.merge(other.unknown)
        self._n_probabilities += other._n_probabilities
        self._sum_of_probabilities += other._sum_of_probabilities
        self._scores.extend(other._scores)

    @property
    def n_rows(self) -> int:
        """Rows, with and without a score."""
        return self.statuses.total()

    @property
    def n_scored(self) -> int:
        """Rows with a score."""
        return len(self._scores)

    @property
    def mean_probability(self) -> float:
        """Mean of the probabilities; NaN without one."""
        n = self._n_probabilities
        return self._sum_of_probabilities / n if n else math.nan

    @property
    def scores(self) -> NDArray[np.float64]:
        """The scores in the order of the rows; they share the group's memory."""
        import numpy as np

        return np.asarray(self._scores)


class ShownRow(NamedTuple):
    """A row that the report shows by itself.

    Attributes:
        row: its scores.
        texts: the row that was scored, or None if the report has no input.
        group: its value of the column to group by, or None.
    """

    row: ScoreRow
    texts: InputRow | None
    group: str | None

    @property
    def parts(self) -> list[MarkedPart]:
        """The summary's parts, with what is known of them; empty without texts or spans."""
        pairs = [
            one.by_token for one in self.row.pairs if one.by_token and one.by_token.answer_spans
        ]
        if self.texts is None or not pairs:
            return []
        summary = str(self.texts.summary)
        return list(parts_of(summary, merged_spans(pairs, summary), pairs))


class Part:
    """The rows with one signature, which alone are comparable.

    Args:
        n_worst: number of the lowest-scoring rows to keep.
    """

    def __init__(self, n_worst: int) -> None:
        self.groups: dict[str | None, Group] = {}
        self.without_score: list[ShownRow] = []
        self.has_pairs = False
        self._n_worst = n_worst
        self._n_rows = 0
        self._worst: list[tuple[float, int, ShownRow]] = []

    def add(self, shown: ShownRow) -> None:
        """Count a row, and keep it if it is among the lowest-scoring ones."""
        row = shown.row
        self._n_rows += 1
        self.has_pairs = self.has_pairs or bool(row.pairs)
        self.groups.setdefault(shown.group, Group()).add(row)
        if not math.isfinite(row.score):
            if len(self.without_score) < MAX_EXAMPLES:
                self.without_score.append(shown)
        elif self._n_worst:
            # The heap drops the highest score first, and of equal ones the latest.
            entry = (-row.score, -self._n_rows, shown)
            if len(self._worst) < self._n_worst:
                heapq.heappush(self._worst, entry)
            elif entry > self._worst[0]:
                heapq.heapreplace(self._worst, entry)

    def total(self) -> Group:
        """Return all groups as one."""
        if len(self.groups) == 1:
            return next(iter(self.groups.values()))
        total = Group()
        for group in self.groups.values():
            total.merge(group)
        return total

    def worst(self) -> list[ShownRow]:
        """Return the kept rows, the lowest score first."""
        return [shown for *_, shown in sorted(self._worst, reverse=True)]


class Collection:
    """All that a report shows.

    Args:
        by: column to group by, or None.
        n_worst: number of the lowest-scoring rows to keep for each signature.
    """

    def __init__(self, *, by: str | None, n_worst: int) -> None:
        self.by = by
        self.parts: dict[str, Part] = {}  # by signature
        self.files: Counter[str] = Counter()  # rows that could be read, by file
        self.bad_files: Counter[str] = Counter()  # lines that could not, by file
        self.bad_lines: list[BadLine] = []  # the first of them
        self.n_not_scored = 0
        self._n_worst = n_worst
        self._columns: dict[str, None] = {}
        self._group_names: set[str] = set()

    @property
    def n_rows(self) -> int:
        """Rows that could be read."""
        return self.files.total()

    def add(self, row: ScoreRow | BadLine, texts: InputRow | None = None) -> None:
        """Count a row, with the row that was scored if it is known.

        Raises:
            InputError: the column to group by has too many values or an array, or there are too
                many signatures.
        """
        if isinstance(row, BadLine):
            self.bad_files[row.file] += 1
            if len(self.bad_lines) < MAX_EXAMPLES:
                self.bad_lines.append(row)
            return
        self.files[row.file] += 1
        part = self.parts.get(row.signature)
        if part is None:
            part = self._new_part(row)
        part.add(ShownRow(row, texts, None if self.by is None else self._group_of(row, texts)))

    def check(self) -> None:
        """Check that there is something to report.

        Raises:
            InputError: there is no row, or no row has the column to group by.
        """
        if not self.n_rows:
            raise InputError("SCORES has no rows; write some with quals-fast score INPUT -o FILE")
        if self.by is not None:
            check_column(self.by, self._columns, list(self.files))

    def _new_part(self, row: ScoreRow) -> Part:
        if len(self.parts) == MAX_SIGNATURES:
            raise InputError(
                f"SCORES must have at most {MAX_SIGNATURES} signatures, but {row.file}, line "
                f"{row.line} has one more: {row.signature}; report fewer files at once"
            )
        return self.parts.setdefault(row.signature, Part(self._n_worst))

    def _group_of(self, row: ScoreRow, texts: InputRow | None) -> str:
        # What score wrote comes first: an input may have a column of the same name.
        fields = {"file": row.file, **(texts.fields if texts else {}), **row.fields}
        self._columns |= dict.fromkeys(fields)
        value = fields.get(self.by)  # type: ignore[arg-type]
        if isinstance(value, list | dict):
            raise InputError(
                f"`--by` must be a column of texts or numbers, but {self.by!r} holds "
                f"{'an array' if isinstance(value, list) else 'an object'} in {row.place}"
            )
        name = group_name(value)
        if value is None or name == "":
            name = NO_VALUE
        self._group_names.add(name)
        if len(self._group_names) > MAX_GROUPS:
            raise InputError(
                f"`--by` must be a column with at most {MAX_GROUPS} different values, but "
                f"{self.by!r} has more: {row.place} has {name[:60]!r}; choose "
                "another column"
            )
        return name


def check_column(by: str, columns: Iterable[str], files: Sequence[str]) -> None:
    """Check that rows can be grouped by a column.

    Args:
        by: its name.
        columns: the columns that there are.
        files: where they were found, at least one; for the message.

    Raises:
        InputError: it is not one of them.
    """
    if by in columns:
        return
    shown = ", ".join(repr(name) for name in columns if name not in _NO_COLUMNS)
    more = "" if len(files) == 1 else f" and {count(len(files) - 1, 'more file')}"
    raise InputError(
        f"`--by` must be a column of SCORES or of --input, but got {by!r}; the columns of "
        f"{files[0]}{more} are {shown}; for those of the file that was scored, give it with --input"
    )


def joined(
    rows: Iterable[ScoreRow | BadLine], texts: Iterator[InputRow], collection: Collection
) -> Iterator[tuple[ScoreRow | BadLine, InputRow]]:
    """Yield each row of scores with the row that was scored, which must have the same place.

    Raises:
        InputError: the ids differ, or there are more scores than texts.
    """
    advice = "give the files that were scored, in the order of their scores"
    for row in rows:
        text = next(texts, None)
        if text is None:
            raise InputError(
                f"--input must have a row for each row of SCORES, but ends before {row.file}, line "
                f"{row.line}; {advice}"
            )
        if isinstance(row, ScoreRow) and str(row.id) != str(text.id):
            raise InputError(
                f"--input must have the ids of SCORES in the same order, but {row.file}, line "
                f"{row.line} has {str(row.id)!r} and the input {str(text.id)!r} at line "
                f"{text.line}; {advice}"
            )
        if isinstance(row, ScoreRow) and (end := _last_end(row)) > len(str(text.summary)):
            raise InputError(
                f"--input must have the summaries that were scored, but {row.file}, line "
                f"{row.line} has an answer that ends at character {end} and the input has "
                f"{len(str(text.summary))} characters at line {text.line}; {advice}"
            )
        yield row, text
    collection.n_not_scored = sum(1 for _ in texts)


def _last_end(row: ScoreRow) -> int:
    """Return the end of the last answer in a row's summary; 0 if there is none."""
    pairs = [pair.by_token for pair in row.pairs if pair.by_token is not None]
    return max((end for pair in pairs for _, end in pair.answer_spans), default=0)
