"""What follows from a stored pass is what the engine gives when it is asked for it."""

import json
import math
import random
import sys
from dataclasses import replace

import pytest
import tiny_models

from bench.shared.common import Pair
from bench.studies.model import page as pages
from bench.studies.model import quality, settings
from bench.studies.model.__main__ import main
from bench.studies.model.definitions import ANSWERS, DEFINITIONS, definitions, rivals
from bench.studies.model.passes import Row, Stored, load_rows, run_pass, run_truncated
from bench.studies.model.settings import DEFAULT, Passes, Variant
from quals_fast import DecodingConfig, QualsScorer, ScoringConfig
from quals_fast.engine.filtering import KeptPair
from quals_fast.evaluation import agreement
from quals_fast.results import Hypothesis

WORDS = "queen anne opened the bridge in 1962 . king won a game of score"
SEARCH = DecodingConfig(num_beams=20, num_beam_groups=20, min_length=2, max_length=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("models") / "asking"
    return tiny_models.write_checkpoint(target, trained_on=WORDS)


@pytest.fixture
def scorer(folder):
    return QualsScorer.from_pretrained(folder, device="cpu", dtype="float32", decoding=SEARCH)


@pytest.fixture(scope="module")
def rows():
    summaries = ["queen anne opened the bridge", "king won a game", "anne won the game in 1962"]
    document = "the king closed the tower in 1969 . " * 3 + "queen anne won a game ."
    labels = [1.0, 0.5, 0.0]
    return [
        Row(n, Pair(str(n), document, summaries[n % 3], labels[n % 3] + n / 100))
        for n in range(1, 9)
    ]


@pytest.mark.parametrize(
    "scoring",
    [
        ScoringConfig(),
        ScoringConfig(max_pairs=2),
        ScoringConfig(max_pairs=None),
        ScoringConfig(summary_logprob="search", max_pairs=3),
        ScoringConfig(tokens="answer"),
    ],
    ids=["default", "two", "all", "search", "answers"],
)
def test_scores_follow_from_one_pass(scorer, folder, rows, tmp_path, scoring):
    stored = run_pass(scorer, rows, tmp_path, "pass")
    derived = [one.score(scoring, 1) for one in stored]
    asked = QualsScorer.from_pretrained(
        folder, device="cpu", dtype="float32", decoding=SEARCH, scoring=scoring
    )
    result = asked.score([r.pair.document for r in rows], [r.pair.summary for r in rows])
    assert derived == pytest.approx(result.scores, abs=1e-5)
    kept = [len(one.kept(scoring.max_pairs)) for one in stored]
    assert kept == [len(row.pairs) for row in result]
    assert max(kept) >= 2


def made_pair(answer, question_drop, answer_drop, answer_logprob):
    """Make a hypothesis of one question token, SEP (id 1) and one answer token, and its drops."""
    ids = (7, 1, ord(answer))
    logprobs = (-1.0, -1.0, answer_logprob)
    found = Hypothesis(
        token_ids=ids,
        logprobs=logprobs,
        search_logprobs=logprobs,
        search_sum=sum(logprobs),
        search_score=0.0,
    )
    drops = (question_drop, 0.0, answer_drop)
    document = tuple(a + b for a, b in zip(logprobs, drops, strict=True))
    return KeptPair(f"who {question_drop} {answer_drop}?", answer, found), document


def test_definitions_by_hand():
    half, tenth = math.log(0.5), math.log(0.1)
    both = [
        made_pair("a", -3.0, -6.0, half),
        made_pair("a", -6.0, 0.0, half),
        made_pair("b", 0.0, -9.0, tenth),
    ]
    pairs = [pair for pair, _ in both]
    stored = Stored(3, pairs, {})
    pairs[1] = pairs[1]._replace(hypothesis=replace(pairs[1].hypothesis, token_ids=(8, 1, 97)))
    for pair, (_, document) in zip(pairs, both, strict=True):
        stored.document_logprobs[pair.hypothesis.token_ids] = document
    found = {name: one.score(stored, 1) for name, one in DEFINITIONS.items()}
    assert found == {
        "published": pytest.approx((-3 - 2 - 3) / 3),
        "over all pairs": pytest.approx((-3 - 2 - 3) / 3),
        "answers only": pytest.approx((-6 + 0 - 9) / 3),
        ANSWERS: pytest.approx((-6 + 0 - 9) / 3),
        "questions only": pytest.approx((-1.5 - 3 + 0) / 3),
        "over all pairs, mean by answer": pytest.approx((-2.5 - 3) / 2),
        "published, mean by answer": pytest.approx((-2.5 - 3) / 2),
        "published, by confidence": pytest.approx((0.5 * -5 + 0.1 * -3) / 1.1),
        f"{ANSWERS}, mean by answer": pytest.approx((-3 - 9) / 2),
        f"{ANSWERS}, by confidence": pytest.approx((0.5 * -6 + 0.1 * -9) / 1.1),
    }
    assert math.isnan(DEFINITIONS["published"].score(Stored(3, [], {}), 1))


def made_passes(rows):
    """Make what a pass might find in rows: four pairs each, with random log-probabilities."""
    draw = random.Random(0)
    passes = []
    for _ in rows:
        both = [made_pair(a, *(-draw.random() for _ in range(3))) for a in "abcd"]
        documents = {pair.hypothesis.token_ids: document for pair, document in both}
        passes.append(Stored(4, [pair for pair, _ in both], documents))
    return passes


def test_a_set_is_split_only_if_definitions_are_chosen_on_it(rows):
    sets = {"qags_x": rows, "frank_x": rows}
    found = definitions(sets, dict.fromkeys(sets, made_passes(rows)), 1, 20)
    assert {title: list(parts) for title, parts in found["sets"].items()} == {
        "qags_x": ["odd", "even"],
        "frank_x": ["all"],
    }
    published, all_pairs, *_ = found["sets"]["frank_x"]["all"]
    assert (published["name"], published["rise"]["value"]) == ("published", 0)
    assert all_pairs["rise"]["value"] == pytest.approx(
        all_pairs["pearson"]["value"] - published["pearson"]["value"]
    )
    text = pages._definitions(found)
    assert "| qags_x, odd rows, n = 4 | Pearson |" in text
    assert "| **answers only** |" in text
    assert "| questions only |" in text


def test_published_metrics_are_compared_on_the_rows_that_have_them_all(rows):
    quals = {"QUALS": [0.1 * row.number for row in rows[:-1]] + [math.nan]}
    theirs = [{"good": row.pair.label, "partial": -row.pair.label} for row in rows]
    del theirs[2]["partial"]
    rows = [row._replace(published=own) for row, own in zip(rows, theirs, strict=True)]
    found = rivals(rows, quals, 20)
    assert [(one["name"], one["n"], one["left_out"]) for one in found] == [
        ("QUALS", 6, 2),
        ("good", 6, 2),
        ("partial", 6, 2),
        ("ROUGE-2 precision, against the article", 6, 2),
    ]
    assert found[1]["pearson"]["value"] == pytest.approx(1)
    assert found[2]["rise"]["value"] == pytest.approx(-1 - found[0]["pearson"]["value"])
    text = pages._rivals({"frank": found})
    assert "| frank, n = 6 (2 left out) | Pearson |" in text
    assert "| good | 1.000 [1.00, 1.00] |" in text


def test_estimates_are_those_of_evaluation():
    draw = random.Random(0)
    labels = [draw.choice([0.0, 0.5, 1.0]) for _ in range(30)]
    scores = [label + round(draw.gauss(0, 1), 1) for label in labels]  # with ties
    expected = agreement("a", scores, labels, n_resamples=200).to_dict()
    for name, found in quality.estimates(scores, labels, 200).items():
        assert found == pytest.approx(expected[name])


def test_shorter_documents_need_no_second_search(scorer, folder, rows, tmp_path, monkeypatch):
    stored = run_pass(scorer, rows, tmp_path / "work", "pass")
    monkeypatch.setattr(QualsScorer, "generate", None)
    short = run_truncated(scorer, 12, rows, stored, tmp_path / "work")
    monkeypatch.undo()
    config = {**tiny_models.CONFIG, "max_source_tokens": 12}
    other = tiny_models.write_checkpoint(tmp_path / "short", config, trained_on=WORDS)
    asked = QualsScorer.from_pretrained(other, device="cpu", dtype="float32", decoding=SEARCH)
    result = asked.score([r.pair.document for r in rows], [r.pair.summary for r in rows])
    found = [one.score(ScoringConfig(), 1) for one in short]
    assert found == pytest.approx(result.scores, abs=1e-5)
    assert found != pytest.approx([one.score(ScoringConfig(), 1) for one in stored], abs=1e-3)


def test_a_pass_goes_on_with_the_rows_that_it_lacks(scorer, rows, tmp_path, monkeypatch):
    first = run_pass(scorer, rows[:3], tmp_path, "pass")
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text() + '{"key": "half')
    searched = []
    generate = scorer.generate
    monkeypatch.setattr(scorer, "generate", lambda s: searched.extend(s) or generate(s), False)
    again = run_pass(scorer, [*rows[:3], *rows[4:5]], tmp_path, "pass")
    assert again[:3] == first
    assert searched == []  # row 5 has the texts of row 2
    other = rows[0]._replace(pair=rows[0].pair._replace(summary="the king won in 1962"))
    run_pass(scorer, [other], tmp_path, "pass")
    assert searched == ["the king won in 1962"]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_few_rows_are_as_many_odd_as_even(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"document": f"d{i}", "summary": f"s{i}", "label": 1} for i in range(1, 22)]
    lines[20]["published"] = {"ROUGE": 0.5}
    path.write_text("\n".join(map(json.dumps, lines)))
    numbers = [row.number for row in load_rows(path, 8)]
    assert numbers == sorted(set(numbers))
    assert sum(number % 2 for number in numbers) == 4
    assert [row.number for row in load_rows(path, None)] == list(range(1, 22))
    assert [row.published for row in load_rows(path, None)[-2:]] == [{}, {"ROUGE": 0.5}]
    assert all(row.pair.document == f"d{row.number}" for row in load_rows(path, 8))


def test_the_page_says_what_was_measured(scorer, folder, rows, tmp_path, monkeypatch):
    dev = tmp_path / "dev.jsonl"
    qas = [{"q": "who won ?", "a": "queen anne", "s": 0}]
    dev.write_text(json.dumps({"context": "queen anne won a game .", "qas": qas}))
    stored = run_pass(scorer, rows, tmp_path / "work", "pass")
    scores = [one.score(ScoringConfig(), 1) for one in stored]
    machine = {"cpu": "x", "threads": 1, "python": "3", "commit": "c", "dirty": False,
               "versions": {"torch": "t", "transformers": "f"}}  # fmt: skip
    found = {
        "signature": scorer.signature,
        "rows": 8,
        "perplexity": quality.perplexity(scorer, dev, None),
        "generation": {"set": quality.generation(rows, stored)},
        "examples": {"documents": 2, "faithful_higher": 1, "by_change": {"who": [1, 2]}},
        "with_people": {"qags_cnndm": quality.with_people(rows, scores, 20)},
        "definitions": definitions({"cnndm": rows}, {"cnndm": made_passes(rows)}, 1, 20),
        "rivals": {},
        "machine": machine,
    }
    target = scorer.rescore(["queen anne won a game ."], [[pair_ids(scorer)]])[0][0]
    assert found["perplexity"]["passages"]["perplexity"] == pytest.approx(
        math.exp(-sum(target) / len(target)), rel=1e-4
    )
    assert 0 < found["generation"]["set"]["answers_in_summary"] <= 1

    compared = {
        DEFAULT: Variant(decoding=SEARCH, dtype="float32"),
        "two pairs": Variant(
            group="pairs", decoding=SEARCH, dtype="float32", scoring=ScoringConfig(max_pairs=2)
        ),
        "answers": Variant(
            decoding=SEARCH,
            dtype="float32",
            scoring=ScoringConfig(tokens="answer"),
            same_work=True,
        ),
        "short": Variant(group="documents", decoding=SEARCH, dtype="float32", document_tokens=12),
    }
    measured = {
        "rows": 8,
        "groups": {name: one.group for name, one in compared.items()},
        "quality": settings.quality(
            Passes(str(folder), "cpu", tmp_path / "work"), compared, {"cnndm": rows}, 20
        ),
        "cost_rows": 2,
        "cost": settings.cost(compared, str(folder), "cpu", [r.pair for r in rows[:2]], 2),
    }
    assert measured["cost"]["answers"] == measured["cost"][DEFAULT]
    assert measured["cost"]["short"]["n"] == 2
    text = pages.page(found, measured, None)
    assert "Not measured yet: `python -m bench.choices`" in text
    assert "**A trial run: 8 rows of each set only.**" in text
    assert "1 of the 2 example documents (who 1 of 2)" in text
    assert "| qags_cnndm, even rows, n = 4 | Pearson |" in text
    assert "The aim, Pearson 0.55 on all rows, is " in text
    assert "Best on the odd rows, by the mean over the sets: " in text
    pages.plot(measured, tmp_path / "plot.svg")
    assert "two pairs" in (tmp_path / "plot.svg").read_text()
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75}
    one = {
        "nats": {part: {"question": 2.0, "answer": 1.0} for part in ("short", "long")},
        "altered": {"n": 10, "higher": 7},
        "tokens": 16.24,
        "with_people": {"cnndm": {"pearson": estimate, "rise": estimate}},
    }
    weights = {"before": {"digest": "0a1b2c"}}
    chosen = {"questions": 9, "data": "dev.jsonl", "weights": weights, "models": {"before": one}}
    text = pages.page(found, None, chosen)
    assert "Not measured yet: `python -m bench.model --settings`" in text
    assert "| before | 2.000 | 1.000 |" in text


def pair_ids(scorer):
    encode = scorer.engine.model.tokenizer.encode
    question, answer = encode(["who won ?", "queen anne"])
    return [*question.text_ids, 1, *answer.text_ids, 4]


def test_all_variants_can_be_made():
    names = settings.variants(512, "folder")
    assert {"rule hamming", "8 beams", "15 beams", "30 beams", "int8 (ONNX)"} <= names.keys()
    assert "documents of 256 tokens" in names
    assert "documents of 512 tokens" not in names  # the model's own
    assert "documents of 512 tokens" in settings.variants(1024, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--dev and --labels are required without --page"),
        ("--dev d --labels qags.jsonl --rows 5", "--rows must be at least 6"),
        ("--dev d --labels frank.jsonl --settings", "--settings needs --labels of QAGS"),
    ],
)
def test_bad_arguments(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.model", *arguments.split()])
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err
