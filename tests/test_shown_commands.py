"""The commands and Python examples of README and docs run, unless a comment above says why not.

A page's blocks run in order, in a folder with a few rows. `pip` does nothing there, but the extras
that it is asked for must exist; .ci/run runs the README's own installation.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path

import pytest
import tiny_models
import tiny_trainers
from click.testing import CliRunner

from quals_fast.commands.app import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"((?:^<!-- [^\n]* -->\n)*)^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PIP = re.compile(r'pip install "?\.(?:\[([\w-]+)\])?"?$', re.MULTILINE)
SHELL = f"""
set -euo pipefail
pip() {{ :; }}
quals-fast() {{ {shlex.quote(sys.executable)} -m quals_fast "$@"; }}
"""
# What would take minutes takes seconds with a small model, and from few rows all are learnt from.
SMALLER = {
    "export qagen-mini": "export tiny",
    "--pairs 20": "--pairs 1",
    "-o trained": "-o trained --positive-fraction 1 --negative-fraction 1 --num-beams 8 "
    "--num-beam-groups 8 --samples 1 --sample-max-length 12 --max-source-tokens 64",
}
SLOW = {"evaluate", "onnx", "training"}  # many commands, exports and training


@dataclass(frozen=True)
class Block:
    """A block of code, where it is, and the comments directly above it."""

    place: str
    marks: tuple[str, ...]
    language: str
    code: str

    @property
    def runs_here(self):
        elsewhere = r"ci:\w+|docs:\w+|not run: .+"
        return not any(re.fullmatch(elsewhere, mark) for mark in self.marks)


def blocks_of(page):
    text = page.read_text("utf-8")
    for found in BLOCK.finditer(text):
        comments, language, code = found.groups()
        line = text.count("\n", 0, found.start(2)) + 1
        marks = tuple(re.findall(r"<!-- (.*) -->", comments))
        yield Block(f"{page.name}, line {line}", marks, language, code)


def run(block, folder):
    """Run a block; a failure names it."""
    code = block.code
    for extra in PIP.findall(code.replace(" && ", "\n")):
        known = metadata("quals-fast").get_all("Provides-Extra")
        assert not extra or extra in known, f"{block.place}: there is no extra {extra!r}"
    for shown, smaller in SMALLER.items():
        code = code.replace(shown, smaller)
    python = [sys.executable, "-c", code]
    done = subprocess.run(
        python if block.language == "python" else ["bash", "-c", SHELL + code],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{block.place} fails:\n{block.code}\n{done.stderr[-2000:]}"


BLOCKS = {page: list(blocks_of(page)) for page in PAGES}
ALL = [block for blocks in BLOCKS.values() for block in blocks]


@pytest.fixture
def folder(tmp_path, example_rows):
    """What the pages' commands read: rows, and a small model in place of a large one."""
    rows = [row | {"label": float(row["kind"] == "faithful")} for row in example_rows[:4]]
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "examples").mkdir()
    for name, count in (("examples/pairs.jsonl", 2), ("pairs.jsonl", 2), ("labelled.jsonl", 4)):
        (tmp_path / name).write_text("".join(lines[:count]), "utf-8")
    row = {"score": -1.0, "status": "ok", "signature": "quals|model:tiny@0123"}
    scores = "".join(json.dumps({"id": i} | row) + "\n" for i in range(6))
    for name in ("scores_a.jsonl", "scores_b.jsonl"):
        (tmp_path / name).write_text(scores)
    tiny_models.write_checkpoint(tmp_path / "tiny", trained_on=tiny_trainers.TEXT)
    tiny_trainers.summariser().save_pretrained(tmp_path / "my-summariser")
    tiny_trainers.tokenizer().save_pretrained(tmp_path / "my-summariser")
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page.stem in SLOW else (), id=page.stem)
        for page, blocks in BLOCKS.items()
        if any(block.runs_here for block in blocks)
    ],
)
def test_what_a_page_shows_runs(page, folder):
    for block in BLOCKS[page]:
        if block.runs_here:
            run(block, folder)


def test_blocks_that_others_run_are_theirs():
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    others = {"ci": (ROOT / ".ci" / "run").read_text("utf-8"), "docs": tests}
    marks = {mark for block in ALL for mark in block.marks if mark.startswith(("ci:", "docs:"))}
    assert {"ci:run", "ci:test", "ci:docs", "docs:example", "docs:qags"} == marks
    for mark in marks:
        text = others[mark.split(":")[0]]
        assert re.search(rf"<!-- {mark} -->|\"{mark} ", text), mark


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (
            "```sh\nquals-fast scorre\n```",
            r"bad.md, line 3 fails:\n *quals-fast scorre\n(.*\n)*.*No such",
        ),
        ("```sh\nfalse\ntrue\n```", "bad.md, line 3 fails"),
        ("<!-- not run: -->\n```sh\nfalse\n```", "bad.md, line 4 fails"),
        ("<!-- not run: slow -->\n\n```sh\nfalse\n```", "bad.md, line 5 fails"),
        ('```sh\npip install ".[fast]"\n```', "bad.md, line 3: there is no extra 'fast'"),
        ("```python\nimport quals_slow\n```", "bad.md, line 3 fails"),
    ],
)
def test_a_block_that_fails_is_named(block, said, tmp_path):
    (tmp_path / "bad.md").write_text(f"# Bad\n\n{block}\n", "utf-8")
    (bad,) = blocks_of(tmp_path / "bad.md")
    assert bad.runs_here
    with pytest.raises(AssertionError, match=said):
        run(bad, tmp_path)


def test_a_reason_spares_a_block(tmp_path):
    (tmp_path / "slow.md").write_text("<!-- not run: takes hours -->\n```sh\nfalse\n```\n", "utf-8")
    (block,) = blocks_of(tmp_path / "slow.md")
    assert not block.runs_here


COMMANDS = [
    line.split("|")[-1] if line.startswith("echo") else line
    for block in ALL
    if block.language == "sh"
    for line in block.code.replace("\\\n", "").replace("&&", "\n").splitlines()
    if "quals-fast" in line
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_all_commands_exist(command):
    """Also of those that do not run here."""
    words = shlex.split(command)
    name, *arguments = words[words.index("quals-fast") + 1 :]  # it may be run by another program
    options = [word for word in arguments if re.match(r"--?[a-z]", word)]
    listed = CliRunner().invoke(app, [name, "--help"]).output
    for option in options:
        assert re.search(rf"(^|\s){re.escape(option)}[\s,]", listed, re.MULTILINE), option


OURS = re.compile(r"(quals-fast|python -m bench\.|bench/gpu\w*\.sh|-)")  # or an option alone


def options_in_text(page):
    """Return the options that a page names outside of its blocks; those of other programs not."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = [span for span in re.findall(r"`([^`\n]+)`", text) if OURS.match(span)]
    return {option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", span)}


def known_options():
    of_app = {
        option
        for command in app.commands.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "bench").rglob("*.py"))
    of_others = {"--help", "--benchmark-compare"}  # pytest-benchmark's
    return of_app | set(re.findall(r"\"(--[a-z0-9-]+)\"", sources)) | of_others


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_in_the_text_exist(page):
    assert options_in_text(page) - known_options() == set()


def test_an_unknown_option_in_the_text_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("`--rows 5`, `--rowz`, `quals-fast score --roes 5`, `pip install --other`\n")
    assert options_in_text(page) - known_options() == {"--rowz", "--roes"}
