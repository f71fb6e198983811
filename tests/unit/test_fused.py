"""The pass of a GPU, run on a CPU: equal to the staged one, without a look at a value."""

from collections import Counter
from dataclasses import replace

import pytest
import tiny_models
import torch
from quals_fast_kernels._compat import HAS_TRITON
from torch.utils._python_dispatch import TorchDispatchMode

from quals_fast import DecodingConfig, QualsScorer, ScoringConfig
from quals_fast import fused as module
from quals_fast.batching import pad
from quals_fast.generation import begin_search
from quals_fast.models.lm_head import LMHead
from quals_fast.ops import EAGER

TEXT = "the queen opened the 陈 bridge over the river in the town"
SUMMARIES = ["queen opened bridge", "the town", "陈 bridge over the river", "?", "陈 伟 ,"]
DOCUMENTS = [TEXT, "the river", TEXT, "the town", TEXT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write_checkpoint(tmp_path_factory.mktemp("fused") / "m", trained_on=TEXT)


def scorers(folder, rule, *, groups=12, max_pairs=10):
    config = DecodingConfig(
        rule=rule, num_beams=12, num_beam_groups=groups, min_length=2, max_length=12
    )
    scoring = ScoringConfig(max_pairs=max_pairs)
    staged = QualsScorer.from_pretrained(
        folder, device="cpu", dtype="float32", decoding=config, scoring=scoring
    )
    bart = staged.generator.bart
    head = LMHead(bart.model.shared.weight, bart.final_logits_bias, EAGER)
    fixed = replace(staged.generator, packed=False, head=head)
    return staged, QualsScorer(fixed, decoding=config, scoring=scoring)


def check_equal(staged, fused):
    expected = staged.score(DOCUMENTS, SUMMARIES)
    found = fused.score(DOCUMENTS, SUMMARIES)
    assert [row.status for row in found] == [row.status for row in expected]
    assert [row.unknown_tokens for row in found] == [row.unknown_tokens for row in expected]
    assert any(row.pairs for row in expected)
    for one, other in zip(found, expected, strict=True):
        assert [p.token_ids for p in one.pairs] == [p.token_ids for p in other.pairs]
        for mine, theirs in zip(one.pairs, other.pairs, strict=True):
            assert mine.document_logprobs == pytest.approx(theirs.document_logprobs, abs=1e-5)
            assert mine.summary_logprobs == pytest.approx(theirs.summary_logprobs, abs=1e-5)


@pytest.mark.parametrize("groups", [12, 4])
@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_equal_to_the_staged_pass(folder, rule, groups):
    check_equal(*scorers(folder, rule, groups=groups))


def test_answers_with_unknown_tokens_are_generated_but_not_kept(folder):
    staged, fused = scorers(folder, "fairseq09", max_pairs=None)
    unknown, sep = staged.generator.tokenizer.unknown_token_id, 1
    (found,) = staged.generate(SUMMARIES[2:3])
    answers = [h.token_ids[h.token_ids.index(sep) :] for h in found if sep in h.token_ids]
    assert sum(unknown in answer for answer in answers) >= 2
    for scorer in (staged, fused):
        rows = scorer.score(DOCUMENTS, SUMMARIES)
        assert [row.status for row in rows] == ["ok", "ok", "ok", "no_pairs", "unknown_text"]
        assert not any("[UNK]" in pair.answer for row in rows for pair in row.pairs)


def test_more_pairs_than_there_is_room_for_are_left_to_the_host(folder, monkeypatch):
    monkeypatch.setattr(module, "ROOM", 1)
    check_equal(*scorers(folder, "fairseq09", max_pairs=None))


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize(("rule", "groups"), [("fairseq09", 6), ("hamming", 3)])
def test_the_kernels_together_in_the_interpreter(folder, rule, groups):
    config = DecodingConfig(
        rule=rule, num_beams=6, num_beam_groups=groups, min_length=2, max_length=5
    )
    eager, triton = (
        QualsScorer.from_pretrained(folder, dtype="float32", backend=backend, decoding=config)
        for backend in ("eager", "triton")
    )
    expected, found = (one.score(DOCUMENTS[:2], SUMMARIES[:2]) for one in (eager, triton))
    assert found.scores == pytest.approx(expected.scores, abs=1e-5)
    assert [p.token_ids for p in found[0].pairs] == [p.token_ids for p in expected[0].pairs]
    assert "|backend:triton|kernels:lm_head_topk+group_select+linear_logprob+" in found.signature


class Counting(TorchDispatchMode):
    """Counts what would make a GPU wait, or its data travel."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "item", "masked_select", "lift_fresh"):
            self.seen[name] += 1  # the last is torch.tensor(), made on the host and then copied
        self.seen["to a device"] += name == "_to_copy" and (kwargs or {}).get("device") is not None
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_no_step_of_the_search_reads_a_value_or_copies_between_devices(folder, rule):
    _, fused = scorers(folder, rule)
    generator = fused.generator
    with torch.inference_mode():
        sources = generator.tokenizer.encode(SUMMARIES)
        ids = [source.input_ids for source in sources]
        memory = generator.bart.encode(
            *pad(ids, generator.settings.pad_token_id, torch.device("cpu"))
        )
        with Counting() as counting:
            found = begin_search(generator, memory, fused.decoding).run()
    assert sum(counting.seen.values()) == 0, counting.seen
    assert int(found.lengths.min()) > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_on_a_gpu_nothing_waits_and_the_scores_are_the_cpus(folder, rule):
    staged, _ = scorers(folder, rule)
    fast = QualsScorer.from_pretrained(
        folder, device="cuda", dtype="float32", decoding=staged.decoding, scoring=staged.scoring
    )
    check_equal(staged, fast)  # captures the graphs
    generator = fast.generator
    with torch.inference_mode():
        ids = [source.input_ids for source in generator.tokenizer.encode(SUMMARIES)]
        memory = generator.bart.encode(
            *pad(ids, generator.settings.pad_token_id, generator.bart.device, 32)
        )
        torch.cuda.set_sync_debug_mode("error")
        try:
            fast._pass._search(memory)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    check_equal(staged, fast)  # replays them
