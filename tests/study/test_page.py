"""An annotator's page: blind as a file, and clicked through in headless Chromium."""

import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from browser import CHROMIUM, page
from click.testing import CliRunner
from html_page import Page
from studies import SYSTEMS, study, write_systems

from quals_fast.commands.app import app
from quals_fast.study.design import draw
from quals_fast.study.page import render_page
from quals_fast.study.pairs import Pair, Summary

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium, such as Debian's `chromium`"
)
# Prefer the right summary; find neither more informative; leave grammar to the caller.
VOTE = """
(() => {
  const right = document.getElementById("A").textContent.startsWith("right") ? "A" : "B";
  document.querySelector(`[name=consistency][value=${right}]`).click();
  document.querySelector("[name=informativeness][value=equal]").click();
})()
"""
SHOWN = """({
  count: document.getElementById("count").textContent,
  message: document.getElementById("message").textContent,
  isEnd: !document.getElementById("end").hidden,
  verdict: document.getElementById("verdict").textContent,
  document: document.getElementById("document").textContent,
  answers: [...document.querySelectorAll(":checked")].map((one) => one.value),
  unkept: !document.getElementById("unkept").hidden,
})"""
NEXT = "document.getElementById('next').click()"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Make a study of four documents in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    arguments = ["study", *write_systems(), "-o", "study", "--pairs", "4", "--annotators", "2"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return tmp_path / "study"


def saved(folder, name="votes-1.json"):
    """Wait for a download."""
    until = time.monotonic() + 20
    while not (folder / name).exists() and time.monotonic() < until:
        time.sleep(0.02)
    return json.loads((folder / name).read_text("utf-8"))


def open_page(browser, url):
    """Open a page once the browser keeps what pages store.

    A Chromium that has just started with a new profile forgets what was stored at first.
    """
    for _ in range(20):
        browser.open(url)
        browser.run("localStorage.setItem('is kept', '')")
        time.sleep(0.5)
        browser.open(url)
        if browser.run("localStorage.getItem('is kept')") is not None:
            return
    raise AssertionError("this browser stores nothing")


def test_a_page_does_not_tell_the_systems(made):
    for path in made.glob("*.html"):
        html = path.read_text("utf-8")
        shown = Page(html)
        assert not re.search("|".join([*SYSTEMS, "jsonl"]), html + path.name)
        data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
        assert set(data) == {"kind", "study", "annotator", "pairs"}
        assert all(set(pair) == {"document", "A", "B"} for pair in data["pairs"])
        assert len({pair["document"] for pair in data["pairs"]}) == 4
        # Each system is A in half of the pairs.
        assert Counter(pair["A"].split()[0] for pair in data["pairs"]) == {"right": 2, "wrong": 2}
        assert all("src" not in attributes for _, attributes in shown.elements)
        assert "http" not in html.replace("http-equiv", "")


def test_the_policy_is_of_this_script_and_style():
    html = render_page(study(), 1)
    policy = next(a["content"] for _, a in Page(html).elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none';script-src 'sha256-")
    assert "unsafe" not in policy and policy.count("sha256-") == 2


@needs_chromium
def test_votes_go_from_the_page_to_the_outcome(made, tmp_path):
    url = (made / "annotator-1.html").as_uri()
    with page(tmp_path / "profile") as browser:
        browser.download_to(made)
        open_page(browser, url)
        assert browser.run(SHOWN)["count"] == "Document 1 of 4, 4 left"
        browser.run(VOTE + NEXT)
        shown = browser.run(SHOWN)
        assert shown["message"].startswith("Not answered yet: Grammar.")
        assert (shown["count"], len(shown["answers"])) == ("Document 1 of 4, 4 left", 2)
        browser.press("3", "Enter")
        assert browser.run(SHOWN)["count"] == "Document 2 of 4, 3 left"
        browser.run(VOTE)
        held = "new KeyboardEvent('keydown', {key: '1', repeat: true})"
        browser.run(f"document.dispatchEvent({held})")  # no answer to the next question
        assert len(browser.run(SHOWN)["answers"]) == 2
        browser.press("2")
        before = browser.run(SHOWN)
        browser.open(url)  # nothing is lost; the first document with an open question is shown
        assert browser.run(SHOWN)["count"] == "Document 3 of 4, 2 left"
        browser.run("document.getElementById('back').click()")
        assert browser.run(SHOWN) == before | {"count": "Document 2 of 4, 2 left"}
        browser.run(f"{NEXT}; document.getElementById('skip').click()")
        browser.run(VOTE)
        browser.press("1", "Enter")
        shown = browser.run(SHOWN)
        assert shown["isEnd"] and shown["verdict"].startswith("1 of 4 documents have an open")
        browser.run("document.getElementById('save').click()")
        votes = saved(made)
        assert browser.run("at('saved').textContent") == "Saved votes-1.json, with 1 left"
        assert [list(one.values()).count(None) for one in votes["votes"]] == [0, 0, 3, 0]
        assert [one["grammar"] for one in votes["votes"]] == ["B", "equal", None, "A"]
        # The policy: no other script, no request.
        assert browser.run(
            "document.body.append(Object.assign(document.createElement('script'), "
            "{textContent: 'window.ran = true'})); "
            "fetch('data:,x').then(() => 'sent', () => String(window.ran))"
        ) == "undefined"  # fmt: skip
    done = CliRunner().invoke(app, ["study", "--votes", str(made), "-o", "-"])
    outcome = json.loads(done.stdout)
    assert outcome["annotators"][0]["n_answers"] == 9
    consistency, informativeness, grammar = outcome["attributes"]
    assert consistency["first_better"]["value"] == 1
    assert informativeness["equal"]["value"] == 1
    assert grammar["n_votes"] == 3


@needs_chromium
@pytest.mark.slow
def test_texts_are_only_texts_and_fit_a_phone(tmp_path):
    texts = [("d" * 500, "s" * 500, " "), ("<b>d</b>", "</script><b>s</b>", "\ud800\x07")]
    of = draw(
        [
            Pair(document=d, summaries=(Summary(id=0, text=a), Summary(id=0, text=b)))
            for d, a, b in texts
        ],
        systems=SYSTEMS, n_pairs=2, n_annotators=1, seed=0,
    )  # fmt: skip
    (tmp_path / "odd.html").write_text(render_page(of, 1), "utf-8")
    with page(tmp_path / "profile") as browser:
        browser.show_as_phone()
        browser.open((tmp_path / "odd.html").as_uri())
        seen = set()
        for _ in texts:
            assert browser.run("document.documentElement.scrollWidth") <= 390
            assert browser.run("document.querySelectorAll('.card b').length") == 0
            seen |= set(browser.run("['document', 'A', 'B'].map((id) => at(id).textContent)"))
            browser.run("document.getElementById('skip').click()")
        assert seen >= {"d" * 500, "s" * 500, "(empty)", "<b>d</b>", "</script><b>s</b>"}
        assert browser.run(SHOWN)["isEnd"]
        assert browser.run("document.documentElement.scrollWidth") <= 390


@needs_chromium
@pytest.mark.slow
def test_a_browser_that_keeps_nothing_says_so(made, tmp_path):
    with page(tmp_path / "profile") as browser:
        browser.open((made / "annotator-1.html").as_uri())
        assert not browser.run(SHOWN)["unkept"]
        browser.run("Storage.prototype.setItem = () => { throw new Error(); }")
        browser.run(VOTE)
        assert browser.run(SHOWN)["unkept"]
        browser.download_to(made)
        browser.run("document.getElementById('save').click()")
        assert saved(made)["votes"][0]["informativeness"] == "equal"


@needs_chromium
@pytest.mark.slow
def test_annotators_and_studies_keep_their_votes_apart(made, tmp_path):
    with page(tmp_path / "profile") as browser:
        open_page(browser, (made / "annotator-1.html").as_uri())
        browser.run(VOTE)
        for other in ("annotator-2.html", "other.html"):
            html = (made / "annotator-1.html").read_text("utf-8")
            Path(made / "other.html").write_text(re.sub('"study": "..', '"study": "zz', html))
            browser.open((made / other).as_uri())
            assert browser.run(SHOWN)["answers"] == []
        browser.open((made / "annotator-1.html").as_uri())
        assert len(browser.run(SHOWN)["answers"]) == 2
        browser.run("for (const key of Object.keys(localStorage)) localStorage.setItem(key, '{')")
        browser.open((made / "annotator-1.html").as_uri())
        assert browser.run(SHOWN)["answers"] == []  # what cannot be read starts anew
