"""The scorer against the reference, end to end."""

import random
from functools import cache

import pytest
import tiny_models
import tiny_t5

from bench.checks.near_ties import compare_search
from quals_fast import DecodingConfig, QualsScorer, ScoringConfig
from quals_fast.reference.quals import ReferenceScorer, generate, score_hypotheses
from quals_fast.reference.tolerances import QUALS, TOKEN_LOGPROB

DOCUMENTS = [
    "the queen opened the bridge in 1962 . forty lives was lost .",
    "who won the game ?",
    "king anne closed the tower of the town by the river , queen anne opened the game in 1969 - "
    "the score was four of forty",
    "the queen opened the bridge in 1962 . forty lives was lost .",
]
SUMMARIES = [
    "queen anne opened the tower by the river in 1969 , forty won",
    "the tower opened by the river . 1969 was the game of the queen , forty four lost",
    "river",
    "forty opened tower 1969 queen river",
]

CASES = {
    "published rule": {},
    "hamming": {"decoding": {"rule": "hamming"}},
    "groups of two": {"decoding": {"num_beam_groups": 6}},
    "hamming, groups of two": {"decoding": {"rule": "hamming", "num_beam_groups": 6}},
    "one beam": {"decoding": {"num_beams": 1, "num_beam_groups": 1}},
    "plain beam search": {"decoding": {"num_beam_groups": 1, "diversity_penalty": 0.0}},
    "strong penalty": {"decoding": {"diversity_penalty": 4.0}},
    "length penalty": {"decoding": {"length_penalty": 0.3}},
    "short": {"decoding": {"min_length": 3, "max_length": 3}},
    "long": {"decoding": {"min_length": 20, "max_length": 40}},
    "search log-probabilities": {"scoring": {"summary_logprob": "search"}},
    "one round of pairs": {"scoring": {"max_pairs": 1}},
    "all pairs": {"scoring": {"max_pairs": None}},
    "answers alone": {"scoring": {"tokens": "answer"}},
    "answers alone, over all pairs": {
        "scoring": {"tokens": "answer", "max_pairs": None, "summary_logprob": "search"}
    },
    "a score without pairs": {"scoring": {"no_pairs_score": -5.0}},
    "small batches": {"max_batch_tokens": 1},
}
SMALL = {"num_beams": 12, "num_beam_groups": 12, "min_length": 2, "max_length": 12}


def check_equal(folder, decoding, scoring, **settings):
    reference = ReferenceScorer(folder, decoding=decoding, scoring=scoring)
    scorer = QualsScorer.from_pretrained(
        folder, device="cpu", dtype="float32", decoding=decoding, scoring=scoring, **settings
    )
    expected, found = reference.score(DOCUMENTS, SUMMARIES), scorer.score(DOCUMENTS, SUMMARIES)
    for summary, hypotheses in zip(SUMMARIES, scorer.generate(SUMMARIES), strict=True):
        theirs = generate(reference.model, summary, decoding)
        assert [h.token_ids for h in hypotheses] == [h.token_ids for h in theirs]
        for one, other in zip(hypotheses, theirs, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=TOKEN_LOGPROB)
            assert one.search_score == pytest.approx(other.search_score, abs=TOKEN_LOGPROB)
    for one, other in zip(found, expected, strict=True):
        assert one.status == other.status
        assert one.score == pytest.approx(other.score, abs=QUALS, nan_ok=True)
        assert [p.token_ids for p in one.pairs] == [p.token_ids for p in other.pairs]
        for pair, theirs in zip(one.pairs, other.pairs, strict=True):
            assert (pair.question, pair.answer) == (theirs.question, theirs.answer)
            assert pair.first_counted == theirs.first_counted
            assert pair.summary_logprobs == pytest.approx(
                theirs.summary_logprobs, abs=TOKEN_LOGPROB
            )
            assert pair.document_logprobs == pytest.approx(
                theirs.document_logprobs, abs=TOKEN_LOGPROB
            )
    return found


def bart(tokenizer=tiny_models.wordpiece_tokenizer, config=tiny_models.CONFIG, **changes):
    """Return what writes a BART to a folder."""
    return lambda folder, trained_on: tiny_models.write_checkpoint(
        folder, {**config, **changes}, tokenizer(), trained_on=trained_on
    )


def t5(config, **changes):
    """Return what writes a T5 to a folder."""
    return lambda folder, trained_on: tiny_t5.write_t5(
        folder, {**config, **changes}, trained_on=trained_on
    )


CHECKPOINTS = {
    "plain": bart(),
    "fairseq conventions": bart(tiny_models.byte_level_tokenizer, tiny_models.FAIRSEQ_LIKE),
    "forced first token": bart(forced_bos_token_id=3),
    "scaled embeddings, relu": bart(scale_embedding=True, activation_function="relu"),
    "uneven stacks": bart(encoder_layers=3, decoder_layers=1, decoder_ffn_dim=24),
    "short sources": bart(max_source_tokens=9),
    "T5 1.0": t5(tiny_t5.CONFIG),
    "T5 1.1": t5(tiny_t5.T5_1_1),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folder of a checkpoint that was trained to generate pairs about SUMMARIES[0]."""

    @cache
    def folder(name):
        path = tmp_path_factory.mktemp("models") / "model"
        return CHECKPOINTS[name](path, trained_on=SUMMARIES[0])

    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equal_to_the_reference_under_every_setting(case, folders):
    decoding = DecodingConfig(**{**SMALL, **case.get("decoding", {})})
    scoring = ScoringConfig(**case.get("scoring", {}))
    settings = {key: value for key, value in case.items() if key == "max_batch_tokens"}
    found = check_equal(folders("plain"), decoding, scoring, **settings)
    if decoding.min_length <= 5 <= decoding.max_length:  # what the model was trained to say
        assert sum(len(row.pairs) for row in found) >= 3
    if scoring.tokens == "answer":
        pairs = [pair for row in found for pair in row.pairs]
        assert all(pair.tokens[pair.first_counted - 1] == "<sep>" for pair in pairs)


@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_equal_to_the_reference_for_every_kind_of_checkpoint(name, rule, folders):
    found = check_equal(folders(name), DecodingConfig(**{**SMALL, "rule": rule}), ScoringConfig())
    assert sum(len(row.pairs) for row in found) >= len(SUMMARIES)
    assert any(row.truncated_tokens for row in found) == (
        name in ("short sources", "fairseq conventions")
    )


@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
@pytest.mark.parametrize("name", ["T5 1.0", "T5 1.1"])
def test_a_t5_finds_what_the_reference_finds_in_many_texts(name, rule, folders):
    draw = random.Random(0)
    words = SUMMARIES[0].split()
    summaries = [" ".join(draw.choices(words, k=draw.randint(3, 16))) for _ in range(30)]
    decoding = DecodingConfig(num_beams=12, num_beam_groups=12, max_length=30, rule=rule)
    reference = ReferenceScorer(folders(name), decoding=decoding)
    scorer = QualsScorer.from_pretrained(
        folders(name), device="cpu", dtype="float32", decoding=decoding
    )
    for summary, found in zip(summaries, scorer.generate(summaries), strict=True):
        expected = generate(reference.model, summary, decoding)
        assert [h.token_ids for h in found] == [h.token_ids for h in expected]


@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_the_bundled_model_equals_the_reference_on_real_text(rule, example_rows):
    decoding = DecodingConfig(rule=rule)
    reference = ReferenceScorer(decoding=decoding)
    scorer = QualsScorer.from_pretrained(device="cpu", dtype="float32", decoding=decoding)
    identical = 0
    for row in example_rows[:2]:
        texts = [row["document"]], [row["summary"]]
        trace = []
        expected = generate(reference.model, row["summary"], decoding, trace)
        outcome = compare_search(expected, trace, scorer, row["summary"])
        assert outcome != "wrong"
        if outcome == "near_tie":  # another processor may round otherwise
            continue
        identical += 1
        theirs = score_hypotheses(reference.model, *texts[0], *texts[1], expected)
        (found,) = scorer.score(*texts)
        assert (found.status, found.n_hypotheses) == ("ok", 60)
        assert [p.token_ids for p in found.pairs] == [p.token_ids for p in theirs.pairs]
        assert found.score == pytest.approx(theirs.score, abs=QUALS)
        assert found.truncated_tokens == theirs.truncated_tokens
    assert identical
