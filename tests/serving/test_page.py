"""The page at / in headless Chromium: filled in, sent, read."""

import json

import pytest
from browser import CHROMIUM, page
from exported_folders import SUMMARIES, TEXT
from services import listening

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium, such as Debian's `chromium`"
)
SEND = """
for (const [id, text] of Object.entries(%s)) document.getElementById(id).value = text;
document.querySelector("button").click();
var shownTip = (inside) => {
  const part = inside.querySelector(".marked .m");
  part?.focus();
  const tip = part?.querySelector(".tip");
  return tip && inside.defaultView.getComputedStyle(tip).display === "block" && tip.textContent;
};
new Promise((done) => {
  const message = document.getElementById("message"), frame = document.getElementById("result");
  const look = () => {
    const inside = frame.contentDocument, token = inside.querySelector(".t i");
    const isShown = inside.querySelector("footer") && frame.style.height;
    const waits = message.textContent.startsWith("Scoring") || !(frame.hidden || isShown);
    if (waits && performance.now() < 60_000) return setTimeout(look, 20);
    done({
      message: message.textContent,
      hidden: frame.hidden,
      score: inside.querySelector(".score")?.textContent,
      questions: inside.querySelectorAll(".pair").length,
      bar: token && inside.defaultView.getComputedStyle(token, "::after").height,
      tip: shownTip(inside),
      needsToken: !document.getElementById("access").hidden,
      height: frame.clientHeight,
      wide: document.documentElement.scrollWidth,
    });
  };
  setTimeout(look, 200);
})
"""


def send(browser, **texts):
    return browser.run(SEND % json.dumps(texts))


def test_two_texts_get_a_score_with_its_questions(scorer, tmp_path):
    (row,) = scorer.score([TEXT], [SUMMARIES[0]])
    assert row.pairs
    with listening(scorer) as url, page(tmp_path) as browser:
        browser.open(url)
        found = send(browser, document=TEXT, summary=SUMMARIES[0])
        assert (found["message"], found["hidden"], found["needsToken"]) == ("", False, False)
        assert float(found["score"]) == pytest.approx(row.score, abs=0.0006)
        assert found["questions"] == len(row.pairs)
        assert float(found["bar"].removesuffix("px")) > 0
        assert any(
            f"{one.question} → {one.answer} drop {one.answer_drop:.3f}" in found["tip"]
            for one in row.pairs
        )
        assert found["height"] > 300
        assert found["wide"] <= browser.run("window.innerWidth")
        again = send(browser, document=TEXT, summary="the king")
        assert again["score"] != found["score"]


def test_a_problem_is_said_and_a_token_asked_for(scorer, tmp_path):
    with listening(scorer, token="secret", max_characters=1000) as url, page(tmp_path) as browser:
        browser.open(url)
        found = send(browser, document=TEXT, summary=SUMMARIES[0])
        assert found["hidden"] and found["needsToken"]
        assert "a token is needed" in found["message"]
        found = send(browser, document=TEXT, summary=SUMMARIES[0], token="secret")
        assert not found["hidden"] and found["questions"]
        found = send(browser, document=TEXT, summary="x" * 1001)
        assert found["hidden"] and "at most 1000 characters, but has 1001" in found["message"]
