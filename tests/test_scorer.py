"""The scorer's promises beyond parity: shape, order, batch mates, bad rows, one encoding."""

import copy
import math
import pickle
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from engines import in_half_precision

from quals_fast import DecodingConfig, QualsScorer, ScoringConfig
from quals_fast.config import PRESETS
from quals_fast.engine import base
from quals_fast.engine.cpu import CpuEngine
from quals_fast.engine.gpu import GpuEngine
from quals_fast.models import linear
from quals_fast.models.bart import Bart
from quals_fast.ops import BackendUnavailableError
from quals_fast.reference.tolerances import TOKEN_LOGPROB

TEXT = "queen anne opened the tower by the river in 1969 , forty won"
DOCUMENTS = [TEXT, "the king closed the game", TEXT + " . " + TEXT, "who was the queen ?"]
SUMMARIES = ["anne opened the tower", "the queen won in 1969", "forty won by the river", TEXT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write_checkpoint(tmp_path_factory.mktemp("models") / "m", trained_on=TEXT)


@pytest.fixture(scope="module")
def scorer(folder):
    decoding = DecodingConfig(num_beams=12, num_beam_groups=12, min_length=2, max_length=12)
    return QualsScorer.from_pretrained(folder, device="cpu", dtype="float32", decoding=decoding)


def test_the_result_reads_as_documented(scorer):
    result = scorer.score(DOCUMENTS, SUMMARIES)
    assert len(result) == len(SUMMARIES)
    assert result.signature == scorer.signature
    for row, score in zip(result, result.scores, strict=True):
        assert row.status == "ok"
        assert row.n_hypotheses == 12
        assert (row.truncated_tokens, row.unknown_tokens) == (0, 0)
        assert row.score == score
        assert score == pytest.approx(sum(p.score for p in row.pairs) / len(row.pairs))
        for pair in row.pairs:
            sizes = {len(pair.token_ids), len(pair.tokens), len(pair.summary_logprobs)}
            assert sizes == {len(pair.document_logprobs)}
            assert pair.tokens.count("<sep>") == 1
            assert pair.tokens[-1] == "<eos>"
            mean = [sum(v) / len(v) for v in (pair.document_logprobs, pair.summary_logprobs)]
            assert pair.score == pytest.approx(mean[0] - mean[1])
        assert row.worst_pair.score == min(pair.score for pair in row.pairs)
    content = result.to_dict()
    assert content["rows"][0]["pairs"][0]["question"] == result[0].pairs[0].question
    assert content["rows"][0]["n_pairs"] == len(result[0].pairs)


def test_scores_do_not_depend_on_batch_mates_order_or_padding(scorer, folder):
    together = scorer.score(DOCUMENTS, SUMMARIES)
    alone = [scorer.score([d], [s])[0] for d, s in zip(DOCUMENTS, SUMMARIES, strict=True)]
    backwards = scorer.score(DOCUMENTS[::-1], SUMMARIES[::-1])[::-1]
    one_by_one = QualsScorer.from_pretrained(
        folder, device="cpu", dtype="float32", decoding=scorer.decoding, max_batch_tokens=1
    ).score(DOCUMENTS, SUMMARIES)
    for others in (alone, backwards, one_by_one):
        for row, other in zip(together, others, strict=True):
            assert [p.token_ids for p in row.pairs] == [p.token_ids for p in other.pairs]
            assert row.score == pytest.approx(other.score, abs=1e-5)


def test_the_clean_logprobs_of_the_search_are_those_of_teacher_forcing(scorer):
    for summary, hypotheses in zip(SUMMARIES, scorer.generate(SUMMARIES), strict=True):
        (again,) = scorer.rescore([summary], [[h.token_ids for h in hypotheses]])
        for hypothesis, logprobs in zip(hypotheses, again, strict=True):
            assert hypothesis.logprobs == pytest.approx(logprobs, abs=TOKEN_LOGPROB)


def test_a_summary_that_is_its_document_scores_zero(scorer):
    for row in scorer.score(SUMMARIES, SUMMARIES):
        assert row.score == pytest.approx(0, abs=1e-5)


def test_lists_of_summaries_give_lists_of_scores(scorer):
    flat = scorer.score([DOCUMENTS[0]] * 3, SUMMARIES[:3])
    nested = scorer.score(DOCUMENTS[:3], [SUMMARIES[:3], [], (SUMMARIES[3],)])
    assert [len(row) for row in nested.scores] == [3, 0, 1]
    assert nested.scores[0] == pytest.approx(flat.scores, abs=1e-5)
    assert [row.status for row in nested[0]] == ["ok"] * 3
    assert nested.to_dict()["rows"][1] == []


@pytest.fixture
def encoded(monkeypatch):
    """Count the texts that the encoder sees."""
    rows = []
    original = Bart.encode_hidden

    def encode_hidden(self, input_ids, attention_mask):
        rows.extend(
            tuple(ids[mask].tolist()) for ids, mask in zip(input_ids, attention_mask, strict=True)
        )
        return original(self, input_ids, attention_mask)

    monkeypatch.setattr(Bart, "encode_hidden", encode_hidden)
    return rows


def test_a_document_with_several_summaries_is_encoded_once(scorer, encoded):
    scorer.score([DOCUMENTS[2]], [SUMMARIES])
    assert len(encoded) == len(SUMMARIES) + 1
    encoded.clear()
    scorer.score([DOCUMENTS[2]] * 4, SUMMARIES)
    assert len(encoded) == len(SUMMARIES) + 1


def test_a_document_is_not_encoded_where_no_pair_is_left(scorer, encoded):
    assert scorer.score(["the town"], ["?"])[0].status == "no_pairs"
    assert len(encoded) == 1


def test_more_pairs_than_the_budget_holds_are_rescored_in_slices(scorer, folder):
    small = QualsScorer.from_pretrained(folder, device="cpu", dtype="float32", max_batch_tokens=7)
    targets = [h.token_ids for h in scorer.generate([TEXT])[0]]
    expected = scorer.rescore(DOCUMENTS[:2], [targets, targets[:1]])
    found = small.rescore(DOCUMENTS[:2], [targets, targets[:1]])
    assert [len(row) for row in found] == [12, 1]
    for row, other in zip(expected, found, strict=True):
        for logprobs, others in zip(row, other, strict=True):
            assert logprobs == pytest.approx(others, abs=TOKEN_LOGPROB)


def test_documents_without_targets_cost_nothing(scorer, encoded):
    assert scorer.rescore(DOCUMENTS[:2], [[], []]) == [[], []]
    assert scorer.score([], []).scores == []
    assert encoded == []


BAD = [
    ("", "error?", "empty_document", None),
    (" \n\t", "queen", "empty_document", None),
    ("queen", "", "empty_summary", None),
    ("queen", "  ", "empty_summary", None),
    (None, "queen", "error", "`document` must be a string, but got NoneType"),
    ("queen", 7, "error", "`summary` must be a string, but got int"),
    ("a\0b", "queen", "error", "`document` must be text, but has a NUL character at position 1"),
    ("queen", "an\ud800ne", "error", "lone surrogate U\\+D800 at position 2"),
]


@pytest.mark.parametrize(("document", "summary", "status", "message"), BAD)
def test_a_bad_row_has_a_status_and_leaves_the_others_alone(
    scorer, document, summary, status, message
):
    result = scorer.score([TEXT, document, TEXT], [SUMMARIES[0], summary, SUMMARIES[1]])
    expected = scorer.score([TEXT, TEXT], SUMMARIES[:2])
    assert [row.status for row in result] == ["ok", status, "ok"]
    assert math.isnan(result[1].score)
    if message is None:
        assert result[1].message is None
    else:
        with pytest.raises(ValueError, match=message):
            raise ValueError(result[1].message)
    assert [result[0].score, result[2].score] == pytest.approx(expected.scores, abs=1e-5)


def test_texts_that_show_nothing_or_have_no_token_are_empty(scorer):
    # The tokenizer leaves nothing of a private character or an accent that stands alone.
    nothing = ["\x01\x02", "\u200b \ufeff", "\ue000", "\u0301"]
    for text in nothing:
        result = scorer.score([text, TEXT], [TEXT, text])
        assert [row.status for row in result] == ["empty_document", "empty_summary"]


def test_a_text_that_is_mostly_unknown_has_no_score_and_says_so(scorer):
    seen = []
    row, other, both, good = scorer.score(
        ["queen 陈", "陈 伟 queen", "陈 " * 100, TEXT],
        ["陈 伟 , the 张 敏", "queen 陈", "陈", SUMMARIES[0]],
        on_progress=seen.append,
    )
    assert sum(seen) == 4
    assert (row.status, row.unknown_tokens, row.pairs) == ("unknown_text", 5, ())
    assert math.isnan(row.score)
    advice = "; use a model whose vocabulary covers the text's script"
    assert row.message == (
        f"more than half of the tokens are unknown to the model: 4 of 6 in the summary{advice}"
    )
    assert other.message == row.message.replace("4 of 6 in the summary", "2 of 3 in the document")
    assert both.message == row.message.replace(
        "4 of 6 in the summary", "1 of 1 in the summary, 100 of 100 in the document"
    )
    assert both.truncated_tokens == 100 - 62
    assert (good.status, good.unknown_tokens) == ("ok", 0)
    assert good.score == pytest.approx(scorer.score([TEXT], SUMMARIES[:1])[0].score, abs=1e-5)


def test_a_megabyte_is_cut_and_counted(scorer):
    long = "queen anne " * 100_000
    result = scorer.score([long, TEXT], [SUMMARIES[0], long])
    assert [row.status for row in result] == ["ok", "ok"]
    assert result[0].truncated_tokens == 200_000 - 62
    assert result[1].truncated_tokens == 200_000 - 62


def test_wrong_arguments_are_refused(scorer):
    with pytest.raises(ValueError, match="must have the same length, but got 2 and 1"):
        scorer.score(["a", "b"], ["c"])
    with pytest.raises(TypeError, match="`documents` must be a list of strings, but got str"):
        scorer.score("a", ["c"])
    with pytest.raises(TypeError, match="`summaries` must be a list of strings, but got str"):
        scorer.score(["a"], "c")
    with pytest.raises(ValueError, match=r"`summaries\[1\]` must not be empty"):
        scorer.generate(["queen", " "])
    with pytest.raises(ValueError, match="`documents` and `token_ids` must have the same length"):
        scorer.rescore(["queen"], [])
    with pytest.raises(ValueError, match=r"`token_ids\[0\]\[1\]` must have 1 to 64 ids from 0 to"):
        scorer.rescore(["queen"], [[[5, 4], []]])
    with pytest.raises(ValueError, match=r"but got 1 from -1 to -1"):
        scorer.rescore(["queen"], [[[-1]]])


def test_a_preset_sets_what_is_not_given(folder):
    few = DecodingConfig(num_beams=2, num_beam_groups=2)
    fast = QualsScorer.from_pretrained(folder, device="cpu", preset="fast")
    assert (fast.decoding, fast.scoring) == (PRESETS["fast"].decoding, PRESETS["fast"].scoring)
    assert pickle.loads(pickle.dumps(fast)).signature == fast.signature
    both = QualsScorer.from_pretrained(folder, device="cpu", preset="fast", decoding=few)
    assert (both.decoding, both.scoring) == (few, PRESETS["fast"].scoring)


def test_settings_that_do_not_fit_the_model_are_refused(folder):
    with pytest.raises(
        ValueError, match="`max_length` must be below the model's 64 positions, but g"
    ):
        QualsScorer.from_pretrained(folder, decoding=DecodingConfig(max_length=64))
    with pytest.raises(ValueError, match="`max_batch_tokens` must be at least 1, but got 0"):
        QualsScorer.from_pretrained(folder, max_batch_tokens=0)
    with pytest.raises(ValueError, match="`graph_bytes` must be at least 0, but got -1"):
        QualsScorer.from_pretrained(folder, graph_bytes=-1)
    with pytest.raises(TypeError, match="`graph_bytes` must be an integer, but got float"):
        QualsScorer.from_pretrained(folder, graph_bytes=8e9)
    with pytest.raises(
        ValueError, match="`backend` must be 'auto', 'eager', 'triton' or 'onnx', but"
    ):
        QualsScorer.from_pretrained(folder, backend="jax")
    with pytest.raises(ValueError, match="`dtype` must be one of auto, float32, mixed, bfloat16"):
        QualsScorer.from_pretrained(folder, dtype="int4")
    with pytest.raises(ValueError, match="`device` must be 'auto', 'cpu', 'cuda' or 'cuda:N', but"):
        QualsScorer.from_pretrained(folder, device="gpu")


def test_a_forced_first_token_and_a_vocabulary_too_small_are_checked_before_any_search(tmp_path):
    config = {**tiny_models.CONFIG, "forced_bos_token_id": 3}
    forced = tiny_models.write_checkpoint(tmp_path / "forced", config)
    with pytest.raises(ValueError, match="`max_length` must be at least 2 for a model that forces"):
        QualsScorer.from_pretrained(forced, decoding=DecodingConfig(min_length=1, max_length=1))
    with pytest.raises(
        ValueError, match="groups of 60 beams need a vocabulary of at least 122 usa"
    ):
        QualsScorer.from_pretrained(
            forced, decoding=DecodingConfig(num_beam_groups=1, diversity_penalty=0.0)
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(folder):
    with pytest.raises(
        BackendUnavailableError, match="'cuda' is not available: PyTorch sees 0 GPUs"
    ):
        QualsScorer.from_pretrained(folder, device="cuda")


def test_a_summary_without_pairs_takes_the_score_that_was_asked_for(folder, scorer):
    assert math.isnan(scorer.score(["the town"], ["?"])[0].score)
    asked = QualsScorer.from_pretrained(
        folder,
        device="cpu",
        decoding=scorer.decoding,
        scoring=ScoringConfig(no_pairs_score=-5),
    ).score(["the town"], ["?"])
    assert (asked[0].status, asked[0].score) == ("no_pairs", -5)
    assert "nopairs:-5.0" in asked.signature


def test_weights_that_give_nan_are_an_error_and_not_a_score(folder):
    # Such weights are refused on loading; this is what an overflow in float16 would come to.
    broken = QualsScorer.from_pretrained(
        folder, device="cpu", decoding=DecodingConfig(num_beams=2, num_beam_groups=2)
    )
    broken.engine.model.network.model.encoder.layers[0].fc1.bias[0] = torch.nan
    row = broken.score([TEXT], [SUMMARIES[0]])[0]
    assert row.status == "error"
    assert "not finite" in row.message


@pytest.mark.skipif(not linear.onednn_pays(), reason="this torch has no oneDNN, or no MKL")
def test_without_onednn_scores_are_the_same(folder, scorer, monkeypatch):
    found = scorer.score(DOCUMENTS, SUMMARIES)
    monkeypatch.setattr(linear, "onednn_pays", lambda: False)
    without = QualsScorer.from_pretrained(
        folder, device="cpu", dtype="float32", decoding=scorer.decoding
    )
    kinds = [type(s.engine.model.network.model.encoder.layers[0].fc1) for s in (scorer, without)]
    assert kinds == [linear.OneDnnLinear, torch.nn.Linear]
    for one, other in zip(found, without.score(DOCUMENTS, SUMMARIES), strict=True):
        assert [p.token_ids for p in one.pairs] == [p.token_ids for p in other.pairs]
        assert one.score == pytest.approx(other.score, abs=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs_and_says_so(folder, scorer, dtype):
    half = in_half_precision(folder, dtype, scorer.decoding)
    result = half.score(DOCUMENTS, SUMMARIES)
    assert f"dtype:{dtype}" in result.signature
    expected = scorer.score(DOCUMENTS, SUMMARIES).scores
    assert result.scores == pytest.approx(expected, abs=0.5)


def test_progress_adds_up_to_the_good_rows(scorer):
    seen = []
    scorer.score([*DOCUMENTS, ""], [*SUMMARIES, "queen"], on_progress=seen.append)
    assert sum(seen) == len(SUMMARIES)


def test_scoring_leaves_the_random_numbers_alone(scorer):
    def states():
        _, numbers, *rest = np.random.get_state()
        return random.getstate(), numbers.tolist(), rest, torch.random.get_rng_state().tolist()

    before = states()
    scorer.score(DOCUMENTS[:1], SUMMARIES[:1])
    assert states() == before


def test_scoring_in_the_midst_of_a_training_step_changes_nothing_of_it(scorer):
    def step(in_between):
        torch.manual_seed(5)
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 4), torch.nn.Dropout(), torch.nn.Linear(4, 1)
        )
        model.train()
        hidden = model(torch.ones(3, 4))
        in_between()
        loss = hidden.square().sum() + model(torch.ones(2, 4)).sum()
        loss.backward()
        assert model.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        return [parameter.grad for parameter in model.parameters()]

    expected = step(lambda: None)
    found = step(lambda: scorer.score(DOCUMENTS[:1], SUMMARIES[:1]))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


CONTEXTS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_scores_are_the_same_inside_of(scorer, context):
    expected = scorer.score(DOCUMENTS, SUMMARIES)
    with context():
        found = scorer.score(DOCUMENTS, SUMMARIES)
        hypotheses = scorer.generate(SUMMARIES[:1])
    assert found.scores == expected.scores
    assert hypotheses == scorer.generate(SUMMARIES[:1])


def test_of_two_threads_one_computes_at_a_time(folder, monkeypatch):
    scorer = QualsScorer.from_pretrained(folder, device="cpu")
    expected = scorer.score(DOCUMENTS, SUMMARIES)
    computing, most = [], []
    score = CpuEngine.score

    def watch(self, *arguments):
        computing.append(1)
        most.append(len(computing))
        time.sleep(0.05)
        found = score(self, *arguments)
        computing.pop()
        return found

    monkeypatch.setattr(CpuEngine, "score", watch)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: scorer.score(DOCUMENTS, SUMMARIES), range(4)))
    assert most == [1] * 4
    assert all(result.scores == expected.scores for result in results)


def test_a_callback_may_score(scorer):
    inside = []
    scorer.score(
        DOCUMENTS[:1],
        SUMMARIES[:1],
        on_progress=lambda n: inside.append(scorer.score(DOCUMENTS[1:2], SUMMARIES[1:2])),
    )
    assert [result[0].status for result in inside] == ["ok"]


def test_the_batch_budget_follows_the_device(scorer):
    model = scorer.engine.model
    assert scorer.engine.max_batch_tokens == 32_768
    assert GpuEngine(model).max_batch_tokens == 327_680


def test_a_cpu_rescores_no_more_at_once_than_its_cache_holds(scorer, monkeypatch):
    budgets, model = [], scorer.engine.model
    monkeypatch.setattr(base, "rescore", lambda *arguments: budgets.append(arguments[3]))
    for engine in (scorer.engine, CpuEngine(model, max_batch_tokens=7), GpuEngine(model)):
        engine.rescore([], [])
    assert budgets == [2048, 7, 327_680]


def test_a_gpus_attention_is_not_cudnns():
    engine = GpuEngine(SimpleNamespace(device=torch.device("cuda")), graph_bytes=0)
    cuda = torch.backends.cuda
    before = cuda.cudnn_sdp_enabled()
    with engine.inference():
        assert not cuda.cudnn_sdp_enabled()
        assert cuda.flash_sdp_enabled() and cuda.mem_efficient_sdp_enabled()
    assert cuda.cudnn_sdp_enabled() == before


def test_a_scorer_is_pickled_by_what_it_was_loaded_from(scorer, folder):
    again = pickle.loads(pickle.dumps(scorer))
    assert again.signature == scorer.signature
    assert again.score(DOCUMENTS, SUMMARIES).scores == scorer.score(DOCUMENTS, SUMMARIES).scores
    assert len(pickle.dumps(scorer)) < 5000
    assert copy.deepcopy(scorer) is scorer
    with pytest.raises(
        TypeError, match=r"only a scorer from QualsScorer\.from_pretrained can be pick"
    ):
        pickle.dumps(QualsScorer(scorer.engine))


def test_a_pickled_scorer_does_not_come_back_as_another(folder, tmp_path):
    own = shutil.copytree(folder, tmp_path / "model")
    pickled = pickle.dumps(QualsScorer.from_pretrained(own, device="cpu"))
    tiny_models.write_checkpoint(own, seed=9)
    with pytest.raises(RuntimeError, match=r"the scorer was pickled as quals.* but loads here as"):
        pickle.loads(pickled)


def test_the_bundled_model_tells_a_supported_fact_from_an_invented_one(bundled_scorer):
    document = (
        "The stone bridge over the Tamar at Gunnislake was opened by Queen Anne in 1962. It had "
        "cost four lives and nine million pounds, said the engineer, Thomas Reed."
    )
    faithful, altered = bundled_scorer.score(
        [document],
        [
            [
                "Queen Anne opened the Tamar bridge in 1962.",
                "King Olaf opened the Elbe tunnel in 1871.",
            ]
        ],
    )[0]
    assert faithful.status == altered.status == "ok"
    assert faithful.score > altered.score + 1
