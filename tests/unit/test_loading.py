"""Model folders as they come: what loads, and what is said about those that do not."""

import json
import re
import shutil

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from quals_fast.models import loading
from quals_fast.models.checkpoint import CheckpointError, read_checkpoint
from quals_fast.models.loading import load_generator, resolve_device, resolve_dtype
from quals_fast.models.storage import dequantize, quantize
from quals_fast.models.tokenizer import QATokenizer

CPU = torch.device("cpu")
VOCAB = tiny_models.wordpiece_tokenizer().get_vocab_size()
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def load(folder):
    return load_generator(folder, device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """More threads only wait for one another in a network this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture
def assets(monkeypatch, tmp_path):
    """A copy of the bundled models that a test may damage."""
    copy = shutil.copytree(loading.ASSETS, tmp_path / "assets")
    monkeypatch.setattr(loading, "ASSETS", copy)
    return copy / "qagen-mini"


def change_json(path, **changes):
    """Set keys; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def change_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file({name: w.clone() for name, w in weights.items()}, folder / WEIGHTS)


def fails(folder, message, at_end=""):
    with pytest.raises(CheckpointError, match=re.escape(message)) as raised:
        load(folder)
    assert str(raised.value).endswith(at_end)


def parameters(generator):
    return {name: w.tolist() for name, w in generator.bart.state_dict().items()}


# The folder and its config


def test_a_good_folder(tiny_folder):
    generator = load(tiny_folder)
    assert generator.name == "tiny"
    assert re.fullmatch("[0-9a-f]{12}", generator.digest)
    assert not generator.bart.training
    assert not any(w.requires_grad for w in generator.bart.parameters())
    assert generator.settings.sep_token_id == 1
    assert generator.settings.bos_token_id == 3
    assert generator.settings.forced_bos_token_id is None
    assert generator.settings.max_source_tokens == 64
    assert load(str(tiny_folder)).digest == generator.digest


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_dtype_of_weights(tiny_folder, dtype):
    bart = load_generator(tiny_folder, device=CPU, dtype=dtype).bart
    assert {w.dtype for w in bart.parameters()} == {dtype}
    assert bart.final_logits_bias.dtype == torch.float32


@pytest.mark.parametrize("name", ["nowhere/at/all", "facebook/bart-base", "qagen-maxi"])
def test_no_such_model(name):
    message = (
        f"model {name!r} is neither bundled (qagen-mini) nor a local folder; nothing is "
        "downloaded: fetch the checkpoint first and give its folder"
    )
    fails(name, message)


def test_a_file_is_no_folder(tiny_folder):
    fails(tiny_folder / WEIGHTS, "is neither bundled (qagen-mini) nor a local folder")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a folder"):
        read_checkpoint(tiny_folder / WEIGHTS)


def test_no_config(folder):
    (folder / "config.json").unlink()
    advice = "so it is no model folder; save a model there with transformers' save_pretrained()"
    fails(folder, f"{folder} has no config.json, ", advice)


@pytest.mark.parametrize(
    ("content", "message", "at_end"),
    [
        pytest.param(
            b"", "config.json is not valid JSON: Expecting value", "fetch it again", id=""
        ),
        pytest.param(b"{", "is not valid JSON: Expecting property", "fetch it again", id="cut-off"),
        pytest.param(b"\xff\xfe{", "is not valid JSON: 'utf-8'", "fetch it again", id="utf-16"),
        pytest.param(b"[]", "must hold a JSON object, but holds a list", "", id="list"),
        pytest.param(b"null", "must hold a JSON object, but holds a NoneType", "", id="null"),
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


@pytest.mark.parametrize("family", ["t5", "mbart", None, 3], ids=repr)
def test_another_family(folder, family):
    change_json(folder / "config.json", model_type=family)
    message = f"{folder}: model family {family!r} is not supported (yet); expected `model_type` "
    fails(folder, message + "'bart'")


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
    ("d_model", 15, "`d_model` 15 is not divisible by 2 encoder heads"),
    ("decoder_attention_heads", 3, "`d_model` 16 is not divisible by 3 decoder heads"),
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


def test_no_separator(folder):
    change_json(folder / "config.json", sep_token_id=None)
    message = (
        "config.json: no `sep_token_id`, so this is not a question-answer generator, or its config "
        'does not say which token stands between question and answer; add "sep_token_id" to '
        "config.json (the published model's is 50259)"
    )
    fails(folder, message)


@pytest.mark.parametrize(
    "changes",
    [{"sep_token_id": 4}, {"sep_token_id": 0}, {"masked_token_ids": [2, 1]}],
    ids=["eos", "pad", "masked"],
)
def test_separator_that_is_none(folder, changes):
    change_json(folder / "config.json", **changes)
    sep = changes.get("sep_token_id", 1)
    message = f"`sep_token_id` {sep} is EOS, PAD or masked out; it must be a token of its own"
    fails(folder, message)


def test_generation_config_fills_gaps_and_never_overrides(folder):
    (folder / "generation_config.json").write_text(
        json.dumps({"forced_bos_token_id": 3, "decoder_start_token_id": 7, "eos_token_id": 9})
    )
    settings = load(folder).settings
    assert settings.forced_bos_token_id == 3
    assert settings.decoder_start_token_id == 4
    assert settings.eos_token_id == 4


def test_defaults_of_a_config(folder):
    change_json(folder / "config.json", decoder_start_token_id=None, activation_function=None)
    settings = load(folder).settings
    assert settings.decoder_start_token_id == settings.eos_token_id == 4


def test_masked_tokens_have_no_probability(folder):
    change_json(folder / "config.json", masked_token_ids=[2, 3])
    bias = load(folder).bart.final_logits_bias
    assert bias.isneginf().nonzero().flatten().tolist() == [2, 3]


# The tokenizer


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")  # without merges.txt
    advice = "save it there with transformers' tokenizer.save_pretrained()"
    message = f"{folder} has no tokenizer: expected tokenizer.json, or vocab.json with merges.txt; "
    fails(folder, message + advice)


@pytest.mark.parametrize("content", ["", "{}", "[1]"], ids=["empty", "object", "list"])
def test_broken_tokenizer(folder, content):
    (folder / "tokenizer.json").write_text(content)
    fails(folder, f"{folder / 'tokenizer.json'} is not a tokenizer of the tokenizers library: ")


def test_tokenizer_larger_than_the_vocabulary(folder):
    tiny_models.byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    message = (
        f"{folder}: the tokenizer has 262 tokens, but the model's vocabulary only {VOCAB}; the two "
        "do not belong together"
    )
    fails(folder, message)


def write_byte_level(folder, merges=()):
    """Write a model whose tokenizer is vocab.json and merges.txt, as fairseq's and older ones."""
    tokenizer = tiny_models.byte_level_tokenizer()
    tiny_models.write_checkpoint(folder, tiny_models.FAIRSEQ_LIKE, tokenizer)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(merges))
    return folder


def test_vocab_and_merges(tmp_path):
    tokenizer = load(write_byte_level(tmp_path / "bpe")).tokenizer
    text = "Löwe </s> won 1962 \U0001f41d"
    (source,) = tokenizer.encode([text])
    assert len(source.text_ids) == len(text.encode())
    assert source.input_ids == [*source.text_ids, 2]  # no first token, </s> at the end only
    assert tokenizer.decode(source.text_ids) == text
    assert tokenizer.answer_match == "text"
    assert tokenizer.readable_tokens((*source.text_ids[:1], 4, 2)) == ("L", "<sep>", "<eos>")


def test_digest_of_vocab_and_merges(tmp_path):
    before = load(write_byte_level(tmp_path / "bpe")).digest
    (tmp_path / "bpe" / "merges.txt").write_text("#version: 0.3\n")
    assert load(tmp_path / "bpe").digest != before


@pytest.mark.parametrize(
    ("name", "content"), [("vocab.json", "[]"), ("merges.txt", "a b c d\nx\n")], ids=str
)
def test_broken_vocab_and_merges(tmp_path, name, content):
    folder = write_byte_level(tmp_path / "bpe")
    (folder / name).write_text(content)
    fails(folder, f"{folder / 'vocab.json'} and merges.txt are no BPE: ")


def test_special_tokens_inside_a_text_are_text(folder):
    vocab = {
        t: i for i, t in enumerate([*tiny_models.SPECIAL, "<", "/", "s", ">", "[", "]", "sep"])
    }
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(["[SEP]", "[SEP0]", "[PAD]", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer = load(folder).tokenizer
    for text in ("</s>", "[SEP]", "[SEP0]", "[PAD]"):
        (source,) = tokenizer.encode([text])
        assert not {0, 1, 4, 12} & set(source.text_ids), text
    assert tokenizer.encode(["</s>"])[0].input_ids == [3, 5, 6, 7, 8, 4]


@pytest.mark.parametrize("source_bos", [True, False], ids=["with-bos", "without-bos"])
@pytest.mark.parametrize("longest", [3, 10, 64])
def test_truncation_is_counted(folder, source_bos, longest):
    change_json(folder / "config.json", source_bos=source_bos, max_source_tokens=longest)
    tokenizer = load(folder).tokenizer
    room = longest - 1 - source_bos
    lengths = [0, 1, room - 1, room, room + 1, room + 30]
    for length, source in zip(
        lengths, tokenizer.encode(["queen " * n for n in lengths]), strict=True
    ):
        assert len(source.text_ids) == length
        assert source.truncated_tokens == max(0, length - room)
        assert len(source.input_ids) == min(length, room) + 1 + source_bos
        assert source.input_ids[-1] == 4
        assert source_bos == (source.input_ids[0] == 3)


def test_truncation_and_padding_of_the_file_are_off(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(folder / "tokenizer.json"))
    (source,) = load(folder).tokenizer.encode(["queen anne won the game"])
    assert len(source.text_ids) == 5


def test_tokens_as_they_are_read(tiny_folder):
    tokenizer = load(tiny_folder).tokenizer
    (source,) = tokenizer.encode(["Queens zzz"])
    assert tokenizer.readable_tokens((*source.text_ids, 1, 4, VOCAB - 1, 99)) == (
        "queen",
        "##s",
        "[UNK]",
        "<sep>",
        "<eos>",
        "-",
        "<99>",
    )
    assert tokenizer.decode(source.text_ids[:2]) == "queens"
    assert tokenizer.answer_match == "ids"


def test_answer_match_of_the_config_counts(folder):
    change_json(folder / "config.json", answer_match="text")
    assert load(folder).tokenizer.answer_match == "text"


# The weights


def test_no_weights(folder):
    (folder / WEIGHTS).unlink()
    message = (
        f"{folder} has no weights: expected model.safetensors; save the model with transformers' "
        "save_pretrained(), which writes safetensors"
    )
    fails(folder, message)


def test_only_a_pickle(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    message = (
        f"{folder} has no weights: expected model.safetensors; pytorch_model.bin is not read, "
        "since a pickle can run code; save the model with transformers' save_pretrained()"
    )
    fails(folder, message)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1], id="one-byte-short"),
        pytest.param(lambda data: data[: len(data) // 2], id="half"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"version https://git-lfs.github.com/spec/v1\n", id="git-lfs"),
        pytest.param(lambda data: b"\xff" * 8 + data[8:], id="header"),
    ],
)
def test_damaged_weights(folder, damage):
    path = folder / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    advice = "; it may be cut off, or a Git LFS pointer: fetch it again"
    fails(folder, f"{path} is not a readable safetensors file: ", advice)


MISMATCH = "; take both from one checkpoint"
SHAPE = "; take weights and config from one checkpoint"


@pytest.mark.parametrize(
    ("changes", "message", "at_end"),
    [
        pytest.param(
            {"max_position_embeddings": 32},
            "model.decoder.embed_positions.weight must have shape (34, 16) by config.json, but has "
            "(66, 16)",
            SHAPE,
            id="positions",
        ),
        pytest.param(
            {"encoder_ffn_dim": 16},
            "model.encoder.layers.0.fc1.bias must have shape (16,) by config.json, but has (32,)",
            SHAPE,
            id="feed-forward",
        ),
        pytest.param(
            {"vocab_size": 50},
            f"must have shape (50, 16) by config.json, but has ({VOCAB}, 16)",
            SHAPE,
            id="vocabulary",
        ),
        pytest.param(
            {"encoder_layers": 3},
            "but model.safetensors lacks model.encoder.layers.2.fc1.bias (16 such tensors)",
            MISMATCH,
            id="too-few-layers",
        ),
        pytest.param(
            {"decoder_layers": 1},
            "but model.safetensors holds model.decoder.layers.1.encoder_attn.k_proj.bias, which "
            "BART has not (26 such tensors)",
            MISMATCH,
            id="too-many-layers",
        ),
    ],
)
def test_weights_of_another_config(folder, changes, message, at_end):
    change_json(folder / "config.json", **changes)
    fails(folder, message, at_end)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda w: w.pop("model.decoder.layernorm_embedding.bias"),
            "lacks model.decoder.layernorm_embedding.bias (1 such tensor)" + MISMATCH,
            id="missing",
        ),
        pytest.param(
            lambda w: w.pop("model.shared.weight"),
            "lacks model.shared.weight (1 such tensor)" + MISMATCH,
            id="no-embeddings",
        ),
        pytest.param(
            lambda w: w.update(adapter=torch.ones(1)),
            "holds adapter, which BART has not (1 such tensor)" + MISMATCH,
            id="unknown",
        ),
        pytest.param(
            lambda w: w.update(final_logits_bias=torch.zeros(1, VOCAB + 1)),
            f"final_logits_bias must have shape ({VOCAB},) by config.json, but has ({VOCAB + 1},)"
            + SHAPE,
            id="bias",
        ),
        pytest.param(
            lambda w: w.update({"model.shared.weight": w["model.shared.weight"].T.contiguous()}),
            f"shared.weight must have shape ({VOCAB}, 16) by config.json, but has (16, {VOCAB})"
            + SHAPE,
            id="transposed",
        ),
        pytest.param(
            lambda w: w.update({"model.shared.weight": torch.ones(VOCAB, 16, dtype=torch.int8)}),
            f"model.shared.weight is int8 of shape ({VOCAB}, 16), so model.shared.weight.scale "
            "must have a number for every 128 columns of a row, but there is none; "
            "save the weights as floating-point numbers instead",
            id="int8-without-scale",
        ),
    ],
)
def test_wrong_tensor(folder, change, message):
    change_weights(folder, change)
    fails(folder, message)


@pytest.mark.parametrize(
    "name",
    ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"],
)
def test_embeddings_may_come_under_any_tied_name(folder, name):
    expected = parameters(load(folder))
    change_weights(folder, lambda w: w.update({name: w.pop("model.shared.weight")}))
    assert parameters(load(folder)) == expected


def test_tied_copies_are_dropped(folder):
    expected = parameters(load(folder))
    change_weights(folder, lambda w: w.update({"lm_head.weight": w["model.shared.weight"].clone()}))
    assert parameters(load(folder)) == expected


def test_bias_may_be_missing(folder):
    change_weights(folder, lambda w: w.pop("final_logits_bias"))
    assert load(folder).bart.final_logits_bias.tolist() == [0.0] * VOCAB


# Shards


@pytest.fixture
def shards(folder):
    """The tiny model in two files."""
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / WEIGHTS).unlink()
    return folder


def test_two_shards_are_one_model(shards, tiny_folder):
    assert parameters(load(shards)) == parameters(load(tiny_folder))


def test_missing_shard(shards):
    (shards / "model-00002-of-00002.safetensors").unlink()
    message = (
        f"{shards / INDEX} names model-00002-of-00002.safetensors, which is not in the folder; "
        "fetch it too"
    )
    fails(shards, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", " is not valid JSON: "),
        ("[]", " must hold a JSON object, but holds a list"),
        ("{}", " must have a `weight_map` from tensors to files, but got NoneType; fetch it again"),
        ('{"weight_map": [1]}', " must have a `weight_map` from tensors to files, but got list"),
        ('{"weight_map": {"a": 1}}', " must have a `weight_map` from tensors to files"),
    ],
    ids=["cut-off", "list", "no-map", "list-map", "no-names"],
)
def test_broken_index(shards, content, message):
    (shards / INDEX).write_text(content)
    fails(shards, f"{shards / INDEX}{message}")


def test_damaged_shard(shards):
    path = shards / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    fails(shards, f"{path} is not a readable safetensors file: ", "fetch it again")


# What the digest covers


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda folder: change_weights(folder, lambda w: w["final_logits_bias"].add_(1e-3)),
            id="weights",
        ),
        pytest.param(lambda folder: change_json(folder / "config.json", x=1), id="config"),
        pytest.param(
            lambda folder: (folder / "generation_config.json").write_text("{}"),
            id="generation-config",
        ),
        pytest.param(
            lambda folder: change_json(
                folder / "tokenizer.json", version="1.0", normalizer={"type": "Lowercase"}
            ),
            id="tokenizer",
        ),
    ],
)
def test_digest_changes_with(folder, tiny_folder, change):
    assert load(folder).digest == load(tiny_folder).digest
    change(folder)
    assert load(folder).digest != load(tiny_folder).digest


def test_digest_leaves_out_what_does_not_matter(folder, tiny_folder):
    (folder / "README.md").write_text("a model")
    assert load(folder).digest == load(tiny_folder).digest


# The bundled model


BUNDLED_FILES = ["config.json", "generation_config.json", WEIGHTS, "tokenizer.json"]


def test_checksums_cover_every_file_that_is_read(assets):
    listed = [line.split()[1] for line in (assets / "SHA256SUMS").read_text().splitlines()]
    assert sorted(listed) == BUNDLED_FILES
    assert {path.name for path in assets.iterdir()} == {*listed, "README.md", "SHA256SUMS"}


@pytest.mark.parametrize("name", BUNDLED_FILES)
@pytest.mark.parametrize("place", [0, -1], ids=["first-byte", "last-byte"])
def test_corrupted_bundled_file(assets, name, place):
    path = assets / name
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    message = rf"bundled file {path} is damaged: expected SHA-256 [0-9a-f]{{12}}\.\.\., but got "
    with pytest.raises(
        CheckpointError, match=message + r"[0-9a-f]{12}\.\.\.; reinstall quals_fast"
    ):
        load("qagen-mini")


@pytest.mark.parametrize("name", BUNDLED_FILES)
def test_missing_bundled_file(assets, name):
    (assets / name).unlink()
    fails("qagen-mini", f"bundled file {assets / name} is missing; reinstall quals_fast")


@pytest.mark.parametrize("content", [None, "", "abc\n"], ids=["missing", "empty", "damaged"])
def test_checksums_themselves(assets, content):
    path = assets / "SHA256SUMS"
    path.unlink()
    if content is not None:
        path.write_text(content)
    fails("qagen-mini", f"bundled file {path} is missing or damaged; reinstall quals_fast")


def test_missing_bundled_folder(assets):
    shutil.rmtree(assets)
    fails("qagen-mini", "is missing or damaged; reinstall quals_fast")


def test_bundled_model_loads():
    generator = load("qagen-mini")
    assert generator.name == "qagen-mini"
    assert generator.bart.shape.vocab_size == 30522
    assert isinstance(generator.tokenizer, QATokenizer)


# Weights stored as int8


def test_int8_round_trip_stays_within_half_a_step():
    weight = torch.randn(37, 384) * torch.logspace(-3, 2, 37)[:, None]
    weight[3] = 0.0
    weight[4, 7] = 1e4
    stored = quantize({"a.weight": weight})
    assert stored["a.weight"].dtype == torch.int8
    assert stored["a.weight.scale"].shape == (37, 3)
    assert stored["a.weight.scale"].dtype == torch.float16
    back = dequantize(stored)
    assert list(back) == ["a.weight"]
    step = weight.unflatten(1, (3, 128)).abs().amax(2).clamp_min(1e-4) / 127
    error = (back["a.weight"] - weight).unflatten(1, (3, 128)).abs()
    # Half a step, and the 11 bits of a float16 scale times up to 127 steps.
    assert (error <= step[:, :, None] * (0.5 + 127 * 2**-11) + 1e-7).all()


def test_dequantised_weights_quantise_to_themselves():
    stored = quantize({"a.weight": torch.randn(8, 256)})
    again = quantize(dequantize(stored))
    assert (again["a.weight"].int() - stored["a.weight"].int()).abs().max() <= 1
    assert torch.equal(dequantize(again)["a.weight"], dequantize(stored)["a.weight"])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("a.bias", (256,)),
        ("a.weight", (4, 100)),
        ("model.encoder.embed_positions.weight", (4, 256)),
    ],
    ids=["vector", "odd-columns", "positions"],
)
def test_what_is_not_quantised(name, shape):
    weight = torch.randn(shape)
    stored = quantize({name: weight})
    assert list(stored) == [name]
    assert torch.equal(stored[name], weight.half())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_plain_weights_pass_through(dtype):
    weights = {"a": torch.randn(4, 128).to(dtype), "b": torch.randn(3).to(dtype)}
    back = dequantize(weights)
    assert back.keys() == weights.keys()
    assert all(back[name] is weights[name] for name in weights)


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (5, 2), (4,), (), (4, 2, 1)], ids=str)
def test_scale_that_does_not_fit(shape):
    stored = {"a": torch.ones(4, 256, dtype=torch.int8), "a.scale": torch.ones(shape)}
    message = (
        "a is int8 of shape (4, 256), so a.scale must have a number for every 128 columns of a "
        f"row, but there is one of shape {shape}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        dequantize(stored)


def test_int8_checkpoint_loads(tmp_path):
    config = tiny_models.CONFIG | {"d_model": 128}
    folder = tiny_models.write_checkpoint(tmp_path / "wide", config)
    before = load(folder).bart.state_dict()
    save_file(quantize(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    after = load(folder).bart.state_dict()
    assert (folder / WEIGHTS).stat().st_size < sum(w.numel() for w in before.values()) * 1.6
    for name, weight in after.items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, before[name], atol=0.02, rtol=1e-3)


# Devices and types


@pytest.mark.parametrize("name", ["gpu", "cpux", "", "cuda:x"])
def test_unknown_device(name):
    message = f"`device` must be 'auto', 'cpu', 'cuda' or 'cuda:N', but got {name!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_no_gpu(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = f"device {name!r} was asked for, but torch sees no GPU; use device='cpu'"
    with pytest.raises(RuntimeError, match=message):
        resolve_device(name)
    assert resolve_device("auto") == CPU


def test_dtypes():
    assert resolve_dtype("auto") is torch.float32
    assert resolve_dtype("bfloat16") is torch.bfloat16
    message = "`dtype` must be one of auto, float32, bfloat16, float16, but got 'int8'"
    with pytest.raises(ValueError, match=message):
        resolve_dtype("int8")
