"""The claim's test: its figures follow from its rounds, and its page says what they are."""

import json
import math
import sys
from argparse import Namespace

import pytest
import qags_models
import tiny_models
import tiny_t5
import torch

from bench.shared import common
from bench.shared.arms import EngineArm
from bench.shared.common import Pair
from bench.shared.flops import count_flops, flops_at_width
from bench.studies.claim import __main__ as command
from bench.studies.claim import arms, figures
from bench.studies.claim.measuring import rows_of
from bench.studies.claim.page import page
from bench.studies.claim.plan import Plan, row_seconds
from bench.studies.claim.plot import plot
from bench.studies.claim.verdict import verdict
from quals_fast import DecodingConfig
from quals_fast.models.linear import OneDnnLinear
from quals_fast.qags import NetworkFiles, QagsScorer, Replay

SECONDS = {"qags_as_shipped": 6.0, "qags_batched": 4.0, "quals_published": 2.0}
SECONDS |= {"quals_fast_float32": 0.5, "quals_fast": 0.1}


def round_of(seconds=SECONDS, *, tokens=350):
    return {
        "seconds": dict(seconds),
        "scores": {name: [0.5 + number / 10] for number, name in enumerate(seconds)},
        "stages": {name: {"generation": 2.0, "rescoring": 2.0} for name in seconds},
        "questions": [12],
        "kept_pairs": [10],
        "document_tokens": [tokens],
        "summary_words": [17],
    }


def case_of(*rounds, weights="trained"):
    return {
        "weights": weights,
        "networks": "QAGS has small networks",
        "facts": {
            name: {"dtype": "float32", "peak_mib": 1000.0}
            for name in (rounds[0]["seconds"] if rounds else SECONDS)
        },
        "tflop": {name: 0.1 * SECONDS[name] for name in list(SECONDS)[:-1]},
        "rounds": list(rounds) or [round_of()],
    }


def result_of(**cases):
    machine = {
        "cpu": "some CPU",
        "gpu": None,
        "threads": 2,
        "python": "3.11",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "commit": "abc",
        "dirty": False,
    }
    return {
        "cases": {"qagen-mini": cases or {"short": case_of()}},
        "data": "the examples",
        "device": "some CPU",
        "versions": machine["versions"],
        "commits": ["abc"],
        "weights": {"qagen-mini": {"digest": "0123456789ab"}},
        "machine": machine,
    }


def fast_in(*seconds):
    """A case with a round for each time of the engine; QAGS as shipped takes 6 s."""
    return case_of(*(round_of(SECONDS | {"quals_fast": one}) for one in seconds))


@pytest.mark.parametrize(
    ("published", "answer", "said"),
    [
        ([2.0, 2.0, 3.0], "No", "3.0 times (2.0 to 3.0) in float32, and reaches 55 in no round."),
        ([0.1, 0.1, 0.1], "Yes", "60.0 times (60.0) in float32, and reaches 55 in every round."),
        (
            [0.1, 0.1, 2.0],
            "In part",
            "60.0 times (3.0 to 60.0) in float32, and reaches 55 in some rounds of qagen-mini, sh",
        ),
    ],
)
def test_the_verdict_is_of_the_comparison_in_the_article(published, answer, said):
    rounds = [round_of(SECONDS | {"quals_published": one}) for one in published]
    text = verdict(result_of(short=case_of(*rounds)))
    assert text.startswith(
        f"**{answer}.** On some CPU (medians; in brackets the lowest and highest"
    )
    assert "of 3 rounds), the article's own comparison, QUALS as published against QAGS" in text
    assert said in text.replace("with QUALS in", "in")


def test_the_verdict_names_the_cases_in_which_the_engine_reaches_it():
    cases = {"short": fast_in(0.3, 0.3, 0.3), "long": fast_in(0.1, 0.1, 0.1)}
    text = verdict(result_of(**cases))
    assert (
        "quals_fast is 20.0 to 60.0 times (20.0 to 60.0) as fast as QAGS as shipped and reaches 55 "
        "in every round of qagen-mini, long. Against the strongest QAGS, it is 13.3 to 40.0 times"
    ) in text
    text = verdict(result_of(short=fast_in(0.1, 0.3, 0.1), long=fast_in(0.1, 0.1, 0.1)))
    assert "every round of qagen-mini, long and some rounds of qagen-mini, short." in text


def test_the_verdict_quotes_no_figure_of_few_rounds():
    few = verdict(result_of(short=fast_in(0.1, 0.1), long=fast_in(0.1)))
    assert few.startswith("**Not measured yet**: nothing has 3 rounds.") and "times" not in few
    text = verdict(result_of(short=fast_in(0.3, 0.3, 0.3), long=fast_in(0.01, 0.01)))
    assert "is 20.0 times (20.0) as fast" in text
    assert text.endswith("Left out, with fewer than 3 rounds: qagen-mini, long.")


def test_the_verdict_is_of_a_gpu_as_well():
    on_gpu = result_of(long=fast_in(0.05, 0.05, 0.05)) | {"device": "some GPU"}
    text = verdict(result_of(short=fast_in(0.3, 0.3, 0.3)), on_gpu)
    assert text.endswith(
        " On some GPU, it is 3.0 times (3.0) for QUALS as published, 120.0 times (120.0) for "
        "quals_fast and 80.0 times (80.0) against the strongest QAGS."
    )
    assert len(text) < 800  # five lines of the README


WITH_ONEDNN = {"qags_as_shipped_onednn": 4.0, "quals_published_onednn": 1.0}
WITH_ONEDNN |= {"quals_published_half": 0.5, "quals_once_onednn": 0.8}


def test_the_library_is_told_from_the_engine():
    case = case_of(*[round_of(SECONDS | WITH_ONEDNN)] * 3)
    found = figures.summarise({"qagen-mini": {"short": case}})

    def median(name):
        return found[name]["qagen-mini"]["short"]["median"]

    assert median("onednn_for_qags") == 1.5
    assert median("onednn_for_quals") == 2.0
    assert median("published_vs_qags_onednn") == 4.0
    assert median("speedup_vs_qags_onednn") == 40.0
    assert median("speedup_vs_quals_onednn") == 10.0
    # The article ran QUALS in half precision.
    assert median("published_vs_qags_as_shipped") == 12.0
    assert found["speedup_vs_quals_published"]["qagen-mini"]["short"]["median"] == 20.0
    result = result_of(short=case)
    assert "With oneDNN's matrix products in QAGS, too, it is 40.0 times (40.0)." in verdict(result)
    text = page(result, "agreement")
    assert "| `quals_published` to `quals_published_onednn` | the engine's library of" in text
    assert "With oneDNN, QAGS as shipped is 1.5 times as fast as with MKL, QUALS as publ" in text
    without = figures.summarise({"qagen-mini": {"short": case_of()}})
    assert without["onednn_for_qags"] == {}


def test_figures_are_formed_within_a_round():
    case = case_of(round_of(), round_of(SECONDS | {"qags_as_shipped": 12.0, "quals_fast": 0.4}))
    found = figures.summarise({"qagen-mini": {"short": case}})
    ratio = found["speedup_vs_qags_as_shipped"]["qagen-mini"]["short"]
    assert ratio == pytest.approx({"median": 45, "low": 30, "high": 60, "n": 2})
    # Without an arm in half precision the batched one is the strongest QAGS.
    assert found["speedup_vs_qags_batched"]["qagen-mini"]["short"]["high"] == pytest.approx(40)
    steps = [
        figures.factor(case, *pair)
        for pair in (("qags_as_shipped", "quals_published"), ("quals_published", "quals_fast"))
    ]
    whole = figures.factor(case, "qags_as_shipped", "quals_fast")
    assert steps[0] * steps[1] == pytest.approx(whole)
    assert figures.mean_difference(case, "qags_batched") == pytest.approx(0.1)
    assert figures.mean_difference(case, "qags_as_shipped") is None
    random = case_of(weights="random")
    assert figures.mean_difference(random, "qags_batched") is None
    assert figures.mean_difference(random, "quals_fast") is not None
    assert figures.stages(case, "quals_fast") == pytest.approx(
        {"generation": 0.125, "rescoring": 0.125}
    )


def test_rounds_of_two_runs_are_put_together():
    old, new = result_of(), result_of(short=case_of(round_of(tokens=400)), long=case_of())
    new["cases"]["qagen-mini"]["short"]["facts"]["quals_fast"]["peak_mib"] = 2000.0
    rows, names = {"qagen-mini": 1}, [*SECONDS]
    figures.check_same_setup(old, new, rows, names)
    (merged,) = figures.add_cases(old["cases"], new["cases"]).values()
    assert figures.all_of(merged["short"], "document_tokens") == [350, 400]
    assert merged["short"]["facts"]["quals_fast"]["peak_mib"] == 2000.0
    assert len(merged["long"]["rounds"]) == 1
    assert len(old["cases"]["qagen-mini"]["short"]["rounds"]) == 1
    with pytest.raises(ValueError, match="only be added to a result with the same device, but it"):
        figures.check_same_setup(old, new | {"device": "another"}, rows, names)
    others = {"qagen-mini": {"digest": "ba9876543210"}, "bart-base": {"digest": "1"}}
    with pytest.raises(ValueError, match=r"same weights of qagen-mini, but .*leave out --add"):
        figures.check_same_setup(old, new | {"weights": others}, rows, names)
    figures.check_same_setup(old, new | {"weights": others | old["weights"]}, rows, names)
    with pytest.raises(ValueError, match=r"same rows a round for qagen-mini, short, but .*\[1\]"):
        figures.check_same_setup(old, new, {"qagen-mini": 5}, names)
    with pytest.raises(ValueError, match="same arms for qagen-mini, short, but it has"):
        figures.check_same_setup(old, new, rows, names[1:])
    figures.check_same_setup(old, new, {"bart-base": 5}, names[1:])


def test_added_rounds_take_other_rows():
    options = Namespace(workloads=["short"], data=None, rows={"qagen-mini": 2}, device="cpu")
    two = {("qagen-mini", "short"): 2}
    first = rows_of(options, "qagen-mini", two, {})["short"]
    done = {"qagen-mini": {"short": case_of(*[round_of()] * 2)}}
    second = rows_of(options, "qagen-mini", two, done)["short"]
    assert [len(one) for one in first + second] == [2] * 4
    assert len({pair.document for one in first + second for pair in one}) == 8
    assert rows_of(options, "qagen-mini", {("qagen-mini", "short"): 0}, done) == {}
    options.device = "cuda"  # graphs are captured for shapes that come again
    same = rows_of(options, "qagen-mini", two, done)["short"]
    assert same == [first[0]] * 2


def test_a_run_is_planned_by_the_last_result():
    cases = {"qagen-mini": {"short": case_of()}}
    names = ["qags_as_shipped", "qags_as_shipped_onednn", "quals_fast"]
    assert row_seconds(cases, "qagen-mini", "short", names) == pytest.approx(6 + 6 + 0.1)
    assert row_seconds(cases, "bart-base", "short", ["quals_fast"]) == pytest.approx(0.55)
    assert row_seconds(cases, "qagen-mini", "long", names) is None
    cell, other = ("qagen-mini", "short"), ("qagen-mini", "long")
    plan = Plan(cases, {"qagen-mini": 5}, {cell: 3, other: 1}, names, limit=130.0)
    assert "| qagen-mini, short | 3 | 5 | 60 |\n| qagen-mini, long | 1 | 5 | unknown |" in str(plan)
    assert "About 4 minutes in all" in str(plan)  # 60 to start, a row to warm up, 3 rounds of 60
    assert plan.fits(cell) and not plan.fits(cell, started=False)
    plan.took(cell, 150.0)
    assert not plan.fits(cell)
    assert plan.fits(other)  # of which nothing tells how long it takes
    assert not Plan(cases, {"qagen-mini": 5}, {cell: 3}, names, limit=0.0).fits(other)


def test_a_slow_machine_begins_fewer_rounds():
    cases = {"qagen-mini": {"short": case_of(), "long": case_of()}}
    short, long = ("qagen-mini", "short"), ("qagen-mini", "long")
    plan = Plan(cases, {"qagen-mini": 1}, {short: 1, long: 1}, ["qags_as_shipped"], limit=10.0)
    assert plan.fits(long)
    plan.took(short, 12.0)  # twice as long as predicted
    assert not plan.fits(long)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder for the results of a command whose arms are not run."""
    folder = tmp_path / "results"
    monkeypatch.setattr(command, "RESULTS", folder)
    monkeypatch.setattr(common, "RESULTS", folder)
    monkeypatch.setattr(command, "machine", lambda: result_of()["machine"])
    monkeypatch.setattr(command, "weights_of_arms", lambda sizes: {})
    monkeypatch.setattr(command, "arm_names", lambda device, without: [*SECONDS])
    monkeypatch.setattr(command, "plot", lambda result, target: None)
    return folder


def run(monkeypatch, *options, killed_after=99):
    """Run the command with arms that measure nothing; return the rounds that began."""
    began = []

    def measure(arguments, rounds, plan, done, save):
        cases = {}
        for (size, workload), number in rounds.items():
            for _ in range(number):
                if len(began) == killed_after:
                    raise KeyboardInterrupt  # in the middle of a round
                began.append(workload)
                before = cases.setdefault(size, {}).get(workload, case_of())
                again = workload in cases[size]
                case = before | {"rounds": [*before["rounds"], round_of()]} if again else before
                cases[size][workload] = case
                save(cases)

    monkeypatch.setattr(command, "run_sizes", measure)
    monkeypatch.setattr(sys, "argv", ["claim", "--models", "qagen-mini", "--rows", "1", *options])
    try:
        command.main()
    except KeyboardInterrupt:
        assert killed_after < 99
    return began


def rounds_in(folder):
    cases = json.loads((folder / "claim.json").read_text())["cases"]
    return {name: len(case["rounds"]) for name, case in cases["qagen-mini"].items()}


def test_a_killed_run_goes_on(results, monkeypatch):
    assert run(monkeypatch, killed_after=4) == ["short"] * 3 + ["long"]
    assert rounds_in(results) == {"short": 3, "long": 1}
    assert run(monkeypatch) == ["long"] * 2
    assert rounds_in(results) == {"short": 3, "long": 3}
    assert (results.parent / "CLAIM.md").read_text().startswith("# Is it")
    assert len(run(monkeypatch)) == 6  # what is complete is measured anew
    assert rounds_in(results) == {"short": 3, "long": 3}
    assert run(monkeypatch, "--add", "--rounds", "1") == ["short", "long"]
    assert rounds_in(results) == {"short": 4, "long": 4}


def test_a_run_of_another_commit_or_setup_does_not_go_on(results, monkeypatch, capsys):
    run(monkeypatch, killed_after=1)
    other = result_of()["machine"] | {"commit": "def"}
    monkeypatch.setattr(command, "machine", lambda: other)
    assert len(run(monkeypatch, killed_after=2)) == 2
    assert rounds_in(results) == {"short": 2}
    assert len(run(monkeypatch, "--rows", "2", killed_after=1)) == 1
    assert rounds_in(results) == {"short": 1}
    with pytest.raises(SystemExit):
        run(monkeypatch, "--add", "--rows", "2")
    assert "same rows a round for qagen-mini, short" in capsys.readouterr().err


def test_a_run_without_time_for_a_round_says_so(results, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["claim", "--models", "qagen-mini", "--limit", "0"])
    with pytest.raises(SystemExit):
        command.main()
    assert "no round ends within --limit 0; --plan says how long" in capsys.readouterr().err
    assert not results.exists()


def test_page_takes_the_ratio_apart(tmp_path):
    longer = round_of(SECONDS | {"quals_fast": 0.05}, tokens=700)
    cases = {"short": case_of(*[round_of()] * 3), "long": case_of(*[longer] * 3, weights="random")}
    result = result_of(**cases)
    text = page(result, "agreement of both")
    assert "| `qags_as_shipped` | float32 | 6.00 (6.00 to 6.00, n = 3) | 1.0 (1.0 to 1.0" in text
    assert "0.50 (0.50 to 0.50, n = 3) | 12.0 (12.0 to 12.0, n = 3) | 0.050 | 1000 |" in text
    assert "batching, sorting by length, no work twice | 1.50 (1.50) | 1.50 (1.50) |" in text
    assert "| `qags_as_shipped` to `quals_fast` | product | 60.00 | 120.00 |" in text
    assert "| `strongest QAGS` to `quals_fast` | what is left of it | 40.00 | 80.00 |" in text
    assert "With `long` texts it is 2.0 times what it is with `short` ones" in text
    assert "make it 1.5 times as fast; 40.0 to 80.0 times are left." in text
    assert "agreement of both" in text
    assert "All weights are trained ones" in text
    assert "Preliminary" not in text
    assert text.endswith("Weights: `qagen-mini@0123456789ab`.\n")
    plot(result, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    for word in ("qagen-mini, long", "QUALS: rescoring", "0.05 s  (120.0x)"):
        assert word in drawn


def test_the_page_marks_what_has_few_rounds():
    text = page(result_of(short=case_of(*[round_of()] * 3), long=fast_in(0.01)), "agreement")
    assert "Preliminary, with too few rounds to quote: qagen-mini, long." in text
    assert "**Length.**" not in text and "40.0 times are left" in text
    assert "depends on" not in page(result_of(short=fast_in(0.1)), "agreement")


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_published_quals_scores_the_same_with_products_of_onednn(tmp_path, family):
    make = {"bart": tiny_models.write_checkpoint, "t5": tiny_t5.write_t5}[family]
    folder = make(tmp_path / "model", trained_on=qags_models.SUMMARIES[0])
    scores = []
    for settings in ({}, {"onednn": True}, {"onednn": True, "encode_once": True}):
        arm = arms.PublishedArm(folder, **settings)
        scores += arm.score([qags_models.DOCUMENT], qags_models.SUMMARIES[:1])
        network = arm._pipeline.network
        replaced = [module for module in network.modules() if isinstance(module, OneDnnLinear)]
        assert bool(replaced) == bool(settings)
    assert scores[1:] == pytest.approx(scores[:1] * 2, abs=1e-5)
    half = arms.PublishedArm(folder, half=True)
    assert half.dtype == "bfloat16"
    (score,) = half.score([qags_models.DOCUMENT], qags_models.SUMMARIES[:1])
    assert math.isfinite(score)


def test_qags_scores_the_same_with_products_of_onednn(tmp_path, monkeypatch):
    monkeypatch.setattr(arms, "QAGS_MODELS", qags_models.write_models(tmp_path))
    given = tmp_path / "answers.json"
    qags_models.WordAnswers().save(given)
    texts = [qags_models.DOCUMENT] * 2, qags_models.SUMMARIES[:2]
    replayed = []
    for onednn in (False, True):
        arm = arms.QagsArm("as_shipped", candidates=given, onednn=onednn)
        replayed.append((arm.score(*texts), arm.replayed))
    assert replayed[0] == replayed[1]


def test_arms_of_a_device(monkeypatch):
    monkeypatch.setattr(arms, "onednn_pays", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    on_cpu = arms.arm_names("cpu", ["qags_batched"])
    assert {"qags_as_shipped_onednn", "quals_once_onednn", "quals_fast"} < {*on_cpu}
    assert not {"quals_once", "quals_published_half", "qags_batched", "quals_fast_eager"} & {
        *on_cpu
    }
    monkeypatch.setattr(arms, "onednn_pays", lambda: False)
    assert "quals_once" in arms.arm_names("cpu")
    assert not [name for name in arms.arm_names("cpu") if name.endswith("_onednn")]
    on_gpu = {"qags_batched_half", "quals_once", "quals_fast_eager"}
    assert on_gpu < {*arms.arm_names("cuda")}
    assert "quals_published_half" not in arms.arm_names("cuda")


def test_flops_of_an_arm_are_those_of_its_matrix_products(tmp_path):
    folder = tiny_models.write_checkpoint(tmp_path / "model")
    arm = EngineArm(folder, decoding=DecodingConfig(num_beams=4, num_beam_groups=4, max_length=10))
    pairs = [Pair("a", "the queen opened the bridge", "the queen won", None)]
    once = count_flops(arm, pairs)
    assert once > 0
    assert count_flops(arm, pairs) == once  # nothing is random
    attention = torch.nn.functional.scaled_dot_product_attention

    class Product:
        def score(self, documents, summaries):
            torch.ones(3, 5) @ torch.ones(5, 7)
            attention(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 6, 4), torch.ones(1, 2, 6, 4))

    assert count_flops(Product(), pairs) == 2 * 3 * 5 * 7 + 2 * 2 * (2 * 3 * 6 * 4)


def test_flops_of_a_replay_come_from_narrow_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(arms, "BERT", {"bart-base": (96, 2, 4, 384)})
    monkeypatch.setattr(arms, "BART", {"bart-base": (96, 1, 4, 384)})
    monkeypatch.setattr(arms, "QAGS_MODELS", qags_models.write_models(tmp_path))
    monkeypatch.setattr(arms, "BART_VOCABULARY", len(qags_models.TOKENS))
    pair = Pair("a", qags_models.DOCUMENT, qags_models.SUMMARIES[0], None)
    files = (NetworkFiles.read(tmp_path / name) for name in (arms.GENERATION, arms.ANSWERING))
    words = qags_models.WordAnswers()
    (row,) = QagsScorer(*files, extractor=words, device="cpu").score(
        [pair.document], [pair.summary]
    )
    assert row.n_generated
    replay = Replay(answers=row.replay.answers, steps=row.replay.steps, questions=("who won ?",))
    replays = {(pair.document, pair.summary): replay}
    for kind in ("as_shipped", "batched"):
        arm = arms.QagsArm(kind, "bart-base", replays=replays)
        arm.ask_one(pair)
        counted = count_flops(arm, [pair])
        assert arms.replayed_flops(kind, "bart-base", replays, [pair]) == pytest.approx(counted)


def test_flops_at_another_width():
    flops = {width: 3.0 * width**2 + 7.0 * width for width in (4, 8, 50)}
    assert flops_at_width({4: flops[4], 8: flops[8]}, 50) == pytest.approx(flops[50])


def test_flops_ratio_is_of_the_arms_that_were_counted():
    counted = {"qags_as_shipped": 4.0, "qags_batched": 2.0}
    assert figures.flops_ratio(counted) == {"qags_as_shipped_over_qags_batched": 2.0}
    assert figures.flops_ratio({}) == {}
