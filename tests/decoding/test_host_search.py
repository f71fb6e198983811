"""The host's search equals the one on tensors, decision by decision, on tables of probabilities."""

import numpy as np
import pytest
import torch

from quals_fast import DecodingConfig
from quals_fast.decoding.diverse_beam import diverse_beam_search
from quals_fast.decoding.host_search import host_search
from quals_fast.engine.generation import read_back
from quals_fast.models.checkpoint import Conventions

EOS, PAD, START, SIZE = 2, 1, 2, 40


def conventions(**changes):
    base = {
        "vocab_size": SIZE,
        "bos_token_id": 0,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "sep_token_id": 4,
        "decoder_start_token_id": START,
        "forced_bos_token_id": None,
        "masked_token_ids": (),
        "max_source_tokens": 10,
        "answer_match": "ids",
    }
    return Conventions(**{**base, **changes})


class Table:
    """Log-probabilities that depend on the sentence and on a slot's last two tokens."""

    def __init__(self, seed, batch, beams, *, coarse=False):
        rng = np.random.default_rng(seed)
        logits = rng.normal(0, 2, (batch, SIZE, SIZE, SIZE))
        logits[..., EOS] += 1.5  # so that searches end early
        if coarse:  # ties everywhere
            logits = np.round(logits)
        logits = torch.from_numpy(logits).float()
        self.logprobs = logits.log_softmax(-1).numpy()
        if coarse:  # rows sum to something else, and are equal where they were
            self.logprobs = (np.round(self.logprobs * 2) / 2).astype(np.float32)
        self.before = np.full((batch, beams), START)
        self.last = np.full((batch, beams), START)

    def move(self, token_ids, beam_idx):
        if beam_idx is not None:
            self.before = np.take_along_axis(self.last, beam_idx, 1)
        self.last = np.broadcast_to(token_ids, self.last.shape)

    def rows(self):
        sentence = np.arange(len(self.last))[:, None]
        return self.logprobs[sentence, self.before, self.last]

    def best(self, k, suppressed):
        rows = self.rows().copy()
        rows[:, :, list(suppressed)] = -np.inf
        ids = np.sort((-rows).argsort(-1, kind="stable")[..., :k], -1)
        return np.take_along_axis(rows, ids, -1), ids


class HostTable(Table):
    def advance(self, token_ids, beam_idx, live, t):
        self.move(token_ids, beam_idx)

    def topk(self, k, suppressed, *, exact_edge=True):
        return self.best(k, suppressed)

    def logprob_of(self, token_id):
        return self.rows()[..., token_id]


class TorchTable(Table):
    def advance(self, token_ids, beam_idx, t):
        self.move(token_ids.numpy(), None if beam_idx is None else beam_idx.numpy())

    def topk(self, hidden, k, suppressed):
        return tuple(map(torch.from_numpy, self.best(k, suppressed)))

    def logprob_of(self, hidden, token_id):
        return torch.from_numpy(self.rows()[..., token_id].copy())


def both(seed, config, changes=None, batch=3, **how):
    s = conventions(**(changes or {}))
    model = TorchTable(seed, batch, config.num_beams, **how)
    expected = diverse_beam_search(model, s, config, batch, torch.device("cpu"))
    found = host_search(HostTable(seed, batch, config.num_beams, **how), s, config, batch)
    return list(read_back(expected)), found


SHAPES = {
    "groups of one": {"num_beams": 12, "num_beam_groups": 12},
    "groups of three": {"num_beams": 12, "num_beam_groups": 4},
    "one group": {"num_beams": 5, "num_beam_groups": 1},
    "ends at once": {"num_beams": 6, "num_beam_groups": 6, "min_length": 0, "max_length": 3},
    "forced end": {"num_beams": 8, "num_beam_groups": 8, "min_length": 6, "max_length": 6},
    "no penalty": {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.0},
    "length penalty": {"num_beams": 6, "num_beam_groups": 6, "length_penalty": -0.5},
}
CASES = [(rule, name) for rule in ("fairseq09", "hamming") for name in SHAPES]


@pytest.mark.parametrize("coarse", [False, True], ids=["no ties", "ties"])
@pytest.mark.parametrize(("rule", "name"), CASES, ids=[" ".join(case) for case in CASES])
def test_equal_to_the_search_on_tensors(rule, name, coarse):
    config = DecodingConfig(
        **{"min_length": 2, "max_length": 12, "rule": rule, **SHAPES[name]},
    )
    for seed in range(4):
        expected, found = both(seed, config, coarse=coarse)
        assert found == expected


@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_a_forced_first_token(rule):
    config = DecodingConfig(rule=rule, num_beams=6, num_beam_groups=3, min_length=2, max_length=9)
    expected, found = both(0, config, {"forced_bos_token_id": 7})
    assert found == expected
    assert all(h.token_ids[0] == 7 for sentence in found for h in sentence)
