"""T5 folders: what loads, scores and explains; what is refused."""

import json
import math
import shutil

import pytest
import tiny_t5
import torch
from click.testing import CliRunner
from model_folders import (
    CPU,
    WEIGHTS,
    change_json,
    change_weights,
    fails,
    load,
    needs_int8,
    split_in_two,
)
from safetensors.torch import load_file
from torch_defaults import DEFAULTS, default
from transformers import T5Config, T5ForConditionalGeneration

from quals_fast import DecodingConfig, QualsScorer
from quals_fast.commands.app import app
from quals_fast.engine.cpu import CpuEngine
from quals_fast.models.integers import has_fast_int8
from quals_fast.models.lm_head import ScreenedLMHead
from quals_fast.models.loading import load_model
from quals_fast.models.precision import PRECISIONS
from quals_fast.ops import TRITON, BackendUnavailableError
from quals_fast.reference.tolerances import TOKEN_LOGPROB

SUMMARY = "queen anne opened the tower by the river in 1969 , forty won"
SMALL = DecodingConfig(num_beams=12, num_beam_groups=12, min_length=2, max_length=12)
SIZE = tiny_t5.unigram_tokenizer().get_vocab_size()
SEP = SIZE - 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a T5 1.0 that was trained to generate pairs about SUMMARY."""
    return tiny_t5.write_t5(tmp_path_factory.mktemp("t5") / "tiny-t5", trained_on=SUMMARY)


@pytest.fixture
def folder(trained, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(trained, tmp_path / "model")


@pytest.fixture(scope="module")
def scorer(trained):
    return QualsScorer.from_pretrained(trained, device="cpu", dtype="float32", decoding=SMALL)


# What loads


def test_conventions_of_t5(trained):
    conventions = load(trained).conventions
    assert conventions.sep_token_id == SEP
    assert conventions.max_source_tokens == 40  # the tokenizer's limit
    assert (conventions.bos_token_id, conventions.decoder_start_token_id) == (None, 0)
    assert conventions.masked_token_ids == (*range(SIZE, 256),)


def test_limit_of_the_config_may_exceed_that_of_the_tokenizer(folder):
    change_json(folder / "config.json", max_source_tokens=4000)
    (source,) = load(folder).tokenizer.encode(["river " * 3000])
    assert len(source.input_ids) == 3001
    assert source.truncated_tokens == 0


@pytest.mark.parametrize("kind", ["T5 1.0", "T5 1.1"])
def test_what_transformers_saves_gives_what_transformers_gives(kind, tmp_path):
    config = {**(tiny_t5.CONFIG if kind == "T5 1.0" else tiny_t5.T5_1_1), "vocab_size": 256}
    folder = tiny_t5.write_t5(tmp_path / "m")
    (folder / "config.json").unlink()
    torch.manual_seed(0)
    theirs = T5ForConditionalGeneration(T5Config(**config)).eval()
    if not config["tie_word_embeddings"]:
        theirs.lm_head.weight = torch.nn.Parameter(0.2 * torch.randn(256, config["d_model"]))
    theirs.save_pretrained(folder)
    model = load(folder)
    source, target = torch.randint(3, SIZE, (1, 20)), torch.randint(3, SIZE, (1, 12))
    inputs = torch.cat([torch.zeros(1, 1).long(), target[:, :-1]], 1)
    with torch.inference_mode():
        logits = theirs(input_ids=source, decoder_input_ids=inputs).logits[0]
        memory = model.network.encode(source, torch.ones_like(source, dtype=torch.bool))
        hidden = model.network.decode_teacher_forced(inputs[None], memory)[0, 0]
        found = model.head.logprob(hidden, target[0])
    # Rows that no token has are left out of the softmax.
    expected = logits[:, :SIZE].log_softmax(-1).gather(1, target.T)[:, 0]
    torch.testing.assert_close(found, expected, atol=TOKEN_LOGPROB, rtol=0)


def test_copies_of_the_embedding_and_an_old_bias_are_dropped(folder):
    expected = load(folder).network.state_dict()

    def add(weights):
        for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
            weights[f"{name}.weight"] = weights["shared.weight"]
        unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        weights[unused] = torch.zeros(8, 3)

    change_weights(folder, add)
    found = load(folder).network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "shards"])
def test_weights_as_pytorch_saves_them(folder, is_split):
    expected = load(folder).network.state_dict()
    weights = load_file(folder / WEIGHTS)
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]  # one memory for both
    (folder / WEIGHTS).unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    if is_split:
        split_in_two(folder, "pytorch_model.bin", weights, torch.save)
    found = load(folder).network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_rows_that_no_token_has_are_never_generated(folder):
    def prefer(weights):
        weights["shared.weight"][SIZE:] = 3 * weights["shared.weight"][:SIZE].sum(0)

    change_weights(folder, prefer)
    scorer = QualsScorer.from_pretrained(folder, device="cpu", dtype="float32", decoding=SMALL)
    for hypothesis in scorer.generate([SUMMARY])[0]:
        assert max(hypothesis.token_ids) < SIZE


# What it does


def test_pairs_are_kept_and_scored(scorer):
    document = "the queen opened the bridge in 1962 . forty lives was lost ."
    same, other = scorer.score([SUMMARY, document], [SUMMARY] * 2)
    assert same.score == pytest.approx(0, abs=1e-6)
    assert other.score < -0.01
    assert len(same.pairs) >= 3
    for pair in same.pairs:
        assert pair.answer in SUMMARY
        assert pair.tokens[-1] == "<eos>" and "<sep>" in pair.tokens


def test_answers_are_looked_up_as_the_tokenizer_spells_the_summary(scorer):
    tokenizer = scorer.engine.model.tokenizer
    (source,) = tokenizer.encode(["in  \uff11\uff19\uff16\uff19\u00a0won \u2603 anne"])
    assert tokenizer.spelled(source).startswith("in 1969 won ")
    assert tokenizer.spelled(source).endswith("anne")
    assert "unk" not in tokenizer.spelled(source)  # which stands for the snowman
    (plain,) = scorer.score([SUMMARY], [SUMMARY])
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else "\u3000" for c in SUMMARY)
    (found,) = scorer.score([SUMMARY], [wide])
    assert plain.pairs
    assert [pair.answer for pair in found.pairs] == [pair.answer for pair in plain.pairs]


def test_a_cache_of_documents_changes_no_score(trained, scorer):
    kept = QualsScorer.from_pretrained(
        trained, device="cpu", dtype="float32", decoding=SMALL, cache_bytes=1 << 20
    )
    documents = [SUMMARY, "the town", "the game of the queen"]
    first, again = (kept.score(documents, [SUMMARY] * 3) for _ in range(2))
    assert kept.cache_stats.hits == 3
    for row, cached, expected in zip(
        first, again, scorer.score(documents, [SUMMARY] * 3), strict=True
    ):
        assert row.score == cached.score
        assert row.score == pytest.approx(expected.score, abs=1e-5)


def test_targets_of_any_length_are_rescored(scorer):
    (of_document,) = scorer.rescore(["the river"], [[[5] * 700, [6]]])
    assert [len(logprobs) for logprobs in of_document] == [700, 1]
    with pytest.raises(ValueError, match="must have 1 or more ids from 0 to 255, but got 0"):
        scorer.rescore(["the river"], [[[]]])


@pytest.mark.parametrize("value", DEFAULTS, ids=str)
def test_defaults_of_the_process_change_no_score(trained, scorer, value):
    expected = scorer.score(["the river"], [SUMMARY]).scores
    with default(value):
        loaded = QualsScorer.from_pretrained(trained, device="cpu", dtype="float32", decoding=SMALL)
        assert loaded.score(["the river"], [SUMMARY]).scores == expected


@needs_int8
def test_mixed_precision_moves_scores_little(trained, scorer):
    exact_scorer, scorer = scorer, scorer_in(trained, "mixed")
    assert isinstance(scorer.engine.model.head, ScreenedLMHead)
    document = "the queen opened the bridge in 1962 . forty lives was lost ."
    mixed, exact = (s.score([document], [SUMMARY])[0] for s in (scorer, exact_scorer))
    assert [p.token_ids for p in mixed.pairs] == [p.token_ids for p in exact.pairs]
    assert mixed.score == pytest.approx(exact.score, abs=0.005)
    assert mixed.score != exact.score


@needs_int8
def test_an_outlying_feature_is_not_for_integers(folder):
    def enlarge(weights):
        weights["decoder.final_layer_norm.weight"][3] *= 1000
        weights["shared.weight"][:, 3] /= 1000  # so that the others still decide

    change_weights(folder, enlarge)
    message = (
        "dtype 'mixed' does not fit this model: its 8-bit integers miss likely tokens or "
        "misjudge them, because some features are far larger than the others, or many tokens "
        "are about equally likely; use dtype='float32'"
    )
    with pytest.raises(BackendUnavailableError, match=message):
        scorer_in(folder, "mixed")
    (row,) = scorer_in(folder, "float32").score([SUMMARY], [SUMMARY])
    assert row.status != "error"


WO = ".DenseReluDense.wo.weight"


def scale_feed_forward(folder, factor):
    """Make the feed-forward layers' outputs larger, as in T5's published weights."""

    def scale(weights):
        for name in weights:
            if name.endswith(WO):
                weights[name] *= factor

    change_weights(folder, scale)


def scorer_in(folder, precision):
    engine = CpuEngine(load_model(folder, device=CPU, precision=PRECISIONS[precision]))
    return QualsScorer(engine, decoding=SMALL)


@pytest.mark.parametrize("config", [tiny_t5.CONFIG, tiny_t5.T5_1_1], ids=["T5 1.0", "T5 1.1"])
def test_feed_forward_beyond_float16(config, tmp_path):
    folder = tiny_t5.write_t5(tmp_path / "m", config, trained_on=SUMMARY, seed=3)
    scale_feed_forward(folder, 1e5)
    with torch.inference_mode():
        source = torch.tensor([[5, 9, 7, 1]])
        for dtype in (torch.float16, torch.bfloat16):
            network = load(folder).network.to(dtype)
            hidden = network.encode_hidden(source, source > 0)
            assert hidden.isfinite().all() == (dtype == torch.bfloat16)
    if not has_fast_int8():
        return
    document = "the queen opened the bridge in 1962 . forty lives was lost ."
    texts = [document, SUMMARY], [SUMMARY] * 2
    for exact, mixed in zip(
        *(scorer_in(folder, name).score(*texts) for name in ("float32", "mixed")), strict=True
    ):
        assert exact.status == "ok"
        assert [p.token_ids for p in mixed.pairs] == [p.token_ids for p in exact.pairs]
        assert mixed.score == pytest.approx(exact.score, abs=0.01)


@pytest.mark.parametrize("precision", ["float32", pytest.param("mixed", marks=needs_int8)])
def test_what_overflows_is_no_score(folder, precision):
    scale_feed_forward(folder, 1e38)
    (row,) = scorer_in(folder, precision).score([SUMMARY], [SUMMARY])
    assert (row.status, row.pairs) == ("error", ())
    assert math.isnan(row.score)
    assert "log-probabilities are not finite" in row.message


def test_automatic_precision_is_said(trained):
    scorer = QualsScorer.from_pretrained(trained, device="cpu", decoding=SMALL)
    assert "|dtype:float32|" in scorer.signature


@pytest.mark.parametrize("command", ["score", "explain"])
def test_commands_take_a_t5(command, trained, tmp_path):
    rows = tmp_path / "in.jsonl"
    rows.write_text(json.dumps({"document": SUMMARY, "summary": SUMMARY}) + "\n")
    settings = "--num-beams 12 --num-beam-groups 12 --min-length 2 --max-length 12 --device cpu"
    arguments = [command, str(rows), "--model", str(trained), *settings.split()]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "|model:tiny-t5@" in result.stdout
    assert " -> " in result.stdout


# What is refused


def test_lm_head_that_the_config_ties_to_the_embedding(folder):
    change_weights(folder, lambda w: w.update({"lm_head.weight": w["shared.weight"] + 1}))
    fails(
        folder,
        f"{folder}: lm_head.weight must equal shared.weight, but differs; `tie_word_embeddings` in "
        "config.json must match the weights",
    )


def test_lm_head_of_its_own_that_is_missing(folder):
    change_json(folder / "config.json", tie_word_embeddings=False)
    fails(
        folder,
        "lacks lm_head.weight (1 such tensor); `tie_word_embeddings` in config.json must match",
    )


def test_nan_in_the_weights(folder):
    name = "decoder.block.1.layer.2.DenseReluDense.wo.weight"

    def damage(weights):
        weights[name][0, 0] = torch.nan

    change_weights(folder, damage)
    fails(folder, f"{folder}: {name} must be finite, but")


def test_weights_of_another_shape(folder):
    change_json(folder / "config.json", d_kv=6)
    fails(folder, "layer.0.SelfAttention.k.weight must have shape (18, 16)")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("d_kv", 0, "`d_kv` must be an integer from 1 up, but got 0"),
        ("num_layers", "2", "`num_layers` must be an integer from 1 up, but got '2'"),
        ("num_decoder_layers", 0, "`num_decoder_layers` must be an integer from 1 up, but got 0"),
        ("relative_attention_num_buckets", 2, "`relative_attention_num_buckets` must be an inte"),
        ("relative_attention_max_distance", 4, "must be an integer from 5 up, but got 4"),
        ("layer_norm_epsilon", 0, "`layer_norm_epsilon` must be a number above 0, but got 0"),
        ("layer_norm_epsilon", "1e-6", "`layer_norm_epsilon` must be a number above 0, but got '1"),
        ("feed_forward_proj", "silu", "must be one of relu, gated-gelu, but got 'silu'"),
        ("tie_word_embeddings", "yes", "`tie_word_embeddings` must be true or false, but got 'y"),
    ],
)
def test_wrong_config(folder, key, value, message):
    change_json(folder / "config.json", **{key: value})
    fails(folder, message)


def test_no_separator(folder):
    change_json(folder / "tokenizer_config.json", sep_token=None)
    fails(folder, "config.json: no `sep_token_id`, and the tokenizer has no `sep_token`")


def test_no_limit_of_sources(folder):
    change_json(folder / "tokenizer_config.json", model_max_length=None)
    fails(folder, "config.json: no `max_source_tokens`, and the tokenizer has no")


@pytest.mark.parametrize("size", [12, 136])
def test_heads_that_the_kernels_do_not_take(size, tmp_path):
    folder = tiny_t5.write_t5(tmp_path / "m", {**tiny_t5.CONFIG, "d_kv": size})
    message = f"multiple of 8 up to 128, but this model's have size {size}; use backend='eager'"
    with pytest.raises(BackendUnavailableError, match=message):
        load_model(folder, device=CPU, kernels=TRITON)


def test_float16(trained):
    message = r"dtype 'float16' is not for T5 models, whose feed-forward layers exceed the largest"
    with pytest.raises(BackendUnavailableError, match=message):
        load_model(trained, device=CPU, precision=PRECISIONS["float16"])
