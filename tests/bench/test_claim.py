"""The claim's test: its figures follow from its rounds, and its page says what they are."""

from argparse import Namespace

import pytest
import qags_models
import tiny_models
import torch

from bench.shared.arms import EngineArm
from bench.shared.common import Pair
from bench.shared.flops import count_flops, flops_at_width
from bench.studies.claim import arms, figures
from bench.studies.claim.measuring import rows_of
from bench.studies.claim.page import page, plot, verdict
from quals_fast import DecodingConfig
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
        "facts": {name: {"dtype": "float32", "peak_mib": 1000.0} for name in SECONDS},
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
        "rows_a_round": 1,
        "device": "some CPU",
        "versions": machine["versions"],
        "commits": ["abc"],
        "weights": {"qagen-mini": {"digest": "0123456789ab"}},
        "machine": machine,
    }


@pytest.mark.parametrize(
    ("fast", "times", "said"),
    [
        ([0.1], "60.0", "it reaches 55 in every round."),
        ([0.3], "20.0", "it does not reach 55."),
        ([0.1, 0.1, 0.3], "60.0", "it reaches 55 for short, but not in every round."),
    ],
)
def test_verdict_follows_the_figures(fast, times, said):
    rounds = [round_of(SECONDS | {"quals_fast": seconds}) for seconds in fast]
    text = verdict(result_of(short=case_of(*rounds)))
    assert text.startswith(
        f"On some CPU (medians, n = {len(fast)}): QUALS as published is 3.0 times as fast as QAGS"
    )
    expected = f"quals_fast is {times} times as fast as QAGS as shipped; {said}"
    assert expected in text.replace("qagen-mini, ", "")
    assert "the comparison in the article; it does not reach 55." in text


def test_verdict_names_the_cases_that_reach_it():
    slow = case_of(round_of(SECONDS | {"quals_fast": 0.3}))
    text = verdict(result_of(short=slow, long=case_of()))
    assert (
        "quals_fast is 20.0 to 60.0 times as fast as QAGS as shipped; it reaches 55 in every round "
        "only for qagen-mini, long (n = 1)."
    ) in text
    assert (
        "quals_fast is 13.3 to 40.0 times as fast as the strongest QAGS; it does not reach 55 "
        "(closest: qagen-mini, long)."
    ) in text


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
    figures.check_same_setup(old, new)
    (merged,) = figures.add_cases(old["cases"], new["cases"]).values()
    assert figures.all_of(merged["short"], "document_tokens") == [350, 400]
    assert merged["short"]["facts"]["quals_fast"]["peak_mib"] == 2000.0
    assert len(merged["long"]["rounds"]) == 1
    assert len(old["cases"]["qagen-mini"]["short"]["rounds"]) == 1
    with pytest.raises(ValueError, match="only be added to a result with the same device, but it"):
        figures.check_same_setup(old, new | {"device": "another"})
    others = {"qagen-mini": {"digest": "ba9876543210"}, "bart-base": {"digest": "1"}}
    with pytest.raises(ValueError, match=r"same weights, but its qagen-mini is .*leave --add out"):
        figures.check_same_setup(old, new | {"weights": others})
    figures.check_same_setup(old, new | {"weights": others | old["weights"]})


def test_added_rounds_take_other_rows():
    options = Namespace(workloads=["short"], data=None, rows=2, rounds=2, device="cpu")
    first = rows_of(options, "qagen-mini", {})["short"]
    done = {"qagen-mini": {"short": case_of(*[round_of()] * 2)}}
    second = rows_of(options, "qagen-mini", done)["short"]
    assert [len(one) for one in first + second] == [2] * 4
    assert len({pair.document for one in first + second for pair in one}) == 8
    options.device = "cuda"  # graphs are captured for shapes that come again
    same = rows_of(options, "qagen-mini", done)["short"]
    assert same == [first[0]] * 2


def test_page_takes_the_ratio_apart(tmp_path):
    longer = round_of(SECONDS | {"quals_fast": 0.05}, tokens=700)
    result = result_of(short=case_of(), long=case_of(longer, weights="random"))
    text = page(result, "agreement of both")
    assert "| `qags_as_shipped` | float32 | 6.00 (n = 1) | 1.0 (n = 1) | 0.600 |" in text
    assert "| `quals_fast_float32` | float32 | 0.50 (n = 1) | 12.0 (n = 1) | 0.050 | 12.0 |" in text
    assert "| `qags_as_shipped` to `qags_batched` | batching, sorting by length, no work" in text
    assert "| product |  | 60.0 |  |" in text
    assert "With `long` texts it is 2.0 times what it is with `short` ones" in text
    assert "make it 1.5 times as fast; 40.0 to 80.0 times are left." in text
    assert "agreement of both" in text
    assert "All weights are trained ones" in text
    assert text.endswith("Weights: `qagen-mini@0123456789ab`.\n")
    assert "QAGS has random weights" in text
    plot(result, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    for word in ("qagen-mini, long", "QUALS: rescoring", "0.05 s  (120.0x)"):
        assert word in drawn


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
