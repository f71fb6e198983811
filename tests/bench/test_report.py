"""The report: pages that the results give, and results that it refuses."""

import json
import re
import shutil
import sys
from importlib.util import find_spec

import pytest

from bench.cpu.stages import STAGES as CPU_STAGES
from bench.gpu.stages import STAGES
from bench.report import __main__ as command
from bench.report import audit, figures, results
from bench.report.figures import UnknownFigureError, check_figures
from bench.report.results import Result, command_of
from bench.shared import common
from bench.shared.common import ROOT
from bench.shared.weights import DRY_RUN, FORMER, GROWN, MODEL, RANDOM, UNKNOWN, bundled

CURRENT = {MODEL: {"digest": bundled(MODEL).partition("@")[2]}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the results that a test may change."""
    copied = shutil.copytree(common.RESULTS, tmp_path / "results")
    monkeypatch.setattr(common, "RESULTS", copied)
    return copied


def change(folder, name, edit):
    """Rewrite a copied result."""
    path = folder / f"{name}.json"
    content = json.loads(path.read_text("utf-8"))
    edit(content)
    path.write_text(json.dumps(content), "utf-8")


@pytest.fixture
def current(folder):
    """The copied results, those of a headline as if measured with the bundled model."""
    for name in ("end_to_end", "end_to_end_gpu", "latency_gpu", "throughput_gpu", "claim_gpu"):
        change(folder, name, lambda content: content.update(weights=CURRENT))
    return folder


def set_digest(digest):
    def edit(content):
        content["weights"][MODEL] = {"digest": digest}

    return edit


def test_pages_are_what_the_results_give():
    for page in command.PAGES:
        text = page.read_text("utf-8")
        assert command.render(page, text) == text


def test_pages_are_the_readme_and_all_docs():
    names = {str(page.relative_to(ROOT)) for page in command.PAGES}
    assert {"README.md", "docs/gpu.md", "docs/semantics.md"} <= names


def test_every_section_is_on_a_page():
    pages = "".join(page.read_text("utf-8") for page in command.PAGES)
    assert {name for _, name, _ in command.SECTION.findall(pages)} == set(command.SECTIONS)


def test_a_section_that_there_is_not_is_refused():
    page = "<!-- report:speeed -->\n<!-- /report -->\n"
    with pytest.raises(ValueError, match=r"x\.md: a section must be one of .*but got speeed"):
        command.render(ROOT / "x.md", page)


def test_links_of_a_section_start_at_its_page():
    page = "<!-- report:scaling -->\n<!-- /report -->\n"
    assert "](bench/results/scaling.svg)" in command.render(ROOT / "x.md", page)
    assert "](../bench/results/scaling.svg)" in command.render(ROOT / "docs" / "x.md", page)


def test_the_command_that_writes_a_result_is_known(monkeypatch):
    paths = set()

    def seen(content, path):
        paths.add(path)
        return Result(content, path)

    monkeypatch.setattr(results, "Result", seen)
    for name in command.SECTIONS:
        command.section(name)
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
        ("storage", ["spearman"], "storage", "has no 'spearman'.*`python -m bench.storage`"),
        ("memory", ["weights"], "memory", "has no 'weights'.*`python -m bench.memory`"),
        (
            "end_to_end",
            ["cases", "qagen-mini", "facts", "float32", "peak_mib"],
            "speed",
            "has no 'peak_mib'.*`python -m bench.end_to_end`",
        ),
        ("latency_gpu", ["one_pair_ms", "p95"], "gpu", "has no 'p95'.*`bench/gpu.sh pair`"),
    ],
)
def test_a_result_that_lacks_what_a_page_needs_is_refused(folder, name, keys, section, refused):
    def drop(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    change(folder, name, drop)
    with pytest.raises(results.StaleResultError, match=f"{name}.json {refused}"):
        command.section(section)


def test_timings_of_operations_without_a_column_are_refused(folder):
    path = folder / "ops_gpu.csv"
    path.write_text(path.read_text("utf-8").replace("config", "size", 1), "utf-8")
    with pytest.raises(results.StaleResultError, match=r"no 'config'.*`bench/gpu\.sh ops`"):
        command.section("gpu_kernels")


def test_a_result_that_is_missing_ends_the_command(folder, monkeypatch):
    (folder / "memory.json").unlink()
    monkeypatch.setattr(sys, "argv", ["report", "--check"])
    with pytest.raises(SystemExit, match=r"no .*memory\.json.*`python -m bench\.memory`"):
        command.main()


@pytest.mark.parametrize("section", ["memory", "headline", "speed_short", "claim_short"])
def test_a_result_of_a_foreign_model_is_refused(folder, section):
    name = {"memory": "memory", "claim_short": "claim"}.get(section, "end_to_end")
    change(folder, name, set_digest("0123456789ab"))
    refused = (
        rf"{name}\.json was measured with qagen-mini@0123456789ab, but the bundled model is "
        rf"{bundled(MODEL)}: .*`python -m bench\.{name}`"
    )
    with pytest.raises(results.StaleResultError, match=refused):
        command.section(section)


def test_a_foreign_model_ends_the_command(folder, monkeypatch):
    change(folder, "memory", set_digest("0123456789ab"))
    monkeypatch.setattr(sys, "argv", ["report", "--check"])
    with pytest.raises(SystemExit, match=r"memory\.json was measured with qagen-mini@0123456789ab"):
        command.main()


@pytest.mark.parametrize(
    ("described", "measured_with"),
    [
        ({"tiny": {"digest": "0123456789ab", "recipe": DRY_RUN}}, "tiny@0123456789ab"),
        ({"bart-base": {"recipe": GROWN, "from": "qagen-mini@0123"}}, "qagen-mini@0123"),
        ({"question_answering": {"digest": "0123"}}, "question_answering@0123, but the bundled "
         "model is question_answering@"),
    ],
)  # fmt: skip
def test_what_was_not_made_from_the_bundled_model_is_refused(folder, described, measured_with):
    change(folder, "memory", lambda content: content.update(weights=described))
    with pytest.raises(results.StaleResultError, match=f"was measured with {measured_with}"):
        command.section("memory")


def test_a_result_without_weights_is_refused(folder):
    change(folder, "memory", lambda content: content.update(weights={}))
    refused = r"memory\.json does not say which weights.*`python -m bench\.memory`"
    with pytest.raises(results.StaleResultError, match=refused):
        command.section("memory")


def test_what_was_made_from_the_bundled_model_has_no_title(folder):
    made = {
        **CURRENT,
        "bart-base": {"digest": "0123456789ab", "recipe": GROWN, "from": bundled(MODEL)},
        "QAGS bart-base": {"recipe": RANDOM},
    }
    change(folder, "memory", lambda content: content.update(weights=made))
    assert command.section("memory").startswith("Peak resident memory")


def test_a_former_model_is_in_the_title(folder):
    former = "qagen-mini@fa16d5a5573a"
    assert former in FORMER
    for name, commit in (("fairseq09", "1a2b3c4"), ("hamming", "5d6e7f8")):
        change(folder, f"parity_{name}", set_digest(former.partition("@")[2]))
        change(
            folder, f"parity_{name}", lambda c, commit=commit: c["machine"].update(commit=commit)
        )
    assert command.section("parity").startswith(
        f"**Former model `{former}` (commits 1a2b3c4, 5d6e7f8), until it is measured again:**\n\n|"
    )


def test_weights_that_were_not_recorded_are_in_the_title(folder):
    change(folder, "memory", set_digest(UNKNOWN))
    change(folder, "memory", lambda c: c["machine"].update(commit="1a2b3c4", dirty=True))
    assert command.section("memory").startswith(
        "**Weights not recorded (commit 1a2b3c4 with uncommitted changes), until it is"
    )


def test_each_block_has_a_title_of_its_own(current):
    former = {MODEL: {"digest": "fa16d5a5573a"}}
    change(current, "claim", lambda content: content.update(weights=former))
    on_cpu, on_gpu = command.section("claim_short").split("\n\n**No.** On NVIDIA")
    assert on_cpu.startswith("**Former model `qagen-mini@fa16d5a5573a` (commit")
    assert "Former" not in on_gpu


def test_the_claim_of_both_devices_is_one_paragraph(current):
    change(current, "claim", lambda content: content.update(weights=CURRENT))
    text = command.section("claim_short")
    assert "\n" not in text and text.startswith("**No.** On ")
    assert "On NVIDIA H100 80GB HBM3, it is 7.8 times" in text
    whole = command.section("claim")
    assert text in whole and whole.count("On NVIDIA") == 1
    assert "| bart-large, long, GPU |" in whole
    former = {MODEL: {"digest": "fa16d5a5573a"}}
    change(current, "claim_gpu", lambda content: content.update(weights=former))
    assert "\n\n**Former model `qagen-mini@fa16d5a5573a`" in command.section("claim_short")


def quote(rounds):
    """Return an edit that gives the bundled model's ratios so many rounds."""

    def edit(content):
        for ratio in content["speedup_vs_reference"][MODEL].values():
            ratio.update(median=10.0, low=9.0, high=11.0, n=rounds)
        for case in content["cases"][MODEL]["workloads"].values():
            case["agreement"]["float32_vs_reference"].update(identical_rows=9, rows=10)

    return edit


def test_a_headline_has_the_lowest_of_its_rounds(current):
    change(current, "end_to_end", quote(3))
    text = command.section("headline")
    assert "10.0 times as fast on long texts (at least 9.0 in each of 3 rounds)" in text
    assert "same question-answer pairs as the published pipeline for 18 of 20 summaries" in text


def test_a_headline_has_the_rate_beside_the_ratio(current):
    def edit(content):
        quote(3)(content)
        of_model = content["cases"][MODEL]
        of_model["machine"]["threads"] = 4
        for case in of_model["workloads"].values():
            seconds = {"median": 0.5, "low": 0.25, "high": 1.0, "n": 3}
            case["seconds_per_summary"][of_model["arm"]] = seconds

    change(current, "end_to_end", edit)
    rate = r"per second and core: 0\.50 on short texts \(at least 0\.25 in each of 3 rounds\) and"
    assert re.search(rate, command.section("headline"))
    (row,) = (s for s in command.section("speed").splitlines() if "qagen-mini, long" in s
              and "quals_fast mixed" in s)  # fmt: skip
    assert "| 0.50 (at least 0.25) |" in row


def test_a_headline_quotes_no_ratio_of_few_rounds(current):
    change(current, "end_to_end", quote(2))
    on_cpu = command.section("headline").split("\n\n")[0]
    assert on_cpu.startswith("The bundled model has been timed in too few rounds to quote")
    assert "times" not in on_cpu
    assert "On an NVIDIA" in command.section("headline")

    def few(content):
        content["speedup_vs_reference"]["bart-large"]["long"]["n"] = 2

    change(current, "end_to_end_gpu", few)
    assert "On an NVIDIA" not in command.section("headline")


def test_a_headline_is_of_no_former_model(current):
    change(current, "end_to_end", quote(3))
    change(current, "end_to_end", set_digest("fa16d5a5573a"))
    text = command.section("headline")
    assert text.startswith("The speed of the bundled model has not been measured yet.")
    assert "long texts" not in text and "Former" not in text
    former = {"bart-large": {"recipe": GROWN, "from": "qagen-mini@fa16d5a5573a"}}
    assert "On an NVIDIA" in text
    change(current, "latency_gpu", lambda content: content.update(weights=former))
    assert "On an NVIDIA" not in command.section("headline")
    assert command.section("speed_short").startswith("**Former model `qagen-mini@fa16d5a5573a`")


def test_figures_of_few_rounds_are_marked(current):
    change(current, "end_to_end", lambda c: _spread_all(c, 3))
    assert "preliminary" not in command.section("speed_short")
    change(current, "end_to_end", lambda c: _spread_all(c, 2))
    text = command.section("speed_short")
    assert "n = 2)" in text and text.endswith("preliminary: too few rounds to quote.")


def _spread_all(content, rounds):
    for case in content["cases"][MODEL]["workloads"].values():
        for figures_of in (case["seconds_per_summary"], case["speedup_vs_reference"]):
            for one in figures_of.values():
                one["n"] = rounds


def test_the_short_tables_have_four_rows():
    for name in ("speed_short", "worth_short"):
        rows = [line for line in command.section(name).splitlines() if line.startswith("|")]
        assert len(rows) == 2 + 4, name


def test_what_was_not_measured_on_a_gpu_is_left_out(folder):
    for path in folder.glob("*_gpu.*"):
        path.unlink()
    assert command.section("gpu").startswith("Nothing has been measured on a GPU yet.")
    assert command.section("gpu_kernels") == "Not measured yet: `bench/gpu.sh ops` does it."
    assert ", GPU" not in command.section("claim")
    assert "pairs a second" not in command.section("headline")


@pytest.mark.parametrize(
    "line",
    [
        "It is 12.5 times as fast.",
        "- about 3 to 4 times",
        "Spearman falls by 5 %.",
        "| one pair | 24 ms |",
        "It takes 0.39 s a summary, 200 pairs a second or 17 MiB.",
        "Training took 85 minutes.",
        "Planning takes 13 seconds, 2 s at least.",
        "The weights have 1.6 GB.",
        "## 10x as fast",
    ],
)
def test_a_figure_without_a_source_is_named(line):
    found = rf"docs/x\.md, line 3: the figure '{figures._FIGURE.search(line)[0]}' is in no report"
    with pytest.raises(UnknownFigureError, match=found):
        check_figures("docs/x.md", f"# Title\n\n{line}\n")
    for source in ("chosen", "published", "commit 1a2b3c4", "bench/results/launches_gpu.json"):
        check_figures("docs/x.md", f"# Title\n\n<!-- figure: {source} -->\n{line}\n")


@pytest.mark.parametrize(
    "text",
    [
        "With 95 % bootstrap intervals, 95 % intervals and version 3.11 of 20 documents.",
        'Is it "55 times as fast" as QAGS?',
        "It runs in under 9 minutes.",
        "```text\n12 ms\n```",
        "<!-- report:memory -->\n12 MiB\n<!-- /report -->",
        "<!-- figures: commits 1a2b3c4, 5d6e7f8 -->\n\n12 ms\n\n13 ms\n",
    ],
)
def test_what_is_no_figure_or_has_a_source_passes(text):
    check_figures("x.md", text)


def test_a_source_covers_a_block_or_what_is_up_to_the_next_heading():
    block = "<!-- figure: chosen -->\n12 ms\nand 13 ms\n\n14 ms\n"
    with pytest.raises(UnknownFigureError, match="line 5: the figure '14 ms'"):
        check_figures("x.md", block)
    wide = "<!-- figures: chosen -->\n\n12 ms\n\n13 ms\n\n## Next\n\n14 ms\n"
    with pytest.raises(UnknownFigureError, match="line 9: the figure '14 ms'"):
        check_figures("x.md", wide)


@pytest.mark.parametrize("source", ["bench/results/none.json", "me", "commit", "commit xyz"])
def test_a_source_that_is_none_is_refused(source):
    text = f"<!-- figure: {source} -->\n12 ms\n"
    with pytest.raises(
        UnknownFigureError, match=f"line 2: the source of a figure must .*{source}'"
    ):
        check_figures("x.md", text)


def test_a_source_of_another_model_is_refused(folder):
    text = "<!-- figure: bench/results/memory.json -->\n12 MiB\n"
    change(folder, "memory", set_digest("unknown"))
    with pytest.raises(UnknownFigureError, match=r"memory\.json was measured with a former model"):
        check_figures("x.md", text)
    change(folder, "memory", set_digest("0123456789ab"))
    with pytest.raises(results.StaleResultError, match=r"measured with qagen-mini@0123456789ab"):
        check_figures("x.md", text)


def test_a_figure_without_a_source_ends_the_command(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("It is 12 times as fast.\n")
    monkeypatch.setattr(command, "PAGES", (page,))
    monkeypatch.setattr(sys, "argv", ["report", "--check"])
    with pytest.raises(SystemExit, match=r"page\.md, line 1: the figure '12 times'"):
        command.main()


def test_figures_of_a_busy_machine_have_a_note(folder):
    quiet = {"cores": 0.04, "highest": 0.1, "names": {"sshd": 0.04}, "seconds": 60}
    busy = {"cores": 0.05, "highest": 0.83, "names": {"pytest": 0.05}, "seconds": 600}
    change(folder, "precision", lambda content: content["machine"].update(load=quiet))
    assert "Measured under load" not in command.section("precision")
    change(folder, "precision", lambda content: content["machine"].update(load=busy))
    assert command.section("precision").endswith(
        "\n\nMeasured under load, so slower than it should be. `precision`: other processes took "
        "0.05 cores, 0.83 in the worst minute (pytest 0.05)."
    )
    change(folder, "parity_hamming", lambda content: content["machine"].update(load=busy))
    assert "Measured under load" not in command.section("parity")  # it times nothing
    change(folder, "end_to_end", lambda c: c["cases"][MODEL]["machine"].update(load=busy))
    assert "Measured under load" in command.section("headline")


@pytest.fixture
def audited(tmp_path, monkeypatch):
    """A page and results that nothing is amiss with; returns how to change a result."""
    folder = tmp_path / "audited"
    folder.mkdir()
    monkeypatch.setattr(common, "RESULTS", folder)
    page = tmp_path / "page.md"
    page.write_text("<!-- figure: chosen -->\n12 ms\n")
    monkeypatch.setattr(command, "PAGES", (page,))

    def write(name, weights=CURRENT, commit="1a2b3c4", dirty=False):
        content = {"weights": weights, "machine": {"commit": commit, "dirty": dirty}}
        (folder / f"{name}.json").write_text(json.dumps(content))

    for stage in CPU_STAGES.values():
        for name in stage.results:
            write(name)
    write("model_settings", commit="5d6e7f8")  # not of bench/cpu.sh
    return write


def test_an_audit_that_finds_nothing(audited, monkeypatch, capsys):
    audited("choices", {"base": {"digest": "0123456789ab"}})  # of other weights on purpose
    audited("claim", CURRENT | {"QAGS bart-base": {"recipe": RANDOM}})
    monkeypatch.setattr(command, "head", lambda: "1a2b3c4")
    monkeypatch.setattr(sys, "argv", ["report", "--audit"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.count(": none") == 5


def test_an_audit_allows_commits_of_the_same_package(audited, monkeypatch):
    audited("profile", commit="5d6e7f8")
    assert [*audit.commits_of_cpu()][-1] == "commit 5d6e7f8: profile"
    packages = {"1a2b3c4": "the same", "5d6e7f8": "the same"}
    monkeypatch.setattr(audit, "_package_of", packages.__getitem__)
    assert not [*audit.commits_of_cpu()]
    packages["5d6e7f8"] = "another"
    assert len([*audit.commits_of_cpu()]) == 2


def test_an_audit_leaves_extra_stages_at_their_commits(audited):
    audited("parity_t5_hamming", commit="5d6e7f8")
    machines = {MODEL: "1a2b3c4", "t5-base": "5d6e7f8"}
    cases = {name: {"machine": {"commit": c, "dirty": False}} for name, c in machines.items()}
    content = {"weights": CURRENT, "cases": cases, "machine": cases[MODEL]["machine"]}
    (common.RESULTS / "end_to_end.json").write_text(json.dumps(content))
    assert not [*audit.commits_of_cpu()]


def test_a_package_is_named_by_what_git_has_of_it():
    assert len(audit._package_of("HEAD").split()) == 2  # quals_fast and kernels
    assert audit._package_of("0000000") == "0000000"


def test_figures_of_the_gpu_page_are_listed_but_no_failure(audited, tmp_path, monkeypatch, capsys):
    page = tmp_path / "gpu.md"
    page.write_text("<!-- figure: bench/floor.py -->\n14 ms\n")
    monkeypatch.setattr(command, "PAGES", (*command.PAGES, page))
    monkeypatch.setattr(command, "GPU_PAGE", page)
    assert command.print_audit() == 0
    assert "for who has one: 1\n- " in capsys.readouterr().out


def test_an_audit_without_history_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setattr(command, "head", lambda: "")
    monkeypatch.setattr(sys, "argv", ["report", "--audit"])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "--audit needs git's history, but" in capsys.readouterr().err


def test_an_audit_lists_what_is_amiss(audited, monkeypatch, capsys):
    audited("memory", {MODEL: {"digest": "fa16d5a5573a"}})
    audited("onnx", commit="5d6e7f8", dirty=True)
    (common.RESULTS / "latency.json").unlink()
    text = (
        "It takes 13 ms.\n\n<!-- figure: bench/floor.py -->\n14 ms\n\n"
        "<!-- figures: commits 0000000, c4b254a -->\n15 ms\n\n"
        "<!-- report:ablation -->\n| a | 2.00 (1.90 to 2.10, n = 2) |\n\n"
        f"{audit.PRELIMINARY}\n<!-- /report -->\n<!-- report:memory -->\nn = 12\n<!-- /report -->\n"
    )
    command.PAGES[0].write_text(text)
    assert command.print_audit() == 1
    found = capsys.readouterr().out
    for title in (
        "Figures without a result: 3",
        "Results of another model: 1",
        "Fewer than three rounds: 1",
        "Results of bench/cpu.sh that are not all of one state of the package: 3",
    ):
        assert title in found
    for line in (
        r"page\.md, line 1: the figure '13 ms' is in no report section",
        r"page\.md, line 4: '14 ms' comes from bench/floor\.py, of which no result",
        r"page\.md, line 7: '15 ms' comes from 0000000, of which no result",
        r"memory\.json: qagen-mini@fa16d5a5573a, but the bundled model is qagen-mini@",
        r"page\.md, section ablation, 1 lines: \| a \| 2\.00",
        r"latency\.json is missing",
        r"commit 5d6e7f8 with uncommitted changes: onnx\n",
    ):
        assert re.search(line, found), line


def test_exceptions_of_the_audit_are_results_of_other_weights():
    for name in audit.OTHER_WEIGHTS:
        weights = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())["weights"]
        assert [*results.not_bundled(weights)], name


@pytest.mark.parametrize("page", command.PAGES, ids=lambda page: page.name)
def test_every_report_section_is_filled(page):
    text = page.read_text("utf-8")
    sections = re.findall(r"<!-- report:(\w+) -->\n(.*?)<!-- /report -->", text, re.DOTALL)
    assert text.count("<!-- report:") == text.count("<!-- /report -->") == len(sections)
    assert all(body.strip() for _, body in sections)


MACHINE = {"gpu": "a card", "driver": "1.2", "commit": "abc", "dirty": False}
MACHINE |= {"versions": {"torch": "2.11", "triton": "3.6"}}
RATIO = {"median": 2.0, "low": 1.5, "high": 2.5, "n": 2}


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write a GPU's result where the report looks for it."""
    monkeypatch.setattr(common, "RESULTS", tmp_path)

    def write(name, **content):
        content |= {"weights": CURRENT, "machine": MACHINE}
        (tmp_path / f"{name}_gpu.json").write_text(json.dumps(content))

    return write


def test_a_gpus_speed_comes_from_its_results(put):
    assert command.section("gpu").startswith("Nothing has been measured on a GPU yet")
    put("latency", one_pair_ms={"p50": 50.04, "p95": 80}, share_of_floor={"median": 0.09})
    text = command.section("gpu")
    assert "| one pair alone: median, 95th percentile | 50.0 ms, 80.0 ms | 9 % |" in text
    assert text.endswith("a card, driver 1.2, torch 2.11, Triton 3.6, commit abc.")
    put("throughput", batches={"64": {"pairs_per_s": RATIO, "floor": {"share": 0.1}}})
    row = "| 64 pairs in one call | 2.0 (1.5 to 2.5, n = 2) pairs a second | 10 % |"
    assert row in command.section("gpu")


def test_what_a_gpu_is_compared_with_is_said(put):
    one = {"identical_sequences": 0.46, "mean_abs_delta": 0.29, "rows": 5}
    case = {"rows": 5, "speedup_vs_reference": {"float16": RATIO}}
    case["floor"] = {"float16": {"share": 0.1}}
    case["agreement"] = {"float32_vs_reference": one, "float16_vs_float32": one}
    put("end_to_end", cases={"large": {"workloads": {"long": case}}})
    text = command.section("gpu")
    assert "5 pairs in one call, float16, against the published pipeline, float16" in text
    assert "float32 against the pipeline in float16: 46 % of the kept pairs the same" in text
    assert "float16 against float32: 46 % of the kept pairs" in text


def test_settings_of_a_gpu_are_reported_with_their_spread(put):
    tried = {"speedup_vs_default": RATIO, "max_abs_difference": 0.0}
    changed = tried | {"max_abs_difference": 0.02}
    put("settings", settings={"a=1": {"rows": 32, "batch": changed}, "b=0": {"pair": tried}})
    text = command.section("gpu")
    assert "32 pairs: 2.00 (1.50 to 2.50, n = 2); scores differ by 2e-02" in text
    assert "| `b=0` | 2.00 (1.50 to 2.50, n = 2) | not tried |" in text


def test_a_kernel_that_loses_is_counted(put, tmp_path):
    assert command.section("gpu_kernels").startswith("Not measured yet")
    head = "op,provider,dtype,config,p50,device,torch,triton,commit"
    of = "a card,2.11,3.6,abc"
    rows = [("triton", "N=1", 1), ("eager", "N=1", 3), ("other", "N=1", 2)]
    rows += [("triton", "N=2", 2), ("eager", "N=2", 1)]
    lines = [f"op,{provider},int32,{config},{ms},{of}" for provider, config, ms in rows]
    (tmp_path / "ops_gpu.csv").write_text("\n".join([head, *lines]))
    text = command.section("gpu_kernels")
    assert "| `op`, int32 | 2 | 0.5 (N=2; 2.000 ms) | 2.0 (N=1; 1.000 ms) |" in text
    assert "in 2 cases: 1 of them loses." in text


def test_costs_of_models_name_the_machine_whose_rate_they_take(folder):
    def keep(content):
        """As if another model had been measured later, on another machine."""
        of_bart = content["cases"]["bart-base"]
        of_bart["machine"] = content["machine"] | {"cpu": "earlier", "threads": 3}
        content["machine"] |= {"cpu": "later", "threads": 7}

    change(folder, "end_to_end", keep)
    page = command.section("model_costs")
    assert "on 3 cores of an earlier (BART-base)" in page
    assert "later" not in page
