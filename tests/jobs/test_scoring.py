"""Rows through a scorer: order, windows, bad rows, `fail_fast`, progress; which rows."""

import json
import os
import queue
from itertools import chain, count
from threading import Thread

import pytest

from quals_fast.errors import InputError
from quals_fast.jobs.inputs import MAX_WINDOW_ROWS as WINDOW
from quals_fast.jobs.inputs import JobInput
from quals_fast.jobs.parsing import InputRow
from quals_fast.jobs.scoring import score_windows
from quals_fast.results import QualsResult, SummaryScore


class LengthScorer:
    """Scores a summary by its length, so that a shifted result shows."""

    signature = "quals|length"

    def __init__(self, damaged=()):
        self.calls = []
        self.damaged = damaged

    def score(self, documents, summaries, *, on_progress=None):
        self.calls.append((list(documents), list(summaries)))
        rows = []
        for summary in summaries:
            if summary in self.damaged:
                rows.append(SummaryScore(status="error", message="the model gives NaN"))
            else:
                rows.append(SummaryScore(status="ok", score=float(len(summary))))
            on_progress(1)
        return QualsResult(tuple(rows), self.signature)


def row(line, summary, document="document", problem=None):
    return InputRow(
        line=line, id=line, fields={}, document=document, summary=summary, problem=problem
    )


def unread(line):
    return row(line, None, None, problem="the line is blank")


def score_rows(*args, **options):
    return chain.from_iterable(score_windows(*args, **options))


def run(rows, damaged=(), **options):
    """Return what came out, and the scorer."""
    scorer, progress = LengthScorer(damaged), []
    found = list(score_rows(scorer, rows, on_progress=progress.append, **options))
    # Where the model fails at a row, rows behind it have been scored, too.
    assert sum(progress) == len(found) or (damaged and options)
    return found, scorer


@pytest.mark.parametrize("n", [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 3])
def test_windows_keep_the_order(n):
    found, scorer = run([row(i, "x" * i) for i in range(1, n + 1)])
    assert [(one.line, result.score) for one, result in found] == [(i, i) for i in range(1, n + 1)]
    sizes = [len(summaries) for _, summaries in scorer.calls]
    assert sum(sizes) == n
    assert all(size == WINDOW for size in sizes[:-1])


def test_no_rows():
    found, scorer = run([])
    assert found == []
    assert scorer.calls == []


@pytest.mark.parametrize("first", [0, 1, WINDOW - 1, WINDOW], ids=lambda i: f"bad-from-{i}")
@pytest.mark.parametrize("step", [2, 7, WINDOW], ids=lambda i: f"every-{i}")
def test_bad_rows_do_not_shift_the_others(first, step):
    n = 2 * WINDOW + 5
    bad = set(range(first, n, step))
    rows = [unread(i) if i in bad else row(i, "x" * (i + 1)) for i in range(n)]
    found, _ = run(rows)
    assert [one.line for one, _ in found] == list(range(n))
    for one, result in found:
        if one.line in bad:
            assert result.status == "error"
            assert result.message == f"line {one.line}: the line is blank"
        else:
            assert (result.status, result.score) == ("ok", one.line + 1)


def test_a_window_of_bad_rows_only():
    found, _ = run([*(unread(i) for i in range(WINDOW)), row(WINDOW, "xx")])
    assert [result.status for _, result in found] == ["error"] * WINDOW + ["ok"]


@pytest.mark.parametrize(
    ("one", "status", "message"),
    [
        pytest.param(row(7, 5), "error", "line 7: `summary` must be a string, but got int", id="n"),
        pytest.param(row(7, "s", None), "error", "line 7: `document` must be a string", id="null"),
        pytest.param(row(7, "a\0"), "error", "line 7: `summary` must be text", id="nul"),
        pytest.param(row(7, "\ud800"), "error", "line 7: `summary` must be valid Un", id="lone"),
        pytest.param(unread(7), "error", "line 7: the line is blank", id="unread"),
        pytest.param(row(7, "damaged"), "error", "line 7: the model gives NaN", id="model"),
        pytest.param(row(7, " "), "empty_summary", None, id="blank-summary"),
        pytest.param(row(7, "s", ""), "empty_document", None, id="no-document"),
    ],
)
def test_status_and_message_of_a_bad_row(one, status, message):
    found, _ = run([row(6, "x"), one, row(8, "xx")], damaged=["damaged"])
    assert [result.status for _, result in found] == ["ok", status, "ok"]
    assert found[2][1].score == 2
    bad = found[1][1]
    assert bad.message == message if message is None else bad.message.startswith(message)


BAD = {
    "unread": unread(0),
    "wrong-type": row(0, None),
    "model": row(0, "damaged"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("place", [0, 1, 5, WINDOW - 1, WINDOW, WINDOW + 9])
def test_fail_fast_stops_after_the_first_error(kind, place):
    rows = [row(0, "x" * (i + 1)) for i in range(2 * WINDOW)]
    rows[place] = BAD[kind]
    rows[place + 2] = BAD[kind]
    found, _ = run(rows, damaged=["damaged"], fail_fast=True)
    assert [result.status for _, result in found] == ["ok"] * place + ["error"]
    assert [result.score for _, result in found[:-1]] == list(range(1, place + 1))


def test_fail_fast_does_not_score_what_comes_after():
    rows = [row(1, "x"), unread(2), row(3, "never")]
    _, scorer = run(rows, fail_fast=True)
    assert scorer.calls == [(["document"], ["x"])]


def test_fail_fast_passes_empty_texts():
    rows = [row(1, ""), row(2, "s", ""), row(3, "xx")]
    found, _ = run(rows, fail_fast=True)
    assert [result.status for _, result in found] == ["empty_summary", "empty_document", "ok"]


def test_fail_fast_without_a_bad_row():
    found, _ = run([row(i, "x") for i in range(WINDOW + 2)], fail_fast=True)
    assert len(found) == WINDOW + 2


def test_rows_are_read_one_window_ahead_at_most():
    endless = (row(i, "x") for i in count())
    results = score_rows(LengthScorer(), endless, on_progress=lambda n: None)
    next(results)
    assert next(endless).line == WINDOW


class PanicException(BaseException):
    """As Python sees a panic of a library in Rust."""


class FailingScorer(LengthScorer):
    """Raises as long as certain summaries are among those it is given."""

    def __init__(self, errors):
        super().__init__()
        self.errors = errors

    def score(self, documents, summaries, *, on_progress=None):
        result = super().score(documents, summaries, on_progress=on_progress)
        for summary in summaries:
            if summary in self.errors:
                raise self.errors[summary]
        return result


TOO_MUCH = [
    MemoryError("a single text of 9 tokens does not fit into memory"),
    RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"),
    PanicException("index out of bounds"),
    Exception("the tokenizer failed"),
]


@pytest.mark.parametrize("error", TOO_MUCH, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("n", [1, 9, WINDOW + 2])
def test_a_row_that_is_too_much_for_memory_or_tokenizer_is_the_only_one_lost(error, n):
    rows = [row(i, "x" * (i + 1)) for i in range(n)]
    rows[n // 2] = row(n // 2, "bad")
    progress = []
    scorer = FailingScorer({"bad": error})
    found = [result for _, result in score_rows(scorer, rows, on_progress=progress.append)]
    bad = found.pop(n // 2)
    assert bad.status == "error"
    sizes = "length in characters: document 8, summary 3"
    assert bad.message == f"line {n // 2}: {type(error).__name__}: {error}; {sizes}"
    assert [one.score for one in found] == [i + 1 for i in range(n) if i != n // 2]
    assert sum(progress) == n


BUGS = [RuntimeError("CUDA error: device lost"), ValueError("a bug"), OSError("gone")]


@pytest.mark.parametrize("error", [*BUGS, KeyboardInterrupt()], ids=lambda e: type(e).__name__)
def test_what_would_fail_with_every_row_ends_the_job(error):
    scorer = FailingScorer({"bad": error})
    with pytest.raises(type(error)):
        list(score_rows(scorer, [row(1, "x"), row(2, "bad")]))
    assert len(scorer.calls) == 1


def test_control_c_while_memory_runs_out_ends_the_job():
    error = KeyboardInterrupt()
    error.__context__ = MemoryError("out of memory")
    with pytest.raises(KeyboardInterrupt):
        list(score_rows(FailingScorer({"bad": error}), [row(1, "bad")]))


class _Slow:
    """A pipe into which rows are written one by one."""

    def __init__(self, path):
        os.mkfifo(path)
        self.path = str(path)
        self._commands = queue.Queue()
        Thread(target=self._write, daemon=True).start()

    def _write(self):
        with open(self.path, "w") as pipe:
            while (line := self._commands.get()) is not None:
                pipe.write(line)
                pipe.flush()

    def put(self, *ids):
        rows = ({"id": i, "document": "d", "summary": "s"} for i in ids)
        self._commands.put("".join(json.dumps(row) + "\n" for row in rows))

    def end(self):
        self._commands.put(None)


@pytest.mark.parametrize("name", ["pipe", "pipe.csv"])
def test_rows_of_a_pipe_do_not_wait_for_a_full_window(tmp_path, name):
    pipe = _Slow(tmp_path / name)
    if name == "pipe.csv":
        pipe._commands.put("id,document,summary\n")
        pipe.put = lambda *ids: pipe._commands.put("".join(f"{i},d,s\n" for i in ids))
    results = score_rows(LengthScorer(), JobInput(paths=(pipe.path,)), on_progress=lambda n: None)
    for i in "ab":
        pipe.put(i)
        assert next(results)[0].id == i  # the next row has not been written yet
    pipe.put(*"cdefg")
    assert [next(results)[0].id for _ in range(5)] == list("cdefg")
    pipe.end()
    assert list(results) == []


def test_rows_of_a_pipe_that_come_together_are_scored_together_after_the_first(tmp_path):
    pipe, scorer = _Slow(tmp_path / "pipe"), LengthScorer()
    results = score_rows(scorer, JobInput(paths=(pipe.path,)), on_progress=lambda n: None)
    pipe.put(*range(2 * WINDOW + 2))
    pipe.end()
    assert [one.id for one, _ in results] == list(range(2 * WINDOW + 2))
    sizes = [len(documents) for documents, _ in scorer.calls]
    assert sizes == [1, 2, 4, 8, 16, 32, WINDOW, 3]


def test_an_error_in_a_pipe_comes_after_the_rows_before_it(tmp_path):
    pipe = _Slow(tmp_path / "pipe")
    results = score_rows(
        LengthScorer(), JobInput(paths=(pipe.path,), ids=("a", "x")), on_progress=print
    )
    pipe.put("a")
    pipe.end()
    assert next(results)[0].id == "a"
    with pytest.raises(InputError, match="has the id x"):
        next(results)


# Which rows


@pytest.fixture
def path(tmp_path):
    rows = [{"id": i, "document": "d", "summary": "s"} for i in ("a", "b", "a")]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize(
    ("ids", "lines"), [((), [1, 2, 3]), (("a",), [1, 3]), (("b", "a"), [1, 2, 3])], ids=str
)
def test_rows_of_a_file_can_be_counted_and_then_read(path, ids, lines):
    rows = JobInput(paths=(path,), ids=ids)
    assert rows.survey().n_rows == len(lines)
    assert [one.line for one in rows] == lines


def test_missing_ids_are_named(path):
    rows = JobInput(paths=(path,), ids=("x", "b", "y"))
    with pytest.raises(InputError, match=r"in.jsonl has the id x or y; .*line number"):
        rows.survey()


def test_each_row_is_checked(path):
    seen = []
    rows = JobInput(paths=(path,), ids=("a",), check=lambda one: seen.append(one.line))
    rows.survey()
    assert seen == [1, 3]


def test_what_can_be_read_only_once_is_not_surveyed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("-", str(tmp_path / "pipe"), os.devnull):
        assert JobInput(paths=(path,)).survey() is None
