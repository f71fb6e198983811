"""QualsReward by itself and in a run of GRPOTrainer."""

import math

import pytest
import torch
from tiny_trainers import DOCUMENTS, SUMMARIES, TEXT, causal_model, tokenizer

from quals_fast.training import QualsReward
from quals_fast.training.adapters.reward import UnscoredBatchWarning, completion_text


def chat(text):
    return [{"role": "assistant", "content": text}]


def test_texts_and_chats_get_their_scores(scorer):
    reward = QualsReward(scorer)
    expected = scorer.score(DOCUMENTS, SUMMARIES).scores
    prompts = ["summarise"] * 4
    plain = reward(prompts, SUMMARIES, document=DOCUMENTS)
    chats = reward(prompts, [chat(text) for text in SUMMARIES], document=DOCUMENTS)
    assert plain == chats == expected
    assert all(type(one) is float for one in plain)


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("a", "a"),
        ([], ""),
        ([{"content": "a"}], "a"),
        ([{"role": "user", "content": "b"}], ""),
        ([*chat("a"), {"role": "tool", "content": "b"}, *chat("c")], "c"),
        (chat([{"type": "text", "text": "a "}, {"type": "image"}, {"type": "text", "text": "b"}]),
         "a b"),
        (chat(None), ""),
        (chat(["a"]), ["a"]),
        (["a"], ["a"]),
        ([{"text": "a"}], [{"text": "a"}]),
        (7, 7),
    ],
)  # fmt: skip
def test_the_text_of_a_completion(completion, text):
    assert completion_text(completion) == text


def test_what_has_no_score_has_no_reward(scorer, caplog):
    completions = [SUMMARIES[0], "?", "", [], 7, ["text"], [{"text": "a"}]]
    documents = [TEXT] * 7
    logged = {}
    found = QualsReward(scorer)(
        ["p"] * 7, completions, document=documents, log_metric=logged.__setitem__
    )
    assert found[1:] == [None] * 6 and math.isfinite(found[0])
    assert "3 of 7 rows have no score; row 4: `summary` must be a string, but got" in caplog.text
    assert logged == {"quals/scored": 1 / 7}
    given = QualsReward(scorer, missing_reward=-5.0)(["p"] * 7, completions, document=documents)
    assert given[1:] == [-5.0] * 6
    with pytest.raises(ValueError, match="row 4: `summary` must be a string, but got int"):
        QualsReward(scorer, on_error="raise")(["p"] * 7, completions, document=documents)


def unscored(reward, completions):
    return reward(["p"] * len(completions), completions, document=[TEXT] * len(completions))


def test_batches_without_any_score_warn_and_then_end_the_run(scorer):
    reward = QualsReward(scorer, max_unscored_batches=3)
    first = r"for any of 2 completions \(1 error, 1 empty_summary\); .* without a score: 1; "
    with pytest.warns(UnscoredBatchWarning, match=first):
        assert unscored(reward, [7, ""]) == [None, None]
    with pytest.warns(UnscoredBatchWarning, match="in a row without a score: 2"):
        unscored(reward, [""])
    assert None not in unscored(reward, SUMMARIES[:1])  # a score: counted from the start again
    assert unscored(reward, []) == []
    for n in (1, 2):
        with pytest.warns(UnscoredBatchWarning, match=f"in a row without a score: {n}$"):
            unscored(reward, [""])
    for n in (3, 4):  # also for a program that has caught it
        with pytest.raises(RuntimeError, match=f"in a row without a score: {n}; check the comp"):
            unscored(reward, [""])


def test_a_scorer_that_fails_on_every_row_ends_the_run(scorer, monkeypatch):
    def fail(*_):
        raise TypeError("Got unsupported ScalarType BFloat16")

    monkeypatch.setattr(scorer.engine, "score", fail)
    reward = QualsReward(scorer, missing_reward=-5.0)
    with pytest.warns(UnscoredBatchWarning) as seen:
        for _ in range(9):
            assert unscored(reward, SUMMARIES[:1]) == [-5.0]
    assert "first message: TypeError: Got unsupported ScalarType" in str(seen[0].message)
    with pytest.raises(RuntimeError, match="set max_unscored_batches=None"):
        unscored(reward, SUMMARIES[:1])
    patient = QualsReward(scorer, max_unscored_batches=None)
    with pytest.warns(UnscoredBatchWarning) as seen:
        for _ in range(12):
            unscored(patient, SUMMARIES[:1])
    assert len(seen) == 12


def test_a_failing_row_costs_no_other_its_reward(failing_scorer, scorer):
    found = QualsReward(failing_scorer)(["p"] * 2, ["the king", SUMMARIES[0]], document=[TEXT] * 2)
    assert found[0] is None
    assert found[1] == pytest.approx(scorer.score([TEXT], SUMMARIES[:1]).scores[0], abs=1e-6)


def test_wrong_calls_are_refused(scorer):
    reward = QualsReward(scorer, document_column="article")
    with pytest.raises(
        ValueError,
        match="expected the documents in the column 'article', but the data set has 'document', 'i",
    ):
        reward(["p"], ["a"], document=["b"], id=[1], trainer_state=None, completion_ids=[[1]])
    with pytest.raises(ValueError, match="the data set has no column besides the prompt"):
        reward(["p"], ["a"])
    with pytest.raises(ValueError, match="must have the same length, but got 1 and 2"):
        reward(["p"] * 2, ["a", "b"], article=["b"])
    with pytest.raises(TypeError, match="`completions` must be a list of texts or chats, but got"):
        reward("p", "a", article=["b"])
    with pytest.raises(TypeError, match="`article` must be a list of strings, but got str"):
        reward(["p"], ["a"], article="b")
    with pytest.raises(ValueError, match="`missing_reward` must be finite or None, but got nan"):
        QualsReward(scorer, missing_reward=math.nan)
    with pytest.raises(ValueError, match="`max_unscored_batches` must be at least 1 or None, but"):
        QualsReward(scorer, max_unscored_batches=0)


def test_inside_of_no_grad_and_autocast_rewards_are_the_same(scorer):
    reward = QualsReward(scorer)
    expected = reward(["p"] * 4, SUMMARIES, document=DOCUMENTS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert reward(["p"] * 4, SUMMARIES, document=DOCUMENTS) == expected


@pytest.mark.parametrize("conversational", [False, True], ids=["plain", "chat"])
def test_a_run_of_grpo(load, tmp_path, conversational, monkeypatch):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    calls = []
    reward = QualsReward(load(cache_bytes=1 << 20), document_column="article")
    original = QualsReward.__call__

    def call(self, prompts, completions, **columns):
        found = original(self, prompts, completions, **columns)
        calls.append((columns["article"], completions, found))
        return found

    monkeypatch.setattr(QualsReward, "__call__", call)
    words = tokenizer()
    words.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    prompts = [[{"role": "user", "content": d}] if conversational else d for d in DOCUMENTS[:2]]
    trainer = GRPOTrainer(
        causal_model(),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=8,
            max_steps=3,
            logging_steps=1,
            learning_rate=1e-2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts, "article": DOCUMENTS[:2]}),
        processing_class=words,
    )
    trainer.train()
    assert len(calls) == 3
    assert all(isinstance(calls[0][1][0], list if conversational else str) for _ in calls)
    assert any(one is not None for _, _, found in calls for one in found)
    # Eight completions of two documents, three steps: a document is encoded once in all.
    stats = reward.scorer.cache_stats
    assert stats.misses == stats.n_documents <= 2
    logs = [log for log in trainer.state.log_history if "rewards/quals/mean" in log]
    assert len(logs) == 3 and all("quals/scored" in log for log in logs)
