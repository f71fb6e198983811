"""The reference and both searches against the recorded outputs of the original programs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from table_models import TableModel

from quals_fast import DecodingConfig
from quals_fast.decoding.diverse_beam import diverse_beam_search
from quals_fast.decoding.host_search import host_search
from quals_fast.engine.generation import read_back
from quals_fast.reference import diverse_beam as reference
from quals_fast.reference.tolerances import GOLDEN

FOLDER = Path(__file__).parent.parent / "golden"
CASES = [
    case
    for rule in ("fairseq09", "hamming")
    for case in json.loads((FOLDER / f"{rule}_table.json").read_text())
]


def load(case):
    config = DecodingConfig(
        rule=case["rule"],
        num_beams=case["num_beams"],
        num_beam_groups=case["num_beam_groups"],
        diversity_penalty=case["diversity_penalty"],
        min_length=case["min_len"],
        max_length=case["max_len"],
    )
    return TableModel(np.load(FOLDER / case["table"])["logits"]), config


def check(found, case):
    golden = case["hypotheses"]
    assert [list(h.token_ids) for h in found] == [g["tokens"] for g in golden]
    for hypothesis, expected in zip(found, golden, strict=True):
        assert hypothesis.search_score == pytest.approx(expected["score"], abs=GOLDEN)
        assert hypothesis.logprobs == pytest.approx(expected["logprobs"], abs=GOLDEN)
        if "positional_scores" in expected:
            positional = expected["positional_scores"]
            assert hypothesis.search_logprobs == pytest.approx(positional, abs=GOLDEN)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['rule']}-{c['name']}")
def test_reference_reproduces_the_original_program(case):
    model, config = load(case)
    check(reference.diverse_beam_search(model, config), case)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['rule']}-{c['name']}")
def test_both_searches_reproduce_the_original_program_in_every_row_of_a_batch(case):
    model, config = load(case)
    found = diverse_beam_search(model, model.conventions, config, 3, torch.device("cpu"))
    for row in [*read_back(found), *host_search(model.on_host(), model.conventions, config, 3)]:
        check(row, case)
