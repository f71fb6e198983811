"""A comparison as a table and as a page."""

import io

import pytest
from html_page import Page
from rich.console import Console

from quals_fast.comparison import PairedDocument, ScoredSummary, compare_systems
from quals_fast.pages.comparison import comparison_table, p_text, render_comparison

pytest.importorskip("rouge_score", reason="comparisons of texts need the extra")

SIGNATURE = "quals|model:toy@0123"
EVIL = '<script>alert("x")</script>\x1b[31m'


def compared(*systems, n=8, summary="s", metrics=("QUALS",), **options):
    documents = [
        PairedDocument(
            label=f"d{i}",
            document="the document",
            summaries={
                system: [
                    ScoredSummary(scores=dict.fromkeys(metrics, -1.0 - i * k / 8), summary=summary)
                ]
                for k, system in enumerate(systems)
            },
        )
        for i in range(n)
    ]
    return compare_systems(documents, systems, metrics=metrics, n_resamples=1000, **options)


def printed(renderable, width=120):
    file = io.StringIO()
    Console(file=file, width=width).print(renderable)
    return [" ".join(line.split()) for line in file.getvalue().splitlines()]


def test_table():
    lines = printed(comparison_table(compared("a", "b", unpaired=[["a"]]), [SIGNATURE]), 200)
    assert lines[1:4] == [
        "mean QUALS precision precision precision words trigrams",
        "a -1.000 0.000 0.000 0.000 1.000 0.000",
        "b -1.438* 0.000 0.000 0.000 1.000 0.000",
    ]
    assert lines[5:7] == [
        "measure system difference p win/tie/loss",
        "QUALS b -0.438 0.0156* 0/1/7",
    ]
    low, high = map(float, lines[7].strip("[]").split(","))
    assert low < -0.438 < high < 0
    assert lines[-6:] == [
        "n = 8; difference to the baseline a, with its 95 % paired bootstrap interval in brackets",
        "p: paired randomisation test, two-sided; * below 0.05, not corrected for the number of "
        "comparisons",
        "win/tie/loss: documents on which the system's score is higher, within 0.001 of the "
        "baseline's, or lower",
        "ROUGE: precision against the document; copied trigrams: share of a summary's sequences of "
        "three words that occur in the document",
        "left out: 1 document that not every system has (a: 1)",
        SIGNATURE,
    ]


@pytest.mark.parametrize("width", [80, 60])
def test_the_table_loses_no_digit(width):
    lines = printed(comparison_table(compared("a" * 30, "b", n=9), [SIGNATURE]), width)
    shown = "".join(lines)
    assert shown.count("a") >= 30 * 2
    assert "-0.500" in shown and "0/1/8" in shown and "0.0078*" in shown


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "0.0500 "), (0.0499, "0.0499*"), (1.0, "1.0000 ")]
)
def test_p_values(value, text):
    assert p_text(value) == text


def test_page():
    found = compared("a", "b", "c")
    page = Page(render_comparison(found, [SIGNATURE], n_shown=3))
    assert page.texts[1] == "a and b and c compared"
    mean = found.measures[0].differences[0].mean
    assert f"-0.438 [{mean.low:.3f}, {mean.high:.3f}]" in page.texts
    heading = "Where the systems differ most: 3 of 8 documents"
    start = page.texts.index(heading)
    assert page.texts[start + 2 : start + 4] == ["1.750", "d7"]  # between -1 and -2.75
    means = page.texts[page.texts.index("Means") :]
    assert means[1:4] == ["System", "QUALS", "ROUGE-1 precision"]
    assert means[means.index("b") :][:2] == ["b", "-1.438*"]
    assert [attrs.get("class") for _, attrs in page.elements].count("row") == 3
    assert not [tag for tag, _ in page.elements if tag in ("script", "link", "img", "a")]
    assert SIGNATURE in page.texts
    counts = page.texts[page.texts.index("Counts") + 4 : start]  # behind the table's header
    assert sum(map(int, counts[1::3])) == sum(map(int, counts[2::3])) == 8


def test_page_with_several_metrics():
    found = compared("a", "b", metrics=("QUALS", "QAGS"))
    page = Page(render_comparison(found, [SIGNATURE, SIGNATURE], n_shown=1))
    shown = page.texts[page.texts.index("d7") :]
    header = shown.index("System")
    assert shown[header + 1 : header + 4] == ["QUALS", "QAGS", "Summary"]
    assert shown[header + 4 : header + 8] == ["a", "-1.000", "-1.000", "s"]


def test_texts_are_shown_and_not_interpreted():
    html = render_comparison(compared(EVIL, "b", summary=EVIL), [SIGNATURE], n_shown=1)
    assert "<script" not in html and "\x1b" not in html
    assert Page(html).text.count('<script>alert("x")</script>') >= 2


def test_equal_systems_have_a_page():
    one = ScoredSummary(scores={"QUALS": -1.0})
    documents = [PairedDocument(label=str(i), summaries={"a": [one], "b": [one]}) for i in range(6)]
    found = compare_systems(documents, ["a", "b"])
    page = Page(render_comparison(found, [SIGNATURE], n_shown=2))
    assert "+0.000 [+0.000, +0.000]" in page.texts and "median 0.000" in page.texts
