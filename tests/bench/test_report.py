"""The report: pages that the results give, and results that it refuses."""

import json
import shutil
import sys
from importlib.util import find_spec

import pytest

from bench.gpu.stages import STAGES
from bench.report import __main__ as command
from bench.report import gpu, models, results, speed
from bench.report.results import Result, command_of
from bench.shared import common
from bench.shared.common import ROOT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the results that a test may change."""
    copied = shutil.copytree(common.RESULTS, tmp_path / "results")
    monkeypatch.setattr(common, "RESULTS", copied)
    return copied


def test_pages_are_what_the_results_give():
    for page in command.PAGES:
        text = page.read_text("utf-8")
        assert command.render(text) == text


def test_every_section_is_on_a_page():
    pages = "".join(page.read_text("utf-8") for page in command.PAGES)
    assert {name for _, name, _ in command.SECTION.findall(pages)} == set(command.SECTIONS)


def test_the_command_that_writes_a_result_is_known(monkeypatch):
    paths = set()

    def seen(content, path):
        paths.add(path)
        return Result(content, path)

    monkeypatch.setattr(results, "Result", seen)
    for section in command.SECTIONS.values():
        section()
    assert len(paths) > 20
    for path in paths:
        program, *rest = command_of(path).split()
        if program == "python":
            assert rest[0] == "-m" and find_spec(rest[1]), path
        else:
            assert (ROOT / program).is_file() and rest[0] in STAGES, path


@pytest.mark.parametrize(
    ("name", "keys", "section", "refused"),
    [
        ("storage", ["spearman"], models.storage, "has no 'spearman'.*`python -m bench.storage`"),
        (
            "end_to_end",
            ["cases", "qagen-mini", "facts", "float32", "peak_mib"],
            speed.speed,
            "has no 'peak_mib'.*`python -m bench.end_to_end`",
        ),
        ("latency_gpu", ["one_pair_ms", "p95"], gpu.gpu, "has no 'p95'.*`bench/gpu.sh pair`"),
    ],
)
def test_a_result_that_lacks_what_a_page_needs_is_refused(folder, name, keys, section, refused):
    path = folder / f"{name}.json"
    content = json.loads(path.read_text("utf-8"))
    part = content
    for key in keys[:-1]:
        part = part[key]
    del part[keys[-1]]
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(results.StaleResultError, match=f"{name}.json {refused}"):
        section()


def test_timings_of_operations_without_a_column_are_refused(folder):
    path = folder / "ops_gpu.csv"
    path.write_text(path.read_text("utf-8").replace("config", "size", 1), "utf-8")
    with pytest.raises(results.StaleResultError, match=r"no 'config'.*`bench/gpu\.sh ops`"):
        gpu.gpu_kernels()


def test_a_result_that_is_missing_ends_the_command(folder, monkeypatch):
    (folder / "memory.json").unlink()
    monkeypatch.setattr(sys, "argv", ["report", "--check"])
    with pytest.raises(SystemExit, match=r"no .*memory\.json.*`python -m bench\.memory`"):
        command.main()


def test_what_was_not_measured_on_a_gpu_is_left_out(folder):
    for path in folder.glob("*_gpu.*"):
        path.unlink()
    assert gpu.gpu().startswith("Nothing has been measured on a GPU yet.")
    assert gpu.gpu_kernels() == "Not measured yet: `bench/gpu.sh ops` does it."
    assert ", GPU" not in speed.claim()
    assert "pairs a second" not in speed.headline()
