"""What the documentation says is so."""

import doctest
import json
import re
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

from quals_fast.results import Status

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.011), ("auto", 0.1)])
def test_the_readme_example_prints_what_it_says(dtype, error, capsys):
    code, output = re.search(
        r"<!-- docs:example -->\n```python\n(.*?)```\n```text\n(.*?)```", README, re.DOTALL
    ).groups()
    code = code.replace('("qagen-mini")', f'("qagen-mini", dtype="{dtype}")')
    assert dtype in code
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", output)
    numbers, expected = (
        [float(number) for number in NUMBER.findall(text)] for text in (printed, output)
    )
    assert numbers == pytest.approx(expected, abs=error)


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


LINK = re.compile(r"\]\(([^)\s]+)\)")
ROOMS = ("*.md", "docs/**/*.md", "bench/**/*.md", "examples/**/*.md", "quals_fast/**/*.md")
PAGES = sorted(
    page for room in ROOMS for page in ROOT.glob(room) if "node_modules" not in page.parts
)


def without_code(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`(?!\])", "", text)


def anchors(page):
    """Return the anchors that GitHub and the site (mkdocs.yml) give to a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page):
    """Return what is wrong with the links from a page within the repository."""
    for link in LINK.findall(without_code(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists():
            yield f"{page.name}: {link} does not exist"
        elif anchor and anchor not in anchors(target):
            yield f"{page.name}: {link} is no heading there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert list(broken_links(page)) == []


def test_a_broken_link_is_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n[a](gone.md) [b](#one) [`c`](page.md#two) [d](https://e.org/f) [g](.)\n"
        "```\n# Two\n[h](none.md)\n```\n`[i](none.md)`\n"
    )
    assert list(broken_links(page)) == [
        "page.md: gone.md does not exist",
        "page.md: page.md#two is no heading there",
    ]


def test_every_page_of_docs_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT)}\n" in navigation, page


@pytest.mark.parametrize("module", ["quals_fast", "quals_fast.training"])
def test_every_public_name_is_on_a_page_of_the_api(module):
    pages = [page.read_text("utf-8") for page in (ROOT / "docs" / "api").glob("*.md")]
    shown = set(re.findall(r"^::: (\S+)$", "\n".join(pages), re.MULTILINE))
    public = set(import_module(module).__all__) - {"__version__"}
    assert {f"{module}.{name}" for name in public} <= shown


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
