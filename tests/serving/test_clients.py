"""The clients that docs/serve.md shows, as they stand there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from services import listening

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text("utf-8")
MARK = "<!-- not run: needs the service; tests/serving/test_clients.py runs it -->"
CLIENTS = dict(re.findall(rf"{MARK}\n```(\w+)\n(.*?)```", PAGE, re.DOTALL))
PROGRAMS = {
    "sh": ["bash", "-euc"],
    "python": [sys.executable, "-c"],
    "js": ["node", "--input-type=module", "-e"],
}


@pytest.fixture(scope="module")
def url(scorer):
    with listening(scorer) as url:
        yield url


@pytest.mark.parametrize("language", PROGRAMS)
def test_a_client_of_ten_lines(language, url):
    if language == "js" and shutil.which("node") is None:
        pytest.skip("needs Node.js")
    code = CLIENTS[language].replace("http://127.0.0.1:8000", url)
    assert url in code and len(code.splitlines()) <= 12
    done = subprocess.run(
        [*PROGRAMS[language], code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    if language == "sh":
        assert '"status": "' in done.stdout and '"signature": "quals|' in done.stdout
    else:
        words = [line.split()[0] for line in done.stdout.splitlines()]
        assert len(words) == 2 and set(words) <= {"ok", "no_pairs", "unknown_text"}
