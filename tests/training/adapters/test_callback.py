"""QualsCallback and quals_compute_metrics in runs of transformers' trainers."""

import logging
import math

import pytest
import torch
from tiny_trainers import DOCUMENTS, seq2seq_trainer, tokenizer

from quals_fast.training import BackgroundScorer, QualsCallback, quals_compute_metrics
from quals_fast.training.adapters.summaries import generate_summaries

GENERATE = {"max_new_tokens": 8, "min_new_tokens": 3}
WORDS = tokenizer()
KEYS = {"", "_low", "_high", "_scored", "_no_pairs", "_empty", "_error"}


def with_scores(host):
    return [log for log in host.state.log_history if "eval_quals" in log]


def test_each_evaluation_logs_the_mean_with_its_interval(scorer, tmp_path):
    host = seq2seq_trainer(tmp_path)
    host.add_callback(QualsCallback(host, DOCUMENTS, scorer, generate=GENERATE))
    host.train()
    logs = with_scores(host)
    assert [log["step"] for log in logs] == [1, 2]
    for log in logs:
        assert {f"eval_quals{key}" for key in KEYS} <= set(log)
        assert log["eval_quals_low"] <= log["eval_quals"] <= log["eval_quals_high"]
        counts = [log[f"eval_quals_{n}"] for n in ("scored", "no_pairs", "empty", "error")]
        assert sum(counts) == len(DOCUMENTS)
    found = host.evaluate()
    summaries = [s for (s,) in generate_summaries(host.model, WORDS, DOCUMENTS, **GENERATE)]
    scores = [s for s in scorer.score(DOCUMENTS, summaries).scores if not math.isnan(s)]
    assert scores and found["eval_quals"] == pytest.approx(sum(scores) / len(scores))


def test_it_changes_nothing_of_the_training(scorer, tmp_path):
    def weights(documents):
        host = seq2seq_trainer(tmp_path, max_steps=3)
        if documents:
            sampled = {**GENERATE, "do_sample": True}
            host.add_callback(QualsCallback(host, documents, scorer, generate=sampled))
        host.train()
        assert not documents or len(with_scores(host)) == 3
        return host.model.state_dict()

    without, with_it = weights([]), weights(DOCUMENTS)
    assert all(torch.equal(without[name], with_it[name]) for name in without)


def test_in_the_background_the_scores_come_later_with_their_step(scorer, tmp_path):
    host = seq2seq_trainer(tmp_path)
    with BackgroundScorer(scorer) as background:
        host.add_callback(QualsCallback(host, DOCUMENTS, background, generate=GENERATE))
        host.train()
    logs = with_scores(host)
    assert [log["eval_quals_step"] for log in logs] == [1, 2]
    other = seq2seq_trainer(tmp_path)
    other.add_callback(QualsCallback(other, DOCUMENTS, scorer, generate=GENERATE))
    other.train()
    assert [x["eval_quals"] for x in logs] == [x["eval_quals"] for x in with_scores(other)]


class Failing:
    """A background whose scorer always fails."""

    def score(self, documents, summaries):
        raise RuntimeError("no memory")


def test_an_exception_in_the_background_is_logged_or_raised(tmp_path, caplog):
    for on_error in ("skip", "raise"):
        host = seq2seq_trainer(tmp_path)
        with BackgroundScorer(Failing()) as background:
            callback = QualsCallback(
                host, DOCUMENTS, background, generate=GENERATE, on_error=on_error
            )
            host.add_callback(callback)
            if on_error == "raise":
                with pytest.raises(RuntimeError, match="no memory"):
                    host.train()
            else:
                with caplog.at_level(logging.WARNING, "quals_fast.training"):
                    host.train()
        assert not with_scores(host)
    assert "the summaries of step 1 have no scores: no memory" in caplog.text


@pytest.mark.parametrize("inputs", [False, True], ids=["documents", "inputs"])
def test_compute_metrics(scorer, tmp_path, inputs):
    compute = quals_compute_metrics(WORDS, scorer, documents=None if inputs else DOCUMENTS)
    more = {"include_for_metrics": ["inputs"]} if inputs else {}
    host = seq2seq_trainer(tmp_path, compute, predict_with_generate=True, **more)
    found = host.evaluate()
    assert {f"eval_quals{key}" for key in KEYS} <= set(found)
    predicted = host.predict(host.eval_dataset).predictions
    summaries = WORDS.batch_decode(predicted, skip_special_tokens=True)
    scores = [s for s in scorer.score(DOCUMENTS, summaries).scores if not math.isnan(s)]
    assert scores and found["eval_quals"] == pytest.approx(sum(scores) / len(scores), abs=1e-6)


def test_wrong_settings_are_refused(scorer, tmp_path):
    host = seq2seq_trainer(
        tmp_path, quals_compute_metrics(WORDS, scorer), predict_with_generate=True
    )
    with pytest.raises(ValueError, match="`documents` was not given and the Trainer"):
        host.evaluate()
    few = seq2seq_trainer(
        tmp_path, quals_compute_metrics(WORDS, scorer, documents=["a"]), predict_with_generate=True
    )
    with pytest.raises(ValueError, match="must have the same length, but got 1 and 4"):
        few.evaluate()
    with pytest.raises(ValueError, match="`documents` must not be empty"):
        QualsCallback(host, [], scorer)
    from tiny_trainers import causal_model

    with pytest.raises(ValueError, match="must be a sequence-to-sequence model, but got LlamaFor"):
        generate_summaries(causal_model(), WORDS, DOCUMENTS)
