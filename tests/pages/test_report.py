"""The report's figures are right, complete and readable, whatever the texts are."""

import decimal
import math
import re
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from html_page import Page
from messages import says

from quals_fast.errors import InputError
from quals_fast.jobs.parsing import InputRow
from quals_fast.jobs.scores import BadLine, ReadPair, ScoreRow
from quals_fast.pages.collecting import MAX_EXAMPLES, MAX_SIGNATURES, Collection, joined
from quals_fast.pages.report import render_report
from quals_fast.results import QAPair

SIGNATURE = "quals|rule:fairseq09|model:toy@0123|dtype:float32"
OTHER = SIGNATURE.replace("float32", "mixed")


def make_row(line, score=-1.0, *, status=None, file="s.jsonl", **changes):
    is_scored = not math.isnan(score)
    fields = {"id": f"r{line}"} | changes.pop("fields", {})
    values = {
        "status": status or ("ok" if is_scored else "no_pairs"),
        "truncated_tokens": 0,
        "unknown_tokens": 0,
        "message": None,
        "signature": SIGNATURE,
        "pairs": (),
    }
    return ScoreRow(file=file, line=line, fields=fields, score=score, **(values | changes))


def make_pair(question="who?", answer="anne", score=-1.0, **changes):
    return ReadPair(question=question, answer=answer, score=score, **changes)


def collected(rows, *, by=None, n_worst=5, texts=None):
    collection = Collection(by=by, n_worst=n_worst)
    for i, row in enumerate(rows):
        collection.add(row, texts[i] if texts else None)
    collection.check()
    return collection


def page_of(rows, **options):
    return Page(render_report(collected(rows, **options)))


def table(page, heading):
    """Return the texts behind a heading, up to the next section's."""
    start = page.texts.index(heading)
    return page.texts[start:]


def figures(page):
    """Return the page's headline figures by name."""
    texts = page.texts
    names = ("Rows", "With a score", "Mean", "Median", "Lowest 5 %", "Range")
    return {name: texts[texts.index(name) + 1] for name in names}


def test_headline_figures_are_those_of_numpy():
    scores = np.random.default_rng(1).normal(-1, 0.4, 500)
    rows = [make_row(i, score) for i, score in enumerate(scores.tolist(), 1)]
    rows += [make_row(501, math.nan), make_row(502, math.inf), make_row(503, -math.inf)]
    page = page_of(rows)
    assert figures(page) == {
        "Rows": "503",
        "With a score": "500",
        "Mean": f"{scores.mean():.3f}",
        "Median": f"{np.median(scores):.3f}",
        "Lowest 5 %": f"{np.quantile(scores, 0.05):.3f}",
        "Range": f"{scores.min():.2f}",
    }
    assert "3 without" in page.texts
    assert f"deviation {scores.std(ddof=1):.3f}" in page.texts


def test_the_histogram_and_its_table_hold_every_score():
    rows = [make_row(i, -i / 100) for i in range(1, 301)]
    html = render_report(collected(rows))
    titles = re.findall(r"<title>[-\d.]+ to [-\d.]+: (\d+) \(([\d.]+) %\)</title>", html)
    assert sum(int(n) for n, _ in titles) == 300
    assert sum(float(share) for _, share in titles) == pytest.approx(100, abs=2)
    cells = re.findall(r'<th scope="row">[-\d.]+ to [-\d.]+</th><td class="n">(\d+)</td>', html)
    assert [int(n) for n in cells if n != "0"] == [int(n) for n, _ in titles]
    (label,) = re.findall(r'role="img" aria-label="([^"]*)"', html)
    assert label.startswith("Histogram of 300 scores from -3.00 to -0.01, median -1.50")


def test_statuses_without_a_score_are_counted_and_listed():
    rows = [make_row(1), make_row(2, math.nan), make_row(3, -5.0, status="no_pairs")]
    rows += [
        make_row(line, math.nan, status="error", message=f"line {line}: broken")
        for line in range(4, 30)
    ]
    page = page_of(rows)
    texts = table(page, "Statuses")
    assert texts[5:9] == ["Meaning", "error", "26", "89.7 %"]
    at = texts.index("no_pairs")
    assert texts[at : at + 4] == ["no_pairs", "2", "6.9 %", "1"]
    assert f"Rows without a score: the first {MAX_EXAMPLES} of 27" in texts
    assert "line 22: broken" in texts and "line 23: broken" not in texts


def test_truncation_says_what_it_costs():
    rows = [
        make_row(1, -1.0, truncated_tokens=30),
        make_row(2, -3.0, truncated_tokens=1000),
        make_row(3, math.nan, truncated_tokens=5),
        make_row(4, -0.5, unknown_tokens=2),
    ]
    texts = table(page_of(rows), "Truncation and unknown tokens")
    at = texts.index("cut off")
    assert texts[at : at + 7] == ["cut off", "3", "75.0 %", "1,035", "1,000", "-2.000", "-0.500"]
    at = texts.index("unknown")
    assert texts[at : at + 7] == ["unknown", "1", "25.0 %", "2", "2", "-0.500", "-2.000"]


def test_the_lowest_rows_are_shown_worst_first_and_the_earlier_of_equal_ones():
    scores = [-1.0, -3.0, math.nan, -2.0, -3.0, -2.0, -0.5]
    collection = collected([make_row(i, s) for i, s in enumerate(scores, 1)], n_worst=3)
    (part,) = collection.parts.values()
    assert [one.row.line for one in part.worst()] == [2, 5, 4]
    page = Page(render_report(collection))
    assert [text for text in page.texts if re.fullmatch(r"r\d", text)][-3:] == ["r2", "r5", "r4"]
    assert "The 3 lowest scores, worst first" in page.texts
    assert "worst first" not in page_of([make_row(1)], n_worst=0).text


def test_questions_have_bars_and_the_worst_its_tokens():
    by_token = QAPair(
        question="how many?",
        answer="forty",
        token_ids=(1, 2),
        tokens=("forty", "<eos>"),
        summary_logprobs=(-0.2, 0.0),
        document_logprobs=(-4.2, 0.0),
    )
    pairs = (make_pair(), make_pair("how many?", "forty", -2.0, by_token=by_token))
    page = page_of([make_row(1, -1.5, pairs=pairs)])
    widths = [attrs["style"] for _, attrs in page.elements if attrs.get("class") == "bar"]
    assert widths == ["--w:75", "--w:100", "--w:50"]
    assert page.bars() == [(0.2, 4.2), (0.0, 0.0)]
    assert page.texts.index("how many?") < page.texts.index("who?")
    assert "-4.00!!" in page.texts
    assert "--pairs" not in page.text
    assert "Faded" not in page.text
    answer_only = make_pair(by_token=replace(by_token, first_counted=1))
    page = page_of([make_row(1, -1.5, pairs=(answer_only,))])
    assert [attrs.get("class") for tag, attrs in page.elements if tag == "i"] == ["u", None]
    assert "Faded tokens do not count" in page.text


def asked_about(summary, *places):
    """A row of scores with a pair whose answer drops by 3 and occurs at these places."""
    by_token = QAPair(
        question="who won?",
        answer="anne",
        token_ids=(1, 2, 3, 4),
        tokens=("who", "<sep>", "anne", "<eos>"),
        summary_logprobs=(-1.0, 0.0, -1.0, 0.0),
        document_logprobs=(-1.0, 0.0, -4.0, 0.0),
        answer_spans=places,
    )
    row = make_row(1, -1.5, pairs=(make_pair("who won?", by_token=by_token), make_pair()))
    return row, InputRow(line=1, id="r1", fields={}, document="d", summary=summary)


def test_summaries_are_marked_where_files_have_the_pairs():
    row, text = asked_about("Then\n<b>Anne</b> won.", (8, 12))
    html = render_report(collected([row], texts=[text]))
    start = '<p class="marked" dir="auto">Then\n&lt;b&gt;<span class="m b" tabindex="0">Anne<'
    assert start in html
    page = Page(html)
    assert "In a summary," in page.texts
    assert page.texts.count("who won?") == 2  # at the mark and in the table
    for rows, texts in (([row], None), ([make_row(1)], [text])):
        assert "In a summary," not in page_of(rows, texts=texts).texts


def test_a_summary_that_is_too_short_for_its_answers_is_refused():
    row, text = asked_about("Anne won.", (8, 12))
    message = "s.jsonl, line 1 has an answer that ends at character 12 … 9 characters at line 1"
    with pytest.raises(InputError, match=says(message)):
        list(joined([row], iter([text]), Collection(by=None, n_worst=1)))


def test_without_questions_the_page_says_how_to_get_them():
    page = page_of([make_row(1)])
    assert "score with --pairs:" in page.text
    assert "quals-fast score INPUT -o scores.jsonl --pairs" in page.texts
    csv = page_of([make_row(1, fields={"worst_question": "who?", "worst_answer": "anne"})])
    assert "Worst question:" in csv.texts and "anne" in csv.texts


def test_qags_has_its_own_scale():
    pairs = (make_pair(score=0.25, document_answer=""), make_pair("when?", "1962", 1.0))
    row = make_row(1, 0.625, signature="qags|arm:batched", pairs=pairs)
    page = page_of([row])
    assert "Distribution of QAGS scores" in page.texts
    widths = [attrs["style"] for _, attrs in page.elements if attrs.get("class") == "bar"]
    assert widths == ["--w:38", "--w:75", "--w:0"]
    assert "nats" not in page.text
    assert "(no answer)" in page.texts


# By column


def by_system(n=40):
    systems = ["b", "a", "", None]
    texts = [
        InputRow(line=i, id=f"r{i}", fields={"system": systems[i % 4]}, document="d", summary="s")
        for i in range(1, n + 1)
    ]
    return [make_row(i, -float(i % 4) if i % 4 < 3 else -2.0) for i in range(1, n + 1)], texts


def test_groups_are_compared_highest_mean_first():
    rows, texts = by_system()
    page = page_of(rows, by="system", texts=texts)
    found = table(page, "By system")
    at = found.index("b")
    assert found[at : at + 5] == ["b", "10", "0", "0.000", "0.000"]
    at = found.index("(no value)")
    assert found[at : at + 5] == ["(no value)", "20", "0", "-2.000", "-2.000"]
    labels = [attrs.get("aria-label") for tag, attrs in page.elements if tag == "svg"]
    assert [one for one in labels if one and "scores of" in one] == [
        f"Histogram of the scores of {name}" for name in ("b", "a", "(no value)")
    ]
    assert "Counts of these charts" in page.texts


@pytest.mark.parametrize("n", [24, 25])
def test_the_charts_of_many_groups_are_folded(n):
    page = page_of([make_row(i, fields={"x": f"g{i:02}"}) for i in range(n)], by="x")
    labels = [attrs.get("aria-label") or "" for tag, attrs in page.elements if tag == "svg"]
    assert sum(label.startswith("Histogram of the scores of g") for label in labels) == n
    assert ("A histogram of each" in page.texts) == (n == 25)


@pytest.mark.parametrize(
    ("scores", "n_worst", "heading"),
    [
        ([-1.0], 5, "The only score"),
        ([-1.0, math.nan, -2.0], 5, "All scores, worst first"),
        ([-1.0, -2.0], 1, "The lowest score"),
    ],
)
def test_the_heading_says_which_rows_follow(scores, n_worst, heading):
    rows = [make_row(i, score) for i, score in enumerate(scores, 1)]
    assert heading in page_of(rows, n_worst=n_worst).texts


def test_a_group_without_scores_is_in_the_table():
    rows = [make_row(1, fields={"x": "a"}), make_row(2, math.nan, fields={"x": "b"})]
    found = table(page_of(rows, by="x"), "By x")
    at = found.index("b")
    assert found[at : at + 5] == ["b", "1", "1", "—", "—"]


def test_rows_without_any_score_make_a_page():
    page = page_of([make_row(1, math.nan), make_row(2, math.nan)], by="id")
    assert "No row has a score." in page.texts
    assert figures(page)["Mean"] == "—"


def test_values_may_be_numbers_and_the_scores_own_columns_come_first():
    rows = [make_row(i, fields={"year": 1960 + i % 2, "ok": True, "id": 5}) for i in range(1, 5)]
    texts = [InputRow(line=i, id=5, fields={"id": "other"}) for i in range(1, 5)]
    assert {"1960", "1961"} <= set(page_of(rows, by="year").texts)
    assert "true" in page_of(rows, by="ok").texts
    texts[0].fields["price"] = decimal.Decimal("1.50")  # as from Parquet
    assert "1.50" in page_of(rows, by="price", texts=texts).texts
    assert "other" not in page_of(rows, by="id", texts=texts).texts


def test_files_can_be_compared():
    rows = [make_row(1, file="a.jsonl"), make_row(1, -2.0, file="b.jsonl")]
    page = page_of(rows, by="file")
    assert "Scores of 2 files" in page.texts
    found = table(page, "By file")
    assert found.index("a.jsonl") < found.index("b.jsonl")


@pytest.mark.parametrize(
    ("rows", "by", "message"),
    [
        ([], None, "SCORES has no rows … quals-fast score INPUT -o FILE"),
        (
            [make_row(1, fields={"pairs": [], "x": 1})],
            "y",
            "`--by` must … got 'y'; the columns of s.jsonl are 'file', 'id', 'x'; … --input",
        ),
        (
            [make_row(i) for i in range(1, 202)],
            "id",
            "at most 200 different values, but 'id' has more: s.jsonl, line 201 has 'r201'; choose",
        ),
        (
            [make_row(1, fields={"pairs": []})],
            "pairs",
            "a column of texts or numbers, but 'pairs' holds an array in s.jsonl, line 1",
        ),
        ([make_row(1, fields={"x": {}})], "x", "but 'x' holds an object in s.jsonl, line 1"),
        (
            [make_row(i, signature=f"quals|{i}") for i in range(MAX_SIGNATURES + 1)],
            None,
            "at most 20 signatures, but s.jsonl, line 20 has one more: quals|20; report fewer",
        ),
    ],
    ids="no-rows unknown many-values array object many-signatures".split(),
)
def test_what_cannot_be_reported_is_refused(rows, by, message):
    with pytest.raises(InputError, match=says(message)):
        collected(rows, by=by)


# Signatures, bad lines, inputs


def test_signatures_are_shown_apart_with_a_warning():
    rows = [make_row(1, -1.0), make_row(2, -3.0, signature=OTHER), make_row(3, -2.0)]
    page = page_of(rows)
    assert "2 different signatures." in page.texts
    assert page.texts.count("dtype:float32") == page.texts.count("dtype:mixed") == 2
    means = [page.texts[i + 1] for i, text in enumerate(page.texts) if text == "Mean"]
    assert means == ["-1.500", "-3.000"]  # and none of all three
    assert page.texts.count(SIGNATURE) == page.texts.count(OTHER) == 1
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a"]
    ids = [attrs["id"] for _, attrs in page.elements if attrs.get("id")]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert len(ids) == len(set(ids))
    assert "signatures" not in page_of(rows[:1]).text


def test_lines_that_could_not_be_read_are_named():
    bad = [BadLine("s.jsonl", i, "invalid JSON: <b>") for i in range(2, 2 + MAX_EXAMPLES + 3)]
    page = page_of([make_row(1), *bad])
    assert "23 lines could not be read" in page.texts
    assert "The first 20:" in page.text
    assert "s.jsonl, line 21: invalid JSON: <b>" in page.texts
    assert "s.jsonl: 1 row, 23 lines not read" in page.texts


def inputs(*ids):
    return iter([InputRow(line=i, id=one, fields={"id": one}) for i, one in enumerate(ids, 1)])


def test_rows_are_joined_with_their_input():
    collection = Collection(by=None, n_worst=1)
    rows = [make_row(1), BadLine("s.jsonl", 2, "broken"), make_row(3)]
    pairs = list(joined(rows, inputs("r1", "r2", "r3", "r4", "r5"), collection))
    assert [text.id for _, text in pairs] == ["r1", "r2", "r3"]
    assert collection.n_not_scored == 2
    for row, text in pairs:
        collection.add(row, text)
    assert "The input has 2 more rows" in Page(render_report(collection)).texts


def test_an_input_of_other_rows_is_refused():
    collection = Collection(by=None, n_worst=1)
    rows = [make_row(1), make_row(2)]
    message = "s.jsonl, line 2 has 'r2' and the input 'x' at line 2; give … in the order"
    with pytest.raises(InputError, match=says(message)):
        list(joined(rows, inputs("r1", "x"), collection))
    with pytest.raises(InputError, match=says("ends before s.jsonl, line 2; give the files")):
        list(joined(rows, inputs("r1"), collection))


# Texts


def test_markup_in_texts_is_text():
    evil = "</script></style><script>alert('x')</script>\"'"
    row = make_row(
        1, -1.0, file=evil, status=evil, message=evil, signature=f"quals|{evil}",
        fields={"id": evil, "x": evil}, pairs=(make_pair(evil, evil, document_answer=evil),),
    )  # fmt: skip
    lost = make_row(2, math.nan, message=evil, fields={"x": evil})
    text = InputRow(line=1, id=evil, fields={}, document=evil, summary=evil)
    rows = [row, lost, make_row(3, signature=evil), BadLine(evil, 3, evil)]
    html = render_report(collected(rows, by="x", texts=[text] * 4))
    page = Page(html)
    assert "<script" not in html
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "img", "link", "iframe"})
    assert page.text.count(evil) > 10
    assert not re.search(r"https?://|src=|url\(|@import|<link", html)
    assert "default-src 'none'" in html


def test_long_right_to_left_and_odd_texts():
    arabic, emoji = "افتتحت الملكة جسر تامار.", "👩‍👩‍👧 東京都"
    row = make_row(
        1,
        fields={"id": {"a": "b\ud800"}},
        message="e\x1b\ud800",
        pairs=(make_pair(arabic, emoji), make_pair("long" * 1000, "x")),
    )
    text = InputRow(line=1, id=1, fields={}, document="d" * 1_000_000, summary=arabic)
    html = render_report(collected([row], texts=[text]))
    html.encode()
    assert not re.search(r"[\x00\x1b]", html)
    assert len(html) < 60_000
    page = Page(html)
    assert {arabic, emoji} <= set(page.texts)
    assert "(990,000 more characters)" in page.text
    assert "(3,700 more characters)" in page.text
    assert [attrs["dir"] for _, attrs in page.elements if attrs.get("class") == "text"] == ["auto"]


def test_tables_and_charts_can_be_read_without_seeing():
    rows, texts = by_system()
    page = page_of(rows, by="system", texts=texts)
    for tag, attrs in page.elements:
        if tag == "svg":
            assert attrs.get("aria-hidden") == "true" or attrs.get("aria-label")
        if tag == "th":
            assert attrs["scope"] in ("row", "col")
        if attrs.get("tabindex") is not None:
            assert attrs["role"] == "region"
            label = attrs.get("aria-label") or attrs["aria-labelledby"]
            assert label
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_memory_hardly_grows_with_the_rows():
    """Eight bytes a row, twice while the array grows; a row itself takes more than 500."""
    n = 100_000
    collection = Collection(by="x", n_worst=50)
    tracemalloc.start()
    for i in range(n):
        collection.add(make_row(i, -float(i % 977), fields={"x": i % 3}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert collection.n_rows == n
    assert peak < 3_000_000
