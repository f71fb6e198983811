"""Exported graphs score as the torch path does, without torch."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny_models
from calibrations import write_calibration
from exported_folders import DOCUMENTS, SUMMARIES, TEXT, compare

from quals_fast import DecodingConfig, QualsScorer, ScoringConfig
from quals_fast.decoding.histories import Histories
from quals_fast.export.exporter import export
from quals_fast.exported import session, store
from quals_fast.exported.engine import OnnxEngine
from quals_fast.exported.loading import load_onnx
from quals_fast.models.loading import digest_of
from quals_fast.signature import signature

SMALL = {"num_beams": 12, "min_length": 2, "max_length": 12}
ONE = DecodingConfig(**SMALL, num_beam_groups=12)


@pytest.fixture(scope="module")
def scorer(exported):
    return QualsScorer.from_pretrained(
        exported["float32"][0], backend="onnx", device="cpu", decoding=ONE
    )


@pytest.mark.parametrize("groups", [12, 4, 1])
@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def test_float32_equals_the_eager_backend(one_layer_model, exported, rule, groups):
    decoding = DecodingConfig(**SMALL, num_beam_groups=groups, rule=rule)
    _, found = compare(one_layer_model, exported["float32"][0], decoding)
    assert sum(len(row.pairs) for row in found) >= 3


KINDS = {
    "fairseq conventions": (tiny_models.FAIRSEQ_LIKE, tiny_models.byte_level_tokenizer),
    "forced first token, uneven stacks, scaled": (
        {
            **tiny_models.CONFIG,
            "forced_bos_token_id": 3,
            "decoder_layers": 1,
            "decoder_attention_heads": 4,
            "scale_embedding": True,
            "activation_function": "relu",
        },
        tiny_models.wordpiece_tokenizer,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_checkpoints(kind, tmp_path):
    config, tokenizer = KINDS[kind]
    # Answers with 陈 are among what it generates: unknown to WordPiece, three bytes to the other.
    model = tiny_models.write_checkpoint(
        tmp_path / "m", config, tokenizer(), trained_on=f"{TEXT} 陈"
    )
    export(model, tmp_path / "out")
    compare(model, tmp_path / "out", ONE)
    _, found = compare(model, tmp_path / "out", ONE, ["陈 won 1969", "the 陈", TEXT, "陈 伟 ,"])
    unknown = found[3].status == "unknown_text"
    assert unknown == (tokenizer is tiny_models.wordpiece_tokenizer)
    assert [row.unknown_tokens for row in found] == ([1, 1, 0, 2] if unknown else [0] * 4)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_shorter_types_are_near(one_layer_model, exported, dtype):
    eager = QualsScorer.from_pretrained(
        one_layer_model, device="cpu", dtype="float32", decoding=ONE
    )
    mine = QualsScorer.from_pretrained(exported[dtype][0], backend="onnx", decoding=ONE)
    expected = eager.score(DOCUMENTS, SUMMARIES).scores
    assert mine.score(DOCUMENTS, SUMMARIES).scores == pytest.approx(expected, abs=0.1)
    assert f"|dtype:{dtype}|backend:onnx-cpu|" in mine.signature


def test_answers_alone_make_the_score(one_layer_model, exported):
    settings = {"decoding": ONE, "scoring": ScoringConfig(tokens="answer", max_pairs=None)}
    eager = QualsScorer.from_pretrained(one_layer_model, device="cpu", dtype="float32", **settings)
    mine = QualsScorer.from_pretrained(exported["float32"][0], backend="onnx", **settings)
    expected, found = (one.score(DOCUMENTS, SUMMARIES) for one in (eager, mine))
    assert found.scores == pytest.approx(expected.scores, abs=1e-5)
    assert all(pair.first_counted > 0 for row in found for pair in row.pairs)
    assert "|tokens:answer|" in mine.signature


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_scores_do_not_depend_on_batch_mates_or_order(exported, dtype):
    scorer = QualsScorer.from_pretrained(exported[dtype][0], decoding=ONE)  # auto takes ONNX
    together = scorer.score(DOCUMENTS, SUMMARIES).scores
    alone = [scorer.score([d], [s]).scores[0] for d, s in zip(DOCUMENTS, SUMMARIES, strict=True)]
    backwards = scorer.score(DOCUMENTS[::-1], SUMMARIES[::-1]).scores[::-1]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together == pytest.approx(backwards, abs=1e-5)


def test_threads_may_share_a_scorer(scorer):
    expected = scorer.score(DOCUMENTS, SUMMARIES).scores
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: scorer.score(DOCUMENTS, SUMMARIES).scores, range(8)))
    assert all(scores == pytest.approx(expected, abs=1e-5) for scores in found)


@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
@pytest.mark.parametrize("is_bound", [False, True], ids=["arrays", "bound"])
def test_sentences_that_end_at_different_steps(uneven, rule, is_bound, monkeypatch):
    """With CUDA keys and values stay on the device; here the CPU's own memory stands for it."""
    still_searching, move_on = [], Histories.move_on

    def spy(self, *arguments):
        moved = move_on(self, *arguments)
        still_searching.append(len(set(self.sentence_of_row)))
        return moved

    monkeypatch.setattr(Histories, "move_on", spy)
    monkeypatch.setattr(store, "_POSITIONS_AT_ONCE", 3)  # the arrays have to grow
    model, folder = uneven
    config = DecodingConfig(
        rule=rule, num_beams=12, num_beam_groups=12, min_length=2, max_length=20
    )
    eager = QualsScorer.from_pretrained(model, device="cpu", dtype="float32", decoding=config)
    expected = eager.generate(SUMMARIES)
    sequences = QualsScorer(OnnxEngine(loaded(folder, is_bound)), decoding=config).generate(
        SUMMARIES
    )
    for one, other in zip(expected, sequences, strict=True):
        assert [h.token_ids for h in one] == [h.token_ids for h in other]
        for a, b in zip(one, other, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
    assert len({*still_searching}) > 1


def loaded(folder, is_bound):
    """An export, with its keys and values as arrays or bound to the provider's memory."""
    model = load_onnx(folder, device="cpu")
    for graph in model.graphs.values():
        graph.is_bound = is_bound
    return model


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_scores_are_the_same_where_keys_and_values_are_bound(exported, dtype):
    folder = exported[dtype][0]
    ids, mask = np.full((1, 4), 5), np.ones((1, 4), bool)
    encoder = loaded(folder, True).graphs["encoder"]
    memory = encoder.run({"input_ids": ids, "attention_mask": mask})
    assert {type(part) for part in memory.values()} == {session.runtime().OrtValue}
    expected, found = (
        QualsScorer(OnnxEngine(loaded(folder, is_bound)), decoding=ONE).score(DOCUMENTS, SUMMARIES)
        for is_bound in (False, True)
    )
    # Attention adds as many masked positions as there is room for, in another order.
    assert found.scores == pytest.approx(expected.scores, abs=1e-6 if dtype == "float32" else 1e-2)
    for row, other in zip(expected, found, strict=True):
        assert [pair.token_ids for pair in row.pairs] == [pair.token_ids for pair in other.pairs]


def test_teacher_forcing_agrees_with_the_search(scorer):
    for summary, hypotheses in zip(SUMMARIES, scorer.generate(SUMMARIES), strict=True):
        (again,) = scorer.rescore([summary], [[h.token_ids for h in hypotheses]])
        for hypothesis, logprobs in zip(hypotheses, again, strict=True):
            assert hypothesis.logprobs == pytest.approx(logprobs, abs=1e-5)


def test_nothing_of_torch_is_imported(one_layer_model, exported, tmp_path):
    folder, _ = exported["int8"]
    row = {"document": DOCUMENTS[0], "summary": SUMMARIES[1]}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    # Of the model that was exported: its exports have its digest.
    decoding, digest = DecodingConfig(max_length=12), digest_of(one_layer_model)
    facts = {"model": "original", "digest": digest, "dtype": "float32", "backend": "eager"}
    write_calibration(tmp_path / "cal.json", signature(decoding, ScoringConfig(), **facts))
    code = (
        "import sys, atexit; from quals_fast.commands.app import main\n"
        "heavy = {'torch', 'transformers', 'triton', 'safetensors', 'onnx', 'scipy', 'sklearn', "
        "'jinja2'}\n"
        "atexit.register(lambda: print('imported', sorted(heavy & set(sys.modules))))\n"
        "main()"
    )
    arguments = f"score in.jsonl -o - --backend onnx --max-length 12 --model {folder}".split()
    arguments += ["--calibration", "cal.json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    line, imported = done.stdout.splitlines()
    row = json.loads(line)
    assert row["status"] in ("ok", "no_pairs")
    assert (row["probability"] is not None) == (row["status"] == "ok")
    assert imported == "imported []"


def test_empty_batches_cost_nothing(scorer, monkeypatch):
    monkeypatch.setattr(session.Graph, "run", None)
    assert scorer.score([], []).scores == []
    assert scorer.generate([]) == []
    assert scorer.rescore(DOCUMENTS[:2], [[], []]) == [[], []]


def test_ids_out_of_range(scorer):
    with pytest.raises(ValueError, match="must have 1 to 64 ids from 0 to "):
        scorer.rescore([TEXT], [[[9999, 4]]])
    encoder = scorer.engine.model.graphs["encoder"]
    with pytest.raises(RuntimeError, match=r"ONNX Runtime failed: .*out of"):
        encoder.run({"input_ids": np.array([[9999]]), "attention_mask": np.array([[True]])})
