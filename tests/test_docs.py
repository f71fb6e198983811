"""What the documentation says is so."""

import doctest
import json
import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from bench import report
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
def test_links_and_paths_lead_somewhere(name):
    text = (ROOT / name).read_text("utf-8")
    for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", text):
        assert (ROOT / name).parent.joinpath(target).exists(), target
    for module in re.findall(r"python -m (bench\.[\w.]*\w)", text):
        found = find_spec(module)
        assert found is not None, module
        if found.submodule_search_locations is not None:
            assert find_spec(f"{module}.__main__") is not None, module


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


@pytest.mark.parametrize("page", report.PAGES, ids=lambda page: page.name)
def test_every_report_section_is_filled(page):
    text = page.read_text("utf-8")
    sections = re.findall(r"<!-- report:(\w+) -->\n(.*?)<!-- /report -->", text, re.DOTALL)
    assert len(sections) >= 2
    assert all(body.strip() for _, body in sections)


MACHINE = {"gpu": "a card", "driver": "1.2", "commit": "abc", "dirty": False}
MACHINE |= {"versions": {"torch": "2.11", "triton": "3.6"}}
RATIO = {"median": 2.0, "low": 1.5, "high": 2.5, "n": 2}


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write a GPU's result where the report looks for it."""
    monkeypatch.setattr(report, "RESULTS", tmp_path)

    def write(name, **content):
        (tmp_path / f"{name}_gpu.json").write_text(json.dumps(content | {"machine": MACHINE}))

    return write


def test_a_gpus_speed_comes_from_its_results(put):
    assert report.gpu_speed().startswith("Nothing has been measured on a GPU yet")
    put("latency", one_pair_ms={"p50": 50.04, "p95": 80}, share_of_floor={"median": 0.09})
    text = report.gpu_speed()
    assert "| one pair alone: median, 95th percentile | 50.0 ms, 80.0 ms | 9 % |" in text
    assert text.endswith("a card, driver 1.2, torch 2.11, Triton 3.6, commit abc.")
    put("throughput", batches={"64": {"pairs_per_s": RATIO, "floor": {"share": 0.1}}})
    row = "| 64 pairs in one call | 2.0 (1.5 to 2.5, n = 2) pairs a second | 10 % |"
    assert row in report.gpu_speed()


def test_what_a_gpu_is_compared_with_is_said(put):
    one = {"identical_sequences": 0.46, "mean_abs_delta": 0.29, "rows": 5}
    case = {"rows": 5, "speedup_vs_reference": {"float16": RATIO}}
    case["floor"] = {"float16": {"share": 0.1}}
    case["agreement"] = {"float32_vs_reference": one, "float16_vs_float32": one}
    put("end_to_end", cases={"large": {"workloads": {"long": case}}})
    text = report.gpu_speed()
    assert "5 pairs in one call, float16, against the published pipeline, float16" in text
    assert "float32 against the pipeline in float16: 46 % of the kept pairs the same" in text
    assert "float16 against float32: 46 % of the kept pairs" in text


def test_settings_of_a_gpu_are_reported_with_their_spread(put):
    tried = {"speedup_vs_default": RATIO, "max_abs_difference": 0.0}
    changed = tried | {"max_abs_difference": 0.02}
    put("settings", settings={"a=1": {"rows": 32, "batch": changed}, "b=0": {"pair": tried}})
    text = report.gpu()
    assert "32 pairs: 2.00 (1.50 to 2.50, n = 2); scores differ by 2e-02" in text
    assert "| `b=0` | 2.00 (1.50 to 2.50, n = 2) | not tried |" in text


def test_a_kernel_that_loses_is_counted(put, tmp_path):
    assert report.gpu_kernels().startswith("Not measured yet")
    head = "op,provider,dtype,config,p50,device,torch,triton,commit"
    of = "a card,2.11,3.6,abc"
    rows = [("triton", "N=1", 1), ("eager", "N=1", 3), ("other", "N=1", 2)]
    rows += [("triton", "N=2", 2), ("eager", "N=2", 1)]
    lines = [f"op,{provider},int32,{config},{ms},{of}" for provider, config, ms in rows]
    (tmp_path / "ops_gpu.csv").write_text("\n".join([head, *lines]))
    text = report.gpu_kernels()
    assert "| `op`, int32 | 2 | 0.5 (N=2; 2.000 ms) | 2.0 (N=1; 1.000 ms) |" in text
    assert "in 2 cases: 1 of them loses." in text


def test_the_examples_are_twenty_documents_with_two_summaries_each(example_rows):
    documents = {row["document"] for row in example_rows}
    assert len(documents) == 20
    assert all(80 <= len(document.split()) <= 700 for document in documents)
    for document in documents:
        kinds = [row["kind"] for row in example_rows if row["document"] == document]
        assert sorted(kinds) == ["altered", "faithful"]
