"""The cache of encoded documents: same scores, fewer encodings, bounded, least recent out first."""

import pytest
import tiny_models
import torch
from engines import in_fixed_shapes
from torch.utils._python_dispatch import TorchDispatchMode

from quals_fast import DecodingConfig, QualsScorer
from quals_fast.batching import pad
from quals_fast.models.bart import Bart
from quals_fast.models.cache import EncodingCache, hidden_states

TEXT = "queen anne opened the tower by the river in 1969 , forty won"
DOCUMENTS = [TEXT, "the king closed the game", TEXT + " . " + TEXT]
SUMMARIES = ["anne opened the tower", "the queen won in 1969", "forty won by the river"]
DECODING = DecodingConfig(num_beams=12, num_beam_groups=12, min_length=2, max_length=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write_checkpoint(tmp_path_factory.mktemp("models") / "m", trained_on=TEXT)


def load(folder, cache_bytes=0, device="cpu"):
    return QualsScorer.from_pretrained(
        folder, device=device, dtype="float32", decoding=DECODING, cache_bytes=cache_bytes
    )


@pytest.fixture
def encodings(monkeypatch):
    """The number of texts that the encoder has seen."""
    seen = []
    original = Bart.encode_hidden

    def encode_hidden(self, input_ids, attention_mask):
        seen.append(len(input_ids))
        return original(self, input_ids, attention_mask)

    monkeypatch.setattr(Bart, "encode_hidden", encode_hidden)
    return seen


@pytest.mark.parametrize(
    "kind",
    [lambda s, n: s, lambda s, n: in_fixed_shapes(s, cache_bytes=n)],
    ids=["staged", "fused"],
)
def test_a_second_epoch_finds_its_documents_and_scores_alike(folder, encodings, kind):
    plain = kind(load(folder), 0).score(DOCUMENTS, SUMMARIES)
    scorer = kind(load(folder, 1 << 20), 1 << 20)
    encodings.clear()
    first = scorer.score(DOCUMENTS, SUMMARIES)
    assert sum(encodings) == 2 * 3
    encodings.clear()
    second = scorer.score(DOCUMENTS[::-1], SUMMARIES[::-1])
    assert sum(encodings) == 3  # the summaries
    for found in (first.scores, second.scores[::-1]):
        assert found == pytest.approx(plain.scores, abs=1e-5)
    stats = scorer.cache_stats
    assert (stats.hits, stats.misses, stats.n_documents) == (3, 3, 3)
    assert 0 < stats.n_bytes <= stats.max_bytes


def test_old_and_new_documents_share_a_batch(folder):
    scorer = load(folder, 1 << 20)
    expected = load(folder).score(DOCUMENTS, SUMMARIES)
    scorer.score(DOCUMENTS[1:2], SUMMARIES[1:2])
    mixed = scorer.score(DOCUMENTS, SUMMARIES)
    assert mixed.scores == pytest.approx(expected.scores, abs=1e-5)
    assert (scorer.cache_stats.hits, scorer.cache_stats.misses) == (1, 3)


def test_completions_of_a_document_ask_for_it_once(folder):
    scorer = load(folder, 1 << 20)
    scorer.score([TEXT] * 3, SUMMARIES)
    assert (scorer.cache_stats.hits, scorer.cache_stats.misses) == (0, 1)


def test_the_least_recently_used_goes_first_and_the_bound_holds():
    state = torch.zeros(4, 8)
    cache = EncodingCache(2 * state.nbytes)
    a, b, c = (b"a", b"b", b"c")
    cache.put(a, state)
    cache.put(b, state)
    assert cache.get(a) is state
    cache.put(c, state)
    assert [cache.get(key) is not None for key in (a, b, c)] == [True, False, True]
    assert cache.stats.n_bytes == 2 * state.nbytes
    cache.put(b, torch.zeros(9, 8))  # more than the bound: not kept, and nothing goes for it
    assert [cache.get(key) is not None for key in (a, b, c)] == [True, False, True]
    cache.clear()
    assert (cache.stats.n_documents, cache.stats.n_bytes) == (0, 0)
    assert (cache.stats.hits, cache.stats.misses) == (5, 2)


def test_what_is_kept_is_the_documents_own_memory(folder):
    scorer = load(folder, 1 << 20)
    scorer.score(DOCUMENTS, SUMMARIES)
    kept = scorer.engine.cache._kept.values()
    assert all(state.untyped_storage().nbytes() == state.nbytes for state in kept)


class Reads(TorchDispatchMode):
    """Counts what would make a GPU wait for the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.count += name in ("_local_scalar_dense", "nonzero", "item", "masked_select")
        return function(*args, **(kwargs or {}))


def test_no_value_is_read(folder):
    engine = load(folder, 1 << 20).engine
    ids = [source.input_ids for source in engine.model.tokenizer.encode(DOCUMENTS)]
    network, pad_token_id = engine.model.network, engine.model.conventions.pad_token_id

    def encode(rows):
        input_ids, mask = pad(rows, pad_token_id, engine.model.device, 8)
        return network.encode_hidden(input_ids, mask), mask

    with torch.inference_mode(), Reads() as reads:
        hidden_states(engine.model, engine.cache, ids[:2], 8, encode)
        hidden_states(engine.model, engine.cache, ids, 8, encode)
    assert reads.count == 0
    assert (engine.cache.stats.hits, engine.cache.stats.misses) == (2, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu(folder):
    expected = load(folder).score(DOCUMENTS * 3, SUMMARIES * 3).scores
    scorer = load(folder, 1 << 20, device="cuda")
    for _ in range(4):  # graphs are captured and replayed on the way
        found = scorer.score(DOCUMENTS * 3, SUMMARIES * 3).scores
        assert found == pytest.approx(expected, abs=1e-4)
    assert scorer.cache_stats.misses == 3


def test_by_default_nothing_is_kept(folder):
    assert load(folder).cache_stats is None
    with pytest.raises(ValueError, match="`cache_bytes` must be at least 0, but got -1"):
        load(folder, -1)
