"""Grown models compute what the model that they were grown from does."""

import dataclasses

import pytest
import tiny_models
import torch

from bench.recipes.grow import cached, folder_of, write
from bench.recipes.net2net import Growth
from bench.shared.published import PublishedPipeline
from quals_fast import QualsScorer
from quals_fast.models.loading import load_model

TEXT = "queen anne opened the tower by the river in 1969 , forty won"
VOCAB = tiny_models.wordpiece_tokenizer().get_vocab_size()
WIDER = Growth(
    d_model=32, heads=2, ffn=64, encoder_after=(), decoder_after=(), vocab_size=50, positions=64
)
CASES = {
    "twice as wide": (WIDER, 2e-5),
    "more heads, more units": (dataclasses.replace(WIDER, heads=4, ffn=80), 2e-5),
    "half as wide again": (dataclasses.replace(WIDER, d_model=24, heads=3, ffn=48), 0.03),
    "deeper": (dataclasses.replace(WIDER, encoder_after=(0, 0, 1), decoder_after=(0,)), 0.03),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grow") / "model"
    tiny_models.write_checkpoint(folder, trained_on=TEXT)
    (folder / "generation_config.json").write_text("{}")
    return folder


def logprobs(folder):
    published = PublishedPipeline(folder)
    (text,) = published.tokenizer.encode([TEXT])
    ids = torch.tensor([text.input_ids])
    with torch.inference_mode():
        logits = published.network(input_ids=ids, decoder_input_ids=ids).logits
    return logits[..., :VOCAB].log_softmax(-1)


@pytest.mark.parametrize("case", CASES)
def test_grown_model_computes_the_same(source, tmp_path, case):
    growth, tolerance = CASES[case]
    write(source, growth, tmp_path / "grown")
    old, new = logprobs(source), logprobs(tmp_path / "grown")
    likely = old > -5
    error = float((old - new)[likely].abs().mean())
    assert error < tolerance, error
    model = load_model(tmp_path / "grown", device=torch.device("cpu"))
    assert model.conventions.masked_token_ids == tuple(range(VOCAB, 50))
    generated = QualsScorer.from_pretrained(tmp_path / "grown", device="cpu").generate([TEXT])[0]
    assert max(token for h in generated for token in h.token_ids) < VOCAB


def test_only_known_models_are_grown():
    with pytest.raises(ValueError, match="must be one of qagen-mini, bart-base, bart-large"):
        folder_of("bart-huge")


def test_a_model_that_another_process_has_made_meanwhile_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def put(target, author):
        target.mkdir()
        (target / "weights").write_text(author)

    def make(target):
        put(target, "mine")
        cached("tiny", [], lambda other: put(other, "theirs"))

    assert (cached("tiny", [], make) / "weights").read_text() == "theirs"
