"""A BART made of a BERT computes what the BERT computes."""

from dataclasses import replace

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from quals_fast.models import loading
from quals_fast.models.checkpoint import CheckpointError
from quals_fast.models.loading import load_model
from quals_fast.training.qagen.settings import TrainingError
from quals_fast.training.qagen.starting_point import load_starting_point
from quals_fast.training.qagen.warm_start import write_bart

VOCAB = tiny_models.wordpiece_tokenizer().get_vocab_size()


@pytest.fixture
def encoder(tmp_path):
    """A BERT with random weights of every kind, its norms and biases included."""
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=24, type_vocab_size=2,
    )  # fmt: skip
    network = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            around = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            weight.normal_(around, 0.2)
    folder = tmp_path / "bert"
    network.save_pretrained(folder)
    tiny_models.wordpiece_tokenizer().save(str(folder / "tokenizer.json"))
    return folder, network


def test_hidden_states_agree(encoder, settings):
    folder, bert = encoder
    settings = replace(settings, init=f"minilm:{folder}", decoder_layers=(0, 2))
    bart = load_starting_point(settings, print, []).network.eval()
    ids = torch.randint(5, VOCAB, (3, 20))
    mask = torch.ones_like(ids).bool()
    mask[1, 12:] = False
    with torch.inference_mode():
        want = bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]
        got = bart.model.encoder(ids, mask.long()).last_hidden_state[mask]
    assert (got - want).abs().max() < 1e-3
    assert want.abs().max() > 1


def test_decoder_layers_start_from_encoder_layers(encoder, tmp_path):
    folder, bert = encoder
    write_bart(folder, tmp_path / "bart", (0, 2))
    bart = load_file(tmp_path / "bart" / "model.safetensors")
    for place, number in enumerate((0, 2)):
        layer = f"model.decoder.layers.{place}"
        source = bert.encoder.layer[number]
        for part in ("self_attn", "encoder_attn"):
            assert torch.equal(bart[f"{layer}.{part}.q_proj.weight"],
                               source.attention.self.query.weight)  # fmt: skip
        assert torch.equal(bart[f"{layer}.fc2.bias"], source.output.dense.bias)


def test_a_run_starts_from_it(encoder, run, settings):
    folder, _ = encoder
    lines, _ = run(init=f"minilm:{folder}", decoder_layers=(2,), examples=4)
    assert any("resuming" in line for line in lines) is False
    generator = load_model(settings.output, device=torch.device("cpu"))
    assert (generator.shape.encoder_layers, generator.shape.decoder_layers) == (3, 1)
    assert generator.conventions.sep_token_id == VOCAB  # a new token


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "cannot be read"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}'),
            "a BERT-family encoder with `model_type` 'bert', but got 'gpt2'",
        ),
        (
            lambda f: (f / "tokenizer.json").write_text(
                (f / "tokenizer.json").read_text().replace("[CLS]", "[BEGIN]")
            ),
            "lacks '[CLS]', which a BERT encoder must have",
        ),
    ],
    ids=["weights", "config", "family", "tokens"],
)
def test_what_is_no_encoder_is_refused(encoder, tmp_path, change, message):
    folder, _ = encoder
    change(folder)
    with pytest.raises(CheckpointError) as raised:
        write_bart(folder, tmp_path / "bart", (0,))
    assert message in str(raised.value)


def test_layers_that_there_are_not_are_refused(encoder, tmp_path):
    with pytest.raises(CheckpointError, match=r"from 0 to 2, but got \[1"):
        write_bart(encoder[0], tmp_path / "bart", (1, 3, 5))


def test_names_on_the_hub_are_fetched(settings, base, monkeypatch):
    monkeypatch.setattr(loading, "fetch", lambda name, _: {"facebook/bart-large": base}[name])
    hub = replace(settings, init="facebook/bart-large")
    assert load_starting_point(hub, print, []).conventions.sep_token_id == 1


def test_an_encoder_without_the_prefix_is_explained(encoder, settings):
    message = "expected a model with `model_type` 'bart' or 't5', but got 'bert'; .* minilm:"
    with pytest.raises(CheckpointError, match=message):
        load_starting_point(replace(settings, init=str(encoder[0])), print, [])
    with pytest.raises(TrainingError, match=r"but './nowhere' does not exist"):
        load_starting_point(replace(settings, init="./nowhere"), print, [])
