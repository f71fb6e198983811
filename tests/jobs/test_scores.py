"""What score wrote is read back; what it did not write is named."""

import csv
import gzip
import json
import math
import re

import pytest
from messages import says

from quals_fast.errors import InputError
from quals_fast.jobs.output import RowWriter, open_output
from quals_fast.jobs.parsing import InputRow
from quals_fast.jobs.scores import BadLine, read_scores
from quals_fast.qags.results import QagsPair, QagsScore
from quals_fast.results import QAPair, SummaryScore

SIGNATURE = "quals|rule:fairseq09|model:toy@0123"
GOOD = {"id": "a", "score": -1.5, "status": "ok", "signature": SIGNATURE}
PAIR = {"question": "who?", "answer": "anne", "score": -1.0}
TOKENS = {
    "tokens": ["who"],
    "token_ids": [1],
    "summary_logprobs": [-1.0],
    "document_logprobs": [-2],
}


def written(tmp_path, results, *, signature=SIGNATURE, **options):
    """Write results as score does; return the path."""
    path = str(tmp_path / ("scores.csv" if options.get("is_csv") else "scores.jsonl"))
    with open_output(path) as file:
        writer = RowWriter(file, **options)
        for line, result in enumerate(results, 1):
            writer.write(InputRow(line=line, id=f"é{line}", fields={}), result, signature)
    return path


RESULTS = [
    SummaryScore(
        status="ok",
        score=-2.0,
        truncated_tokens=7,
        unknown_tokens=1,
        pairs=(
            QAPair(
                question="who?",
                answer="anne",
                token_ids=(1, 2),
                tokens=("a", "b"),
                summary_logprobs=(-1.0, -2.0),
                document_logprobs=(-3.0, -4.0),
                first_counted=1,
            ),
            QAPair(
                question="who?",
                answer="anne",
                token_ids=(1, 5, 2, 3),
                tokens=("a", "<sep>", "b", "<eos>"),
                summary_logprobs=(-1.0, 0.0, -2.0, 0.0),
                document_logprobs=(-3.0, 0.0, -4.0, 0.0),
                answer_spans=((0, 4), (9, 13)),
            ),
        ),
    ),
    SummaryScore(status="no_pairs"),
    SummaryScore(status="error", message='line 3: "x",\nbroken'),
]


@pytest.mark.parametrize("is_csv", [False, True], ids=["json", "csv"])
@pytest.mark.parametrize("is_gzip", [False, True], ids=["plain", "gzip"])
def test_what_score_writes_comes_back(tmp_path, is_csv, is_gzip):
    path = written(tmp_path, RESULTS, is_csv=is_csv)
    if is_gzip:
        packed = f"{path}.gz"
        with open(path, "rb") as file:
            content = gzip.compress(file.read())
        with open(packed, "wb") as file:
            file.write(content)
        path = packed
    rows = list(read_scores(path))
    assert [row.id for row in rows] == ["é1", "é2", "é3"]
    assert [row.line for row in rows] == ([2, 3, 4] if is_csv else [1, 2, 3])
    assert [row.file for row in rows] == [path] * 3
    assert rows[0].score == -2.0
    assert math.isnan(rows[1].score) and math.isnan(rows[2].score)
    assert [row.status for row in rows] == ["ok", "no_pairs", "error"]
    assert [row.message for row in rows] == [None, None, 'line 3: "x",\nbroken']
    assert (rows[0].truncated_tokens, rows[0].unknown_tokens) == (7, 1)
    assert {row.signature for row in rows} == {SIGNATURE}
    assert rows[0].fields.get("worst_question") == ("who?" if is_csv else None)
    assert all(row.pairs == () for row in rows)


def test_pairs_come_back_with_their_tokens(tmp_path):
    path = written(tmp_path, RESULTS, include_pairs=True, include_spans=True)
    (row, *_) = read_scores(path)
    pair, other = row.pairs
    assert (pair.by_token, other.by_token) == RESULTS[0].pairs
    assert (pair.question, pair.answer, pair.score) == ("who?", "anne", -2.0)
    assert pair.document_answer is None


def test_pairs_of_qags_come_back(tmp_path):
    pair = QagsPair(
        question="who?",
        answer="anne",
        document_answer="",
        expected_answer="anne",
        logprob=math.nan,
        score=0.0,
    )
    result = QagsScore(status="ok", score=0.0, pairs=(pair,))
    path = written(tmp_path, [result], signature="qags|seed:0", include_pairs=True)
    (row,) = read_scores(path)
    assert row.signature == "qags|seed:0"
    assert (row.pairs[0].document_answer, row.pairs[0].by_token) == ("", None)


def test_spans_are_for_quals():
    with pytest.raises(
        ValueError, match="`include_spans` is for QUALS, but this is a score of QAG"
    ):
        QagsScore(status="ok", score=0.0).to_dict(include_spans=True)


BAD = [
    ('{"id": "a", "sco', "invalid JSON: Unterminated string starting at column 13"),
    (b'{"id": "\xe9"}', "expected UTF-8, but got the byte 0xE9"),
    ("[" * 100_000, "invalid JSON: nested too deeply"),
    (f'{{"score": {"9" * 5000}}}', "invalid JSON: … digits"),
    ([GOOD], "expected a JSON object, but got [{"),
    ({"id": "a", "document": "d"}, "expected a key 'score', but got 'id', 'document'"),
    ({}, "expected a key 'score', but got none"),
    (GOOD | {"score": "-1"}, '`score` must be a number or null, but got "-1"'),
    (GOOD | {"score": True}, "`score` must be a number or null, but got true"),
    (GOOD | {"score": 10**400}, "too large"),
    (GOOD | {"status": None}, "`status` must be a string, but got null"),
    (GOOD | {"signature": 5}, "`signature` must be a string, but got 5"),
    (GOOD | {"truncated_tokens": 1.5}, "`truncated_tokens` must be a whole number, but got 1.5"),
    (GOOD | {"message": []}, "`message` must be a string, but got []"),
    (GOOD | {"pairs": "x" * 100}, '`pairs` must be an array, but got "xxx … ...'),
    (GOOD | {"pairs": [1]}, "`pairs` must be objects, but got 1"),
    (GOOD | {"pairs": [{}]}, "`pairs` must be objects with `question`, `answer` and `score`"),
    (
        GOOD | {"pairs": [PAIR | TOKENS | {"tokens": ["a", "b"]}]},
        "`pairs` must be objects with tokens and as many log-probabilities",
    ),
    (
        GOOD | {"pairs": [PAIR | TOKENS | {"document_logprobs": ["x"]}]},
        "`pairs` must be objects with tokens and as many log-probabilities",
    ),
    (
        GOOD | {"pairs": [PAIR | TOKENS | {"first_counted": 1}]},
        "`first_counted` must be the index of a token, but got 1",
    ),
    (
        GOOD | {"pairs": [PAIR | TOKENS | {"answer_spans": [[4, 4]]}]},
        "`pairs` must be objects with a start and an end for each of `answer_spans`",
    ),
    (
        GOOD | {"pairs": [PAIR | TOKENS | {"answer_spans": [[0, 4]]}]},
        "`pairs` must be objects whose tokens have <sep> and an answer",
    ),
]


@pytest.mark.parametrize(("bad", "problem"), BAD, ids=[problem for _, problem in BAD])
def test_a_line_that_is_no_row_is_named_and_the_others_are_read(tmp_path, bad, problem):
    path = tmp_path / "scores.jsonl"
    text = json.dumps(bad) if isinstance(bad, dict | list) else bad
    line = text if isinstance(text, bytes) else text.encode()
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\n".join([good, line, b"", good]))
    first, second, third = read_scores(str(path))
    assert (first.line, second.line, third.line) == (1, 2, 4)
    assert isinstance(second, BadLine)
    assert re.search(says(problem), second.problem), second.problem
    assert first.score == third.score == -1.5


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (["a", "-1"], "expected 4 cells, but got 2"),
        (["a", "minus one", "ok", "s"], "could not convert string to float: 'minus one'"),
    ],
)
def test_a_bad_line_of_csv_is_named(tmp_path, cells, problem):
    path = tmp_path / "scores.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([list(GOOD), GOOD.values(), cells, GOOD.values()])
    first, bad, last = read_scores(str(path))
    assert bad == BadLine(str(path), 3, problem)
    assert first.score == last.score == -1.5


@pytest.mark.parametrize("value", ["NaN", "null", "Infinity"])
def test_scores_that_are_no_numbers_are_kept(tmp_path, value):
    path = tmp_path / "scores.jsonl"
    path.write_text(json.dumps(GOOD).replace("-1.5", value) + "\n")
    (row,) = read_scores(str(path))
    assert not math.isfinite(row.score)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('\n{"document": "d", "summary": "s"}\n' * 3)
    message = "pairs.jsonl must be a file that quals-fast score wrote, but line 2 is no row of … -o"
    with pytest.raises(InputError, match=says(message)):
        list(read_scores(str(path)))


def test_a_file_of_something_else_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "pairs.jsonl"
    pair, row = '{"document": "d", "summary": "s"}\n', json.dumps(GOOD) + "\n"
    path.write_text(99 * pair + row + 200 * pair)
    assert sum(isinstance(one, BadLine) for one in read_scores(str(path))) == 299
    path.write_text(100 * pair + row)
    with pytest.raises(InputError, match=says("but line 1 is no row of scores: expected a key")):
        list(read_scores(str(path)))


def test_a_missing_file_and_a_cut_gzip_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none.jsonl: No such file"):
        list(read_scores(str(tmp_path / "none.jsonl")))
    with pytest.raises(InputError, match="Is a directory"):
        list(read_scores(str(tmp_path)))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps(GOOD).encode() * 9)[:-9])
    with pytest.raises(InputError, match="is not a complete gzip file"):
        list(read_scores(str(cut)))


def test_an_empty_file_has_no_rows(tmp_path):
    for name in ("empty.jsonl", "empty.csv"):
        (tmp_path / name).write_text("")
        assert list(read_scores(str(tmp_path / name))) == []
