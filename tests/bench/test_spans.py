"""How spans are compared with the words that are known to be unsupported."""

import json
import math

import pytest

from bench.studies import spans as module
from bench.studies.spans import (
    METHODS,
    Summary,
    Suspect,
    altered_examples,
    altered_words,
    area,
    hit,
    labelled,
    study,
    suspicions,
)
from quals_fast.results import QAPair, QualsResult, SummaryScore

DOCUMENT = "Queen Anne opened the bridge in 1962."


def texts(faithful, altered):
    return [altered[start:end] for start, end in altered_words(faithful, altered)]


def test_altered_words_are_those_that_the_faithful_summary_has_not_there():
    assert texts("Anne paid 61,000 pounds.", "Anne paid 38,000 pounds.") == ["38,000"]
    assert texts("Anne came.", "Anne, a dentist, came.") == ["a dentist"]
    assert texts("Anne never came to Ham.", "Anne came to York.") == ["York"]
    assert texts("Anne came.", "Anne came.") == []
    examples = altered_examples()
    assert len(examples) == 20
    assert all(one.unsupported for one in examples)
    start, end = examples[0].unsupported[0]
    assert examples[0].text[start:end] == "Leominster"


def test_characters_without_a_span_are_the_least_suspicious_and_white_space_does_not_count():
    summary = Summary(DOCUMENT, "ab cd ef", ((3, 5),))
    suspicion, is_unsupported = suspicions(summary, [Suspect(0, 2, -9.0), Suspect(3, 5, 1.0)])
    assert suspicion.tolist() == [-9.0, -9.0, 1.0, 1.0, -math.inf, -math.inf]
    assert is_unsupported.tolist() == [False, False, True, True, False, False]
    assert area(suspicion, is_unsupported) == 1
    assert area(-suspicion, is_unsupported) == 0
    assert area(0 * is_unsupported, is_unsupported) == 0.5
    assert math.isnan(area(suspicion[:2], is_unsupported[:2]))


@pytest.mark.parametrize(
    ("suspects", "expected"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([(0, 2, 1.0), (4, 6, 2.0)], 1, id="meets"),
        pytest.param([(0, 3, 2.0), (4, 6, 1.0)], 0, id="touches"),
        pytest.param([(0, 2, 1.0), (4, 6, 1.0)], 0.5, id="equal"),
    ],
)
def test_a_hit_is_the_worst_part_on_unsupported_words(suspects, expected):
    summary = Summary(DOCUMENT, "ab cd ef", ((3, 5),))
    assert hit(summary, [Suspect(*one) for one in suspects]) == expected


def test_rows_with_spans_of_both_forms(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"document": DOCUMENT, "summary": "in 1963", "spans": [[3, 7], {"start": 0, "end": 2}]}
    path.write_text(json.dumps(row))
    assert labelled(path) == [Summary(DOCUMENT, "in 1963", ((3, 7), (0, 2)))]


@pytest.mark.parametrize("spans", [None, 5, [[3]], [[3, 8]], [[3, 3]], [["0", 2]], [{"start": 1}]])
def test_spans_outside_the_summary_are_refused_with_their_line(tmp_path, spans):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"document": "d", "summary": "in 1963", "spans": spans}))
    with pytest.raises(ValueError, match=r"line 1: `spans` must be .* 7 characters, but got "):
        labelled(path)


def test_a_text_that_is_none_is_refused_with_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"document": "d", "summary": 1963, "spans": [[0, 4]]}))
    with pytest.raises(ValueError, match=r"line 1: `summary` must be a string, but got int"):
        labelled(path)


class Scorer:
    """Asks about the year, which drops by 2, and about the queen, who drops by 1."""

    def score(self, documents, summaries, *, on_progress):
        on_progress(len(summaries))
        return QualsResult(tuple(map(self.one, summaries)), "signature")

    def one(self, summary):
        return SummaryScore.of_pairs(
            (self.pair(summary, "1963", -2.0), self.pair(summary, "Anne", -1.0)),
            no_pairs_score=None,
            n_hypotheses=2,
            num_beams=2,
            truncated_tokens=0,
            summary=summary,
        )

    def pair(self, summary, answer, drop):
        start = summary.index(answer)
        return QAPair(
            question="q",
            answer=answer,
            token_ids=(1, 2, 3, 4),
            tokens=("q", "<sep>", answer, "<eos>"),
            summary_logprobs=(0.0,) * 4,
            document_logprobs=(3 * drop if answer == "Anne" else 0.0, 0.0, drop, 0.0),
            answer_spans=((start, start + len(answer)),),
        )


def test_a_study_compares_all_methods():
    text = "In 1963, Anne came."
    found = study(Scorer(), [Summary(DOCUMENT, text, ((3, 7),)), Summary(DOCUMENT, text, ())])
    assert (found["summaries"], found["covered"]) == (1, 1.0)
    of = found["methods"]
    assert list(of) == list(METHODS)
    assert of["spans"]["auc"] == of["spans"]["auc_within"]["value"] == of["spans"]["hits"] == 1
    assert of["spans, with the scores of whole pairs"]["hits"] == 0
    assert of["words that the document lacks"]["hits"] == 0.5  # "came", too
    assert of["chance"]["hits"] == 0.25
    with pytest.raises(ValueError, match="at least one summary, but got none"):
        study(Scorer(), [Summary(DOCUMENT, text, ())])


def test_the_command_prints_what_it_finds_in_other_rows(tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.jsonl"
    row = {"document": DOCUMENT, "summary": "In 1963, Anne came.", "spans": [[3, 7]]}
    path.write_text(json.dumps(row))
    monkeypatch.setattr(module.QualsScorer, "from_pretrained", lambda *_, **__: Scorer())
    monkeypatch.setattr("sys.argv", ["bench.spans", "--data", str(path)])
    module.main()
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (printed["data"], printed["summaries"]) == ("rows.jsonl", 1)
