"""The report: pages that the results give, and results that it refuses."""

import json
import re
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


@pytest.mark.parametrize("page", command.PAGES, ids=lambda page: page.name)
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
    monkeypatch.setattr(common, "RESULTS", tmp_path)

    def write(name, **content):
        (tmp_path / f"{name}_gpu.json").write_text(json.dumps(content | {"machine": MACHINE}))

    return write


def test_a_gpus_speed_comes_from_its_results(put):
    assert gpu.gpu().startswith("Nothing has been measured on a GPU yet")
    put("latency", one_pair_ms={"p50": 50.04, "p95": 80}, share_of_floor={"median": 0.09})
    text = gpu.gpu()
    assert "| one pair alone: median, 95th percentile | 50.0 ms, 80.0 ms | 9 % |" in text
    assert text.endswith("a card, driver 1.2, torch 2.11, Triton 3.6, commit abc.")
    put("throughput", batches={"64": {"pairs_per_s": RATIO, "floor": {"share": 0.1}}})
    row = "| 64 pairs in one call | 2.0 (1.5 to 2.5, n = 2) pairs a second | 10 % |"
    assert row in gpu.gpu()


def test_what_a_gpu_is_compared_with_is_said(put):
    one = {"identical_sequences": 0.46, "mean_abs_delta": 0.29, "rows": 5}
    case = {"rows": 5, "speedup_vs_reference": {"float16": RATIO}}
    case["floor"] = {"float16": {"share": 0.1}}
    case["agreement"] = {"float32_vs_reference": one, "float16_vs_float32": one}
    put("end_to_end", cases={"large": {"workloads": {"long": case}}})
    text = gpu.gpu()
    assert "5 pairs in one call, float16, against the published pipeline, float16" in text
    assert "float32 against the pipeline in float16: 46 % of the kept pairs the same" in text
    assert "float16 against float32: 46 % of the kept pairs" in text


def test_settings_of_a_gpu_are_reported_with_their_spread(put):
    tried = {"speedup_vs_default": RATIO, "max_abs_difference": 0.0}
    changed = tried | {"max_abs_difference": 0.02}
    put("settings", settings={"a=1": {"rows": 32, "batch": changed}, "b=0": {"pair": tried}})
    text = gpu.gpu()
    assert "32 pairs: 2.00 (1.50 to 2.50, n = 2); scores differ by 2e-02" in text
    assert "| `b=0` | 2.00 (1.50 to 2.50, n = 2) | not tried |" in text


def test_a_kernel_that_loses_is_counted(put, tmp_path):
    assert gpu.gpu_kernels().startswith("Not measured yet")
    head = "op,provider,dtype,config,p50,device,torch,triton,commit"
    of = "a card,2.11,3.6,abc"
    rows = [("triton", "N=1", 1), ("eager", "N=1", 3), ("other", "N=1", 2)]
    rows += [("triton", "N=2", 2), ("eager", "N=2", 1)]
    lines = [f"op,{provider},int32,{config},{ms},{of}" for provider, config, ms in rows]
    (tmp_path / "ops_gpu.csv").write_text("\n".join([head, *lines]))
    text = gpu.gpu_kernels()
    assert "| `op`, int32 | 2 | 0.5 (N=2; 2.000 ms) | 2.0 (N=1; 1.000 ms) |" in text
    assert "in 2 cases: 1 of them loses." in text
