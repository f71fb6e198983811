"""Read back what `quals-fast score` wrote: JSON lines or CSV, with or without gzip."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from quals_fast.errors import InputError
from quals_fast.jobs.opening import open_binary, read_errors, shown_name
from quals_fast.jobs.parsing import json_problem
from quals_fast.results import SEP, QAPair

_REQUIRED = ("score", "status", "signature")
_COUNTS = ("truncated_tokens", "unknown_tokens")
_MOST_BAD = 100  # lines without a row of scores, at the start of a file, that end the reading


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPair:
    """A question and answer of any metric, as read back.

    Attributes:
        question: its text; of a classifier, the sentence.
        answer: its text; of a classifier, the label.
        score: the higher, the better the document supports the pair.
        document_answer: QAGS only: the answer found in the document, which may be empty.
        by_token: QUALS only: the pair with its log-probabilities.
    """

    question: str
    answer: str
    score: float
    document_answer: str | None = None
    by_token: QAPair | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """A row of a file of scores.

    Attributes:
        file: name of the file.
        line: number of its line, from 1.
        fields: everything that the row holds, by column.
        score: NaN if there is none.
        status: as in `results.RowScore`, like the next three.
        truncated_tokens: number of tokens that were cut off.
        unknown_tokens: number of tokens that the vocabulary lacks.
        message: what is wrong, or None.
        signature: what the score depends on.
        pairs: empty unless the file was written with ``--pairs``.
        probability: None without a calibration or a score.
    """

    file: str
    line: int
    fields: dict[str, Any]
    score: float
    status: str
    truncated_tokens: int
    unknown_tokens: int
    message: str | None
    signature: str
    pairs: tuple[ReadPair, ...]
    probability: float | None = None

    @property
    def id(self) -> Any:
        """The row's id; its line number if it has none."""
        return self.fields.get("id", self.line)

    @property
    def place(self) -> str:
        """Where the row is, for messages."""
        return place_of(self.file, self.line)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no row of scores, and why."""

    file: str
    line: int
    problem: str

    @property
    def place(self) -> str:
        """Where the line is, for messages."""
        return place_of(self.file, self.line)


def place_of(file: str, line: int) -> str:
    """Return where a line of scores is, for messages."""
    return f"{file}, line {line}"


def read_scores(path: str) -> Iterator[ScoreRow | BadLine]:
    """Read rows one by one; a line that is no row of scores becomes a `BadLine`.

    Args:
        path: a file, or ``-`` for standard input; gzip is decompressed.

    Raises:
        InputError: the file cannot be read, or none of its first lines is a row of scores.
    """
    name = shown_name(path)
    bad: list[BadLine] = []  # lines before the first row of scores
    has_rows = False
    with read_errors(name), open_binary(path, name) as binary:
        is_csv = path.lower().removesuffix(".gz").endswith(".csv")
        is_csv = is_csv or b"id,score," in binary.peek(64)[:64]
        for line, content in _csv_lines(binary) if is_csv else _json_lines(binary):
            row = _row(name, line, content)
            if isinstance(row, ScoreRow):
                has_rows = True
            elif not has_rows:
                bad.append(row)
                if len(bad) == _MOST_BAD:
                    break
            yield row
    if bad and not has_rows:
        raise InputError(
            f"{name} must be a file that quals-fast score wrote, but line {bad[0].line} is no row "
            f"of scores: {bad[0].problem}; write one with quals-fast score INPUT -o scores.jsonl"
        )


def _json_lines(binary: Any) -> Iterator[tuple[int, Any]]:
    """Yield number and content of each line that is not blank; a `ValueError` if it is no JSON."""
    for line, text in enumerate(binary, 1):
        if not text.strip():
            continue
        try:
            yield line, json.loads(text.rstrip(b"\r\n"))
        except UnicodeDecodeError as error:
            yield line, ValueError(f"expected UTF-8, but got the byte 0x{text[error.start]:02X}")
        except (ValueError, RecursionError) as error:
            yield line, ValueError(json_problem(error))


def _csv_lines(binary: Any) -> Iterator[tuple[int, Any]]:
    """Yield the same of CSV, with numbers as JSON has them."""
    csv.field_size_limit(2**31 - 1)
    text = io.TextIOWrapper(binary, "utf-8-sig", errors="replace", newline="")
    reader = csv.reader(text)
    header = next(reader, [])
    line = reader.line_num + 1
    for cells in reader:
        content: Any = dict(zip(header, cells, strict=False))
        if len(cells) != len(header):
            content = ValueError(f"expected {len(header)} cells, but got {len(cells)}")
        else:
            try:
                for name in ("score", *({"probability"} & content.keys())):
                    content[name] = float(content[name]) if content.get(name) else None
                content |= {name: int(content[name]) for name in _COUNTS if name in content}
            except ValueError as error:
                content = error
        if cells:
            yield line, content
        line = reader.line_num + 1


def _row(file: str, line: int, content: Any) -> ScoreRow | BadLine:
    try:
        return _checked_row(file, line, content)
    except (ValueError, OverflowError) as error:
        return BadLine(file, line, str(error))


def _checked_row(file: str, line: int, content: Any) -> ScoreRow:
    """Return a row; raise `ValueError` if the content is not one."""
    if isinstance(content, ValueError):
        raise content
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, but got {_short(content)}")
    for key in _REQUIRED:
        if key not in content:
            has = ", ".join(map(repr, content)) or "none"
            raise ValueError(f"expected a key {key!r}, but got {_cut(has)}")
    for key in ("status", "signature"):
        if not isinstance(content[key], str):
            _refuse(key, "a string", content[key])
    score = content["score"]
    if score is not None and not _is_number(score):
        _refuse("score", "a number or null", score)
    probability = content.get("probability")
    if probability is not None and not (_is_number(probability) and 0 <= probability <= 1):
        _refuse("probability", "a number from 0 to 1 or null", probability)
    for key in _COUNTS:
        if type(content.get(key, 0)) is not int:
            _refuse(key, "a whole number", content[key])
    message = content.get("message")
    if message is not None and not isinstance(message, str):
        _refuse("message", "a string", message)
    pairs = content.get("pairs", [])
    if not isinstance(pairs, list):
        _refuse("pairs", "an array", pairs)
    return ScoreRow(
        file=file,
        line=line,
        fields=content,
        score=math.nan if score is None else float(score),
        status=content["status"],
        truncated_tokens=content.get("truncated_tokens", 0),
        unknown_tokens=content.get("unknown_tokens", 0),
        message=message or None,
        signature=content["signature"],
        pairs=tuple(map(_pair, pairs)),
        probability=probability,
    )


def _pair(content: Any) -> ReadPair:
    if not isinstance(content, dict):
        _refuse("pairs", "objects", content)
    question = content.get("question", content.get("sentence"))
    answer = content.get("answer", content.get("label"))
    score: Any = content.get("score")
    if not (isinstance(question, str) and isinstance(answer, str) and _is_number(score)):
        _refuse("pairs", "objects with `question`, `answer` and `score`", content)
    document_answer = content.get("document_answer")
    return ReadPair(
        question=question,
        answer=answer,
        score=float(score),
        document_answer=document_answer if isinstance(document_answer, str) else None,
        by_token=_by_token(content) if "tokens" in content else None,
    )


def _by_token(content: dict[str, Any]) -> QAPair:
    names = ("token_ids", "tokens", "summary_logprobs", "document_logprobs")
    lists: dict[str, Any] = {name: content.get(name) for name in names}
    if (
        not all(isinstance(one, list) for one in lists.values())
        or len({len(one) for one in lists.values()}) != 1
        or not all(isinstance(token, str) for token in lists["tokens"])
        or not all(map(_is_number, lists["summary_logprobs"] + lists["document_logprobs"]))
    ):
        _refuse("pairs", "objects with tokens and as many log-probabilities", content)
    first_counted = content.get("first_counted", 0)
    if type(first_counted) is not int or not 0 <= first_counted < len(lists["tokens"]):
        _refuse("first_counted", "the index of a token", first_counted)
    spans = content.get("answer_spans", [])
    if not isinstance(spans, list) or not all(map(_is_range, spans)):
        _refuse("pairs", "objects with a start and an end for each of `answer_spans`", content)
    if spans and SEP not in lists["tokens"][:-2]:
        _refuse("pairs", f"objects whose tokens have {SEP} and an answer", content)
    return QAPair(
        question=content["question"],
        answer=content["answer"],
        answer_spans=tuple(map(tuple, spans)),
        **{name: tuple(one) for name, one in lists.items()},
        first_counted=first_counted,
    )


def _is_range(value: Any) -> bool:
    is_pair = isinstance(value, list) and [type(one) for one in value] == [int, int]
    return is_pair and 0 <= value[0] < value[1]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _refuse(key: str, expected: str, got: Any) -> NoReturn:
    raise ValueError(f"`{key}` must be {expected}, but got {_short(got)}")


def _short(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=True))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."
