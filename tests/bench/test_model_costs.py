"""Counts of what models cost, against what torch counts and what was published."""

import pytest
import tiny_t5
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from bench import model_costs
from bench.floor import Work, count
from bench.model_costs import CONFIGS, costs, summarise
from quals_fast.models.t5 import T5

WORKS = [Work(56, 700, 27, (12, 9)), Work(40, 300, 20, ())]
COUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)
    )
}
# Gigabytes of the files that hold these weights in float32 on the Hugging Face hub.
PUBLISHED = {"BART-large": 1.63, "T5-large": 2.95, "FLAN-T5-base": 0.99, "FLAN-T5-large": 3.13}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    gigabytes = 4 * costs(CONFIGS[name], WORKS)["parameters"] / 1e9
    assert gigabytes == pytest.approx(PUBLISHED[name], abs=0.006)


def flops_of(run, *arguments):
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter, torch.inference_mode():
        result = run(*arguments)
    return result, counter.get_total_flops()


@pytest.mark.parametrize("config", [tiny_t5.CONFIG, tiny_t5.T5_1_1], ids=["T5 1.0", "T5 1.1"])
def test_flops_of_a_t5_are_those_that_torch_counts(config):
    config = {**config, "vocab_size": 256}
    network = T5(tiny_t5.shape_of(config)).eval()
    source, n, length = torch.zeros(1, 20, dtype=torch.int64), 3, 7
    memory, encoded = flops_of(network.encode, source, source == 0)
    stages = count(config, [Work(20, 0, 0, ())], 1, 4)
    assert encoded == stages["encode"].flops
    targets = torch.zeros(1, n, length, dtype=torch.int64)
    hidden, decoded = flops_of(network.decode_teacher_forced, targets, memory)
    decoded += 2 * hidden.shape[-1] * 256 * n * length  # the LM head
    rescored = count(config, [Work(0, 20, 0, (length,) * n)], 1, 4)["rescore"].flops
    # Torch counts what a mask hides: every position attends to all of its target.
    layers, width = config["num_decoder_layers"], config["num_heads"] * config["d_kv"]
    hidden_ones = n * length * (length - 1) // 2
    assert decoded == rescored + layers * 4 * width * hidden_ones


def test_documents_are_cut_at_the_length_that_a_model_reads():
    uncut, cut = ([Work(56, n, 27, (12, 9))] for n in (700, 512))
    for name, is_cut in (("T5-large", True), ("BART-large", False)):
        found, expected = (costs(CONFIGS[name], works)["gflop_a_pair"] for works in (uncut, cut))
        assert (found == expected) == is_cut


def test_lengths_are_means_a_pair():
    result = summarise(WORKS, {"T5-base": CONFIGS["T5-base"]})
    assert result["lengths"] == {
        "document": 500, "summary": 48, "steps": 23.5, "pairs": 1, "tokens_of_pairs": 10.5,
    }  # fmt: skip
    one = result["models"]["T5-base"]
    assert one["kept_of_a_token"] == 2 * 12 * 768
    assert one["tokens_of_a_search"] == 60 * 27 + 56


def test_the_command_writes_a_result(monkeypatch):
    written = {}
    monkeypatch.setattr(model_costs, "finish", lambda name, result, weights: written.update(result))
    monkeypatch.setattr(model_costs, "works_of", lambda arm, pairs: WORKS)
    monkeypatch.setattr(model_costs.EngineArm, "score", lambda *arguments: None)
    monkeypatch.setattr("sys.argv", ["model_costs", "--rows", "2"])
    model_costs.main()
    assert written["rows"] == 2
    assert written["models"].keys() == CONFIGS.keys()
