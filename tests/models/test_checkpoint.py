"""The folder of a model and its config: the settings read, and what is said of wrong ones."""

import json
import re
from pathlib import Path

import pytest
from model_folders import VOCAB, WEIGHTS, change_json, fails, load

from quals_fast.models.checkpoint import CheckpointError, read_checkpoint
from quals_fast.models.loading import model_folder


def test_a_good_folder(tiny_folder):
    model = load(tiny_folder)
    assert model.name == "tiny"
    assert re.fullmatch("[0-9a-f]{12}", model.digest)
    assert not model.network.training
    assert not any(w.requires_grad for w in model.network.parameters())
    assert model.conventions.sep_token_id == 1
    assert model.conventions.bos_token_id == 3
    assert model.conventions.forced_bos_token_id is None
    assert model.conventions.max_source_tokens == 64
    assert load(str(tiny_folder)).digest == model.digest


NO_NAMES = [
    "nowhere/at/all",
    "qagen-maxi",
    "./bart",
    "/bart",
    "a/",
    "a//b",
    "a--b/c",
    "a/b..c",
]


@pytest.mark.parametrize("name", [*NO_NAMES, Path("facebook/bart-base")], ids=str)
def test_no_such_model(name):
    message = (
        f"model {str(name)!r} is neither bundled (qagen-mini), nor a local folder, nor OWNER/NAME "
        "on the Hugging Face hub; check the spelling"
    )
    fails(name, message)


@pytest.mark.parametrize("name", ["qagen-mini", "nowhere/at/all"])
def test_revision_of_no_model_on_the_hub(name):
    message = (
        f"`revision` is for names on the Hugging Face hub, but got 'v1' for the model {name!r}; "
        "leave it out"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        model_folder(name, "v1")


def test_a_file_is_no_folder(tiny_folder):
    fails(tiny_folder / WEIGHTS, "is neither bundled (qagen-mini), nor a local folder")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a folder"):
        read_checkpoint(tiny_folder / WEIGHTS)


def test_no_config(folder):
    (folder / "config.json").unlink()
    advice = "so it is not a model folder; save a model there with transformers' save_pretrained()"
    fails(folder, f"{folder} has no config.json, ", advice)


@pytest.mark.parametrize(
    ("content", "message", "at_end"),
    [
        pytest.param(
            b"", "config.json is not valid JSON: Expecting value", "download it again", id=""
        ),
        pytest.param(b"{", "is not valid JSON: Expecting", "download it again", id="cut-off"),
        pytest.param(b"\xff\xfe{", "is not valid JSON: 'utf-8'", "download it again", id="utf-16"),
        pytest.param(b"[]", "must contain a JSON object, but contains a list", "", id="list"),
        pytest.param(b"null", "must contain a JSON object, but contains a NoneType", "", id="null"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_broken_config(folder, name, content, message, at_end):
    (folder / name).write_bytes(content)
    fails(folder, message.replace("config.json", name), at_end)


def test_config_is_a_folder(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    fails(folder, f"cannot read {folder / 'config.json'}: Is a directory")


@pytest.mark.parametrize("family", ["mt5", "mbart", None, 3], ids=repr)
def test_another_family(folder, family):
    change_json(folder / "config.json", model_type=family)
    expected = "expected a model with `model_type` 'bart' or 't5'"
    fails(folder, f"{folder}: {expected}, but got {family!r}")


MISSING = [
    "vocab_size",
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "max_position_embeddings",
]


@pytest.mark.parametrize("key", MISSING)
def test_missing_size(folder, key):
    change_json(folder / "config.json", **{key: None})
    message = f"config.json: `{key}` must be an integer from 1 up, but got None"
    fails(folder, message)


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "pad_token_id"])
def test_missing_token(folder, key):
    change_json(folder / "config.json", **{key: None})
    fails(folder, f"config.json: `{key}` must be an integer from 0 to ", "but got None")


WRONG = [
    ("d_model", "16", "`d_model` must be an integer from 1 up, but got '16'"),
    ("d_model", 16.0, "`d_model` must be an integer from 1 up, but got 16.0"),
    ("d_model", 15, "`d_model` must be divisible by the 2 encoder heads, but is 15"),
    ("decoder_attention_heads", 3, "`d_model` must be divisible by the 3 decoder heads, but is 16"),
    ("encoder_layers", 0, "`encoder_layers` must be an integer from 1 up, but got 0"),
    ("decoder_layers", True, "`decoder_layers` must be an integer from 1 up, but got True"),
    ("scale_embedding", "no", "`scale_embedding` must be true or false, but got 'no'"),
    ("scale_embedding", 0, "`scale_embedding` must be true or false, but got 0"),
    ("source_bos", 1, "`source_bos` must be true or false, but got 1"),
    (
        "activation_function",
        "swish",
        "`activation_function` must be one of gelu, gelu_new, relu, but got 'swish'",
    ),
    ("eos_token_id", [4], f"`eos_token_id` must be an integer from 0 to {VOCAB - 1}, but got [4]"),
    ("bos_token_id", -1, f"`bos_token_id` must be an integer from 0 to {VOCAB - 1}, but got -1"),
    (
        "pad_token_id",
        VOCAB,
        f"`pad_token_id` must be an integer from 0 to {VOCAB - 1}, but got {VOCAB}",
    ),
    (
        "sep_token_id",
        VOCAB,
        f"`sep_token_id` must be an integer from 0 to {VOCAB - 1}, but got {VOCAB}",
    ),
    ("sep_token_id", "1", f"`sep_token_id` must be an integer from 0 to {VOCAB - 1}, but got '1'"),
    (
        "forced_bos_token_id",
        99,
        f"`forced_bos_token_id` must be an integer from 0 to {VOCAB - 1}, but got 99",
    ),
    (
        "decoder_start_token_id",
        1.5,
        f"`decoder_start_token_id` must be an integer from 0 to {VOCAB - 1}",
    ),
    ("max_source_tokens", 65, "`max_source_tokens` must be an integer from 3 to 64, but got 65"),
    ("max_source_tokens", 2, "`max_source_tokens` must be an integer from 3 to 64, but got 2"),
    (
        "masked_token_ids",
        [VOCAB],
        f"`masked_token_ids` must be a list of token ids from 0 to {VOCAB - 1}",
    ),
    (
        "masked_token_ids",
        5,
        f"`masked_token_ids` must be a list of token ids from 0 to {VOCAB - 1}",
    ),
    (
        "masked_token_ids",
        [True],
        f"`masked_token_ids` must be a list of token ids from 0 to {VOCAB - 1}",
    ),
    ("answer_match", "exact", "`answer_match` must be 'ids' or 'text', but got 'exact'"),
    ("normalize_before", True, "`normalize_before` and untied word embeddings are not supported"),
    ("tie_word_embeddings", False, "`normalize_before` and untied word embeddings are not sup"),
]


@pytest.mark.parametrize(
    ("key", "value", "message"), WRONG, ids=[f"{key}={value!r}" for key, value, _ in WRONG]
)
def test_wrong_value(folder, key, value, message):
    change_json(folder / "config.json", **{key: value})
    fails(folder, f"{folder / 'config.json'}: {message}")


NO_SEPARATOR = (
    "config.json: no `sep_token_id`, and the tokenizer has no `sep_token` that is not EOS, BOS or "
    "CLS as well (</s> is EOS); either this is not a question-answer generator, or its "
    "files do not say which token separates question and answer: then add "
    '"sep_token_id" to config.json'
)


def test_no_separator(folder):
    change_json(folder / "config.json", sep_token_id=None)
    fails(folder, NO_SEPARATOR)


# What the tokenizer's files add


def write_settings(folder, name="tokenizer_config.json", **settings):
    (folder / name).write_text(json.dumps(settings))


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("token", ["[SEP0]", {"content": "[SEP0]", "lstrip": False}], ids=str)
def test_separator_of_the_tokenizer(folder, name, token):
    change_json(folder / "config.json", sep_token_id=None)
    write_settings(folder, name, sep_token=token, eos_token="[SEP]")
    assert load(folder).conventions.sep_token_id == 1


def test_config_comes_before_tokenizer_and_its_config_before_the_map(folder):
    write_settings(folder, sep_token="who", model_max_length=20)
    write_settings(folder, "special_tokens_map.json", sep_token="what")
    assert load(folder).conventions.sep_token_id == 1
    change_json(folder / "config.json", sep_token_id=None, max_source_tokens=30)
    conventions = load(folder).conventions
    assert conventions.sep_token_id == 5  # "who"
    assert conventions.max_source_tokens == 30


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"sep_token": "[SEP]"}, id="eos-by-id"),
        pytest.param({"sep_token": "[CLS]"}, id="bos-by-id"),
        pytest.param({"sep_token": "who", "eos_token": "who"}, id="eos"),
        pytest.param({"sep_token": "who", "bos_token": {"content": "who"}}, id="bos"),
        pytest.param({"sep_token": {"content": "who"}, "cls_token": "who"}, id="cls"),
        pytest.param({"sep_token": None}, id="null"),
        pytest.param({"sep_token": 1}, id="number"),
    ],
)
def test_separator_must_not_begin_or_end_texts(folder, settings):
    change_json(folder / "config.json", sep_token_id=None)
    write_settings(folder, **settings)
    fails(folder, NO_SEPARATOR)


def test_separator_that_its_tokenizer_lacks(folder):
    change_json(folder / "config.json", sep_token_id=None)
    write_settings(folder, sep_token="<sep>")
    message = (
        f"{folder}: the tokenizer's `sep_token` must be one of its tokens, but it has no '<sep>'; "
        "save the tokenizer again with transformers' save_pretrained()"
    )
    fails(folder, message)


@pytest.mark.parametrize(
    ("limit", "longest"),
    [(20, 20), (64, 64), (65, 64), (10**30, 64), (1e30, 64), (2, 64), (True, 64), ("20", 64)],
)
def test_length_limit_of_the_tokenizer(folder, limit, longest):
    write_settings(folder, model_max_length=limit)
    assert load(folder).conventions.max_source_tokens == longest


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_broken_tokenizer_settings(folder, name):
    change_json(folder / "config.json", sep_token_id=None)
    (folder / name).write_text("{")
    fails(folder, f"{folder / name} is not valid JSON: ", "download it again")


@pytest.mark.parametrize(
    ("changes", "name", "token", "other"),
    [
        ({"sep_token_id": 4}, "sep_token_id", 4, "eos_token_id"),
        ({"sep_token_id": 0}, "sep_token_id", 0, "pad_token_id"),
        ({"masked_token_ids": [2, 1]}, "sep_token_id", 1, "masked_token_ids"),
        ({"eos_token_id": 0}, "eos_token_id", 0, "pad_token_id"),
        ({"masked_token_ids": [4]}, "eos_token_id", 4, "masked_token_ids"),
        ({"forced_bos_token_id": 4}, "eos_token_id", 4, "forced_bos_token_id"),
        ({"forced_bos_token_id": 1}, "sep_token_id", 1, "forced_bos_token_id"),
        ({"forced_bos_token_id": 0}, "forced_bos_token_id", 0, "pad_token_id"),
    ],
    ids=str,
)
def test_tokens_with_a_part_in_targets_are_tokens_of_their_own(folder, changes, name, token, other):
    change_json(folder / "config.json", **changes)
    fails(folder, f"`{name}` {token} must be used for nothing else, but is `{other}` too")


def test_generation_config_fills_gaps_and_never_overrides(folder):
    (folder / "generation_config.json").write_text(
        json.dumps({"forced_bos_token_id": 3, "decoder_start_token_id": 7, "eos_token_id": 9})
    )
    conventions = load(folder).conventions
    assert conventions.forced_bos_token_id == 3
    assert conventions.decoder_start_token_id == 4
    assert conventions.eos_token_id == 4


def test_defaults_of_a_config(folder):
    change_json(folder / "config.json", decoder_start_token_id=None, activation_function=None)
    conventions = load(folder).conventions
    assert conventions.decoder_start_token_id == conventions.eos_token_id == 4


def test_masked_tokens_have_no_probability(folder):
    change_json(folder / "config.json", masked_token_ids=[2, 3])
    bias = load(folder).network.final_logits_bias
    assert bias.isneginf().nonzero().flatten().tolist() == [2, 3]
