"""What the terminal shows of a job: counts, the lowest rows, agreement."""

import io
import math

import pytest
from rich.console import Console

from quals_fast.evaluation import Agreement, Estimate
from quals_fast.jobs.parsing import InputRow
from quals_fast.pages.tables import Tally, agreement_table, score_table
from quals_fast.results import QAPair, SummaryScore


def row(line, row_id=None):
    return InputRow(line=line, id=line if row_id is None else row_id, fields={})


def ok(score, question="who won ?", answer="anne", **counts):
    pairs = tuple(
        QAPair(
            question=text,
            answer=answer,
            token_ids=(1, 2),
            tokens=("a", "b"),
            summary_logprobs=(0.0, 0.0),
            document_logprobs=(value, value),
        )
        for text, value in ((question, score), ("a better one ?", score + 1))
    )
    return SummaryScore(status="ok", score=score, pairs=pairs, **counts)


def error(message="line 1: broken"):
    return SummaryScore(status="error", message=message)


NO_PAIRS = SummaryScore(status="no_pairs")
LEGEND = "! -0.5 nats or less, !! -2 nats or less"
SIGNATURE = "quals|rule:fairseq09|model:toy@0123|version:0.1.0"


def tally_of(*results, max_rows=100):
    tally = Tally(max_rows)
    for line, result in enumerate(results, 1):
        tally.add(row(line), result)
    return tally


def printed(table, width=120):
    """Return the lines of a table, cells joined by a single space."""
    file = io.StringIO()
    Console(file=file, width=width, legacy_windows=False).print(table)
    return [" ".join(line.split()) for line in file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("results", "line"),
    [
        pytest.param([], "0 rows", id="none"),
        pytest.param([ok(-0.5)], "1 row: 1 ok; mean score -0.500", id="one"),
        pytest.param([NO_PAIRS], "1 row: 1 no_pairs", id="no-mean"),
        pytest.param(
            [ok(-1.0), error("line 2: `summary` is bad"), ok(-2.0), NO_PAIRS],
            "4 rows: 2 ok, 1 error, 1 no_pairs; errors at line 2; mean score -1.500; "
            "first error: line 2: `summary` is bad",
            id="mixed",
        ),
        pytest.param(
            [error("line 1: a"), error("line 2: b")],
            "2 rows: 2 error; errors at line 1, 2; first error: line 1: a",
            id="two-errors",
        ),
        pytest.param(
            [error(f"line {i}: a") for i in range(1, 14)],
            "13 rows: 13 error; errors at line 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more; "
            "first error: line 1: a",
            id="thirteen-errors",
        ),
        pytest.param(
            [ok(0.0, truncated_tokens=1), ok(0.0)],
            "2 rows: 2 ok; 1 token cut off in 1 row; mean score 0.000",
            id="truncated-once",
        ),
        pytest.param(
            [ok(0.0, truncated_tokens=70), NO_PAIRS, ok(0.0, truncated_tokens=7)],
            "3 rows: 2 ok, 1 no_pairs; 77 tokens cut off in 2 rows; mean score 0.000",
            id="truncated",
        ),
        pytest.param(
            [
                ok(0.0, unknown_tokens=3, truncated_tokens=1),
                SummaryScore(status="unknown_text", unknown_tokens=9, message="more than half"),
            ],
            "2 rows: 1 ok, 1 unknown_text; 1 token cut off in 1 row; 12 unknown tokens in 2 rows; "
            "mean score 0.000",
            id="unknown",
        ),
        pytest.param(
            [ok(-1.0), SummaryScore(status="no_pairs", score=-5.0)],
            "2 rows: 1 ok, 1 no_pairs; mean score -3.000",
            id="no-pairs-score-is-in-the-mean",
        ),
        pytest.param(
            [SummaryScore(status="empty_summary"), SummaryScore(status="empty_document")],
            "2 rows: 1 empty_summary, 1 empty_document",
            id="empty",
        ),
    ],
)
def test_closing_line(results, line):
    assert tally_of(*results).closing_line() == line


def test_all_rows_in_input_order():
    tally = tally_of(ok(-0.1), ok(-3.0), NO_PAIRS, error("line 4: broken"))
    lines = printed(score_table(tally, SIGNATURE))
    assert lines == [
        "id score status pairs worst question -> answer its score",
        "1 -0.100 ok 2 who won ? -> anne -0.100",
        "2 !! -3.000 ok 2 who won ? -> anne !! -3.000",
        "3 - no_pairs 0 -",
        "4 - error 0 line 4: broken -",
        LEGEND,
        SIGNATURE,
    ]


def test_the_lowest_rows_when_there_are_more():
    results = [ok(-0.1), ok(-0.7), NO_PAIRS, ok(-0.7), ok(-2.0), error("line 6: broken"), ok(0.3)]
    lines = printed(score_table(tally_of(*results, max_rows=5), SIGNATURE))
    assert [line.split()[:4] for line in lines[1:6]] == [
        ["3", "-", "no_pairs", "0"],
        ["6", "-", "error", "0"],
        ["5", "!!", "-2.000", "ok"],
        ["2", "!", "-0.700", "ok"],
        ["4", "!", "-0.700", "ok"],
    ]
    assert lines[6:] == ["the 5 lowest of 7 rows; use -o to write all of them", LEGEND, SIGNATURE]
    lines = printed(score_table(tally_of(*results, max_rows=1), SIGNATURE))
    assert lines[-2:] == ["the lowest of 7 rows; use -o to write all of them", SIGNATURE]


def test_exactly_as_many_rows_as_are_shown():
    lines = printed(score_table(tally_of(ok(-1.0), ok(-2.0), max_rows=2), SIGNATURE))
    assert [line[0] for line in lines] == ["i", "1", "2", "!", "q"]


@pytest.mark.parametrize("max_rows", [0, 1, 100])
def test_memory_does_not_grow(max_rows):
    tally = tally_of(*(ok(-i / 100) for i in range(300)), max_rows=max_rows)
    assert tally.total == 300
    assert len(tally.rows()) == max_rows
    assert [entry.score for entry in tally.rows()] == [-(299 - i) / 100 for i in range(max_rows)]


@pytest.mark.parametrize(
    ("score", "mark"),
    [(0.2, "0.200"), (-0.49, "-0.490"), (-0.5, "! -0.500"), (-2.0, "!! -2.000")],
    ids=str,
)
def test_marks_of_low_scores(score, mark):
    lines = printed(score_table(tally_of(ok(score)), SIGNATURE))
    assert lines[1] == f"1 {mark} ok 2 who won ? -> anne {mark}"
    assert (LEGEND in lines) == mark.startswith("!")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("[bold]a[/bold]", "[bold]a[/bold]", id="markup"),
        pytest.param("\x1b[2Jgone", "\ufffd[2Jgone", id="escape-sequence"),
        pytest.param("a\ud800b", "a\ufffdb", id="lone-surrogate"),
        pytest.param("a\0b\x9bc", "a\ufffdb\ufffdc", id="control-characters"),
        pytest.param("été \U0001f41d", "été \U0001f41d", id="unicode"),
    ],
)
def test_texts_cannot_command_the_terminal(text, shown):
    tally = Tally(9)
    tally.add(row(1, text), ok(-1.0, question=text))
    tally.add(row(2), error(text))
    lines = printed(score_table(tally, SIGNATURE))
    assert lines[1] == f"{shown} ! -1.000 ok 2 {shown} -> anne ! -1.000"
    assert lines[2] == f"2 - error 0 {shown} -"
    "\n".join(lines).encode()


def test_long_texts_are_folded_and_not_cut():
    tally = Tally(9)
    tally.add(row(1, "z" * 50), ok(-1.0, question="why " * 60))
    lines = printed(score_table(tally, SIGNATURE), width=60)
    assert sum(line.count("why") for line in lines) == 60
    assert sum(line.count("z") for line in lines) == 50


HALF = Estimate(0.5, 0.25, 0.75)
NONE = Estimate(math.nan, math.nan, math.nan)


def agreements(*, undefined=None):
    one = {"pearson": HALF, "spearman": HALF, "kendall": HALF, "auc": NONE}
    two = {"pearson": NONE, "spearman": NONE, "kendall": NONE, "auc": HALF}
    return [
        Agreement(name="QUALS", n=12, n_missing=3, **one, undefined={"auc": "one class"}),
        Agreement(name="ROUGE-1 F1", n=12, n_missing=0, **two, undefined=undefined or {}),
    ]


def test_agreement():
    constant = dict.fromkeys(("pearson", "spearman", "kendall"), "all scores are 1")
    assert printed(agreement_table(agreements(undefined=constant), SIGNATURE)) == [
        "Pearson Spearman Kendall AUC",
        "QUALS 0.500 0.500 0.500 -",
        "[0.25, 0.75] [0.25, 0.75] [0.25, 0.75]",
        "ROUGE-1 F1 - - - 0.500",
        "[0.25, 0.75]",
        "n = 12, 3 more without a score; 95 % bootstrap intervals in brackets",
        "no AUC for QUALS: one class",
        "no Pearson, Spearman, Kendall for ROUGE-1 F1: all scores are 1",
        SIGNATURE,
    ]


def test_a_reason_for_all_measures_is_given_once():
    lines = printed(agreement_table(agreements(undefined={"auc": "one class"}), SIGNATURE))
    assert lines[-2] == "no AUC: one class"


@pytest.mark.parametrize("width", [80, 60, 40])
def test_no_table_loses_a_digit(width):
    wide = Estimate(-0.123, -0.45, -0.67)
    names = ["QUALS", *(f"ROUGE-{n} {part}" for n in "12L" for part in ("precision", "F1"))]
    four = dict.fromkeys(("pearson", "spearman", "kendall", "auc"), wide)
    found = [Agreement(name=name, n=12345, n_missing=678, **four) for name in names]
    shown = "".join(printed(agreement_table(found, SIGNATURE), width=width))
    if width == 80:
        assert shown.count("-0.123") == shown.count("[-0.45, -0.67]") == 4 * len(names)
    for digits in ("123", "45", "67"):
        assert sum(shown.count(digit) for digit in digits) >= len(digits) * 4 * len(names)
    assert "12345" in shown and "678" in shown
    tally = Tally(9)
    tally.add(row(1, "z" * 30), ok(-12.345, question="why " * 30))
    lines = printed(score_table(tally, SIGNATURE), width=width)
    assert sum(line.count("-12.345") for line in lines) == 2
    if width > 40:
        assert sum(line.count("z") for line in lines) == 30
