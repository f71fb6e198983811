"""What the reader of an explanation sees, on the terminal and on the page."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape

import pytest
from html_page import Page
from rich.cells import cell_len
from rich.console import Console

from quals_fast.jobs.parsing import InputRow
from quals_fast.pages.display import DROP, LARGE_DROP
from quals_fast.pages.explain import ExplainedRow, render_html, render_terminal
from quals_fast.pages.templating import BAR_CAP
from quals_fast.results import QAPair, SummaryScore, merged_spans

SIGNATURE = "quals|rule:fairseq09|model:toy@0123|version:0.1.0"


def make_pair(question: str, answer: str, *tokens: tuple[str, float, float]) -> QAPair:
    """Make a pair of tokens with their log-probabilities given the summary and the document."""
    pieces, given_summary, given_document = zip(*tokens, strict=True)
    return QAPair(
        question=question,
        answer=answer,
        token_ids=tuple(range(len(tokens))),
        tokens=pieces,
        summary_logprobs=given_summary,
        document_logprobs=given_document,
    )


def drops(*values: float) -> QAPair:
    """Make a pair whose tokens t0, t1, ... drop by the given values from -1."""
    return make_pair("q", "a", *((f"t{i}", -1.0, -1.0 + drop) for i, drop in enumerate(values)))


SUPPORTED = make_pair(
    "who opened the tamar bridge?", "queen anne",
    ("who", -0.8, -0.9), ("opened", -1.9, -2.1), ("the", -0.2, -0.22), ("tam", -0.6, -0.62),
    ("##ar", -0.01, -0.02), ("bridge", -0.05, -0.06), ("?", -0.02, -0.03), ("<sep>", -0.01, -0.01),
    ("queen", -0.3, -0.4), ("anne", -0.04, -0.16), ("<eos>", -0.01, -0.014),
)  # fmt: skip
UNSUPPORTED = make_pair(
    "how many lives did it cost?", "forty",
    ("how", -1.2, -2.42), ("many", -0.3, -0.6), ("lives", -0.4, -4.3), ("did", -0.8, -2.0),
    ("it", -0.2, -0.4), ("cost", -1.1, -8.25), ("?", -0.1, -0.2), ("<sep>", -0.01, -0.02),
    ("forty", -0.2, -12.25), ("<eos>", -0.01, -0.03),
)  # fmt: skip


def make_row(*pairs: QAPair, id: str = "tamar", **changes: object) -> ExplainedRow:
    """Make a row; `changes` go to its result, or to its texts."""
    texts = {"summary": "It cost forty lives.", "document": "Queen Anne opened the bridge."}
    texts |= {name: changes.pop(name) for name in texts if name in changes}
    result = {"status": "ok", "pairs": pairs, "n_hypotheses": 60}
    if pairs:
        result["score"] = math.fsum(pair.score for pair in pairs) / len(pairs)
    return ExplainedRow(id=id, **texts, result=SummaryScore(**{**result, **changes}))


def terminal(row: ExplainedRow, width: int = 120, **options: int) -> str:
    console = Console(width=width, color_system=None, file=io.StringIO(), record=True)
    console.print(render_terminal(row, **options))
    return console.export_text()


def styles(row: ExplainedRow) -> dict[str, str]:
    """Return the colour in which each text is printed."""
    console = Console(width=120, color_system="standard", force_terminal=True)
    return {
        segment.text.strip(): segment.style.color.name if segment.style.color else ""
        for segment in console.render(render_terminal(row))
        if segment.style is not None
    }


def test_a_row_of_a_file_may_lack_its_texts() -> None:
    result = SummaryScore(status="error", message="line 3: broken")
    lost = InputRow(line=3, id=3, fields={}, problem="broken")
    assert ExplainedRow.of(lost, result) == ExplainedRow(
        id="3", summary="", document="", result=result
    )
    odd = InputRow(line=4, id="x", fields={}, document="d", summary=5)
    assert ExplainedRow.of(odd, result) == ExplainedRow(
        id="x", summary="5", document="d", result=result
    )


def test_the_two_pairs_score_as_in_the_paper() -> None:
    assert SUPPORTED.score == pytest.approx(-0.054, abs=5e-4)
    assert UNSUPPORTED.score == pytest.approx(-2.615, abs=5e-4)


def test_terminal_header_says_id_score_status_pairs_and_truncation() -> None:
    header = terminal(make_row(SUPPORTED, UNSUPPORTED, truncated_tokens=12)).splitlines()[0]
    assert header == "tamar   score -1.334   ok   2 pairs   12 tokens cut off"
    assert terminal(make_row(SUPPORTED)).splitlines()[0] == "tamar   score -0.054   ok   1 pair"


def test_unknown_tokens_are_shown() -> None:
    row = make_row(SUPPORTED, unknown_tokens=1)
    header = "tamar   score -0.054   ok   1 pair   1 unknown token"
    assert terminal(row).splitlines()[0] == header
    page = Page(render_html([row, make_row(SUPPORTED)], SIGNATURE))
    assert page.text.count("1 unknown token: the model cannot tell these") == 1


def test_terminal_shows_the_summary_and_the_worst_pair_first() -> None:
    lines = terminal(make_row(SUPPORTED, UNSUPPORTED)).splitlines()
    assert lines[2] == "It cost forty lives."
    worst = lines.index("how many lives did it cost? -> forty   -2.615")
    assert worst < lines.index("who opened the tamar bridge? -> queen anne   -0.054")
    table = [" ".join(line.split()) for line in lines[worst + 1 : worst + 5]]
    assert table == [
        "token how many lives did it cost ? <sep> forty <eos>",
        "given summary -1.20 -0.30 -0.40 -0.80 -0.20 -1.10 -0.10 -0.01 -0.20 -0.01",
        "given document -2.42 -0.60 -4.30 -2.00 -0.40 -8.25 -0.20 -0.02 -12.25 -0.03",
        "drop -1.22! -0.30 -3.90!! -1.20! -0.20 -7.15!! -0.10 -0.01 -12.05!! -0.02",
    ]


@pytest.mark.parametrize(
    ("drop", "mark", "colour"),
    [
        (0.4, "", ""),
        (DROP + 1e-3, "", ""),
        (DROP, "!", "yellow"),
        (LARGE_DROP + 1e-3, "!", "yellow"),
        (LARGE_DROP, "!!", "red"),
        (-math.inf, "!!", "red"),
    ],
)
def test_drops_are_marked_and_coloured_from_the_thresholds_on(
    drop: float, mark: str, colour: str
) -> None:
    row = make_row(drops(drop))
    shown = f"{drop:.2f}{mark}"
    assert terminal(row).splitlines()[-1].split() == ["drop", shown]
    assert styles(row).get("t0", "") == colour
    level = {"": None, "!": "a", "!!": "b"}[mark]
    page = Page(render_html([row], SIGNATURE))
    assert [attrs.get("class") for tag, attrs in page.elements if tag == "i"] == [level]
    assert (shown in page.texts) == bool(mark)


def test_tokens_that_do_not_count_have_no_drop_and_are_faded() -> None:
    row = make_row(replace(UNSUPPORTED, first_counted=8))
    assert "-> forty   -6.035" in terminal(row)
    drops = next(line for line in terminal(row).splitlines() if line.startswith("  drop"))
    assert drops.split() == ["drop", *["—"] * 8, "-12.05!!", "-0.02"]
    page = Page(render_html([row, make_row(SUPPORTED)], SIGNATURE))
    classes = [attrs.get("class") for tag, attrs in page.elements if tag == "i"]
    assert classes == [*["u"] * 8, "b", None, *[None] * len(SUPPORTED.tokens)]
    assert "Faded tokens do not count" in page.text
    assert "the mean drop of its answer's tokens" in page.text
    assert "Faded" not in Page(render_html([make_row(SUPPORTED)], SIGNATURE)).text


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_tables_wrap_at_the_width_and_stay_aligned(width: int) -> None:
    pair = drops(*(-0.9 * i for i in range(20)))
    lines = terminal(make_row(pair), width).splitlines()
    assert all(cell_len(line) <= width for line in lines)
    tables = [lines[i : i + 4] for i, line in enumerate(lines) if line.startswith("  token")]
    assert [t for table in tables for t in table[0].split()[1:]] == list(pair.tokens)
    assert len(tables) == {40: 9, 80: 3, 120: 2, 200: 1}[width]
    for table in tables:
        ends = [[m.end() for m in re.finditer(r"\S+", line.replace("!", " "))] for line in table]
        n = len(table[0].split()) - 1
        assert ends[0][-n:] == ends[1][-n:] == ends[2][-n:] == ends[3][-n:]


def test_max_pairs_keeps_the_worst_and_says_so() -> None:
    text = terminal(make_row(SUPPORTED, UNSUPPORTED), max_pairs=1)
    assert "-> forty" in text
    assert "queen anne" not in text
    assert text.rstrip().endswith("1 better pair not shown")
    assert "not shown" not in terminal(make_row(SUPPORTED, UNSUPPORTED), max_pairs=2)
    assert "-> forty" not in terminal(make_row(UNSUPPORTED), max_pairs=0)
    with pytest.raises(ValueError, match="`max_pairs` must be at least 0, but got -1"):
        render_terminal(make_row(), max_pairs=-1)


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        ("no_pairs", None, "no generated question has its answer in the summary"),
        ("empty_summary", None, "the summary is empty"),
        ("empty_document", None, "the document is empty"),
        ("unknown_text", "more than half", "the model cannot read this text"),
        ("error", "`summary` must be a string", "could not be scored: `summary` must be a string"),
    ],
)
def test_rows_without_pairs_say_why(status: str, message: str | None, words: str) -> None:
    row = make_row(status=status, message=message)
    header, reason, *_ = terminal(row).splitlines()
    assert header == f"tamar   score —   {status}   0 pairs"
    assert words in reason
    page = Page(render_html([row], SIGNATURE))
    assert words.lower() in page.text.lower()
    assert "—" in page.texts
    assert page.bars() == []


def test_a_score_that_was_set_for_no_pairs_is_told_from_a_measured_one() -> None:
    row = make_row(status="no_pairs", score=-5.0)
    header, reason, *_ = terminal(row, 200).splitlines()
    assert "score -5.000" in header
    assert reason.endswith("no_pairs_score that was set")
    assert "no_pairs_score that was set." in render_html([row], SIGNATURE)


def test_page_lists_rows_and_pairs_worst_first() -> None:
    rows = [
        make_row(SUPPORTED, id="good"),
        make_row(id="none", status="no_pairs"),
        make_row(SUPPORTED, UNSUPPORTED, id="bad"),
    ]
    page = Page(render_html(rows, SIGNATURE))
    assert [t for t in page.texts if t in {"good", "none", "bad"}] == ["bad", "good", "none"]
    questions = [t for t in page.texts if t.endswith("?") and len(t) > 1]
    assert questions == [UNSUPPORTED.question, SUPPORTED.question, SUPPORTED.question]
    assert [t for t in page.texts if re.fullmatch(r"-?\d\.\d{3}|—", t)] == [
        "-1.334", "-2.615", "-0.054", "-0.054", "-0.054", "—",
    ]  # fmt: skip
    assert "3 summaries, worst first; 1 without a score" in page.texts
    assert page.texts.count("Queen Anne opened the bridge.") == 3
    assert page.texts[-1] == SIGNATURE


def test_page_draws_the_surprise_of_each_token() -> None:
    page = Page(render_html([make_row(UNSUPPORTED)], SIGNATURE))
    bars = page.bars()
    assert bars[:3] == [(1.2, 2.42), (0.3, 0.6), (0.4, 4.3)]
    assert bars[8][1] > BAR_CAP  # Cut by the style sheet, which marks it.
    assert [t for t in page.texts if t in UNSUPPORTED.tokens and t != "forty"] == [
        t for t in UNSUPPORTED.tokens if t != "forty"
    ]


def test_page_survives_infinite_and_missing_logprobs() -> None:
    pair = make_pair(
        "q", "a", ("inf", -0.5, -math.inf), ("both", -math.inf, -math.inf), ("nan", math.nan, -1.0)
    )
    page = Page(render_html([make_row(pair, score=-math.inf)], SIGNATURE))
    assert page.bars() == [(0.5, BAR_CAP + 1), (BAR_CAP + 1, BAR_CAP + 1), (0.0, 1.0)]
    assert "-inf!!" in page.texts
    widths = [attrs["style"] for _, attrs in page.elements if attrs.get("class") == "bar"]
    assert widths == ["--w:100"]
    assert "-inf!!" in terminal(make_row(pair))


def test_score_bars_share_a_scale_that_small_scores_do_not_fill() -> None:
    def widths(*scores: float) -> list[str]:
        page = Page(render_html([make_row(SUPPORTED, score=s) for s in scores], SIGNATURE))
        bars = [attrs["style"] for _, attrs in page.elements if attrs.get("class") == "bar"]
        return [bar.removeprefix("--w:") for bar in bars]

    assert widths(-1.0, -4.0, -2.0) == ["100", "50", "25"]
    assert widths(-0.1, 0.3) == ["5", "0"]


def test_page_shows_markup_in_texts_as_text() -> None:
    evil = "<script>alert('x')</script>"
    pair = make_pair(evil + "?", evil + "!", (evil, -1.0, -1.0), ("</i><b>", -1.0, -1.0))
    row = make_row(pair, id=evil, summary=evil, document=evil + "</details>", message=evil)
    html = render_html([row], evil)
    page = Page(html)
    assert "<script" not in html
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "img", "link", "iframe"})
    for text in (evil, evil + "?", evil + "!", evil + "</details>", "</i><b>"):
        assert text in page.texts


def test_page_needs_nothing_from_outside() -> None:
    html = render_html([make_row(SUPPORTED, UNSUPPORTED), make_row(status="no_pairs")], SIGNATURE)
    assert not re.search(r"https?://|src=|url\(|@import|<script|<link", html)
    assert "default-src 'none'" in html


def test_page_without_rows_says_so() -> None:
    page = Page(render_html([], SIGNATURE))
    assert "No summaries to show." in page.texts
    assert page.texts[-1] == SIGNATURE


def test_long_tokens_are_cut_on_the_terminal_and_whole_on_the_page() -> None:
    token = "donaudampf" * 30
    row = make_row(make_pair("q", "a", (token, -1.0, -4.0), ("<eos>", -1.0, -1.0)))
    lines = terminal(row, 80).splitlines()
    assert lines[-4].split() == ["token", "donaudampfdonaudampfdon…", "<eos>"]
    assert all(len(line) <= 80 for line in lines)
    assert token in Page(render_html([row], SIGNATURE)).texts


def test_right_to_left_and_wide_texts_come_through() -> None:
    pair = make_pair("ما اسم الجسر؟", "تامار", ("الجسر", -1.0, -4.0), ("東京都", -1.0, -1.0))
    row = make_row(pair, summary="افتتحت الملكة جسر تامار.")
    text = terminal(row)
    assert "ما اسم الجسر؟ -> تامار" in text
    *_, tokens, given_summary, _, _ = text.splitlines()
    assert cell_len(tokens.rstrip()) == cell_len(given_summary.rstrip())
    page = Page(render_html([row], SIGNATURE))
    assert {"الجسر", "東京都", "افتتحت الملكة جسر تامار."} <= set(page.texts)
    assert [attrs["dir"] for _, attrs in page.elements if attrs.get("class") == "t"] == ["auto"]


def asked(score: float, summary: str, *answers: str, question: str = "q?") -> QAPair:
    """Make a pair whose answer drops by `score` and occurs in a summary at these texts."""
    places = [(summary.index(answer), summary.index(answer) + len(answer)) for answer in answers]
    tokens = [
        ("t", -1.0, -1.0),
        ("<sep>", 0.0, 0.0),
        ("a", -1.0, -1.0 + score),
        ("<eos>", 0.0, 0.0),
    ]
    pair = make_pair(question, answers[0], *tokens)
    return replace(pair, answer_spans=tuple(places))


def asking(summary: str, *pairs: QAPair) -> ExplainedRow:
    """Make a row of pairs about its summary."""
    spans = merged_spans(pairs, summary)
    return make_row(*pairs, summary=summary, spans=spans)


MARKED = "Queen Anne paid\r\nforty pounds  in 1962, <b>say\ud800</b> 二人."


@pytest.fixture
def marked() -> ExplainedRow:
    return asking(
        MARKED,
        asked(-0.1, MARKED, "Anne"),
        asked(-0.5, MARKED, "paid"),
        asked(-3.0, MARKED, "forty"),
        asked(-4.0, MARKED, "forty pounds", question="how much?"),
        asked(-2.5, MARKED, "in 1962"),
        asked(-2.5, MARKED, "二人"),
    )


def test_terminal_marks_what_drops(marked: ExplainedRow) -> None:
    assert terminal(marked).splitlines()[2:4] == [
        "Queen Anne [paid]!",
        "[forty pounds  in 1962]!!, <b>say\ufffd</b> [二人]!!.",
    ]
    assert styles(marked)["[paid]!"] == "yellow"
    assert styles(marked)["[二人]!!"] == "red"


def test_page_marks_what_is_asked_about_and_says_the_worst_question(marked: ExplainedRow) -> None:
    html = render_html([marked], SIGNATURE)
    assert Page(html)
    (inside,) = re.findall(r'<p class="marked" dir="auto">(.*?)</p>', html, re.DOTALL)
    parts = re.findall(r'<span class="m( [ab])?" tabindex="0">(.*?)<span class="tip"', inside)
    assert parts == [
        ("", "Anne"), (" a", "paid"), (" b", "forty"), (" b", "pounds"), (" b", "in 1962"),
        (" b", "二人"),
    ]  # fmt: skip
    tips = re.findall(r'<span class="tip" dir="auto">(.*?)</span></span>', inside)
    bare = re.sub(r'<span class="tip" dir="auto">.*?</span></span>', "", inside)
    shown = MARKED.replace("\r\n", "\n").replace("\ud800", "\ufffd")
    assert unescape(re.sub(r"<[^>]*>", "", bare)) == shown
    assert (
        re.sub(r"<[^>]*>", "", tips[2])
        == "how much? → forty pounds drop -4.000the worst of 2 questions; mean -3.500"
    )
    assert re.sub(r"<[^>]*>", "", tips[3]) == "how much? → forty pounds drop -4.000"


def test_characters_that_command_a_terminal_or_break_utf8_are_replaced() -> None:
    row = make_row(SUPPORTED, id="a\x1b[2J", summary="b\ud800\x00", message="\x9bc")
    for text in (terminal(row), render_html([row], "d\ud800")):
        text.encode()
        assert not re.search(r"[\x00\x1b\x9b]", text)
        for shown in ("a\ufffd[2J", "b\ufffd\ufffd", "\ufffdc"):
            assert shown in text


def test_import_is_light() -> None:
    program = "import sys, quals_fast.pages.explain; print({'torch', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
