"""What follows from a stored pass is what the engine gives when it is asked for it."""

import json
import math

import pytest
import tiny_models

from bench.shared.common import Pair
from bench.studies.model import page as pages
from bench.studies.model import quality, settings
from bench.studies.model.passes import Row, load_rows, run_pass, run_truncated
from bench.studies.model.settings import DEFAULT, Passes, Variant
from quals_fast import DecodingConfig, QualsScorer, ScoringConfig

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
    ],
    ids=["default", "two", "all", "search"],
)
def test_scores_follow_from_one_pass(scorer, folder, rows, tmp_path, scoring):
    stored = run_pass(scorer, rows, tmp_path, "pass")
    derived = [one.score(scoring, 1, answer_only=False) for one in stored]
    asked = QualsScorer.from_pretrained(
        folder, device="cpu", dtype="float32", decoding=SEARCH, scoring=scoring
    )
    result = asked.score([r.pair.document for r in rows], [r.pair.summary for r in rows])
    assert derived == pytest.approx(result.scores, abs=1e-5)
    kept = [len(one.kept(scoring.max_pairs)) for one in stored]
    assert kept == [len(row.pairs) for row in result]
    assert max(kept) >= 2


def test_answers_alone_count_what_stands_behind_the_separator(scorer, rows, tmp_path):
    result = scorer.score([rows[0].pair.document], [rows[0].pair.summary])[0]
    expected = []
    for pair in result.pairs:
        first = pair.token_ids.index(1) + 1
        rises = [a - b for a, b in zip(pair.document_logprobs, pair.summary_logprobs, strict=True)][
            first:
        ]
        expected.append(sum(rises) / len(rises))
    (stored,) = run_pass(scorer, rows[:1], tmp_path, "pass")
    found = stored.score(ScoringConfig(), 1, answer_only=True)
    assert found == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_shorter_documents_need_no_second_search(scorer, folder, rows, tmp_path, monkeypatch):
    stored = run_pass(scorer, rows, tmp_path / "work", "pass")
    monkeypatch.setattr(QualsScorer, "generate", None)
    short = run_truncated(scorer, 12, rows, stored, tmp_path / "work")
    monkeypatch.undo()
    config = {**tiny_models.CONFIG, "max_source_tokens": 12}
    other = tiny_models.write_checkpoint(tmp_path / "short", config, trained_on=WORDS)
    asked = QualsScorer.from_pretrained(other, device="cpu", dtype="float32", decoding=SEARCH)
    result = asked.score([r.pair.document for r in rows], [r.pair.summary for r in rows])
    found = [one.score(ScoringConfig(), 1, answer_only=False) for one in short]
    assert found == pytest.approx(result.scores, abs=1e-5)
    assert found != pytest.approx(
        [one.score(ScoringConfig(), 1, answer_only=False) for one in stored], abs=1e-3
    )


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
    path.write_text("\n".join(map(json.dumps, lines)))
    numbers = [row.number for row in load_rows(path, 8)]
    assert numbers == sorted(set(numbers))
    assert sum(number % 2 for number in numbers) == 4
    assert [row.number for row in load_rows(path, None)] == list(range(1, 22))
    assert all(row.pair.document == f"d{row.number}" for row in load_rows(path, 8))


def test_the_page_says_what_was_measured(scorer, folder, rows, tmp_path, monkeypatch):
    dev = tmp_path / "dev.jsonl"
    qas = [{"q": "who won ?", "a": "queen anne", "s": 0}]
    dev.write_text(json.dumps({"context": "queen anne won a game .", "qas": qas}))
    stored = run_pass(scorer, rows, tmp_path / "work", "pass")
    scores = [one.score(ScoringConfig(), 1, answer_only=False) for one in stored]
    machine = {"cpu": "x", "threads": 1, "python": "3", "commit": "c", "dirty": False,
               "versions": {"torch": "t", "transformers": "f"}}  # fmt: skip
    found = {
        "signature": scorer.signature,
        "rows": 8,
        "perplexity": quality.perplexity(scorer, dev, None),
        "generation": {"set": quality.generation(rows, stored)},
        "examples": {"documents": 2, "faithful_higher": 1, "by_change": {"who": [1, 2]}},
        "with_people": {"cnndm": quality.with_people(rows, scores, 20)},
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
        "answers": Variant(decoding=SEARCH, dtype="float32", answer_only=True, same_work=True),
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
    assert "| cnndm, even rows, n = 4 | Pearson |" in text
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
    chosen = {"questions": 9, "data": "dev.jsonl", "models": {"before": one}}
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
