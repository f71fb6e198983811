"""The pass of a GPU, run on a CPU: equal to the staged one, without a look at a value."""

import os
import signal
from collections import Counter
from dataclasses import replace
from functools import wraps
from unittest.mock import MagicMock

import pytest
import tiny_models
import tiny_t5
import torch
from engines import in_fixed_shapes, in_half_precision, pass_of
from quals_fast_kernels._compat import HAS_TRITON
from recorded_graphs import record_graphs
from torch.utils._python_dispatch import TorchDispatchMode

from bench.shared.workloads import load_workload
from quals_fast import DecodingConfig, QualsScorer, ScoringConfig
from quals_fast.batching import pad
from quals_fast.decoding import graph
from quals_fast.decoding.graph import GraphedSearch
from quals_fast.engine import fused as module
from quals_fast.engine import transfer
from quals_fast.engine.generation import begin_search
from quals_fast.engine.gpu import GpuEngine
from quals_fast.engine.graphs import Captured, GraphCache
from quals_fast.models.lm_head import LMHead
from quals_fast.reference.quals import ReferenceScorer, generate
from quals_fast.reference.tolerances import QUALS, TOKEN_LOGPROB

TEXT = "the queen opened the 陈 bridge over the river in the town"
SUMMARIES = ["queen opened bridge", "the town", "陈 bridge over the river", "?", "陈 伟 ,"]
DOCUMENTS = [TEXT, "the river", TEXT, "the town", TEXT]
DISTINCT = [TEXT, "the river", "the town", "the queen"]


T5S = {  # with a head size that the kernels take
    "T5 1.0": {**tiny_t5.CONFIG, "d_kv": 8},
    "T5 1.1": {**tiny_t5.T5_1_1, "d_kv": 8},
}
every_t5 = pytest.mark.parametrize("folder", T5S, indirect=True)
every_family = pytest.mark.parametrize("folder", ["BART", *T5S], indirect=True)


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """Return the folder of a model that generates pairs: a BART's unless the test names another."""
    family, path = getattr(request, "param", "BART"), tmp_path_factory.mktemp("fused") / "m"
    if family == "BART":
        return tiny_models.write_checkpoint(path, trained_on=TEXT)
    return tiny_t5.write_t5(path, T5S[family], trained_on=TEXT)


def scorers(folder, rule, *, groups=12, max_pairs=10):
    config = DecodingConfig(
        rule=rule, num_beams=12, num_beam_groups=groups, min_length=2, max_length=12
    )
    tokens = "answer" if max_pairs is None else "all"
    scoring = ScoringConfig(tokens=tokens, max_pairs=max_pairs)
    staged = QualsScorer.from_pretrained(
        folder, device="cpu", dtype="float32", decoding=config, scoring=scoring
    )
    return staged, in_fixed_shapes(staged)


def check_equal(staged, fused):
    expected = staged.score(DOCUMENTS, SUMMARIES)
    found = fused.score(DOCUMENTS, SUMMARIES)
    assert [row.status for row in found] == [row.status for row in expected]
    assert [row.unknown_tokens for row in found] == [row.unknown_tokens for row in expected]
    assert any(row.pairs for row in expected)
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5, nan_ok=True)
        assert [p.token_ids for p in one.pairs] == [p.token_ids for p in other.pairs]
        for mine, theirs in zip(one.pairs, other.pairs, strict=True):
            assert mine.answer_spans == theirs.answer_spans != ()
            assert mine.document_logprobs == pytest.approx(theirs.document_logprobs, abs=1e-5)
            assert mine.summary_logprobs == pytest.approx(theirs.summary_logprobs, abs=1e-5)


@every_family
@pytest.mark.parametrize("groups", [12, 4])
@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_equal_to_the_staged_pass(folder, rule, groups):
    check_equal(*scorers(folder, rule, groups=groups))


def test_answers_with_unknown_tokens_are_generated_but_not_kept(folder):
    staged, fused = scorers(folder, "fairseq09", max_pairs=None)
    unknown, sep = staged.engine.model.tokenizer.unknown_token_id, 1
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
    _, fused = scorers(folder, "fairseq09", max_pairs=None)
    rows = []
    logprob = LMHead.logprob

    def watch(self, hidden, target_ids):
        rows.append(len(hidden))
        return logprob(self, hidden, target_ids)

    monkeypatch.setattr(LMHead, "logprob", watch)
    result = fused.score(DOCUMENTS, SUMMARIES)
    rows_there = sum(len(pair.token_ids) for row in result for pair in row.pairs)
    assert rows_there > 32
    assert rows[-1] == -(-rows_there // 16) * 16  # the search asks for some before


def test_a_batch_without_pairs_rescores_nothing(folder, monkeypatch):
    _, fused = scorers(folder, "fairseq09")
    monkeypatch.delattr(type(fused.engine.model.network), "decode_packed")
    (row,) = fused.score(["the town"], ["?"])
    assert row.status == "no_pairs"


class Watched:
    """Lets a pass on a CPU record and replay graphs; tells which."""

    def __init__(self, monkeypatch, fused, max_bytes=2**30):
        record_graphs(monkeypatch)
        self.captured, self.replayed = [], Counter()
        self.cache = pass_of(fused)._graphs = GraphCache(max_bytes)
        pass_of(fused)._capturing, pass_of(fused)._capturing_beside = MagicMock(), MagicMock()
        # What runs beside the rest must not share its workspace of cuBLAS.
        streams = {"_encode_documents": pass_of(fused)._capturing_beside}
        init, call, run = Captured.__init__, Captured.__call__, GraphedSearch.run

        def capture(captured, function, inputs, device, stream):
            captured.name = function.func.__name__
            assert stream is streams.get(captured.name, pass_of(fused)._capturing)
            self.captured.append(captured.name)
            init(captured, function, inputs, device, stream)

        def replay(captured, *inputs):
            self.replayed[captured.name] += 1
            return call(captured, *inputs)

        def search(graphs, *arguments):
            self.replayed["search"] += 1
            return run(graphs, *arguments)

        monkeypatch.setattr(Captured, "__init__", capture)
        monkeypatch.setattr(Captured, "__call__", replay)
        monkeypatch.setattr(GraphedSearch, "run", search)


ALIKE = ("_encode_documents", "_encode_summaries", "_select")  # of all pairs of one length
PARTS = (*ALIKE, "search", "_logprobs")


@every_family
@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_all_parts_are_graphs_that_read_no_value_and_the_scores_are_the_same(
    folder, monkeypatch, rule
):
    staged, fused = scorers(folder, rule)
    graphs = Watched(monkeypatch, fused)
    for replays in (0, 1, 2, 3):  # the second time they are captured
        check_equal(staged, fused)
        assert graphs.replayed == Counter(dict.fromkeys(PARTS, replays))
    assert sorted(graphs.captured) == sorted(set(PARTS) - {"search"})


def test_one_pair_and_then_others_of_its_shapes(folder, monkeypatch):
    staged, fused = scorers(folder, "fairseq09")
    graphs = Watched(monkeypatch, fused)
    for i in (0, 2, 0, 1, 2, 4, 0):
        expected = staged.score(DOCUMENTS[i : i + 1], SUMMARIES[i : i + 1])
        found = fused.score(DOCUMENTS[i : i + 1], SUMMARIES[i : i + 1])
        assert found.scores == pytest.approx(expected.scores, abs=1e-5, nan_ok=True)
    assert all(graphs.replayed[part] >= 3 for part in PARTS)


def test_documents_are_kept_as_they_were_when_their_graph_encodes_others(folder, monkeypatch):
    staged, _ = scorers(folder, "fairseq09")
    fused = in_fixed_shapes(staged, cache_bytes=2**20)
    graphs = Watched(monkeypatch, fused)
    for i in (0, 1, 2, 3, 0, 1, 2, 3):
        expected = staged.score([DISTINCT[i]], [SUMMARIES[0]])
        found = fused.score([DISTINCT[i]], [SUMMARIES[0]])
        assert found.scores == pytest.approx(expected.scores, abs=1e-5)
    assert graphs.replayed["_encode_documents"] == 3
    assert (fused.cache_stats.hits, fused.cache_stats.misses) == (4, 4)
    for _ in range(3):
        check_equal(staged, fused)  # a document of several summaries, and a batch that is filled up


def test_small_batches_are_filled_up_to_few_shapes(folder, monkeypatch):
    staged, fused = scorers(folder, "fairseq09")
    graphs = Watched(monkeypatch, fused)
    for n in (3, 4, 3, 4, 3):
        expected = staged.score(DISTINCT[:n], SUMMARIES[:n])
        found = fused.score(DISTINCT[:n], SUMMARIES[:n])
        assert found.scores == pytest.approx(expected.scores, abs=1e-5, nan_ok=True)
    assert all(graphs.captured.count(part) == 1 for part in ALIKE)
    assert all(graphs.replayed[part] == 4 for part in (*ALIKE, "search"))


WORDS = TEXT.split()
MANY = [" ".join(WORDS[i % 5 : i % 5 + 1 + i % 4]) for i in range(20)]


@pytest.fixture
def graphed(tmp_path, monkeypatch):
    """A scorer with recorded graphs, whose sentences end the sooner the higher EOS is lifted."""
    record_graphs(monkeypatch)
    monkeypatch.setattr(graph, "FIRST_STEPS", 4)
    monkeypatch.setattr(graph, "STEPS", 2)

    def make(rule, lift, forced_bos=None, min_length=2, max_length=24):
        config = DecodingConfig(
            rule=rule,
            num_beams=4,
            num_beam_groups=4 if rule == "fairseq09" else 2,
            min_length=min_length,
            max_length=max_length,
        )
        folder = tiny_models.write_checkpoint(tmp_path / f"{lift}")
        staged = QualsScorer.from_pretrained(folder, device="cpu", dtype="float32", decoding=config)
        model = staged.engine.model
        bias = model.network.final_logits_bias.clone()
        bias[model.conventions.eos_token_id] += lift
        conventions = replace(model.conventions, forced_bos_token_id=forced_bos)
        scorer = in_fixed_shapes(staged, conventions, bias)
        of_graphs = pass_of(scorer)
        of_graphs._graphs.max_bytes = 2**30
        of_graphs._capturing, of_graphs._capturing_beside = MagicMock(), MagicMock()
        return scorer

    return make


@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
@pytest.mark.parametrize(
    ("lift", "shrinks"),
    [
        pytest.param(8.0, 0, id="all end at once"),
        pytest.param(4.0, 1, id="few go on"),
        pytest.param(3.0, 1, id="few go on to the last step"),
        pytest.param(-50.0, 0, id="none ends"),
    ],
)
def test_graphs_find_what_the_search_finds(graphed, monkeypatch, rule, lift, shrinks):
    taken = []
    take_over = GraphedSearch._take_over

    def watch(self, other, row_of, number):
        taken.append(row_of)
        take_over(self, other, row_of, number)

    monkeypatch.setattr(GraphedSearch, "_take_over", watch)
    scorer = graphed(rule, lift)
    tokenizer = scorer.engine.model.tokenizer
    with torch.inference_mode():
        for n in (16, 16, 16, 16, 13, 9, 8, 16, 1, 1, 20):  # the first ones without
            ids = [source.input_ids for source in tokenizer.encode(MANY[:n])]
            memory = pass_of(scorer)._encode_summaries(pass_of(scorer)._padded(ids))
            expected = begin_search(scorer.engine.model, memory, scorer.decoding).run()
            filled = [*ids, *[ids[-1]] * (module.filled_up(n) - n)]
            found = pass_of(scorer)._search(filled, n)
            length = expected.token_ids.shape[2]
            for name, part, other in zip(found._fields, found, expected, strict=True):
                part = part[:n, :, :length] if part.ndim == 3 else part[:n]
                assert torch.allclose(part, other, atol=1e-5), (n, name)
    sizes = {key[1] for key in pass_of(scorer)._graphs._kept if key[0] == "search"}
    assert sizes >= {1, 16}
    assert ({4} <= sizes, bool(taken)) == (shrinks > 0, shrinks > 0)
    assert all(len(row_of) == 4 == len(set(row_of)) for row_of in taken)


@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
@pytest.mark.parametrize(
    ("forced_bos", "min_length", "max_length"),
    [
        pytest.param(4, 2, 24, id="first token forced"),
        pytest.param(4, 1, 2, id="first token forced, one graph"),
        pytest.param(None, 1, 2, id="shorter than what is not waited for"),
        pytest.param(None, 22, 24, id="no end before the warm-up's last step"),
    ],
)
def test_graphs_of_any_length(graphed, rule, forced_bos, min_length, max_length):
    scorer = graphed(rule, 3.0, forced_bos, min_length, max_length)
    ids = [source.input_ids for source in scorer.engine.model.tokenizer.encode(MANY[:4])]
    with torch.inference_mode():
        found = [pass_of(scorer)._search(ids, 4) for _ in range(3)][-1]  # replays
        memory = pass_of(scorer)._encode_summaries(pass_of(scorer)._padded(ids))
        expected = begin_search(scorer.engine.model, memory, scorer.decoding).run()
    assert len(pass_of(scorer)._graphs._kept) == 2
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part, other, atol=1e-5, rtol=0)
    if forced_bos is not None:
        assert found.token_ids[:, :, 0].unique().tolist() == [forced_bos]


def test_one_summary_of_nan_leaves_the_others_as_they_are(graphed, monkeypatch):
    encode = module.FusedPass._encode_summaries

    @wraps(encode)
    def broken(self, ids):
        memory = encode(self, ids)
        memory.keys[0][9] = torch.nan
        return memory

    scorer = graphed("fairseq09", -50.0)  # all others end with the last graph
    ids = [source.input_ids for source in scorer.engine.model.tokenizer.encode(MANY[:16])]
    with torch.inference_mode():
        for _ in range(3):  # then four have graphs, which hold what was found
            pass_of(scorer)._search(ids[:4], 4)
        expected = pass_of(scorer)._search(ids, 16)
        monkeypatch.setattr(module.FusedPass, "_encode_summaries", broken)
        for _ in range(3):
            found = pass_of(scorer)._search(ids, 16)
            assert [row for row in range(16) if not found.lengths[row].all()] == [9]
            others = torch.arange(16) != 9
            assert torch.equal(found.token_ids[others], expected.token_ids[others])


def test_a_larger_batch_takes_larger_stores(graphed):
    scorer = graphed("fairseq09", 3.0)
    kept = pass_of(scorer)._graphs._kept
    for sizes in ([4, 4], [16, 16], [4, 4]):
        for n in sizes:
            scorer.score([TEXT] * n, MANY[:n])
    assert [key[1] for key in kept if key[0] == "search"] == [16, 4]
    assert pass_of(scorer)._stores.batch_size == 16
    assert pass_of(scorer)._let_go()
    assert (list(kept), pass_of(scorer)._stores) == ([], None)


def test_a_callback_may_score_between_batches_and_may_fail(folder, monkeypatch):
    staged, _ = scorers(folder, "fairseq09")
    fused = in_fixed_shapes(staged, max_batch_tokens=1)
    Watched(monkeypatch, fused)
    expected = staged.score(DOCUMENTS, SUMMARIES).scores
    inside = []

    def score_another(n):
        inside.append(fused.score(DOCUMENTS[:1], SUMMARIES[:1]).scores[0])

    def fail(n):
        raise KeyboardInterrupt

    for _ in range(2):
        found = fused.score(DOCUMENTS, SUMMARIES, on_progress=score_another)
        assert found.scores == pytest.approx(expected, abs=1e-5, nan_ok=True)
        assert inside == pytest.approx([expected[0]] * len(inside), abs=1e-5)
        with pytest.raises(KeyboardInterrupt):
            fused.score(DOCUMENTS, SUMMARIES, on_progress=fail)
    assert len(inside) == 2 * len(SUMMARIES)


def test_a_thread_scores_on_when_the_main_thread_has_ended(folder, monkeypatch):
    staged, fused = scorers(folder, "fairseq09")
    monkeypatch.setattr("concurrent.futures.thread._shutdown", True)  # as Python then does
    check_equal(staged, fused)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_scores(folder):
    _, fused = scorers(folder, "fairseq09")
    expected = fused.score(DOCUMENTS, SUMMARIES).scores
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a failure must not wait for ever
        same = fused.score(DOCUMENTS, SUMMARIES).scores == pytest.approx(expected, nan_ok=True)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_fails_while_it_is_read_is_raised(folder, monkeypatch):
    _, fused = scorers(folder, "fairseq09")

    def read(self, launched):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(module.FusedPass, "_read", read)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        fused.score(DOCUMENTS, SUMMARIES)


def test_large_batches_have_no_graphs(folder, monkeypatch):
    _, fused = scorers(folder, "fairseq09")
    graphs = Watched(monkeypatch, fused)
    monkeypatch.setattr(module, "MAX_GRAPH_BATCH", 2)
    for _ in range(3):
        fused.score(DISTINCT, SUMMARIES[:4])
    assert graphs.captured == []


def test_no_memory_for_a_capture_is_no_failure(folder, monkeypatch, caplog):
    staged, fused = scorers(folder, "fairseq09")
    graphs = Watched(monkeypatch, fused)

    def capture(*arguments):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        finally:  # what torch.cuda.graph does on the way out
            raise RuntimeError("CUDA error: operation failed due to a previous error")

    monkeypatch.setattr(module, "Captured", capture)
    for _ in range(2):
        check_equal(staged, fused)
    assert "out of memory while a CUDA graph was captured" in caplog.text
    assert graphs.cache.max_bytes == 2**29


def test_what_is_held_between_calls_gives_way(folder, monkeypatch, caplog):
    staged, fused = scorers(folder, "fairseq09")
    graphs = Watched(monkeypatch, fused)
    for _ in range(2):
        fused.score(DOCUMENTS, SUMMARIES)
    assert {key[0] for key in graphs.cache._kept} == set(PARTS)

    def run(self, *inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Captured, "__call__", run)
    check_equal(staged, fused)
    assert graphs.cache.n_bytes == 0
    assert graphs.cache.max_bytes == 2**29  # or memory would run out in every call
    assert "out of memory in a batch: all CUDA graphs were dropped" in caplog.text


def test_what_beams_decoded_into_gives_way_after_the_graphs(folder, monkeypatch):
    staged, fused = scorers(folder, "fairseq09")
    Watched(monkeypatch, fused)
    logprobs = module.FusedPass._logprobs

    @wraps(logprobs)
    def if_there_is_room(self, *arguments):
        if self._stores is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logprobs(self, *arguments)

    monkeypatch.setattr(module.FusedPass, "_logprobs", if_there_is_room)
    one = [TEXT], SUMMARIES[:1]
    expected = staged.score(*one).scores
    for _ in range(2):  # the second time there are graphs, until the last capture fails
        assert fused.score(*one).scores == pytest.approx(expected, abs=1e-5)


def test_a_batch_that_does_not_fit_is_halved(folder, monkeypatch, caplog):
    staged, fused = scorers(folder, "fairseq09")
    search = module.FusedPass._search

    def small_only(self, ids, count):
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return search(self, ids, count)

    monkeypatch.setattr(module.FusedPass, "_search", small_only)
    check_equal(staged, fused)
    assert "out of memory: continuing with batches of" in caplog.text


def test_other_failures_are_raised_as_they_are(folder, monkeypatch):
    _, fused = scorers(folder, "fairseq09")

    def search(self, ids, count):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(module.FusedPass, "_search", search)
    with pytest.raises(RuntimeError, match="device-side assert"):
        fused.score(DOCUMENTS, SUMMARIES)


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize(
    ("folder", "rule", "groups"),
    [
        ("BART", "fairseq09", 6),
        ("T5 1.0", "fairseq09", 6),
        ("T5 1.1", "hamming", 3),
        pytest.param("BART", "hamming", 3, marks=pytest.mark.slow),
        pytest.param("T5 1.0", "hamming", 3, marks=pytest.mark.slow),
        pytest.param("T5 1.1", "fairseq09", 6, marks=pytest.mark.slow),
    ],
    indirect=["folder"],
)
def test_the_kernels_together_in_the_interpreter(folder, rule, groups):
    config = DecodingConfig(
        rule=rule, num_beams=6, num_beam_groups=groups, min_length=2, max_length=5
    )
    eager, triton = (
        QualsScorer.from_pretrained(folder, dtype="float32", backend=backend, decoding=config)
        for backend in ("eager", "triton")
    )
    reference = ReferenceScorer(folder, decoding=config)
    texts = DOCUMENTS[:2], SUMMARIES[:2]
    found, expected, defined = (one.score(*texts) for one in (triton, eager, reference))
    assert found.scores == pytest.approx(expected.scores, abs=1e-5, nan_ok=True)
    assert found.scores == pytest.approx([row.score for row in defined], abs=QUALS, nan_ok=True)
    assert expected[0].pairs
    for other in (expected, defined):
        for row, theirs in zip(found, other, strict=True):
            assert [p.token_ids for p in row.pairs] == [p.token_ids for p in theirs.pairs]
    assert "|backend:triton|kernels:lm_head_topk+group_select+linear_logprob+" in found.signature


@pytest.mark.slow
@every_t5
@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_a_t5_on_the_kernels_finds_what_the_reference_finds(folder, rule):
    config = DecodingConfig(rule=rule, num_beams=6, num_beam_groups=6, min_length=2, max_length=5)
    reference = ReferenceScorer(folder, decoding=config)
    scorer = QualsScorer.from_pretrained(folder, dtype="float32", backend="triton", decoding=config)
    texts = SUMMARIES[:2]
    for summary, found in zip(texts, scorer.generate(texts), strict=True):
        expected = generate(reference.model, summary, config)
        assert [h.token_ids for h in found] == [h.token_ids for h in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=TOKEN_LOGPROB)


@every_t5
def test_a_t5_in_bfloat16(folder):
    exact, _ = scorers(folder, "fairseq09")
    short = in_half_precision(folder, "bfloat16", exact.decoding)
    expected = exact.score(DOCUMENTS[:2], SUMMARIES[:2])
    found = short.score(DOCUMENTS[:2], SUMMARIES[:2])
    assert [row.status for row in found] == [row.status for row in expected]
    targets = [[pair.token_ids for pair in expected[0].pairs]]
    (exactly,), (nearly,) = (one.rescore(DOCUMENTS[:1], targets) for one in (exact, short))
    assert nearly != exactly
    for one, other in zip(nearly, exactly, strict=True):
        assert one == pytest.approx(other, abs=0.1)


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


@every_family
@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_no_step_of_the_search_reads_a_value_or_copies_between_devices(folder, rule):
    _, fused = scorers(folder, rule)
    model = fused.engine.model
    with torch.inference_mode():
        sources = model.tokenizer.encode(SUMMARIES)
        ids = [source.input_ids for source in sources]
        memory = model.network.encode(
            *pad(ids, model.conventions.pad_token_id, torch.device("cpu"))
        )
        with Counting() as counting:
            found = begin_search(fused.engine.model, memory, fused.decoding).run()
    assert sum(counting.seen.values()) == 0, counting.seen
    assert int(found.lengths.min()) > 0


def test_all_that_is_read_travels_as_one():
    random = torch.Generator().manual_seed(0)
    tensors = [
        torch.tensor([[True, False, True]]),
        torch.randn(2, 3, generator=random),
        torch.randn(5, generator=random).double()[1:4],
        torch.arange(6).view(3, 2).T,
        torch.empty(0, dtype=torch.int64),
        torch.tensor(7, dtype=torch.int32),
    ]
    joined = transfer.joined_bytes(tensors)
    assert joined.shape == (3 + 24 + 24 + 48 + 4,)
    for found, expected in zip(transfer.parted_bytes(joined, tensors), tensors, strict=True):
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_on_a_gpu_nothing_waits_and_the_scores_are_the_cpus(folder, monkeypatch, rule):
    staged, _ = scorers(folder, rule)
    fast = QualsScorer.from_pretrained(
        folder, device="cuda", dtype="float32", decoding=staged.decoding, scoring=staged.scoring
    )
    monkeypatch.delattr(module.FusedPass, "_on_host")
    reads, to_host = [], module.to_host

    def read(tensors):  # where the pass says that it waits
        reads.append(len(tensors))
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            return to_host(tensors)
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    monkeypatch.setattr(module, "to_host", read)
    check_equal(staged, fast)  # without graphs
    check_equal(staged, fast)  # captures them
    reads.clear()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = fast.score(DOCUMENTS, SUMMARIES)  # replays them
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(reads) == 1  # how much is kept; the rest is waited for on another thread
    assert len(pass_of(fast)._graphs._kept) == 5  # both encodings, search, selection, rescoring
    check_equal(staged, fast)
    without = QualsScorer(
        GpuEngine(fast.engine.model, graph_bytes=0),
        decoding=staged.decoding,
        scoring=staged.scoring,
    )
    assert without.score(DOCUMENTS, SUMMARIES).scores == pytest.approx(
        found.scores, abs=1e-5, nan_ok=True
    )


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
    graphs, stores = pass_of(scorer)._graphs, pass_of(scorer)._stores
    assert 0 < graphs.n_bytes < graphs.max_bytes
    counted = graphs.n_bytes + stores.n_bytes
    assert 0.8 * counted < held < 1.5 * counted + 2**26


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_on_a_gpu_a_batch_that_shrinks_finds_the_same(rule):
    """Of these 64 summaries, 9 to 12 go on in the graphs of 16."""
    rows = load_workload("short", None, 64)
    texts = [row.document for row in rows], [row.summary for row in rows]
    whole = QualsScorer.from_pretrained(
        "qagen-mini", device="cuda", dtype="float32", decoding=DecodingConfig(rule=rule)
    )
    without = GpuEngine(whole.engine.model, graph_bytes=0)
    expected = QualsScorer(without, decoding=whole.decoding).score(*texts)
    # What a graph reads before anything has written it must not be right by chance.
    garbage = torch.full((2**30,), 0x5A, dtype=torch.uint8, device="cuda")
    del garbage
    torch.cuda.empty_cache()
    for _ in range(5):
        found = whole.score(*texts)
        same = [
            [p.token_ids for p in one.pairs] == [p.token_ids for p in other.pairs]
            for one, other in zip(found, expected, strict=True)
        ]
        assert sum(same) >= 61  # rounding depends on the batch, and near ties on that
    assert {key[1] for key in pass_of(whole)._graphs._kept if key[0] == "search"} >= {16, 64}
