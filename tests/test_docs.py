"""What the documentation says is so."""

import doctest
import json
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from quals_fast.commands.app import app
from quals_fast.results import Status

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
NUMBER = re.compile(r"-?\d+\.\d+")


def test_the_readme_example_prints_what_it_says(capsys):
    code, output = re.search(
        r"<!-- docs:example -->\n```python\n(.*?)```\n```text\n(.*?)```", README, re.DOTALL
    ).groups()
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", output)
    numbers, expected = (
        [float(number) for number in NUMBER.findall(text)] for text in (printed, output)
    )
    assert numbers == pytest.approx(expected, abs=0.011)


def test_the_signature_in_the_readme_is_the_current_one(bundled_scorer):
    signature = bundled_scorer.signature
    assert signature.replace("dtype:float32", "dtype:mixed") in README  # what newer CPUs give


WITH_EXAMPLES = [
    path for path in sorted((ROOT / "quals_fast").rglob("*.py")) if ">>>" in path.read_text("utf-8")
]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_docstring_examples_run(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    found = doctest.testmod(import_module(module))
    assert found.attempted > 0
    assert found.failed == 0


def test_the_line_of_json_in_the_readme_is_what_comes_out(bundled_scorer):
    given, printed = re.search(
        r"```sh\necho '(.*?)' \| quals-fast score - -o -\n```\n```text\n(.*?)\n```", README
    ).groups()
    pair, expected = json.loads(given), json.loads(printed)
    result = bundled_scorer.score([pair["document"]], [pair["summary"]])
    found = {"id": 1, **result[0].to_dict(include_pairs=False), "signature": result.signature}
    assert found.keys() == expected.keys()
    assert found["signature"].startswith(expected.pop("signature").rstrip("."))
    assert found["score"] == pytest.approx(expected.pop("score"), abs=0.011)
    assert found.items() >= expected.items()


TRAINING = (ROOT / "quals_fast" / "training" / "README.md").read_text("utf-8")
COMMANDS = [
    line.split("|")[-1] if line.startswith("echo") else line
    for block in re.findall(r"```sh\n(.*?)```", README + TRAINING, re.DOTALL)
    for line in block.replace("\\\n", "").replace("&&", "\n").splitlines()
    if "quals-fast" in line
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_readme_exist(command):
    words = shlex.split(command)
    name, *arguments = words[words.index("quals-fast") + 1 :]  # it may be run by another program
    options = [word for word in arguments if re.match(r"--?[a-z]", word)]
    listed = CliRunner().invoke(app, [name, "--help"]).output
    for option in options:
        assert re.search(rf"(^|\s){re.escape(option)}[\s,]", listed, re.MULTILINE), option


@pytest.mark.parametrize(
    "name", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "bench/README.md", "docs/gpu.md"]
)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text("utf-8")
    for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", text):
        assert (ROOT / name).parent.joinpath(target).exists(), target


SEMANTICS = (ROOT / "docs" / "semantics.md").read_text("utf-8")
CITED = re.compile(r"docs/semantics\.md (\d(?:\.\d)?)")


def test_cited_sections_of_the_definition_exist():
    sections = set(re.findall(r"^##+ (\d(?:\.\d)?) ", SEMANTICS, re.MULTILINE))
    cited = {
        (str(path), section)
        for folder in ("quals_fast", "kernels", "bench", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for section in CITED.findall(path.read_text("utf-8"))
    }
    assert len(cited) >= 20
    assert {one for one in cited if one[1] not in sections} == set()
    assert set(re.findall(r"\((\d\.\d)\)", SEMANTICS)) <= sections


def test_every_status_is_defined():
    for status in (*get_args(Status), "no_questions"):
        assert f"`{status}`" in SEMANTICS, status
        assert f"`{status}`" in README or status == "no_questions", status


def test_the_examples_are_twenty_documents_with_two_summaries_each(example_rows):
    documents = {row["document"] for row in example_rows}
    assert len(documents) == 20
    assert all(80 <= len(document.split()) <= 700 for document in documents)
    for document in documents:
        kinds = [row["kind"] for row in example_rows if row["document"] == document]
        assert sorted(kinds) == ["altered", "faithful"]
