"""The scorer does not know its engine: a fake one of twenty lines serves it as well."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from quals_fast import DecodingConfig, QualsScorer, ScoringConfig
from quals_fast.engine.filtering import KeptPair
from quals_fast.engine.protocol import Engine, Scored
from quals_fast.exported.engine import OnnxEngine
from quals_fast.models.checkpoint import read_checkpoint
from quals_fast.models.tokenizer import QATokenizer
from quals_fast.results import Hypothesis

SEQUENCE = Hypothesis(
    token_ids=(5, 1, 6, 4),
    logprobs=(-1.0, -1.0, -2.0, -2.0),
    search_logprobs=(-3.0, -1.0, -2.0, -2.0),
    search_sum=-8.0,
    search_score=-2.0,
)


class FakeEngine:
    """Asks one question about every summary, which a document makes as likely as it is long."""

    cache_stats = None
    max_batch_tokens = 1000

    def __init__(self, model):
        self.model = model

    def inference(self):
        return nullcontext()

    def search(self, summaries, decoding):
        yield from ((i, [SEQUENCE]) for i in reversed(range(len(summaries))))

    def rescore(self, documents, targets):
        return [
            [(-1.0 * len(document.text),) * len(ids) for ids in of_document]
            for document, of_document in zip(documents, targets, strict=True)
        ]

    def score(self, pairs, decoding, max_pairs, on_progress):
        on_progress(len(pairs))
        kept = [KeptPair("who?", "anne", SEQUENCE)]
        logprobs = self.rescore(
            [pair.document for pair in pairs], [[SEQUENCE.token_ids]] * len(pairs)
        )
        return [Scored(kept, decoding.num_beams, one) for one in logprobs]


@pytest.fixture
def engine(tiny_folder):
    shape, conventions = read_checkpoint(tiny_folder)
    return FakeEngine(
        SimpleNamespace(
            name="fake",
            digest="0123456789ab",
            shape=shape,
            conventions=conventions,
            tokenizer=QATokenizer.from_folder(tiny_folder, conventions),
            runs_as=lambda: {"dtype": "none", "backend": "fake"},
        )
    )


DECODING = DecodingConfig(num_beams=2, num_beam_groups=2, max_length=12)


def test_a_fake_engine_scores(engine):
    seen = []
    scorer = QualsScorer(engine, decoding=DECODING)
    result = scorer.score(
        ["anne", "anne won"], [["the town"], ["a", "anne", ""]], on_progress=seen.append
    )
    assert [[one.status for one in row] for row in result] == [
        ["ok"],
        ["ok", "ok", "empty_summary"],
    ]
    assert result[0][0].score == -4.0 - -1.5
    assert result[1][1].score == -8.0 - -1.5
    assert sum(seen) == 3
    assert "|model:fake@0123456789ab|dtype:none|backend:fake|" in result.signature
    assert scorer.generate(["a", "anne"]) == [[SEQUENCE]] * 2
    assert scorer.rescore(["anne"], [[[5, 4]]]) == [[(-4.0, -4.0)]]
    assert scorer.cache_stats is None


def test_the_scorer_applies_its_own_settings(engine):
    scoring = ScoringConfig(summary_logprob="search")
    (row,) = QualsScorer(engine, decoding=DECODING, scoring=scoring).score(["anne"], ["a"])
    assert row.score == -4.0 - -2.0


def test_a_name_is_no_engine():
    with pytest.raises(TypeError, match=r"got the name 'qagen-mini'; use QualsScorer.from_pretr"):
        QualsScorer("qagen-mini")


def test_settings_that_the_model_has_no_room_for(engine):
    with pytest.raises(ValueError, match="`max_length` must be below the model's 64 positions"):
        QualsScorer(engine, decoding=DecodingConfig(max_length=64))


def test_an_engine_that_loses_a_row_is_not_believed(engine):
    engine.score = lambda *arguments: []
    with pytest.raises(ValueError, match="shorter"):
        QualsScorer(engine, decoding=DECODING).score(["anne"], ["a"])


def test_the_engines_are_of_one_kind():
    """Checked by mypy too, in what `backends.load` returns."""
    from quals_fast.engine.cpu import CpuEngine
    from quals_fast.engine.gpu import GpuEngine

    asked = {name for name in vars(Engine) if not name.startswith("_")}
    for kind in (CpuEngine, GpuEngine, OnnxEngine, FakeEngine):
        assert asked - {"model", "max_batch_tokens"} <= set(dir(kind)), kind
