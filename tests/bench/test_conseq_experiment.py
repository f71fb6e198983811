"""The experiment divides its texts cleanly, and its page says what came out."""

import json

import pytest

from bench.studies.conseq_experiment.__main__ import write_systems
from bench.studies.conseq_experiment.outcome import summarise
from bench.studies.conseq_experiment.page import DIGITS, page, plot, verdict
from bench.studies.conseq_experiment.texts import SOURCE_TOKENS, read_texts
from quals_fast.jobs.files import read_rows

SENTENCE = "The mayor of the town opened a bridge over the river on Monday. "


def write_rows(path, rows):
    keys = ("source", "document", "summary")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    path.write_text("\n".join(lines))


def test_no_document_is_both_held_out_and_learnt_from(tmp_path):
    articles = [f"Article {i} tells. {SENTENCE}" for i in range(6)]
    rows = [("defacto-xsum", text, f"What the mayor did, told {text[:9]}.") for text in articles]
    rows += [("qags-random1000-xsum", text.upper(), rows[0][2]) for text in articles[:3]]
    rows += [("qags-random1000-xsum", "Another one. " + SENTENCE, rows[0][2])]
    rows += [("bbc-news-summary", f"{SENTENCE}\n\nThe rest of it.", "All of it.")]
    rows += [("entfa-xsum", "Too short a summary. " + SENTENCE, "No.")]
    rows += [("cnndm-validation", "Not of the BBC. " + SENTENCE, rows[0][2])]
    write_rows(tmp_path / "rows.jsonl", rows)
    texts = read_texts(tmp_path / "rows.jsonl", held_out=2)
    assert len(texts.held_out) == 2
    assert {t.document for t in texts.held_out + texts.references} == set(map(str.strip, articles))
    assert {t.document for t in texts.others} == {
        ("Another one. " + SENTENCE).strip(),
        "The rest of it.",
    }
    assert SENTENCE.strip() in {t.summary for t in texts.others}


def test_documents_are_cut_behind_a_sentence(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [("entfa-xsum", SENTENCE * 40, SENTENCE)])
    (text,) = read_texts(tmp_path / "rows.jsonl", held_out=0).references
    tokens = len(SENTENCE.replace(".", " .").split())  # all of them are words of the vocabulary
    assert text.document == (SENTENCE * ((SOURCE_TOKENS - 2) // tokens)).strip()


def test_each_system_has_a_file_that_compare_takes(tmp_path):
    held_out = [["A text.", "Its Reference."], ["Another.", "One more."]]
    summaries = {"MLE": [["a", "b"]], "ConSeq-QUALS": [["c", "d"], ["e", "f"]]}
    written = {
        "held_out": held_out,
        "summaries": summaries,
        "result": {"conseq": {"seeds": [3, 4]}},
    }
    write_systems(written, tmp_path / "systems")
    rows = read_rows(str(tmp_path / "systems" / "ConSeq-QUALS.jsonl"))
    found = [(row.id, row.fields["seed"], row.document, row.summary) for row in rows]
    assert found == [
        (1, 3, "A text.", "c"), (2, 3, "Another.", "d"),
        (1, 4, "A text.", "e"), (2, 4, "Another.", "f"),
    ]  # fmt: skip
    (first, _) = read_rows(str(tmp_path / "systems" / "MLE.jsonl"))
    assert first.fields["reference"] == "Its Reference." and first.fields["system"] == "MLE"


def result(gain, *, without=()):
    measures = [m for m in DIGITS if m not in without]

    def run(quals, qags):
        return {m: [0.5] * 4 for m in measures} | {"QUALS": quals, "QAGS": qags}

    quals, qags = [-2.0, -1.5, -1.0, None], [0.1, 0.2, 0.3, 0.4]
    better = run([q and q + gain for q in quals], [q + gain for q in qags])
    arms = {
        "reference": [run([0.0] * 4, [1.0] * 4)],
        "MLE": [run(quals, qags)],
        "ConSeq-QUALS": [better, better],
        "ConSeq-ROUGE": [run(quals, qags)] * 2,
    }
    selection = {
        "documents": 9, "chosen": 3, "references": -1, "samples": -2, "positives": -1,
        "negatives": -3,
    }  # fmt: skip
    return {
        **summarise(arms),
        "data": "some.jsonl",
        "texts": {"source_tokens": 160, "references": 20, "others": 10, "held_out": 4},
        "likelihood": {"seen": 60, "learning_rate": 2e-4},
        "conseq": {"num_samples": 6, "beams": 10, "positive_fraction": 0.5,
                   "negative_fraction": 0.5, "epochs": 2, "batch_size": 8, "learning_rate": 5e-5,
                   "seeds": [0, 1]},
        "selection": {"quals": selection, "rouge": selection},
        "selection_shared": 2,
        "generate": {"num_beams": 4},
        "signatures": ["quals|a", "qags|b"],
        "as_before": {"MLE": [4], "ConSeq-QUALS": [1, 2], "ConSeq-ROUGE": [3, 4]},
        "examples": [{"document": "A text.", "MLE": "One.", "ConSeq-QUALS": "Two."}],
        "machine": {"cpu": "some CPU", "threads": 2, "python": "3.11", "commit": "abc",
                    "versions": {"torch": "2.13.0", "transformers": "5.23.0"}, "dirty": False},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (
            0.2,
            "in QAGS, came out: ConSeq with QUALS scores above MLE (+0.200 [+0.200, +0.200]) and",
        ),
        (
            0.0,
            "did not come out: ConSeq with QUALS does not differ measurably from MLE (+0.000 [",
        ),
        (
            -0.2,
            "did not come out: ConSeq with QUALS scores below MLE (-0.200 [-0.200, -0.200]) and",
        ),
    ],
)
def test_verdict_follows_the_figures(gain, said):
    assert said in verdict(result(gain))


def test_page_and_plot(tmp_path):
    text = page(result(0.2), "plot.svg")
    assert "| people | 0.000 [0.000, 0.000] | 1.000 [1.000, 1.000] | 0.500" in text
    assert "| ConSeq-QUALS - MLE | +0.200 [+0.200, +0.200] |" in text
    assert "60 examples, 2.0 passes, rate 0.0002" in text
    assert "QAGS of each seed: MLE 0.250; ConSeq-QUALS 0.450, 0.450;" in text
    assert "ConSeq-QUALS 1, 2; ConSeq-ROUGE 3, 4." in text
    assert "> A text.\n\n- MLE: One.\n- ConSeq-QUALS: Two.\n" in text
    plot(result(0.2), tmp_path / "plot.svg")
    assert "copied trigrams" in (tmp_path / "plot.svg").read_text()
    assert "By the classifier, it does not differ measurably from MLE (+0.000 [" in text
    assert "classifier" not in page(result(0.2, without=["classifier"]), "plot.svg")
