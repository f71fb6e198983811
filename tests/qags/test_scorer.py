"""QAGS with tiny networks: both arms, answers, statuses, replays, models that cannot be used."""

import json
import math
import re
from dataclasses import replace

import pytest
import qags_models
import torch
from model_folders import change_json, change_weights
from qags_models import BERT, DOCUMENT, SUMMARIES, WordAnswers

from quals_fast.models.checkpoint import CheckpointError
from quals_fast.ops import BackendUnavailableError
from quals_fast.qags import GivenAnswers, NetworkFiles, QagsScorer, StageWork
from quals_fast.qags.answering import Ask, QuestionAnswerer
from quals_fast.qags.questions import SETTINGS, Job, QuestionGenerator

CPU = torch.device("cpu")
ROWS = [DOCUMENT] * len(SUMMARIES)
STATUSES = ["no_questions", "ok", "ok", "ok", "no_questions"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return qags_models.write_models(tmp_path_factory.mktemp("qags"))


@pytest.fixture
def own_folder(tmp_path):
    """Models that a test may damage."""
    return qags_models.write_models(tmp_path / "models")


def load(folder, **settings):
    settings = {"extractor": WordAnswers(), "device": "cpu", "dtype": "float32"} | settings
    return QagsScorer.from_pretrained(folder, **settings)


@pytest.fixture(scope="module")
def scorer(folder):
    return load(folder)


@pytest.fixture(scope="module")
def result(scorer):
    found = scorer.score(ROWS, SUMMARIES)
    assert [row.status for row in found] == STATUSES
    return found


def comparable(result):
    """Everything but the last digits of log-probabilities."""
    return [
        row.to_dict()
        | {"replay": row.replay, "n_generated": row.n_generated}
        | {"pairs": [pair.to_dict() | {"logprob": round(pair.logprob, 4)} for pair in row.pairs]}
        for row in result
    ]


# Arms


@pytest.mark.parametrize(
    ("setting", "answer_filter"),
    [("shipped", False), ("paper", True)],
    ids=["shipped", "paper-filtered"],
)
def test_both_arms_find_the_same(folder, setting, answer_filter):
    shipped, batched = (
        load(folder, arm=arm, setting=setting, answer_filter=answer_filter).score(ROWS, SUMMARIES)
        for arm in ("as_shipped", "batched")
    )
    assert comparable(shipped) == comparable(batched)
    assert shipped.signature != batched.signature
    work = [result.work["question_generation"] for result in (shipped, batched)]
    assert work[0].sequences == 40  # four summaries with candidates, ten answers each
    assert work[1].sequences == 19  # these are distinct
    assert work[1].decoded_tokens < work[0].decoded_tokens


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"forced_bos_token_id": 3}, id="forced-bos"),
        pytest.param({"qg_source": "answer_sep_passage"}, id="answer-first"),
        pytest.param({"masked_token_ids": [2], "source_bos": False}, id="fairseq"),
        pytest.param({"scale_embedding": True}, id="scaled-embedding"),
        pytest.param({"max_position_embeddings": 12}, id="few-positions"),
    ],
)
def test_both_arms_search_alike(tmp_path, changes):
    files = NetworkFiles.read(qags_models.write_models(tmp_path, **changes) / "question_generation")
    generator = QuestionGenerator(files, SETTINGS["paper"], device=CPU)
    jobs = [Job(SUMMARIES[i % 4], answer) for i, answer in enumerate("anne queen king won".split())]
    jobs.append(Job(SUMMARIES[0] + SUMMARIES[2], "the river"))
    one_by_one, together = (
        dict(generator.generate(jobs, StageWork(), max_batch_tokens=budget))
        for budget in (None, 10_000)
    )
    for index in range(len(jobs)):
        one, other = one_by_one[index], together[index]
        assert [q.text for q in one.questions] == [q.text for q in other.questions]
        assert [q.logprob for q in one.questions] == pytest.approx(
            [q.logprob for q in other.questions], abs=1e-5
        )
        assert (one.steps, one.truncated_tokens) == (other.steps, other.truncated_tokens)


def test_a_row_does_not_depend_on_its_neighbours(scorer, result):
    for index in (1, 3):
        alone = scorer.score([DOCUMENT], [SUMMARIES[index]])
        assert comparable(alone) == [comparable(result)[index]]
    assert comparable(scorer.score(ROWS[::-1], SUMMARIES[::-1])) == comparable(result)[::-1]


def test_small_batches_change_nothing(folder, result):
    assert comparable(load(folder, max_batch_tokens=1).score(ROWS, SUMMARIES)) == comparable(result)


def test_half_precision_runs(folder):
    result = load(folder, dtype="bfloat16").score(ROWS, SUMMARIES)
    assert {row.status for row in result} <= {"ok", "no_questions"}
    assert "dtype:bfloat16" in result.signature


def test_the_seed_is_part_of_the_signature_and_draws_others(folder, scorer, result):
    other = load(folder, seed=1)
    assert "|seed:1|" in other.signature
    assert "|seed:0|" in scorer.signature
    (drawn,) = other.score([DOCUMENT], [SUMMARIES[3]])  # twelve candidates
    assert drawn.replay.answers != result[3].replay.answers


def test_the_shipped_beam_gives_five_questions_an_answer(folder, result):
    assert [row.n_generated for row in result] == [50, 50, 50, 50, 0]
    paper = load(folder, setting="paper").score(ROWS[:1], SUMMARIES[:1])
    assert paper[0].n_generated == 100


# Score


def test_the_score_is_the_mean_over_questions(result):
    for row in result:
        if row.status == "ok":
            mean = sum(pair.score for pair in row.pairs) / len(row.pairs)
            assert row.score == pytest.approx(mean)
            assert row.worst_pair.score == min(pair.score for pair in row.pairs)
            for pair in row.pairs:
                assert pair.document_answer in DOCUMENT
                assert pair.question.endswith("?")


def test_a_summary_without_candidates_has_no_questions(result):
    assert result[4].status == "no_questions"
    assert math.isnan(result[4].score)
    assert result[4].to_dict()["score"] is None


def test_results_can_be_written(result):
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["rows"][1]["n_pairs"] == len(result[1].pairs) > 0
    assert written["rows"][1]["pairs"][0].keys() == {
        "question",
        "answer",
        "document_answer",
        "expected_answer",
        "logprob",
        "score",
    }
    assert set(written["work"]) == {
        "answer_extraction",
        "question_generation",
        "summary_answering",
        "document_answering",
    }
    assert result.scores[1] == result[1].score
    assert len(result) == 5


def test_bad_rows_do_not_touch_the_others(scorer, result):
    documents = [DOCUMENT, "", 3, DOCUMENT, DOCUMENT]
    summaries = [SUMMARIES[1], SUMMARIES[1], SUMMARIES[1], " ", SUMMARIES[3]]
    reported = []
    found = scorer.score(documents, summaries, on_progress=reported.append)
    assert [row.status for row in found] == ["ok", "empty_document", "error", "empty_summary", "ok"]
    assert "must be a string, but got int" in found[2].message
    assert comparable([found[0], found[4]]) == [comparable(result)[i] for i in (1, 3)]
    assert sum(reported) == 2
    assert len(scorer.score([], [])) == 0


def test_wrong_arguments(scorer):
    with pytest.raises(ValueError, match="must have the same length, but got 1 and 2"):
        scorer.score(["a"], ["b", "c"])
    with pytest.raises(TypeError, match="`summaries` must be a list of strings"):
        scorer.score(["a"], "b")
    with pytest.raises(ValueError, match="`documents` and `replay` must have the same length"):
        scorer.score(["a"], ["b"], replay=[])


def test_a_question_longer_than_a_window_is_its_rows_error(scorer, result, monkeypatch):
    monkeypatch.setattr(scorer.question_answerer, "max_length", 8)
    found = scorer.score(ROWS, SUMMARIES)
    assert "error" in {row.status for row in found}
    for row, usual in zip(found, result, strict=True):
        if row.status == "error":
            assert "must leave room for a passage in a window of 8 tokens" in row.message
            assert math.isnan(row.score)
        else:
            assert [p.question for p in row.pairs] == [p.question for p in usual.pairs]


def test_the_answer_filter_drops_a_question_longer_than_a_window(folder, monkeypatch):
    scorer = load(folder, answer_filter=True)
    longest = "anne and queen and king won the game of the town by the river bridge ?"
    generate = scorer.question_generator.generate

    def with_a_long_one(*arguments, **settings):
        for number, found in generate(*arguments, **settings):
            first, *_ = found.questions
            yield number, found._replace(questions=[replace(first, text=longest), *found.questions])

    usual = scorer.score(ROWS, SUMMARIES)
    assert "ok" in {row.status for row in usual}
    monkeypatch.setattr(scorer.question_generator, "generate", with_a_long_one)
    monkeypatch.setattr(
        scorer.question_answerer, "leaves_room", lambda question: question != longest
    )
    found = scorer.score(ROWS, SUMMARIES)
    assert [row.pairs for row in found] == [row.pairs for row in usual]


def test_nan_is_an_error_of_the_row(folder):
    scorer = load(folder)
    scorer.question_answerer.bert.qa_outputs.bias.data[0] = math.nan
    row = scorer.score([DOCUMENT], [SUMMARIES[1]])[0]
    assert (row.status, row.pairs) == ("error", ())
    assert "question-answering network returned NaN" in row.message
    scorer = load(folder)
    scorer.question_generator.bart.final_logits_bias[0, 7] = math.nan
    row = scorer.score([DOCUMENT], [SUMMARIES[1]])[0]
    assert row.status == "error"
    assert "question generator returned NaN" in row.message


def test_a_long_summary_is_cut_and_the_answer_is_not(own_folder):
    change_json(own_folder / "question_generation" / "config.json", max_source_tokens=12)
    summary = " ".join(["the town won the game"] * 4)
    extractor = GivenAnswers({summary: ["forty four lives"]})
    row = load(own_folder, extractor=extractor).score([DOCUMENT], [summary])[0]
    assert row.truncated_tokens == 20 - (12 - 3 - 3)  # specials, answer


def test_unknown_tokens_of_both_texts_are_counted(folder):
    candidates = {"the 伟 陈 won": ["won"], "anne won": ["anne"], "anne lost": ["anne"]}
    scorer = load(folder, extractor=GivenAnswers(candidates))
    rows = scorer.score(["陈 won", "陈 won", "king"], list(candidates))
    assert [row.unknown_tokens for row in rows] == [3, 1, 0]
    assert not {row.status for row in rows} & {"error", "unknown_text"}
    assert rows[0].to_dict()["unknown_tokens"] == 3


# Replay


def test_a_replay_does_the_same_work(folder, result):
    texts, replay = (ROWS[:2], SUMMARIES[:2]), [row.replay for row in result[:2]]
    for arm in ("as_shipped", "batched"):
        reference = load(folder, arm=arm).score(*texts)
        files = [
            NetworkFiles.read(folder / name)
            for name in ("question_generation", "question_answering")
        ]
        random = [
            NetworkFiles(name=one.name, config=one.config, weights=None, tokenizer=one.tokenizer)
            for one in files
        ]
        scorer = QagsScorer(
            *random, extractor=WordAnswers(), arm=arm, device="cpu", dtype="float32"
        )
        assert "question_generation@random" in scorer.signature
        found = scorer.score(*texts, replay=replay)
        assert [row.replay for row in found] == replay
        assert [row.n_generated for row in found] == [row.n_generated for row in result[:2]]
        for stage in ("summary_answering", "document_answering"):
            assert found.work[stage].tokens == reference.work[stage].tokens > 0
        ours, theirs = (r.work["question_generation"] for r in (found, reference))
        assert ours.tokens == theirs.tokens
        assert ours.decoded_tokens == theirs.decoded_tokens
        json.dumps(found.to_dict(), allow_nan=False)


# Answering


@pytest.fixture(scope="module")
def answerer(folder):
    files = NetworkFiles.read(folder / "question_answering")
    return QuestionAnswerer(files, device=CPU, max_length=24, stride=8)


def slow_answer(answerer, question, text):
    """The published program's loops: all spans of all windows, and the empty answer."""
    tokenizer = answerer._tokenizer
    asked = tokenizer.encode(question, add_special_tokens=False).ids
    passage = tokenizer.encode(text, add_special_tokens=False)
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    room, start, windows = 24 - len(asked) - 3, 0, []
    while True:
        windows.append((start, min(room, len(passage.ids) - start)))
        if sum(windows[-1]) == len(passage.ids):
            break
        start += 8
    null, best, span = math.inf, -math.inf, None
    for index, (start, length) in enumerate(windows):
        head = [cls, *asked, sep]
        ids = [*head, *passage.ids[start : start + length], sep]
        types = [0] * len(head) + [1] * (length + 1)
        output = answerer.bert(torch.tensor([ids]), token_type_ids=torch.tensor([types]))
        starts, ends = output.start_logits[0], output.end_logits[0]
        null = min(null, float(starts[0] + ends[0]))
        for first in range(length):
            token = start + first
            context = [
                min(token - s, s + n - 1 - token) + 0.01 * n if s <= token < s + n else -1
                for s, n in windows
            ]
            if context.index(max(context)) != index:
                continue
            for last in range(first, min(length, first + 30)):
                score = float(starts[len(head) + first] + ends[len(head) + last])
                if score > best:
                    best, span = score, (token, start + last)
    if null - best > 0:
        return ""
    return text[passage.offsets[span[0]][0] : passage.offsets[span[1]][1]]


TEXTS = {
    "shorter than a window": "Queen Anne won.",
    "one window": "the town won the game by forty four",
    "several windows": DOCUMENT,
    "capitals and gaps": "  Queen   ANNE, of the\n river town; opened a Bridge " * 3,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_answers_are_those_of_the_published_loops(answerer, text):
    questions = ["who won ?", "what did queen anne open in the town by the river ?"]
    asks = [Ask(question, text) for question in questions]
    expected = [slow_answer(answerer, question, text) for question in questions]
    assert answerer.answer(asks, StageWork(), max_batch_tokens=None) == expected
    assert answerer.answer(asks, StageWork(), max_batch_tokens=64) == expected


def test_no_answer_above_the_threshold(folder):
    answerer = QuestionAnswerer(NetworkFiles.read(folder / "question_answering"), device=CPU)
    asks = [Ask("who won ?", DOCUMENT), Ask("who won ?", "queen anne won")]
    answerer.bert.qa_outputs.weight.zero_()
    # All spans are as likely as no answer, which must be likelier to be given.
    assert all(answerer.answer(asks, StageWork(), max_batch_tokens=999))
    positions = answerer.bert.bert.embeddings.position_embeddings.weight
    positions[0] += 100 * torch.randn(16, generator=torch.Generator().manual_seed(0))
    states = answerer.bert.bert(torch.tensor([[3, 5, 4]])).last_hidden_state[0]
    answerer.bert.qa_outputs.weight[:] = states[0] - states[1]
    assert answerer.answer(asks, StageWork(), max_batch_tokens=999) == ["", ""]


def test_a_text_without_tokens_has_no_answer(answerer):
    asks = [Ask("who won ?", "\u200b"), Ask("who won ?", "anne won")]
    found = answerer.answer(asks, StageWork(), max_batch_tokens=999)
    assert found[0] == ""
    assert found == [answerer.answer([ask], StageWork(), max_batch_tokens=None)[0] for ask in asks]


def test_long_questions(answerer):
    assert answerer.cut_tokens("who won ?") == 0
    with pytest.raises(ValueError, match="a window of 24 tokens, but has 30 tokens: 'who who"):
        answerer.cut_tokens("who " * 30)


def test_questions_are_cut_at_64_tokens(tmp_path):
    config = BERT | {"max_position_embeddings": 128}
    from transformers import BertConfig, BertForQuestionAnswering

    weights = BertForQuestionAnswering(BertConfig(**config)).state_dict()
    files = NetworkFiles.read(qags_models.write_folder(tmp_path / "qa", config, weights))
    answerer = QuestionAnswerer(files, device=CPU)
    assert answerer.max_length == 128
    assert answerer.cut_tokens("who " * 70) == 6
    work = StageWork()
    answerer.answer([Ask("who " * 70, "anne won")], work, max_batch_tokens=999)
    assert work.tokens == 64 + 2 + 3


# Models and settings that cannot be used


def test_missing_models(tmp_path, own_folder, monkeypatch):
    monkeypatch.setattr("quals_fast.qags.networks.BUNDLED_MODELS", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no bench/qags_models in .*; run this in the check"):
        load(None)
    with pytest.raises(CheckpointError, match="must contain the folders question_generation and"):
        load(tmp_path)
    weights = own_folder / "question_answering" / "model.safetensors"
    weights.rename(weights.with_name("other"))
    with pytest.raises(CheckpointError, match=r"has no weights: expected model\.safetensors"):
        load(own_folder)


def test_an_installed_package_finds_the_models_of_the_checkout_it_runs_in(tmp_path, monkeypatch):
    monkeypatch.setattr("quals_fast.qags.networks.BUNDLED_MODELS", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    folder = qags_models.write_models(tmp_path / "bench" / "qags_models")
    assert load(None).signature == load(folder).signature


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("generation", {"sep_token_id": None}, "config.json has no `sep_token_id`"),
        ("generation", {"qg_source": "other"}, "`qg_source` must be 'passage_sep_answer' or"),
        ("generation", {"model_type": "t5"}, "`model_type` must be 'bart', but is 't5'"),
        ("generation", {"vocab_size": 9}, r"must have shape|tokens, but the model's vocabulary"),
        ("answering", {"model_type": "roberta"}, "`model_type` must be 'bert', but is 'roberta'"),
        ("answering", {"hidden_act": "x"}, "cannot build the network in config.json .KeyError: 'x"),
        ("answering", {"hidden_size": "x"}, r"config\.json .*'hidden_size' expected int, got str"),
        ("answering", {"num_hidden_layers": 3}, r"lack bert\.encoder\.layer\.2\..* \(16 such\)"),
        (
            "answering",
            {"intermediate_size": 8},
            r"dense.bias must have shape \(8,\) according to config",
        ),
    ],
)
def test_wrong_configs(own_folder, part, changes, message):
    change_json(own_folder / f"question_{part}" / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load(own_folder)


def test_nan_in_the_weights_is_refused(own_folder):
    def spoil(weights):
        weights["qa_outputs.bias"][0] = math.nan

    change_weights(own_folder / "question_answering", spoil)
    with pytest.raises(CheckpointError, match=r"qa_outputs\.bias must be finite, but contains NaN"):
        load(own_folder)


def test_a_tokenizer_as_vocab_txt(own_folder, result):
    folder = own_folder / "question_answering"
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(qags_models.TOKENS) + "\n")
    assert comparable(load(own_folder).score(ROWS, SUMMARIES)) == comparable(result)
    (folder / "vocab.txt").write_text("queen\nanne\n[UNK]\n")
    with pytest.raises(CheckpointError, match="sep_token not found"):
        load(own_folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arm": "fast"}, "`arm` must be one of as_shipped, batched, but got 'fast'"),
        ({"setting": "x"}, "`setting` must be one of shipped, paper, but got 'x'"),
        ({"dtype": "int8"}, "`dtype` must be one of auto, float32, bfloat16, float16, but got"),
        ({"arm": "as_shipped", "dtype": "bfloat16"}, "'as_shipped' computes in float32 with"),
        ({"arm": "as_shipped", "max_batch_tokens": 9}, "published batch size, but got"),
        ({"max_batch_tokens": 0}, "`max_batch_tokens` must be at least 1, but got 0"),
    ],
)
def test_wrong_settings(folder, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(folder, **settings)


def test_no_gpu(folder):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BackendUnavailableError, match="PyTorch sees 0 GPUs"):
        load(folder, device="cuda")


def test_as_shipped_is_float32_by_default(folder):
    assert "dtype:float32" in load(folder, arm="as_shipped", dtype="auto").signature
