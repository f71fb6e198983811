"""The cost of cross-encoders: what they read, batches, the whole command on one row, the page."""

import json
import sys

import pytest
import torch

from bench import cross_encoder
from bench.cross_encoder import (
    READERS,
    CrossEncoderArm,
    by_chunks,
    by_sentences,
    whole,
)
from bench.report.cross_encoder import cross_encoder as section
from bench.report.results import Reader
from bench.shared import common, turns
from bench.shared.common import Pair

SENTENCE = "queen anne opened the bridge by the river in 1962 ."  # of 11 words
SUMMARY = "Anne opened the bridge. It was 1962!"


@pytest.fixture
def small(monkeypatch):
    """Networks of two narrow layers; the vocabulary is the bundled tokenizer's."""
    widths = {
        "roberta-base": {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16},
        "flan-t5-base": {"d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 16},
    }
    for shape, (config, sizes) in cross_encoder.CONFIGS.items():
        layers = "num_hidden_layers" if "num_hidden_layers" in sizes else "num_layers"
        monkeypatch.setitem(
            cross_encoder.CONFIGS, shape, (config, sizes | widths[shape] | {layers: 2})
        )


class InProcess:
    """Takes the place of a worker: the arm is in this process."""

    def __init__(self, make, *arguments, dtype_name=None, **settings):
        if dtype_name is not None:
            settings["dtype"] = getattr(torch, dtype_name)
        self.arm = make(*arguments, **settings)
        self.facts = {"name": self.arm.name, "dtype": getattr(self.arm, "dtype", "float32")}

    def score(self, pairs, kept):
        return turns._timed(self.arm, pairs, kept)

    def ask(self, function, *arguments):
        return function(self.arm, *arguments)

    def kill(self):
        pass


def test_what_is_read():
    document = " ".join([SENTENCE] * 70)  # 770 words
    assert whole(document, SUMMARY) == [[(document, SUMMARY)]]
    claims = by_sentences(document, SUMMARY)
    assert [{claim for _, claim in row} for row in claims] == [
        {"Anne opened the bridge."},
        {"It was 1962!"},
    ]
    for row in claims:  # 770 // 350 + 1 = 3 chunks of 70 // 3 sentences, and the rest
        assert [part.count("anne") for part, _ in row] == [23, 23, 23, 1]
    ((first, second),) = by_chunks(document, SUMMARY)
    assert [part.count("anne") for part, _ in (first, second)] == [45, 25]  # at most 500 words
    assert " ".join([first[0], second[0]]) == document and second[1] == SUMMARY


@pytest.mark.parametrize("text", ["", "word " * 800], ids=["no text", "one long sentence"])
def test_texts_without_sentences_are_one_part(text):
    for pieces in (by_sentences, by_chunks):
        assert pieces(text, "claim") == [[(text, "claim")]]


@pytest.mark.parametrize("name", READERS)
def test_a_number_does_not_depend_on_the_batch(name, small, monkeypatch):
    arm = CrossEncoderArm(name)
    documents = [" ".join([SENTENCE] * n) for n in (1, 70, 40)]
    summaries = [SUMMARY, SENTENCE, "It was 1962."]
    together = arm.score(documents, summaries)
    monkeypatch.setattr(cross_encoder, "BATCH_TOKENS", 1)
    assert arm.score(documents, summaries) == pytest.approx(together, abs=1e-6)
    assert len(set(together)) == 3 and all(0 < one < 1 for one in together)


def test_the_document_is_cut_and_the_claim_is_not(small):
    long = " ".join([SENTENCE] * 70)
    limited, unlimited = (
        CrossEncoderArm(name) for name in ("one pass of 512 tokens", "one pass of the whole text")
    )
    cut, same = limited._sources([(long, SUMMARY), (f"{long} {long}", SUMMARY)])
    assert cut == same and len(cut) == 512
    (claim,) = limited._ids([SUMMARY])
    assert cut[-len(claim) - 1 : -1] == claim
    assert unlimited.work([long], [SUMMARY])["tokens"] > 770
    assert limited.work([long, SENTENCE], [SUMMARY] * 2)["passes"] == 1


def test_one_row_gives_a_table(small, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    assert section(Reader()).startswith("Not measured yet: `python -m bench.cross_encoder`")
    monkeypatch.setattr(cross_encoder, "Worker", InProcess)
    monkeypatch.setattr(cross_encoder, "folder_of", lambda name: tiny_folder)
    pair = Pair("0", " ".join([SENTENCE] * 70), SUMMARY, None)
    monkeypatch.setattr(cross_encoder, "load_workload", lambda name, data, rows: [pair])
    monkeypatch.setattr(
        sys, "argv", ["cross_encoder", "--models", "qagen-mini", "--rounds", "2", "--rows", "1"]
    )
    cross_encoder.main()
    result = json.loads((tmp_path / "cross_encoder.json").read_text())
    assert result["weights"]["roberta-base"]["recipe"] == "random weights of this shape"
    case = result["workloads"]["long"]
    assert case["times_as_long_as_quals"]["QUALS, qagen-mini"]["high"] == 1.0
    assert case["seconds_per_pair"]["one pass of the whole text, float32"]["n"] == 2
    assert case["work"]["sentences with chunks, float32"]["passes"] == 8
    page = section(Reader())
    assert "| QUALS, `qagen-mini` (`" in page
    assert "| RoBERTa-base, like AlignScore-base (`float32`) |" in page
