"""Weights, shards, digests, the bundled model and devices: what loads, and what is refused."""

import json
import logging
import re
import shutil
from functools import partial

import pytest
import tiny_models
import torch
from model_folders import (
    CPU,
    VOCAB,
    WEIGHTS,
    change_json,
    change_weights,
    fails,
    load,
    needs_int8,
    parameters,
    split_in_two,
)
from safetensors.torch import load_file, save_file

from quals_fast.models import loading
from quals_fast.models.checkpoint import CheckpointError
from quals_fast.models.lm_head import CpuLMHead
from quals_fast.models.loading import load_model, resolve_device
from quals_fast.models.precision import PRECISIONS, resolve_precision
from quals_fast.models.tokenizer import QATokenizer
from quals_fast.ops import EAGER, TRITON, BackendUnavailableError

INDEX = "model.safetensors.index.json"


# The weights


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
def test_types_of_weights(tiny_folder, precision):
    model = load_model(tiny_folder, device=CPU, precision=precision)
    assert {w.dtype for w in model.network.parameters()} == {precision.dtype}
    assert {w.dtype for w in model.document_network.parameters()} == {precision.dtype}


def test_no_weights(folder):
    (folder / WEIGHTS).unlink()
    message = (
        f"{folder} has no weights: expected model.safetensors or pytorch_model.bin; save the model "
        "with transformers' save_pretrained()"
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
    advice = "; it may be incomplete, or a Git LFS pointer: download it again"
    fails(folder, f"{path} is not a readable safetensors file: ", advice)


ADVICE = "; use weights and config of the same checkpoint"


@pytest.mark.parametrize(
    ("changes", "message", "at_end"),
    [
        pytest.param(
            {"max_position_embeddings": 32},
            "embed_positions.weight must have shape (34, 16) … config.json, but has (66, 16)",
            ADVICE,
            id="positions",
        ),
        pytest.param(
            {"encoder_ffn_dim": 16},
            "layers.0.fc1.bias must have shape (16,) according to config.json, but has (32,)",
            ADVICE,
            id="feed-forward",
        ),
        pytest.param(
            {"vocab_size": 50},
            f"must have shape (50, 16) according to config.json, but has ({VOCAB}, 16)",
            ADVICE,
            id="vocabulary",
        ),
        pytest.param(
            {"encoder_layers": 3},
            "but the checkpoint lacks model.encoder.layers.2.fc1.bias (16 such tensors)",
            ADVICE,
            id="too-few-layers",
        ),
        pytest.param(
            {"decoder_layers": 1},
            "has model.decoder.layers.1.encoder_attn.k_proj.bias … 26 such tensors",
            ADVICE,
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
            "lacks model.decoder.layernorm_embedding.bias (1 such tensor)" + ADVICE,
            id="missing",
        ),
        pytest.param(
            lambda w: w.pop("model.shared.weight"),
            "lacks model.shared.weight (1 such tensor)" + ADVICE,
            id="no-embeddings",
        ),
        pytest.param(
            lambda w: w.update(adapter=torch.ones(1)),
            "the checkpoint has adapter, … (1 such tensor)" + ADVICE,
            id="unknown",
        ),
        pytest.param(
            lambda w: w.update(final_logits_bias=torch.zeros(1, VOCAB + 1)),
            f"final_logits_bias must have shape ({VOCAB},) … but has ({VOCAB + 1},)" + ADVICE,
            id="bias",
        ),
        pytest.param(
            lambda w: w.update({"model.shared.weight": w["model.shared.weight"].T.contiguous()}),
            f"shared.weight must have shape ({VOCAB}, 16) … but has (16, {VOCAB})" + ADVICE,
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
    assert load(folder).network.final_logits_bias.tolist() == [0.0] * VOCAB


@pytest.mark.parametrize("prefix", ["", "model."])
def test_version_buffers_of_fairseq_are_ignored(folder, prefix):
    expected = parameters(load(folder))
    versions = {f"{prefix}{part}.version": torch.tensor([3.0]) for part in ("encoder", "decoder")}
    change_weights(folder, lambda w: w.update(versions))
    assert parameters(load(folder)) == expected


ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "facebook/bart-base"}


@pytest.mark.parametrize("missing", [[WEIGHTS, "config.json"], [WEIGHTS]], ids=["peft", "config"])
def test_an_adapter_is_named_as_such(folder, missing):
    for name in missing:
        (folder / name).unlink()
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    fails(
        folder,
        f"{folder} holds a LORA adapter for 'facebook/bart-base', not a whole model; merge the two "
        "with peft's merge_and_unload(), save the result",
    )


def test_a_whole_model_beside_an_adapter_loads(folder):
    expected = parameters(load(folder))
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    assert parameters(load(folder)) == expected


# Shards


@pytest.fixture
def shards(folder):
    """The tiny model in two files."""
    return split_in_two(folder, WEIGHTS, load_file(folder / WEIGHTS), save_file)


def test_two_shards_are_one_model(shards, tiny_folder):
    assert parameters(load(shards)) == parameters(load(tiny_folder))


def test_missing_shard(shards):
    (shards / "model-00002-of-00002.safetensors").unlink()
    message = (
        f"{shards / INDEX} names model-00002-of-00002.safetensors, which is not in the folder; "
        "download it too"
    )
    fails(shards, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", " is not valid JSON: "),
        ("[]", " must contain a JSON object, but contains a list"),
        ("{}", " must have a `weight_map` from tensors to files beside it, but got None; "),
        (
            '{"weight_map": [1]}',
            " must have a `weight_map` from tensors to files beside it, but got list",
        ),
        ('{"weight_map": {"a": 1}}', " must have a `weight_map` from tensors to files"),
        ('{"weight_map": {"a": "../b"}}', " must have a `weight_map` from tensors to files beside"),
    ],
    ids=["cut-off", "list", "no-map", "list-map", "no-names", "another-folder"],
)
def test_broken_index(shards, content, message):
    (shards / INDEX).write_text(content)
    fails(shards, f"{shards / INDEX}{message}")


def test_damaged_shard(shards):
    path = shards / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    fails(shards, f"{path} is not a readable safetensors file: ", "download it again")


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
    (folder / "special_tokens_map.json").write_text("{}")  # the config names the separator
    assert load(folder).digest == load(tiny_folder).digest


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_digest_covers_the_tokenizers_settings_where_they_are_read(folder, name):
    complete = json.loads((folder / "config.json").read_text())
    change_json(folder / "config.json", sep_token_id=None)
    (folder / name).write_text('{"sep_token": "[SEP0]"}')
    before = load(folder).digest
    change_json(folder / name, sep_token="who")
    assert load(folder).digest != before
    change_json(folder / "config.json", **complete, max_source_tokens=30)  # nothing is left out
    before = load(folder).digest
    (folder / name).unlink()
    assert load(folder).digest == before


# The bundled model


@pytest.fixture
def assets(monkeypatch, tmp_path):
    """A copy of the bundled models that a test may damage."""
    copy = shutil.copytree(loading.ASSETS, tmp_path / "assets")
    monkeypatch.setattr(loading, "ASSETS", copy)
    return copy / "qagen-mini"


BUNDLED_FILES = ["config.json", "generation_config.json", WEIGHTS, "tokenizer.json"]


def test_checksums_cover_every_file_that_is_read(assets):
    listed = [line.split()[1] for line in (assets / "SHA256SUMS").read_text().splitlines()]
    assert sorted(listed) == BUNDLED_FILES
    others = {"README.md", "SHA256SUMS", "calibration.json"}  # signatures have the last one's hash
    assert {path.name for path in assets.iterdir()} == {*listed, *others}


@pytest.mark.parametrize("name", BUNDLED_FILES)
@pytest.mark.parametrize("place", [0, -1], ids=["first-byte", "last-byte"])
def test_corrupted_bundled_file(assets, name, place):
    path = assets / name
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    message = rf"{path} is damaged: expected SHA-256 [0-9a-f]{{12}}\.\.\., but got "
    with pytest.raises(
        CheckpointError, match=message + r"[0-9a-f]{12}\.\.\.; reinstall quals_fast"
    ):
        load("qagen-mini")


@pytest.mark.parametrize("name", BUNDLED_FILES)
def test_missing_bundled_file(assets, name):
    (assets / name).unlink()
    fails("qagen-mini", f"{assets / name} is missing; reinstall quals_fast")


@pytest.mark.parametrize("content", [None, "", "abc\n"], ids=["missing", "empty", "damaged"])
def test_checksums_themselves(assets, content):
    path = assets / "SHA256SUMS"
    path.unlink()
    if content is not None:
        path.write_text(content)
    fails("qagen-mini", f"{path} is missing or damaged; reinstall quals_fast")


def test_missing_bundled_folder(assets):
    shutil.rmtree(assets)
    fails("qagen-mini", "is missing or damaged; reinstall quals_fast")


def test_bundled_model_loads():
    model = load("qagen-mini")
    assert model.name == "qagen-mini"
    assert model.network.shape.vocab_size == 28216
    assert isinstance(model.tokenizer, QATokenizer)


# Devices and types


@pytest.mark.parametrize("name", ["gpu", "cpux", "", "cuda:x"])
def test_unknown_device(name):
    message = f"`device` must be 'auto', 'cpu', 'cuda' or 'cuda:N', but got {name!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_no_gpu(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    message = f"device {name!r} is not available: PyTorch sees 0 GPUs; use device='cpu'"
    with pytest.raises(RuntimeError, match=message):
        resolve_device(name)
    assert resolve_device("auto") == CPU


def test_dtypes():
    assert resolve_precision("float32", CPU).dtype is torch.float32
    message = "`dtype` must be one of auto, float32, mixed, bfloat16, float16, but got 'int8'"
    with pytest.raises(ValueError, match=message):
        resolve_precision("int8", CPU)


def test_a_processor_without_fast_int8(folder, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    model = load_model(folder, device=CPU, precision=partial(resolve_precision, "auto", CPU, EAGER))
    assert model.runs_as()["dtype"] == "float32"
    assert (model.document_network, type(model.head)) == (model.network, CpuLMHead)
    message = (
        "dtype 'mixed' needs a processor with AVX-512 VNNI, and the eager backend; use "
        "dtype='float32'"
    )
    with pytest.raises(BackendUnavailableError, match=message):
        resolve_precision("mixed", CPU, EAGER)


@needs_int8
def test_auto_does_without_integers_that_miss_tokens(folder, monkeypatch, caplog):
    auto, mixed = (partial(resolve_precision, name, CPU, EAGER) for name in ("auto", "mixed"))
    assert load_model(folder, device=CPU, precision=auto).precision.name == "mixed"

    def enlarge(weights):
        weights["model.decoder.layers.1.final_layer_norm.weight"][3] *= 1000
        weights["model.shared.weight"][:, 3] /= 1000  # so that the others still decide

    change_weights(folder, enlarge)
    with caplog.at_level(logging.WARNING, "quals_fast"):
        model = load_model(folder, device=CPU, precision=auto)
    assert (model.precision.name, type(model.head)) == ("float32", CpuLMHead)
    assert f"8-bit integers do not fit {folder}; continuing in float32" in caplog.text
    with pytest.raises(BackendUnavailableError, match="dtype 'mixed' does not fit this model"):
        load_model(folder, device=CPU, precision=mixed)


@needs_int8
def test_auto_does_without_integers_that_misjudge_tokens(folder, caplog):
    def enlarge(weights):  # a feature of what the encoder says, which only attention reads
        for name in ("weight", "bias"):
            weights[f"model.encoder.layers.1.final_layer_norm.{name}"][3] *= 1e5
        for layer in range(2):
            for name in ("k_proj", "v_proj"):
                weights[f"model.decoder.layers.{layer}.encoder_attn.{name}.weight"][:, 3] /= 1e5

    change_weights(folder, enlarge)
    auto = partial(resolve_precision, "auto", CPU, EAGER)
    with caplog.at_level(logging.WARNING, "quals_fast"):
        model = load_model(folder, device=CPU, precision=auto)
    assert model.document_network is model.network
    assert f"8-bit integers do not fit {folder}; continuing in float32" in caplog.text


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_half_precision_on_a_cpu(name):
    message = (
        f"dtype '{name}' needs a GPU, but the device is 'cpu'; use dtype='auto', which on a CPU is "
        "'float32' for a T5, and 'mixed' or 'float32' for a BART"
    )
    with pytest.raises(BackendUnavailableError, match=message):
        resolve_precision(name, CPU)


@pytest.mark.parametrize(("capability", "name"), [((9, 0), "float16"), ((6, 1), "float32")])
def test_half_precision_is_for_gpus_with_units_for_it(monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda")).name == name
    assert resolve_precision("float16", torch.device("cuda")).name == "float16"  # as asked for


@pytest.mark.parametrize(
    ("capability", "name"),
    [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float32"), ((6, 1), "float32")],
)
def test_automatic_precision_of_a_t5_is_never_float16(monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda"), family="t5").name == name
    assert resolve_precision("auto", CPU, family="t5").name == "float32"


def test_bfloat16_on_a_gpu_without_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    message = r"dtype 'bfloat16' is not available on Tesla T4; use dtype='auto'"
    with pytest.raises(RuntimeError, match=message):
        resolve_precision("bfloat16", torch.device("cuda"))


@pytest.mark.parametrize("heads", [(1, 2), (2, 1)], ids=["encoder", "decoder"])
def test_heads_that_the_kernels_do_not_take(tmp_path, heads):
    config = tiny_models.CONFIG | {
        "d_model": 24, "encoder_attention_heads": heads[0], "decoder_attention_heads": heads[1],
    }  # fmt: skip
    folder = tiny_models.write_checkpoint(tmp_path / "m", config)
    message = (
        "backend 'triton' needs attention heads whose size is a multiple of 8 up to 128, but this "
        "model's have size 12; use backend='eager'"
    )
    with pytest.raises(BackendUnavailableError, match=message):
        load_model(folder, device=CPU, kernels=TRITON)
    assert load_model(folder, device=CPU).shape.d_model == 24
