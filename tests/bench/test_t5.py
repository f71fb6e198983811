"""T5 models of random weights that ask, in the benchmarks; and results that keep other models."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench import end_to_end
from bench.floor import Work, count
from bench.model_costs import CONFIGS
from bench.recipes.t5 import SHAPES, write_t5
from bench.report import __main__ as report
from bench.shared import common, weights
from bench.shared.arms import EngineArm
from bench.shared.options import FLANS, T5S
from bench.shared.published import PublishedPipeline
from bench.shared.weights import ASKING, describe, origin
from quals_fast import DecodingConfig
from quals_fast.models.checkpoint import check_t5_config, read_checkpoint
from quals_fast.reference.tolerances import QUALS

SMALL = replace(
    SHAPES["t5-small"], d_model=96, d_kv=8, d_ff=96, num_layers=2, num_decoder_layers=3, num_heads=7
)
DOCUMENTS = ["The king of the town was on the bridge, and he had his cat with him."] * 2
SUMMARIES = [
    "The king was on the bridge with his cat and he had it all",
    "It was not in the town of",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "t5"
    write_t5(SMALL, folder)
    return folder


def test_the_named_shapes_are_the_published_ones():
    assert [*SHAPES] == [*T5S, *FLANS]
    for name in ("T5-base", "FLAN-T5-base", "FLAN-T5-large"):
        shape, _ = check_t5_config(Path(), CONFIGS[name])
        assert SHAPES[name.lower()] == shape
    base = SHAPES["t5-base"]
    assert base.tie_word_embeddings and base.feed_forward_proj == "relu"
    sizes = (base.d_model, base.d_kv, base.num_heads, base.num_layers, base.d_ff, base.vocab_size)
    assert sizes == (768, 64, 12, 12, 3072, 32128)


def test_it_asks_and_the_published_pipeline_keeps_the_same_pairs(folder):
    arms = PublishedPipeline(folder), EngineArm(folder)
    scores, kept = arms[0].score(DOCUMENTS, SUMMARIES)
    assert arms[1].score(DOCUMENTS, SUMMARIES) == pytest.approx(scores, abs=QUALS)
    assert [[h.token_ids for h in one] for one in kept] == arms[1].kept
    assert all(len(one) >= 3 for one in kept)
    assert max(len(pair) for one in arms[1].kept for pair in one) > 10
    assert all(id_ < arms[0].tokenizer.size for one in kept for h in one for id_ in h.token_ids)


def test_it_is_made_alike_every_time_and_disturbs_no_random_numbers(folder, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    write_t5(SMALL, tmp_path / "again")
    assert torch.equal(torch.rand(4), expected)
    one, other = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def test_its_weights_are_known_to_the_report(folder, monkeypatch):
    monkeypatch.setattr(weights, "folder_of", lambda name: folder)
    described = describe("t5-base")
    assert described["recipe"] == ASKING and len(described["digest"]) == 12
    assert origin("t5-base", described) is None


def test_the_least_work_counts_a_t5s_own_width(folder):
    """By hand: attention is 56 wide, hidden states 96; the feed-forward is plain, then gated."""
    config = json.loads((folder / "config.json").read_text())
    work = Work(summary=2, document=3, steps=0, pairs=())
    flops = 2 * 2 * (8 * 96 * 56 + 4 * 96 * 96 + 4 * 2 * 56) + 3 * 2 * 4 * 96 * 56
    assert count(config, [work], 60, 4)["encode"].flops == pytest.approx(
        flops + 2 * 3 * (8 * 96 * 56 + 4 * 96 * 96 + 4 * 3 * 56) + 3 * 3 * 4 * 96 * 56
    )
    gated = count(config | {"feed_forward_proj": "gated-gelu"}, [work], 60, 4)["encode"].flops
    assert gated - count(config, [work], 60, 4)["encode"].flops == 5 * 2 * 2 * 96 * 96


def test_end_to_end_keeps_the_models_of_earlier_runs(folder, tmp_path, monkeypatch):
    """And says on the page where each was measured."""
    for path in common.RESULTS.glob("end_to_end.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = json.loads((tmp_path / "end_to_end.json").read_text())
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(end_to_end, "folder_of", lambda name: folder)
    monkeypatch.setattr(weights, "folder_of", lambda name: folder)
    options = "--models t5-base --rows 1 --rounds 1 --dtypes float32 --workloads short".split()
    monkeypatch.setattr(sys, "argv", ["end_to_end", *options])
    monkeypatch.setenv("BENCH_COMMIT", "1a2b3c4")
    end_to_end.main()
    after = json.loads((tmp_path / "end_to_end.json").read_text())
    assert [*after["cases"]] == [
        *(name for name in before["cases"] if name != "t5-base"),
        "t5-base",
    ]
    for name in before["cases"].keys() - {"t5-base"}:
        assert after["cases"][name]["workloads"] == before["cases"][name]["workloads"]
        assert after["weights"][name] == before["weights"][name]
        assert after["cases"][name]["machine"]["commit"] != "1a2b3c4"
    of_t5 = after["cases"]["t5-base"]
    assert of_t5["machine"]["commit"] == "1a2b3c4" and of_t5["data"] == "examples"
    agreement = of_t5["workloads"]["short"]["agreement"]["float32_vs_reference"]
    assert agreement["identical_sequences"] == 1.0
    assert after["weights"]["t5-base"]["recipe"] == ASKING
    page = report.section("speed")
    assert "| t5-base, short | published pipeline |" in page
    assert "`t5-base`: " in page and "commit 1a2b3c4" in page


def test_conventions_of_the_folder(folder):
    shape, conventions = read_checkpoint(folder)
    assert shape == SMALL
    assert conventions.max_source_tokens == 1024
    small = DecodingConfig(num_beams=4, num_beam_groups=4)
    kept = EngineArm(folder, decoding=small)
    kept.score(DOCUMENTS, SUMMARIES)
    assert all(pair.count(conventions.sep_token_id) == 1 for one in kept.kept for pair in one)
