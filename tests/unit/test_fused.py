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
from quals_fast.decoding.graph import SearchGraphs
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


def test_all_pairs_are_rescored_on_the_device(folder, monkeypatch):
    monkeypatch.delattr(module.FusedPass, "_on_host")
    check_equal(*scorers(folder, "fairseq09", max_pairs=None))


def test_no_more_is_rescored_than_there_is(folder, monkeypatch):
    _, fused = scorers(folder, "fairseq09")
    shapes = []
    rescore = module.FusedPass._rescore

    def watch(self, memory, found, kept):
        order, logprobs = rescore(self, memory, found, kept)
        shapes.append(tuple(logprobs.shape))
        return order, logprobs

    monkeypatch.setattr(module.FusedPass, "_rescore", watch)
    result = fused.score(DOCUMENTS, SUMMARIES)
    searched = [row for row in result if row.status != "unknown_text"]
    pairs = [[len(pair.token_ids) for pair in row.pairs] for row in searched]
    assert shapes == [(len(pairs), max(map(len, pairs)), max(n for row in pairs for n in row))]


def test_a_batch_without_pairs_rescores_nothing(folder, monkeypatch):
    _, fused = scorers(folder, "fairseq09")
    monkeypatch.delattr(type(fused.generator.bart), "decode_teacher_forced")
    (row,) = fused.score(["the town"], ["?"])
    assert row.status == "no_pairs"


class Replayed:
    """Stands for graphs: searches what it is given, and keeps the batch sizes."""

    def __init__(self, fused):
        self.fused, self.sizes, self.captured = fused, [], 0

    def capture(self, memory):
        self.captured += 1
        return self

    def run(self, memory):
        self.sizes.append(memory.batch_size)
        return begin_search(self.fused.generator, memory, self.fused.decoding).run()


def with_graphs(fused, max_bytes=2**30):
    replayed = Replayed(fused)
    fused._pass._graphs = SearchGraphs(replayed.capture, lambda memory: 2**20, max_bytes)
    return replayed


def test_small_batches_are_filled_up_to_few_shapes(folder):
    staged, fused = scorers(folder, "fairseq09")
    replayed = with_graphs(fused)
    for n in (3, 4, 3):
        expected = staged.score(DOCUMENTS[:n], SUMMARIES[:n])
        found = fused.score(DOCUMENTS[:n], SUMMARIES[:n])
        assert found.scores == pytest.approx(expected.scores, abs=1e-5, nan_ok=True)
    assert (replayed.captured, replayed.sizes) == (1, [4, 4])  # the first time without graphs


def test_large_batches_have_no_graphs(folder, monkeypatch):
    _, fused = scorers(folder, "fairseq09")
    replayed = with_graphs(fused)
    monkeypatch.setattr(module, "MAX_GRAPH_BATCH", 3)
    for _ in range(3):
        fused.score(DOCUMENTS, SUMMARIES)
    assert replayed.captured == 0


def test_no_memory_for_a_capture_is_no_failure(folder, caplog):
    staged, fused = scorers(folder, "fairseq09")
    with_graphs(fused)

    def capture(memory):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        finally:  # what torch.cuda.graph does on the way out
            raise RuntimeError("CUDA error: operation failed due to a previous error")

    fused._pass._graphs._capture = capture
    for _ in range(2):
        check_equal(staged, fused)
    assert "out of memory while a search was captured" in caplog.text
    assert fused._pass._graphs.max_bytes == 2**29


def test_what_is_held_between_calls_gives_way(folder, monkeypatch):
    staged, fused = scorers(folder, "fairseq09")
    replayed = with_graphs(fused)
    for _ in range(2):
        fused.score(DOCUMENTS, SUMMARIES)
    assert replayed.captured == 1

    def run(memory):
        raise torch.OutOfMemoryError("CUDA out of memory")

    replayed.run = run
    check_equal(staged, fused)
    assert fused._pass._graphs.n_bytes == 0


def test_a_batch_that_does_not_fit_is_halved(folder, monkeypatch, caplog):
    staged, fused = scorers(folder, "fairseq09")
    search = module.FusedPass._search

    def small_only(self, ids):
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return search(self, ids)

    monkeypatch.setattr(module.FusedPass, "_search", small_only)
    check_equal(staged, fused)
    assert "out of memory: going on with batches of" in caplog.text


def test_other_failures_are_raised_as_they_are(folder, monkeypatch):
    _, fused = scorers(folder, "fairseq09")

    def search(self, ids):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(module.FusedPass, "_search", search)
    with pytest.raises(RuntimeError, match="device-side assert"):
        fused.score(DOCUMENTS, SUMMARIES)


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
    check_equal(staged, fast)  # without graphs
    generator = fast.generator
    graphs = fast._pass._graphs
    with torch.inference_mode():
        # As many as were searched: the last one is unknown text. A second time they are captured.
        ids = [source.input_ids for source in generator.tokenizer.encode(SUMMARIES[:4])]
        memory = fast._pass._encode(ids)
        eager = begin_search(generator, memory, fast.decoding)
        assert graphs.get(memory) is not None
        torch.cuda.set_sync_debug_mode("error")
        try:
            eager.run()
            graphs.get(memory).run(memory)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    check_equal(staged, fast)  # replays them


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_graphs_hold_what_is_counted():
    scorer = QualsScorer.from_pretrained("qagen-mini", device="cuda")
    texts = [TEXT] * 16, [f"{SUMMARIES[2]} {i}" for i in range(16)]
    scorer.score(*texts)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    scorer.score(*texts)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved() - before
    assert 0 < scorer._pass._graphs.n_bytes < scorer._pass._graphs.max_bytes
    assert 0.8 * scorer._pass._graphs.n_bytes < held < 1.5 * scorer._pass._graphs.n_bytes + 2**26
