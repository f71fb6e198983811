"""Vectors of other libraries work wherever lists do; frames and single texts are refused alike."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset
from tiny_trainers import DOCUMENTS, SUMMARIES, seq2seq_trainer, tokenizer
from transformers import EvalPrediction

from quals_fast.evaluation import agreement, rouge_floor
from quals_fast.qags import QagsScorer
from quals_fast.reference.quals import ReferenceScorer
from quals_fast.training import (
    QualsCallback,
    QualsMetric,
    QualsModule,
    QualsReward,
    quals_compute_metrics,
)

WORDS = tokenizer()
VECTORS = {
    "tuple": tuple,
    "numpy": np.array,
    "numpy objects": lambda values: np.array(values, object),
    "pandas": lambda values: pd.Series(values, index=range(7, 7 + len(values))),
    "pyarrow": pa.array,
    "datasets": lambda values: Dataset.from_dict({"column": values})["column"],
}
every_vector = pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
FRAME = pd.DataFrame({"a": ["b"], "c": ["d"]})
NO_VECTORS = [
    ("a text", "str"),
    (b"bytes", "bytes"),
    (FRAME, "DataFrame"),
    (Dataset.from_pandas(FRAME), "Dataset"),
    ({"a": "b"}, "dict"),
    ({"a"}, "set"),
    (iter(["a"]), "list_iterator"),
    (np.array("a text"), "ndarray"),
    (7, "int"),
]
every_other = pytest.mark.parametrize(("given", "kind"), NO_VECTORS, ids=[k for _, k in NO_VECTORS])


@every_vector
def test_the_scorer(scorer, vector):
    documents, summaries = vector(DOCUMENTS), vector(SUMMARIES)
    assert scorer.score(documents, summaries) == scorer.score(DOCUMENTS, SUMMARIES)
    nested = [vector(SUMMARIES[:2]), vector(SUMMARIES[2:])]
    lists = [SUMMARIES[:2], SUMMARIES[2:]]
    assert scorer.score(DOCUMENTS[:2], nested) == scorer.score(DOCUMENTS[:2], lists)
    found = scorer.generate(SUMMARIES[:1])
    assert scorer.generate(vector(SUMMARIES[:1])) == found
    ids = [list(hypothesis.token_ids) for hypothesis in found[0][:2]]
    of_vectors = scorer.rescore(vector(DOCUMENTS[:1]), [[vector(row) for row in ids]])
    assert of_vectors == scorer.rescore(DOCUMENTS[:1], [ids])


def test_a_table_of_summaries_is_two_a_document(scorer):
    table = np.array([SUMMARIES[:2], SUMMARIES[2:]])
    assert scorer.score(DOCUMENTS[:2], table) == scorer.score(DOCUMENTS[:2], table.tolist())
    column = pd.DataFrame({"summaries": table.tolist()})["summaries"]
    assert scorer.score(DOCUMENTS[:2], column) == scorer.score(DOCUMENTS[:2], table.tolist())


@every_vector
def test_the_adapters(scorer, vector, tmp_path):
    documents, summaries = vector(DOCUMENTS), vector(SUMMARIES)
    expected = scorer.score(DOCUMENTS, SUMMARIES).scores
    mean = sum(expected) / 4
    assert QualsReward(scorer)(["p"] * 4, summaries, document=documents) == expected
    module = QualsModule(scorer)
    assert module.compute(predictions=summaries, references=documents)["scores"] == expected
    metric = QualsMetric(scorer)
    metric.update(summaries, documents)
    assert float(metric.compute()) == pytest.approx(mean)
    ids = WORDS(SUMMARIES, padding=True, return_tensors="np")["input_ids"]
    compute = quals_compute_metrics(WORDS, scorer, documents=documents)
    assert compute(EvalPrediction(predictions=ids, label_ids=None))["quals"] == pytest.approx(mean)
    host = seq2seq_trainer(tmp_path)
    callback = QualsCallback(host, documents, scorer, generate={"max_new_tokens": 8})
    found = {}
    callback.on_evaluate(host.args, host.state, host.control, found)
    assert found["eval_quals_scored"] + found["eval_quals_no_pairs"] > 0


@every_vector
def test_evaluation(vector):
    values = [0.1, 0.5, 0.2, 0.9], [1.0, 0.0, 1.0, 1.0]
    found = agreement("QUALS", *map(vector, values), n_resamples=10)
    assert found == agreement("QUALS", *values, n_resamples=10)
    assert rouge_floor(vector(DOCUMENTS), vector(SUMMARIES)) == rouge_floor(DOCUMENTS, SUMMARIES)


@every_other
def test_what_is_no_vector_is_refused_everywhere(scorer, given, kind, tmp_path):
    calls = {
        "documents": [
            lambda: scorer.score(given, SUMMARIES),
            lambda: scorer.rescore(given, [[[5]]]),
            lambda: quals_compute_metrics(WORDS, scorer, documents=given),
            lambda: QualsCallback(seq2seq_trainer(tmp_path), given, scorer),
            lambda: rouge_floor(given, SUMMARIES),
            lambda: ReferenceScorer.score(None, given, SUMMARIES),
            lambda: QagsScorer.score(None, given, SUMMARIES),
        ],
        "summaries": [
            lambda: scorer.score(DOCUMENTS, given),
            lambda: scorer.generate(given),
        ],
        "predictions": [
            lambda: QualsModule(scorer).compute(predictions=given, references=DOCUMENTS)
        ],
        "references": [
            lambda: QualsModule(scorer).compute(predictions=SUMMARIES, references=given)
        ],
        "completions": [lambda: QualsReward(scorer)(["p"], given, document=DOCUMENTS)],
        "document": [lambda: QualsReward(scorer)(["p"], SUMMARIES, document=given)],
        "scores": [lambda: agreement("QUALS", given, [1.0])],
    }
    if kind != "str":  # torchmetrics takes a single text
        calls["preds"] = [lambda: QualsMetric(scorer).update(given, DOCUMENTS)]
    for name, attempts in calls.items():
        for attempt in attempts:
            with pytest.raises(TypeError, match=f"`{name}` must be a list of .*, but got {kind}"):
                attempt()


def test_logits_in_the_place_of_token_ids(scorer):
    compute_metrics = quals_compute_metrics(WORDS, scorer, documents=DOCUMENTS)
    logits = np.zeros((4, 5, 100), np.float32)
    for predictions in (logits, (logits, np.zeros(3))):
        with pytest.raises(
            ValueError, match=r"but got logits of shape \(4, 5, 100\); set predict_"
        ):
            compute_metrics(EvalPrediction(predictions=predictions, label_ids=None))
