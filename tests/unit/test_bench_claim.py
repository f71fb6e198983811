"""The page of the claim's test says what was measured."""

import pytest
import tiny_models
import torch

from bench.arms import EngineArm
from bench.claim.__main__ import flops_ratio
from bench.claim.page import page, verdict
from bench.common import Pair
from bench.flops import count_flops
from quals_fast import DecodingConfig


def ratio(value):
    return {"median": value, "low": value, "high": value, "n": 1}


def result(as_shipped=60.0, weights="trained"):
    seconds = {"qags_as_shipped": 6.0, "quals_published": 2.0, "quals_fast_float32": 0.5}
    arms = {
        name: {
            "seconds": ratio(value),
            "speedup": ratio(6.0 / value),
            "stages": {"generation": value},
            "tflop": 0.1 * value,
            "dtype": "float32",
            "peak_mib": 1000.0,
            "base": None,
            "agreement": None,
        }
        for name, value in seconds.items()
    }
    case = {
        "rows": 2,
        "rounds": 1,
        "weights": weights,
        "sizes": {"document_tokens": [300, 356.0, 400], "summary_words": [15, 17.0, 20]},
        "questions": 12.5,
        "kept_pairs": 10.0,
        "ratios": {
            "as_shipped": ratio(as_shipped),
            "batched": ratio(4.0),
            "published": ratio(3.0),
            "engine": ratio(4.0),
        },
        "arms": arms,
    }
    machine = {
        "cpu": "some CPU",
        "threads": 2,
        "python": "3.11",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "commit": "abc",
        "dirty": False,
    }
    cases = {"qagen-mini": {"workloads": {"short": case}}}
    return {"cases": cases, "data": "the examples", "device": "some CPU", "machine": machine}


@pytest.mark.parametrize(
    ("value", "said"), [(60.0, "60.0x; 55x holds in every case"), (20.0, "20.0x; 55x is not")]
)
def test_verdict_follows_the_figures(value, said):
    text = verdict(result(value))
    assert text.startswith("On some CPU, 1 rounds:")
    assert f"quals_fast against QAGS as shipped: {said}" in text
    assert "against the batched QAGS: 4.0x; 55x is not reached" in text


def test_verdict_names_the_cases_that_reach_it():
    both = result(60.0)
    (case,) = both["cases"]["qagen-mini"]["workloads"].values()
    both["cases"]["bart-base"] = {
        "workloads": {"short": case | {"ratios": case["ratios"] | {"as_shipped": ratio(20.0)}}}
    }
    assert "20.0 to 60.0x; 55x holds for qagen-mini, short." in verdict(both)


def test_page_takes_the_ratio_apart():
    text = page(result(), "agreement of both")
    assert "| `qags_as_shipped` | float32 | 6.00 (n = 1) |" in text
    assert "| `quals_fast_float32` | float32 | 0.50 (n = 1) | 12.0 (n = 1) | 0.050 | 12.0 |" in text
    assert "agreement of both" in text
    assert "All weights are trained ones" in text
    assert "random weights" in page(result(weights="random"), "")


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


def test_flops_ratio_is_of_the_arms_that_were_counted():
    counted = {"qags_as_shipped": 4.0, "qags_batched": 2.0, "quals_published": None}
    assert flops_ratio(counted) == {"qags_as_shipped_over_qags_batched": 2.0}
    assert flops_ratio({}) == {}
