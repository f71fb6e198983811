"""A T5 trains as a BART does: the loss falls, runs go on, the folder scores."""

import json
import shutil
from dataclasses import replace
from itertools import chain

import pytest
import tiny_t5
import torch
from engine_nats import nats_by_engine
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import T5Config, T5ForConditionalGeneration

from quals_fast import DecodingConfig, QualsScorer
from quals_fast.models.checkpoint import CheckpointError, read_checkpoint
from quals_fast.models.loading import load_model
from quals_fast.training.qagen import checkpoints
from quals_fast.training.qagen.cost import training_flops
from quals_fast.training.qagen.encoding import Pair
from quals_fast.training.qagen.network import Collator
from quals_fast.training.qagen.pipeline import train
from quals_fast.training.qagen.settings import TrainingError, Views
from quals_fast.training.qagen.starting_point import load_starting_point

WEIGHTS = "model.safetensors"
SHAPES = {"1.0": tiny_t5.CONFIG, "1.1": tiny_t5.T5_1_1}
EOS = 1


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def t5(request, tmp_path):
    return tiny_t5.write_t5(tmp_path / "t5", request.param)


@pytest.fixture
def settings(settings, t5):
    return replace(settings, init=str(t5), dropout=0.0)


def without_separator(folder):
    """Make a folder one of pre-training, whose tokenizer has no `<sep>`."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<sep>"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 40}))


def test_the_loss_falls_and_the_folder_scores(run, settings, t5):
    _, found = run(dev=settings.train[0], views=Views.parse("passage=1"))
    losses = [one["eval_loss"] for one in found["evaluations"]]
    assert losses[-1] < losses[0] - 0.1
    assert read_checkpoint(settings.output)[0] == read_checkpoint(t5)[0]
    config = json.loads((settings.output / "config.json").read_text())
    assert config["sep_token_id"] == Tokenizer.from_file(str(t5 / "tokenizer.json")).token_to_id(
        "<sep>"
    )
    assert config["max_source_tokens"] == 40 and config["source_bos"] is False
    small = DecodingConfig(num_beams=4, num_beam_groups=4, min_length=2, max_length=12)
    scorer = QualsScorer.from_pretrained(settings.output, device="cpu", decoding=small)
    assert scorer.score(["queen anne won"], ["anne won"])[0].status in ("ok", "no_pairs")
    nats = [*chain.from_iterable(nats_by_engine(settings, 40))]
    assert sum(nats) / len(nats) == pytest.approx(losses[-1], abs=1e-5)


def test_a_run_goes_on_as_if_it_had_never_stopped(settings, tmp_path):
    train(settings, lambda line: None)
    again = replace(settings, output=tmp_path / "again")
    shutil.copytree(settings.output, again.output)
    for folder in checkpoints.checkpoints(again.output)[:-1]:
        shutil.rmtree(folder)
    (again.output / WEIGHTS).unlink()
    lines = []
    train(again, lines.append)
    assert any("resuming from" in line and "checkpoint-2" in line for line in lines)
    one, other = (load_file(s.output / WEIGHTS) for s in (settings, again))
    assert all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


@pytest.mark.parametrize("asked", [None, "<answer>"])
@pytest.mark.parametrize("has_padded_rows", [True, False], ids=["padded rows", "no row left"])
def test_a_new_separator_gets_a_row(settings, t5, asked, has_padded_rows):
    without_separator(t5)
    size = Tokenizer.from_file(str(t5 / "tokenizer.json")).get_vocab_size()
    if not has_padded_rows:
        weights = load_file(t5 / WEIGHTS)
        for name in weights.keys() & {"shared.weight", "lm_head.weight"}:
            weights[name] = weights[name][:size].contiguous()
        save_file(weights, t5 / WEIGHTS)
        config = json.loads((t5 / "config.json").read_text())
        (t5 / "config.json").write_text(json.dumps(config | {"vocab_size": size}))
    start = load_starting_point(replace(settings, sep_token=asked), print, [])
    assert start.conventions.sep_token_id == size
    assert start.conventions.bos_token_id is None
    assert start.tokenizer.id_to_token(size) == (asked or "<question-answer>")
    assert len(start.network.shared.weight) == len(start.network.lm_head.weight) >= size + 1
    assert start.network.final_logits_bias[0].isfinite().sum() == size + 1
    train(replace(settings, sep_token=asked, examples=4), lambda line: None)
    model = load_model(settings.output, device=torch.device("cpu"))
    assert model.conventions.sep_token_id == size


def test_the_loss_is_that_of_transformers(settings, t5):
    """Several targets in one row, and one in each; with and without a head of its own."""
    start = load_starting_point(settings, print, [])
    network, config = start.network.eval(), start.network.config
    sources, targets = [[8, 9, 7, EOS], [7, EOS]], [[8, 9, EOS], [10, 11, EOS], [12, 9, EOS]]
    collate = Collator(config.pad_token_id)
    packed = [Pair(sources[0], targets[0] + targets[1]), Pair(sources[1], targets[2])]
    alone = [Pair(sources[n], target) for n, target in zip((0, 0, 1), targets, strict=True)]
    found = [network(**collate(pairs)) for pairs in (packed, alone)]
    torch.testing.assert_close(found[0]["nats"], found[1]["nats"], atol=1e-5, rtol=1e-6)
    with torch.no_grad():
        batch = collate(alone)
        plain = T5ForConditionalGeneration.forward(
            network,
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"].long(),
            labels=batch["labels"],
        )
        logits = plain.logits + network.final_logits_bias
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(found[1]["loss"], expected, atol=1e-5, rtol=1e-5)


def test_options_of_a_t5(settings):
    network = load_starting_point(replace(settings, dropout=0.25), print, []).network
    assert {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    longer = load_starting_point(replace(settings, positions=90), print, [])
    assert longer.conventions.max_source_tokens == longer.positions == 90
    with pytest.raises(TrainingError, match=r"`prune` needs a WordPiece .* is a Unigram"):
        load_starting_point(replace(settings, prune=True), print, [])


def test_what_a_t5_lacks_is_named(settings, t5):
    (t5 / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no `max_source_tokens`, and the tokenizer has no"):
        load_starting_point(settings, print, [])
    config = json.loads((t5 / "config.json").read_text())
    (t5 / "config.json").write_text(json.dumps(config | {"model_type": "pegasus"}))
    with pytest.raises(CheckpointError, match="`model_type` 'bart' or 't5', but got 'pegasus'"):
        load_starting_point(settings, print, [])


def test_weights_that_do_not_fit_are_named(settings, t5):
    weights = load_file(t5 / WEIGHTS)
    del weights["encoder.final_layer_norm.weight"]
    save_file(weights, t5 / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"but encoder.final_layer_norm.weight does not"):
        load_starting_point(settings, print, [])


def test_bf16_trains_too(run, settings):
    _, found = run(bf16="on", dev=settings.train[0])
    assert found["evaluations"][-1]["eval_loss"] < found["evaluations"][0]["eval_loss"]
    assert load_file(settings.output / WEIGHTS)["shared.weight"].dtype == torch.float32


def test_flops_count_each_weight_once():
    sizes = {"vocab_size": 10, "d_model": 4, "d_kv": 3, "d_ff": 5, "num_layers": 2, "num_heads": 2}
    plain, gated = T5Config(**sizes), T5Config(**sizes, feed_forward_proj="gated-gelu")
    assert training_flops(plain, 1, 0) == 6 * (2 * (4 * 24 + 2 * 20) + 2 * 2 * 24)
    assert training_flops(gated, 0, 1) == 6 * (2 * (6 * 24 + 3 * 20) + 40)
