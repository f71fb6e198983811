"""The adapters inside a program that has set PyTorch's default dtype or device."""

import pytest
import torch
from tiny_trainers import DOCUMENTS, SUMMARIES, seq2seq_trainer, tokenizer
from torch_defaults import DEFAULTS, default
from transformers import EvalPrediction

from quals_fast.training import QualsCallback, QualsMetric, QualsReward, quals_compute_metrics

WORDS = tokenizer()
every_default = pytest.mark.parametrize("value", DEFAULTS, ids=str)


@every_default
def test_reward(scorer, value):
    reward = QualsReward(scorer)
    expected = reward(["p"] * 4, SUMMARIES, document=DOCUMENTS)
    with default(value):
        assert reward(["p"] * 4, SUMMARIES, document=DOCUMENTS) == expected


@every_default
def test_metric(scorer, value):
    scores = scorer.score(DOCUMENTS, SUMMARIES).scores
    metric = QualsMetric(scorer)  # states go to the default device, as torchmetrics has it
    with default(value):
        if isinstance(value, torch.dtype):
            metric = QualsMetric(scorer)
        metric.update(SUMMARIES, DOCUMENTS)
        found = metric.compute()
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(sum(scores) / 4, abs=1e-12)
    assert metric.status_counts()["ok"] == 4


@every_default
def test_callback(scorer, value, tmp_path):
    host = seq2seq_trainer(tmp_path)
    host.add_callback(
        callback := QualsCallback(
            host, DOCUMENTS, scorer, generate={"max_new_tokens": 8, "min_new_tokens": 3}
        )
    )
    expected, found = {}, {}
    callback.on_evaluate(host.args, host.state, host.control, expected)
    with default(value):
        callback.on_evaluate(host.args, host.state, host.control, found)
    assert expected["eval_quals_scored"] > 0
    assert found == expected


@every_default
def test_compute_metrics(scorer, value):
    compute_metrics = quals_compute_metrics(WORDS, scorer, documents=DOCUMENTS)
    ids = WORDS(SUMMARIES, padding=True, return_tensors="np")["input_ids"]
    prediction = EvalPrediction(predictions=ids, label_ids=None)
    expected = compute_metrics(prediction)
    assert expected["quals_scored"] == 4
    with default(value):
        assert compute_metrics(prediction) == expected
