"""The report in headless Chromium: quick to open, and no wider than a phone."""

import json
import random
import re
import shutil
import subprocess

import pytest
from click.testing import CliRunner

from quals_fast.commands.app import app

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, such as Debian's `chromium`"),
]
MOST_MS = 3000
# Reading `offsetHeight` makes the browser lay out the page. The page itself may run no scripts.
FRAME = """<iframe src="report.html" style="width:{width}px;height:800px" onload="
  const page = this.contentDocument.documentElement;
  const height = page.offsetHeight;
  document.title = JSON.stringify({{ms: performance.now(), height, wide: page.scrollWidth}})
"></iframe>"""


def score_row(i, rng):
    """Return a row with ten questions of about a dozen tokens each."""
    pairs = []
    for _ in range(10):
        n = rng.randint(8, 16)
        pairs.append({
            "question": "who opened the stone bridge over the tamar?",
            "answer": "queen anne" if rng.random() < 0.9 else "donaudampf" * 9,
            "score": -rng.random(),
            "tokens": ["token"] * n,
            "token_ids": [1] * n,
            "summary_logprobs": [-rng.random() for _ in range(n)],
            "document_logprobs": [-4 * rng.random() for _ in range(n)],
        })  # fmt: skip
    return {
        "id": f"row-{i}",
        "system": f"system-{i % 8}",
        "score": -rng.expovariate(1),
        "status": "ok",
        "pairs": pairs,
        "signature": "quals|model:toy@0123",
    }


def opened(folder, width):
    """Open the page in a frame; return milliseconds, height and width of what is in it."""
    (folder / "frame.html").write_text(FRAME.format(width=width))
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu",
            "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}",
            "--dump-dom", (folder / "frame.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return json.loads(re.search("<title>(.*?)</title>", done.stdout)[1])


@pytest.mark.parametrize("n_shown", ["50", "1000"])
def test_a_report_on_10000_rows_opens_in_three_seconds(tmp_path, n_shown):
    rng = random.Random(0)
    with (tmp_path / "s.jsonl").open("w") as file:
        for i in range(10_000):
            file.write(json.dumps(score_row(i, rng)) + "\n")
    report = str(tmp_path / "report.html")
    arguments = ["report", str(tmp_path / "s.jsonl"), "--by", "system", "--rows", n_shown]
    assert CliRunner().invoke(app, [*arguments, "-o", report]).exit_code == 0
    tries = [opened(tmp_path, 1100) for _ in range(3)]
    assert tries[0]["height"] > 2000
    assert min(one["ms"] for one in tries) < MOST_MS, tries
    assert opened(tmp_path, 390)["wide"] <= 390


def test_a_comparison_is_no_wider_than_a_phone(tmp_path):
    rng = random.Random(0)
    files = [tmp_path / f"{letter * 60}.jsonl" for letter in "abc"]
    for path in files:
        path.write_text("".join(json.dumps(score_row(i, rng)) + "\n" for i in range(200)))
    arguments = ["compare", *map(str, files), "--resamples", "100", "--html"]
    assert CliRunner().invoke(app, [*arguments, str(tmp_path / "report.html")]).exit_code == 0
    page = opened(tmp_path, 390)
    assert page["height"] > 1000 and page["wide"] <= 390
